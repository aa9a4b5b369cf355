"""A saved model -> its graph: `.keras`, `.h5`, `.json`. No Keras, and nothing is run.

What a file is, is told by its first bytes, not by its name.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from bnscope.errors import BnscopeError, UnreadableModelError, first_line
from bnscope.graph import hdf5, optimizers
from bnscope.graph.build import build
from bnscope.graph.config import NoWeights, Weights, parse
from bnscope.graph.files import EXPECTED as _EXPECTED
from bnscope.graph.files import SAVE_AGAIN as _SAVE_AGAIN
from bnscope.graph.files import Archive, Part, open_regular, whole
from bnscope.graph.limits import (
    MAX_CONFIG,
    MAX_CONFIG_VALUES,
    MAX_GROUP_DEPTH,
    Steps,
    megabytes,
    too_much,
)
from bnscope.graph.model import Graph, Training
from bnscope.printing import printable

_CONFIG = "config.json"
_WEIGHTS = "model.weights.h5"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK"
# The longest message of an error; names in it may be long.
_MAX_MESSAGE = 500


def read(
    path: str | os.PathLike[str], config_path: str | os.PathLike[str] | None = None
) -> Graph:
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
    with _opened(Path(path), config_path, kernels=False) as graph:
        return replace(graph, reopen=partial(opened, path, config_path))


def opened(
    path: str | os.PathLike[str], config_path: str | os.PathLike[str] | None = None
) -> contextlib.AbstractContextManager[Graph]:
    """As `read`, with the kernels of layers, which can be read while the context lasts.

    Raises:
        UnreadableModelError: as `read`, and for whatever goes wrong inside the context.
    """
    return _opened(Path(path), config_path, kernels=True)


@dataclass(frozen=True, slots=True)
class _Files:
    """The files that are open, and whether kernels are wanted."""

    stack: contextlib.ExitStack
    kernels: bool

    def store(self, part: Part) -> h5py.File:
        """An HDF5 file, open as long as the stack is."""
        self.stack.enter_context(part)
        return self.stack.enter_context(h5py.File(part, "r"))


@contextlib.contextmanager
def _opened(
    path: Path, config_path: str | os.PathLike[str] | None, *, kernels: bool
) -> Iterator[Graph]:
    config = None if config_path is None else _read_config(Path(config_path))
    try:
        with (
            _one_kind_of_error(path),
            open_regular(path) as file,
            hdf5.guarded(),
            contextlib.ExitStack() as stack,
        ):
            files = _Files(stack, kernels)
            yield replace(_read(path, file, files, config), steps=Steps())
    except BnscopeError as error:
        message = (
            error.message if str(path) in error.message else f"{path}: {error.message}"
        )
        if len(message) > _MAX_MESSAGE:
            message = f"{message[: _MAX_MESSAGE - 5]} ..."
        raise UnreadableModelError(printable(message), printable(error.hint)) from error


@contextlib.contextmanager
def _one_kind_of_error(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file, as an error with one line."""
    try:
        yield
    except BnscopeError:
        raise
    except IsADirectoryError:
        raise UnreadableModelError(f"{path} is a directory.", _EXPECTED) from None
    except FileNotFoundError:
        raise UnreadableModelError(f"{path} does not exist.", "Check the path.") from None
    except RecursionError:
        raise UnreadableModelError(
            f"{path} nests its configuration too deeply to be a model.", _SAVE_AGAIN
        ) from None
    except MemoryError:
        raise UnreadableModelError(
            f"{path} needs more memory than there is.", _SAVE_AGAIN
        ) from None
    except OSError as error:
        # HDF5's own errors carry no number.
        hint = _SAVE_AGAIN if error.errno is None else "Check the path and its permissions."
        raise UnreadableModelError(
            f"{path} cannot be read: {error.strerror or first_line(error)}.", hint
        ) from error
    except Exception as error:
        # Parsers of damaged data fail in many ways; none of them is the caller's fault.
        raise UnreadableModelError(
            f"{path} cannot be understood: {first_line(error)}.", _SAVE_AGAIN
        ) from error


def _read_config(path: Path) -> Any:
    with _one_kind_of_error(path), open_regular(path) as file:
        return _json(file.read(MAX_CONFIG + 1), path)


def _read(path: Path, file: BinaryIO, files: _Files, config: Any = None) -> Graph:
    start = file.read(len(_HDF5_MAGIC))
    if not start:
        raise UnreadableModelError(f"{path} is empty.", _EXPECTED)
    if start.startswith(_ZIP_MAGIC) and config is None:
        return _read_keras(path, file, files)
    if start == _HDF5_MAGIC:
        return _read_hdf5(path, files.store(whole(file)), files, config)
    if config is not None:
        raise _has_config(path)
    if start.lstrip()[:1] == b"{":
        file.seek(0)
        name, model = parse(_json(file.read(MAX_CONFIG + 1), path), NoWeights())
        return build(name, model, training=Training(), has_weights=False)[0]
    raise UnreadableModelError(f"{path} is no Keras model.", _EXPECTED)


