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
from bnscope.graph.build import LayerSpec, ModelSpec, build
from bnscope.graph.config import NoWeights, parse
from bnscope.graph.model import Graph, Training

_CONFIG = "config.json"
_WEIGHTS = "model.weights.h5"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK"
# The configuration of ResNet152 is 0.4 MB.
_MAX_CONFIG = 256 << 20
_WEIGHTS_ONLY = (
    "the file holds only weights, so nothing is known of structure and configuration; lint "
    "the whole model to analyse them"
)
_EXPECTED = "Expected a model saved as .keras, .h5 or .hdf5, or a configuration as .json."
_SAVE_AGAIN = "The file is damaged; save the model again."


def read(path: str | Path) -> Graph:
    """The graph of a saved model.

    Args:
        path: a `.keras` archive, a legacy `.h5` file (a whole model or its weights) or the
            JSON of `model.to_json()`.

    Returns:
        The graph, with the values of BN; of a file with only weights, the BN layers found by
        the names of their variables.

    Raises:
        UnreadableModelError: if the file is missing, damaged or no Keras model.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _read(path, file)
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


def _read(path: Path, file: BinaryIO) -> Graph:
    start = file.read(len(_HDF5_MAGIC))
    if not start:
        raise UnreadableModelError(f"{path} is empty.", _EXPECTED)
    if start.startswith(_ZIP_MAGIC):
        return _read_keras(path, file)
    if start == _HDF5_MAGIC:
        with h5py.File(path, "r") as store:
            return _read_hdf5(path, store)
    if start.lstrip()[:1] == b"{":
        file.seek(0)
        name, model = parse(_json(file.read(_MAX_CONFIG), path), NoWeights())
        return build(name, model, training=Training(), has_weights=False)[0]
    raise UnreadableModelError(f"{path} is no Keras model.", _EXPECTED)


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


def _read_hdf5(path: Path, store: h5py.File) -> Graph:
    text = hdf5.attribute(store, "model_config")
    if text is None:
        return _read_weights(path, store)
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


def _read_weights(path: Path, store: h5py.File) -> Graph:
    """A file with only weights: BN is recognised by the names of variables and groups."""
    if "layer_names" in store.attrs:
        layers = list(_legacy_layers(store))
    elif "layers" in store or "_layer_checkpoint_dependencies" in store or "vars" in store:
        layers = list(_keras3_layers(store))
    else:
        raise UnreadableModelError(
            f"{path} is an HDF5 file, but not one that Keras wrote.", _EXPECTED
        )
    model = ModelSpec(layers=layers, opaque=_WEIGHTS_ONLY)
    return build(path.name, model, training=Training(), has_weights=True)[0]


def _legacy_layers(store: h5py.File) -> Iterator[LayerSpec]:
    for name in store:
        group = hdf5.child(store, name)
        if isinstance(group, h5py.Group):
            for owner in hdf5.legacy_sets(group):
                inner = owner.rpartition("/")[2]
                same = len(hdf5.legacy_sets(group)) == 1
                yield LayerSpec(
                    name if same else f"{name}/{inner}",
                    "BatchNormalization",
                    variables=hdf5.LegacyWeights(group, (owner,)).batch_norm({}),
                )


def _keras3_layers(store: h5py.File) -> Iterator[LayerSpec]:
    for path, group in hdf5.keras3_sets(store):
        values = hdf5.walk(group, "vars")
        name = hdf5.attribute(values, "name")
        if len(values) == 4:  # noqa: PLR2004  with fewer, which one is missing is not known
            yield LayerSpec(
                name if isinstance(name, str) else path,
                "BatchNormalization",
                variables=hdf5.Keras3Weights(group).batch_norm({}),
            )
