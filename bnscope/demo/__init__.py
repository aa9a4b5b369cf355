"""The demonstration: AlexNet on crops of two photographs, linted, watched, diagnosed and folded.

Importing this loads neither Keras nor scikit-learn; the functions do.
"""

from __future__ import annotations

from pathlib import Path

from bnscope.demo.network import alexnet
from bnscope.demo.photos import photo_crops
from bnscope.demo.requirements import require_extra
from bnscope.demo.settings import Settings

__all__ = ["Settings", "alexnet", "main", "photo_crops", "run"]

DEFAULT_LOG_DIR = Path("logs/demo")


def main(epochs: int | None = None, log_dir: Path | str = DEFAULT_LOG_DIR) -> int:
    """Runs the demonstration and prints it. This is `bnscope demo`.

    Args:
        epochs: epochs of each of the two trainings; None for the default, with which the
            whole takes about two minutes on two cores.
        log_dir: where the TensorBoard events go.

    Returns:
        The exit code, 0.

    Raises:
        BnscopeError: if a package is missing, there are no epochs, or `log_dir` cannot be
            written.
    """
    run(Settings() if epochs is None else Settings(epochs=epochs), Path(log_dir))
    return 0


def run(settings: Settings, log_dir: Path) -> None:
    """Runs the demonstration and prints it on stdout, its progress on stderr.

    Args:
        settings: how many crops and epochs.
        log_dir: where the TensorBoard events go.

    Raises:
        BnscopeError: if a package is missing, a setting is wrong or `log_dir` cannot be
            written.
    """
    require_extra()
    from bnscope.demo.story import tell

    tell(settings, log_dir)
