"""What the demonstration needs beyond the base package, and a quiet start of Keras."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from bnscope.errors import BnscopeError

# module -> the package that brings it
_PACKAGES = {
    "keras": "keras",
    "tensorboard": "tensorboard",
    "sklearn": "scikit-learn",
    "PIL": "pillow",
}


def require_extra() -> None:
    """Checks that the packages of the extra `demo` are installed, without importing them.

    Raises:
        BnscopeError: naming what is missing and the command that installs it.
    """
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    wanted = {**_PACKAGES, backend: backend}
    missing = [package for module, package in wanted.items() if find_spec(module) is None]
    if missing:
        names = " and ".join(
            [", ".join(missing[:-1]), missing[-1]] if missing[1:] else missing
        )
        raise BnscopeError(
            f"bnscope demo needs {names}, not installed here.",
            'Run: pip install "bnscope[demo]"',
        )


def import_keras_quietly() -> None:
    """Imports Keras without the notes that TensorFlow prints on stderr as it starts."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _stderr_held_back():
        import keras  # noqa: F401


@contextmanager
def _stderr_held_back() -> Iterator[None]:
    """Holds back what is written to the file descriptor; shows it if there is an error."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        saved = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
