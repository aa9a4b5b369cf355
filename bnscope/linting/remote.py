"""Models in other places than the local disk: whatever fsspec can read."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bnscope.errors import BnscopeError, UnreadableModelError
from bnscope.graph import archive
from bnscope.graph.model import Graph


class Listing(NamedTuple):
    """What a URL names: one file, or the files in a folder or of a pattern."""

    urls: tuple[str, ...]
    one: bool


def read(url: str, config: str | os.PathLike[str] | None = None) -> Graph:
    """The graph of a saved model at a URL, copied to a temporary folder while it is read.

    Args:
        url: where the file lies.
        config: the JSON of `model.to_json()`, here on the disk, for a file with only weights.

    Raises:
        UnreadableModelError: if it cannot be copied, is damaged or no Keras model.
    """
    with _copied(url) as copy:
        return replace(archive.read(copy, config), reopen=partial(_opened_at, url, config))


@contextmanager
def _opened_at(url: str, config: str | os.PathLike[str] | None = None) -> Iterator[Graph]:
    """As `read`, with the kernels of layers, copied for as long as the context lasts."""
    with _copied(url) as copy, archive.opened(copy, config) as graph:
        yield graph


@contextmanager
def _copied(url: str) -> Iterator[Path]:
    """A copy of the file at a URL; errors that name the copy name the URL instead."""
    files, place = _opened(url)
    with tempfile.TemporaryDirectory(prefix="bnscope-") as folder:
        # A weights file is called by its name.
        name = re.sub(r"[^\w.\-]", "_", place.rstrip("/").rpartition("/")[2]) or "model"
        copy = Path(folder) / name
        try:
            files.get_file(place, str(copy))
        except Exception as error:  # each file system has errors of its own
            raise _failed(url, error) from error
        try:
            yield copy
        except BnscopeError as error:
            raise UnreadableModelError(
                error.message.replace(str(copy), url), error.hint
            ) from None


def listing(url: str) -> Listing:
    """The files that a URL names.

    Raises:
        UnreadableModelError: if the place cannot be reached.
    """
    files, place = _opened(url)
    try:
        if any(char in place for char in "*?["):
            found = files.glob(place)
        elif files.isdir(place):
            below = len(place.rstrip("/"))
            found = [path for path in files.find(place) if "/." not in path[below:]]
        else:
            return Listing((url,), one=True)
        urls = tuple(str(files.unstrip_protocol(path)) for path in sorted(found))
    except Exception as error:
        raise _failed(url, error) from error
    return Listing(urls, one=False)


def _opened(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise UnreadableModelError(
            f"{url} cannot be read: fsspec is not installed.",
            "Install it: pip install 'bnscope[remote]'.",
        ) from None
    try:
        files, place = url_to_fs(url)
    except Exception as error:
        raise _failed(url, error) from error
    return files, str(place)


def _failed(url: str, error: Exception) -> UnreadableModelError:
    if isinstance(error, FileNotFoundError):
        return UnreadableModelError(f"{url} does not exist.", "Check the path.")
    if isinstance(error, ImportError):
        what = " ".join(str(error).split()).rstrip(".")
        return UnreadableModelError(
            f"{url} cannot be read: {what}.", "Install the package for this file system."
        )
    what = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return UnreadableModelError(
        f"{url} cannot be read: {what}.", "Check the path and the access to it."
    )
