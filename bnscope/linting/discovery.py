"""From what the user names to the files that are read: directories, patterns, URLs."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from bnscope.errors import BnscopeError, UnreadableModelError

SUFFIXES = (".keras", ".h5", ".hdf5", ".json")
_SEARCHED = "Searched for .keras, .h5, .hdf5 and .json."
# So much of a JSON is read to see whether it may be a model's.
_HEAD = 1 << 14
# What an HDF5 file of Keras has at its top: attributes, and groups.
_KERAS_MARKS = (
    "model_config",
    "layer_names",
    "model_weights",
    "layers",
    "_layer_checkpoint_dependencies",
    "vars",
)


@dataclass(frozen=True, slots=True)
class Source:
    """One file to read.

    Args:
        path: the file, as it is shown.
        origins: the arguments that it comes from.
        found: whether it was found by searching; one that is no Keras model is then skipped.
        error: why there is nothing to read; None if there is.
        config: the model's configuration, for a file with only weights.
    """

    path: str
    origins: tuple[str, ...]
    found: bool = False
    error: BnscopeError | None = None
    config: str | None = None


def is_remote(path: str) -> bool:
    """Whether a path is a URL."""
    return "://" in path


def discover(paths: Iterable[str]) -> list[Source]:
    """The files that paths name, each once, in the order of the arguments.

    Args:
        paths: files, directories (searched recursively, hidden ones left out), patterns with
            `*`, `?`, `[...]` and `**`, or URLs.
    """
    sources: dict[str, Source] = {}
    for path in paths:
        for source in _sources(path):
            key = source.path if is_remote(source.path) else os.path.realpath(source.path)
            known = sources.get(key, source)
            better = source if known.found else known
            origins = dict.fromkeys((*known.origins, *source.origins))
            sources[key] = replace(better, origins=tuple(origins))
    return list(sources.values())


def _sources(path: str) -> Iterator[Source]:
    if is_remote(path):
        yield from _remote(path)
    elif os.path.isdir(path):  # noqa: PTH112
        yield from _searched(path)
    elif os.path.lexists(path) or not glob.has_magic(path):
        yield Source(path, (path,))
    else:
        yield from _matched(path)


def _remote(url: str) -> Iterator[Source]:
    from bnscope.linting import remote

    try:
        listing = remote.listing(url)
    except UnreadableModelError as error:
        yield Source(url, (url,), error=error)
        return
    if listing.one:
        yield Source(url, (url,))
        return
    wanted = [found for found in listing.urls if _is_candidate(found.rpartition("/")[2])]
    yield from (Source(found, (url,), found=True) for found in sorted(wanted, key=_natural))
    if not wanted:
        yield nothing_in(url)


def _searched(folder: str) -> Iterator[Source]:
    errors: list[Source] = []
    found = sorted(_walk(folder, folder, errors), key=_natural)
    yield from (Source(path, (folder,), found=True) for path in found)
    yield from errors
    if not found and not errors:
        yield nothing_in(folder)


def nothing_in(origin: str) -> Source:
    """Stands for an argument in which no model was found."""
    if glob.has_magic(origin):
        error = UnreadableModelError(f"No model matches {origin}.", _SEARCHED)
    else:
        error = UnreadableModelError(f"{origin} contains no Keras model.", _SEARCHED)
    return Source(origin, (origin,), error=error)


def _walk(
    folder: str, origin: str, errors: list[Source], *, named: bool = True
) -> Iterator[str]:
    """Candidates below a folder; links to folders are followed, each folder once."""

    def failed(error: OSError) -> None:
        where = str(error.filename or folder)
        what = UnreadableModelError(
            f"{where} cannot be searched: {error.strerror or error}.",
            "Check its permissions.",
        )
        errors.append(Source(where, (origin,), error=what))

    seen = {_identity(folder)}
    for place, folders, files in os.walk(folder, onerror=failed, followlinks=True):
        kept = []
        for name in sorted(folders):
            identity = _identity(os.path.join(place, name))  # noqa: PTH118
            if not name.startswith(".") and identity not in seen:
                seen.add(identity)
                kept.append(name)
        folders[:] = kept
        for name in files:
            path = os.path.join(place, name)  # noqa: PTH118
            wanted = _is_candidate(name) if named else not name.startswith(".")
            if wanted and os.path.isfile(path):  # noqa: PTH113
                yield path.removeprefix(f".{os.sep}") if folder == "." else path


def _identity(path: str) -> object:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return path
    # Where the system has no numbers for files, the resolved path stands for them.
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _is_candidate(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def _natural(path: str) -> list[object]:
    """Sorts `epoch_2` before `epoch_10`, and a folder's files before its folders'."""
    folder, _, name = path.replace(os.sep, "/").rpartition("/")
    return [_parts(folder), _parts(name)]


def _parts(text: str) -> list[tuple[int, int, str]]:
    return [
        (0, int(part), part) if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", text)
        if part
    ]


def _matched(pattern: str) -> Iterator[Source]:
    """The files of a pattern, and the models in the folders that it matches."""
    any_name = not glob.has_magic(pattern) or pattern.rstrip("/").endswith("*")
    errors: list[Source] = []
    found: set[str] = set()
    for path in _expanded(pattern, errors):
        if os.path.isdir(path):  # noqa: PTH112
            found.update(_walk(path, pattern, errors))
        elif not any_name or _is_candidate(os.path.basename(path)):  # noqa: PTH119
            found.add(path)
    yield from (
        Source(path, (pattern,), found=True) for path in sorted(found, key=_natural)
    )
    yield from errors
    if not found and not errors:
        yield nothing_in(pattern)


def _expanded(pattern: str, errors: list[Source]) -> Iterable[str]:
    if "**" not in pattern:
        return glob.glob(pattern)  # noqa: PTH207
    # `glob` follows links round and round; the walk below goes into each folder once.
    parts = pattern.replace(os.sep, "/").split("/")
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    root = "/".join(parts[:first]) or ("/" if pattern.startswith("/") else ".")
    if not os.path.isdir(root):  # noqa: PTH112
        return []
    wanted = re.compile(_regex(parts[first:]))
    start = 0 if root == "." else len(root.rstrip("/")) + 1
    return [
        path
        for path in _walk(root, pattern, errors, named=False)
        if wanted.fullmatch(path.replace(os.sep, "/")[start:])
    ]


def _regex(parts: list[str]) -> str:
    """The expression for a relative path: `**` is any number of folders."""
    text = ""
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            text += ".*" if last else "(?:[^/]+/)*"
        else:
            text += "".join(_char(piece) for piece in _pieces(part)) + ("" if last else "/")
    return text


def _pieces(part: str) -> list[str]:
    return re.findall(r"\*+|\?|\[!?\]?[^\]]*\]|.", part, re.DOTALL)


def _char(piece: str) -> str:
    if piece.startswith("*"):
        return "[^/]*"
    if piece == "?":
        return "[^/]"
    if len(piece) > 1:
        inside = piece[1:-1].replace("\\", r"\\")
        return f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
    return re.escape(piece)


def is_foreign(path: str, *, failed: bool) -> bool:
    """Whether a file found by searching is no Keras model, damaged ones not meant.

    Args:
        path: the file.
        failed: whether it was read in vain; else only a look at the start of JSON is taken.
    """
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
    if suffix == ".json" and not is_remote(path):
        return _is_foreign_json(path, failed=failed)
    return failed and suffix in {".h5", ".hdf5"} and _is_foreign_hdf5(path)


def _is_foreign_json(path: str, *, failed: bool) -> bool:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            head = file.read(_HEAD)
            if b'"class_name"' not in head or not (
                b'"layers"' in head or b"Sequential" in head
            ):
                return True
            document = json.loads(head + file.read()) if failed else None
    except (OSError, ValueError, RecursionError):  # the reader says what is wrong
        return False
    return failed and not (isinstance(document, dict) and "class_name" in document)


def _is_foreign_hdf5(path: str) -> bool:
    """Whether a file is sound HDF5 without a mark of Keras."""
    import h5py

    try:
        with h5py.File(path, "r") as store:
            return not any(mark in store.attrs or mark in store for mark in _KERAS_MARKS)
    except Exception:  # noqa: BLE001  h5py raises all sorts for damaged files
        return False
