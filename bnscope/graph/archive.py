"""A saved model -> its graph: `.keras`, `.h5`, `.json`. No Keras, and nothing is run.

What a file is, is told by its first bytes, not by its name.
"""

from __future__ import annotations

import contextlib
import io
import json
import mmap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from bnscope.errors import BnscopeError, UnreadableModelError
from bnscope.graph import hdf5, optimizers
from bnscope.graph.build import build
from bnscope.graph.config import NoWeights, parse
from bnscope.graph.model import Graph, Training

_CONFIG = "config.json"
_WEIGHTS = "model.weights.h5"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK"
# The configuration of ResNet152 is 0.4 MB.
_MAX_CONFIG = 256 << 20
_EXPECTED = "Expected a model saved as .keras, .h5 or .hdf5, or a configuration as .json."
_SAVE_AGAIN = "The file is damaged; save the model again."


def read(path: str | Path, config_path: str | Path | None = None) -> Graph:
    """The graph of a saved model.

    Args:
        path: a `.keras` archive, a legacy `.h5` file (a whole model or its weights) or the
            JSON of `model.to_json()`.
        config_path: the JSON of `model.to_json()`, for a file with only weights.

    Returns:
        The graph, with the values of BN; of a file with only weights and no configuration,
        the BN layers found by names and shapes.

    Raises:
        UnreadableModelError: if the file is missing, damaged or no Keras model.
    """
    path = Path(path)
    config = None if config_path is None else _read_config(Path(config_path))
    try:
        with path.open("rb") as file:
            return _read(path, file, config)
    except BnscopeError as error:
        if str(path) in error.message:
            raise
        raise UnreadableModelError(f"{path}: {error.message}", error.hint) from None
    except IsADirectoryError:
        raise UnreadableModelError(f"{path} is a directory.", _EXPECTED) from None
    except FileNotFoundError:
        raise UnreadableModelError(f"{path} does not exist.", "Check the path.") from None
    except RecursionError:
        raise UnreadableModelError(
            f"{path} nests its configuration too deeply to be a model.", _SAVE_AGAIN
        ) from None
    except OSError as error:
        raise UnreadableModelError(
            f"{path} cannot be read: {error.strerror or _first_line(error)}.", _SAVE_AGAIN
        ) from None
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        RuntimeError,
    ) as error:
        raise UnreadableModelError(
            f"{path} cannot be understood: {_first_line(error)}.", _SAVE_AGAIN
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _read_config(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _json(file.read(_MAX_CONFIG), path)
    except OSError as error:
        raise UnreadableModelError(
            f"{path} cannot be read: {error.strerror or _first_line(error)}.",
            "Expected what `model.to_json()` writes.",
        ) from None


def _read(path: Path, file: BinaryIO, config: Any = None) -> Graph:
    start = file.read(len(_HDF5_MAGIC))
    if not start:
        raise UnreadableModelError(f"{path} is empty.", _EXPECTED)
    if start.startswith(_ZIP_MAGIC) and config is None:
        return _read_keras(path, file)
    if start == _HDF5_MAGIC:
        with h5py.File(path, "r") as store:
            return _read_hdf5(path, store, config)
    if config is not None:
        raise _has_config(path)
    if start.lstrip()[:1] == b"{":
        file.seek(0)
        name, model = parse(_json(file.read(_MAX_CONFIG), path), NoWeights())
        return build(name, model, training=Training(), has_weights=False)[0]
    raise UnreadableModelError(f"{path} is no Keras model.", _EXPECTED)


def _has_config(path: Path) -> UnreadableModelError:
    return UnreadableModelError(
        f"{path} is no weights file, so no configuration can be added to it.",
        "Leave out the configuration, or pass the .weights.h5 or .h5 file.",
    )


def _json(text: bytes | str, path: Path) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UnreadableModelError(
            f"The configuration in {path} is not valid JSON: {_first_line(error)}.",
            _SAVE_AGAIN,
        ) from None


def _read_keras(path: Path, file: BinaryIO) -> Graph:
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise UnreadableModelError(
            f"{path} is a truncated or damaged zip archive.", _SAVE_AGAIN
        ) from None
    with archive:
        members = archive.NameToInfo
        if _CONFIG not in members:
            raise UnreadableModelError(
                f"{path} is a zip archive without {_CONFIG}, so no Keras model.", _EXPECTED
            )
        config = _json(_member(archive, members[_CONFIG], path), path)
        if _WEIGHTS not in members:
            name, model = parse(config, NoWeights())
            return build(name, model, training=_training(config, None), has_weights=False)[
                0
            ]
        with (
            _open_member(archive, members[_WEIGHTS], file) as member,
            h5py.File(member, "r") as store,
        ):
            name, model = parse(config, hdf5.Keras3Weights(store, _bytes_of(member)))
            steps = _keras3_steps(store)
        return build(name, model, training=_training(config, steps), has_weights=True)[0]


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    with archive.open(info) as member:
        data = member.read(_MAX_CONFIG + 1)
    if len(data) > _MAX_CONFIG:
        raise UnreadableModelError(
            f"{info.filename} in {path} is larger than any configuration.", _SAVE_AGAIN
        )
    return data


@contextlib.contextmanager
def _open_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: BinaryIO
) -> Iterator[BinaryIO]:
    """A member as a seekable file.

    Keras stores its members uncompressed, so they are read in place through a memory map:
    `zipfile`'s own file object seeks by reading again from the start.
    """
    if info.compress_type != zipfile.ZIP_STORED:
        with archive.open(info) as member:
            yield member  # type: ignore[misc]
        return
    with archive.open(info):  # checks the member's own header
        pass
    file.seek(info.header_offset + 26)
    name_length = int.from_bytes(file.read(2), "little")
    extra_length = int.from_bytes(file.read(2), "little")
    start = info.header_offset + 30 + name_length + extra_length
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        if start + info.file_size > len(view):
            raise UnreadableModelError(
                f"{info.filename} claims more bytes than the archive has.", _SAVE_AGAIN
            )
        with (
            memoryview(view) as everything,
            everything[start : start + info.file_size] as part,
            _MappedMember(part) as member,
        ):
            yield member  # type: ignore[misc]


def _bytes_of(member: object) -> memoryview | None:
    return member.bytes if isinstance(member, _MappedMember) else None


class _MappedMember(io.RawIOBase):
    """A slice of memory as a file."""

    def __init__(self, view: memoryview) -> None:
        self.bytes = view
        self._size = len(view)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[
            whence
        ]
        self._position = max(base + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        part = self.bytes[self._position : self._position + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)


def _training(config: Any, steps: int | None) -> Training:
    compiled = config.get("compile_config") if isinstance(config, dict) else None
    if not compiled:
        return Training(compiled=False)
    return Training(True, steps, optimizers.from_compile_config(compiled))


def _keras3_steps(store: h5py.File) -> int | None:
    # A LossScaleOptimizer's own count stays 0; the optimizer inside it counts.
    for place in ("optimizer/inner_optimizer/vars/0", "optimizer/vars/0"):
        dataset = hdf5.walk(store, place)
        if dataset is not None:
            return _scalar(dataset)
    return None


def _scalar(dataset: Any) -> int | None:
    if (
        isinstance(dataset, h5py.Dataset)
        and dataset.shape == ()
        and dataset.dtype.kind in "iu"
    ):
        return int(hdf5.read_array(dataset))
    return None


def _read_hdf5(path: Path, store: h5py.File, config: Any = None) -> Graph:
    text = hdf5.attribute(store, "model_config")
    if text is None:
        from bnscope.graph import weights_file

        training = Training(optimizer_steps=_keras3_steps(store))
        return weights_file.read(path.name, store, config, training)
    if config is not None:
        raise _has_config(path)
    group = hdf5.walk(store, "model_weights")
    weights = NoWeights() if group is None else hdf5.LegacyWeights(group)
    name, model = parse(_json(text, path), weights)
    training = _legacy_training(path, store)
    return build(name, model, training=training, has_weights=group is not None)[0]


def _legacy_training(path: Path, store: h5py.File) -> Training:
    text = hdf5.attribute(store, "training_config")
    if text is None:
        return Training(compiled=False)
    return Training(
        compiled=True,
        optimizer_steps=_legacy_steps(store),
        optimizer=optimizers.from_compile_config(_json(text, path)),
    )


def _legacy_steps(store: h5py.File) -> int | None:
    group = hdf5.walk(store, "optimizer_weights")
    if not isinstance(group, h5py.Group):
        return None
    # A LossScaleOptimizer's own count stays 0; the optimizer inside it stands beside it.
    places = [group, *(hdf5.child(group, name) for name in group)]
    counts = [_legacy_count(place) for place in places]
    return max((count for count in counts if count is not None), default=None)


def _legacy_count(group: Any) -> int | None:
    while isinstance(group, h5py.Group):
        for name in ("iteration", "iterations:0", "iterations_1:0", "iter:0"):
            dataset = hdf5.child(group, name)
            if dataset is not None:
                return _scalar(dataset)
        first = next(iter(group), None)
        group = None if first is None else hdf5.child(group, first)
    return None
