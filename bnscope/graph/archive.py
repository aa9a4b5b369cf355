"""A saved model -> its graph: `.keras`, `.h5`, `.json`. No Keras, and nothing is run.

What a file is, is told by its first bytes, not by its name.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from bnscope.errors import BnscopeError, UnreadableModelError
from bnscope.graph import hdf5
from bnscope.graph.build import LayerSpec, ModelSpec, build
from bnscope.graph.config import NoWeights, parse
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
_WEIGHTS_ONLY = (
    "the file holds only weights, so nothing is known of structure and configuration; lint "
    "the whole model to analyse them"
)


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
        with _one_kind_of_error(path), open_regular(path) as file, hdf5.guarded():
            return replace(_read(path, file), steps=Steps())
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
            f"{path} cannot be read: {error.strerror or _first_line(error)}.", hint
        ) from error
    except Exception as error:
        # Parsers of damaged data fail in many ways; none of them is the caller's fault.
        raise UnreadableModelError(
            f"{path} cannot be understood: {_first_line(error)}.", _SAVE_AGAIN
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _read(path: Path, file: BinaryIO) -> Graph:
    start = file.read(len(_HDF5_MAGIC))
    if not start:
        raise UnreadableModelError(f"{path} is empty.", _EXPECTED)
    if start.startswith(_ZIP_MAGIC):
        return _read_keras(path, file)
    if start == _HDF5_MAGIC:
        with whole(file) as part, h5py.File(part, "r") as store:
            return _read_hdf5(path, store)
    if start.lstrip()[:1] == b"{":
        file.seek(0)
        name, model = parse(_json(file.read(MAX_CONFIG + 1), path), NoWeights())
        return build(name, model, training=Training(), has_weights=False)[0]
    raise UnreadableModelError(f"{path} is no Keras model.", _EXPECTED)


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
        raise UnreadableModelError(
            f"The configuration in {path} is not valid UTF-8: {error.reason}.", _SAVE_AGAIN
        ) from None
    except ValueError as error:
        raise UnreadableModelError(
            f"The configuration in {path} is not valid JSON: {_first_line(error)}.",
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


def _read_keras(path: Path, file: BinaryIO) -> Graph:
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
    with archive.open(weights) as part:
        name, model, steps = _with_weights(config, part)
    return build(name, model, training=_training(config, steps), has_weights=True)[0]


def _with_weights(config: Any, part: Part) -> tuple[str, ModelSpec, int | None]:
    with h5py.File(part, "r") as store:
        name, model = parse(config, hdf5.Keras3Weights(store, part))
        return name, model, _keras3_steps(store)


def _training(config: Any, steps: int | None) -> Training:
    compiled = isinstance(config, dict) and bool(config.get("compile_config"))
    return Training(compiled=compiled, optimizer_steps=steps if compiled else None)


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


def _read_hdf5(path: Path, store: h5py.File) -> Graph:
    text = hdf5.attribute(store, "model_config")
    if text is None:
        return _read_weights(path, store)
    group = hdf5.walk(store, "model_weights")
    weights = NoWeights() if group is None else hdf5.LegacyWeights(group)
    name, model = parse(_json(text, path), weights)
    training = Training(
        compiled=hdf5.attribute(store, "training_config") is not None,
        optimizer_steps=_legacy_steps(store),
    )
    return build(name, model, training=training, has_weights=group is not None)[0]


def _legacy_steps(store: h5py.File) -> int | None:
    group = hdf5.walk(store, "optimizer_weights")
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
            owners = hdf5.legacy_sets(group)
            same = len(owners) == 1
            for owner in owners:
                inner = owner.rpartition("/")[2]
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
