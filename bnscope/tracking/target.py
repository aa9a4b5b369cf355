"""Where the events go: written beside, then moved into place."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bnscope.errors import BnscopeError, OutputExistsError
from bnscope.events.writer import DIRECTORY

_EVENTS = "events.out.tfevents.*"


def check(log_dir: Path, *, overwrite: bool) -> None:
    """Checks that nothing would be lost.

    Raises:
        OutputExistsError: if there are events of a run already.
        BnscopeError: if something that is no directory has its name.
    """
    folder = log_dir / DIRECTORY
    for place in (log_dir, folder):
        if place.exists() and not place.is_dir():
            raise BnscopeError(f"{place} is no directory.", "Choose another --logdir.")
    if not overwrite and any(folder.glob(_EVENTS)):
        raise OutputExistsError(
            f"{folder} has the events of a run.",
            "Choose another --logdir, or replace them with --overwrite.",
        )


@contextlib.contextmanager
def beside(log_dir: Path) -> Iterator[Path]:
    """A directory to write into; at the end its events take the place of older ones.

    If anything is raised, or the program is interrupted, the older ones stay as they are.

    Raises:
        BnscopeError: if it cannot be written.
    """
    created = [each for each in (log_dir, *log_dir.parents) if not each.exists()]
    try:
        with _writable(log_dir):
            log_dir.mkdir(parents=True, exist_ok=True)
            temporary = tempfile.TemporaryDirectory(prefix=".bnscope-", dir=log_dir)
        with temporary as folder:
            yield Path(folder)
            with _writable(log_dir):
                _move(Path(folder) / DIRECTORY, log_dir / DIRECTORY)
    except BaseException:
        with contextlib.suppress(OSError):
            for each in created:
                each.rmdir()  # only what is empty goes
        raise


def _move(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    older = list(target.glob(_EVENTS))
    for path in source.iterdir():
        path.replace(target / path.name)
    for path in older:
        path.unlink()


@contextlib.contextmanager
def _writable(log_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BnscopeError(
            f"{log_dir} cannot be written: {error.strerror or error}.",
            "Choose another --logdir.",
        ) from error