def _has_config(path: Path) -> UnreadableModelError:
    return UnreadableModelError(
        f"{path} is no weights file, so no configuration can be added to it.",
        "Leave out the configuration, or pass the .weights.h5 or .h5 file.",
    )


def _json(text: bytes | bytearray | str, path: Path) -> Any:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > MAX_CONFIG:
        raise too_much(
            f"The configuration in {path} has more than {megabytes(MAX_CONFIG)}",
            MAX_CONFIG >> 20,
            " MB",
        )
    _check_values(data, path)
    try:
        return json.loads(data)
    except UnicodeDecodeError as error:
        if data.startswith((b"PK\x03\x04", b"\x89HDF")):
            raise UnreadableModelError(
                f"{path} is a saved model or weights, and no JSON.",
                "Give what model.to_json() wrote.",
            ) from None
        raise UnreadableModelError(
            f"The configuration in {path} is not valid UTF-8: {error.reason}.", _SAVE_AGAIN
        ) from None
    except ValueError as error:
        raise UnreadableModelError(
            f"The configuration in {path} is not valid JSON: {first_line(error)}.",
            _SAVE_AGAIN,
        ) from None


def _check_values(data: bytes | bytearray, path: Path) -> None:
    """Refuses a configuration whose values would fill the memory, before they are made.

    An empty list is two bytes of JSON and 64 of memory, a small dictionary some 200, a short
    string or number 72 with its place in a list.
    """
    containers = data.count(b"[") + data.count(b"{")
    values = data.count(b",") + containers
    characters = len(data) * (2 if data.isascii() else 5)
    size = 200 * containers + 72 * values + characters
    if size > MAX_CONFIG_VALUES:
        raise too_much(
            f"The {values:,} values of the configuration in {path} would take "
            f"{megabytes(size)} of memory",
            MAX_CONFIG_VALUES >> 20,
            " MB",
        )


def _read_keras(path: Path, file: BinaryIO, files: _Files) -> Graph:
    archive = Archive(path, file)
    member = archive.member(_CONFIG)
    if member is None:
        raise UnreadableModelError(
            f"{path} is a zip archive without {_CONFIG}, so no Keras model.", _EXPECTED
        )
    config = _json(archive.read(member, MAX_CONFIG), path)
    weights = archive.member(_WEIGHTS)
    if weights is None:
        name, model = parse(config, NoWeights())
        return build(name, model, training=_training(config, None), has_weights=False)[0]
    part = archive.open(weights)
    store = files.store(part)
    name, model = parse(config, hdf5.Keras3Weights(store, part, kernels=files.kernels))
    training = _training(config, _keras3_steps(store))
    return build(name, model, training=training, has_weights=True)[0]


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
        return max(int(hdf5.read_array(dataset)), 0)
    return None


def _read_hdf5(path: Path, store: h5py.File, files: _Files, config: Any = None) -> Graph:
    text = hdf5.attribute(store, "model_config")
    if text is None:
        from bnscope.graph import weights_file

        training = Training(optimizer_steps=_keras3_steps(store))
        return weights_file.read(path.name, store, config, training, kernels=files.kernels)
    if config is not None:
        raise _has_config(path)
    group = hdf5.walk(store, "model_weights")
    weights = _legacy_weights(group, files)
    name, model = parse(_json(text, path), weights)
    training = _legacy_training(path, store)
    return build(name, model, training=training, has_weights=group is not None)[0]


def _legacy_weights(group: Any, files: _Files) -> Weights:
    return (
        NoWeights() if group is None else hdf5.LegacyWeights(group, kernels=files.kernels)
    )


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
    places = [group, *(hdf5.child(group, name) for name in hdf5.keys(group))]
    counts = [_legacy_count(place) for place in places]
    return max((count for count in counts if count is not None), default=None)


def _legacy_count(group: Any) -> int | None:
    for _ in range(MAX_GROUP_DEPTH):  # a group may be linked into itself
        if not isinstance(group, h5py.Group):
            break
        for name in ("iteration", "iterations:0", "iterations_1:0", "iter:0"):
            dataset = hdf5.child(group, name)
            if dataset is not None:
                return _scalar(dataset)
        first = next(iter(group), None)
        group = None if first is None else hdf5.child(group, first)
    return None
