"""Moving an artifact into place: all of it or nothing, and nothing that was there is lost."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bnscope.errors import BnscopeError


def move_into_place(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Moves files or directories to where they belong, and all of them back if one fails.

    Args:
        pairs: what is moved, and where to, on one file system; what is there is replaced.

    Raises:
        OSError: if something cannot be moved; all is then as it was.
        BnscopeError: if it cannot be moved back either; the message says where it is.
    """
    pairs = [(made, place.resolve()) for made, place in pairs]
    if len(pairs) == 1 and pairs[0][0].is_file():
        pairs[0][0].replace(pairs[0][1])
        return
    # Beside the target: the folder of what is new goes away, whatever happens.
    former = Path(tempfile.mkdtemp(prefix=".bnscope-former-", dir=pairs[0][1].parent))
    moved: list[tuple[Path, Path]] = []
    try:
        for made, place in pairs:
            if place.exists():
                _move(place, former / place.name, moved)
            _move(made, place, moved)
    except BaseException:  # an interruption too
        for source, place in reversed(moved):
            _move_back(source, place)
        former.rmdir()
        raise
    shutil.rmtree(former, ignore_errors=True)


def _move_back(source: Path, place: Path) -> None:
    try:
        place.rename(source)
    except OSError as error:
        raise BnscopeError(
            f"{source} could not be put back: {error.strerror or error}.",
            f"It is kept as {place}.",
        ) from error


def _move(source: Path, place: Path, moved: list[tuple[Path, Path]]) -> None:
    source.rename(place)
    moved.append((source, place))
