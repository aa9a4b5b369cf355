"""A file with only weights -> its graph, by itself or with the model's configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import h5py

from bnscope.errors import UnreadableModelError
from bnscope.graph import hdf5, weight_sets
from bnscope.graph.batchnorm import AFFINE, KINDS, channel_axis, channels
from bnscope.graph.build import LayerSpec, ModelSpec, build
from bnscope.graph.config import Weights, found_layer, parse
from bnscope.graph.model import Graph, NotAnalysed, Training
from bnscope.graph.weight_sets import BatchNormSet

_NOT_KERAS = "The HDF5 file holds no weights that Keras wrote."
_EXPECTED = "Expected weights saved as .weights.h5 or .h5."
_MODULES = ("layers", "_layer_checkpoint_dependencies", "vars", "optimizer")
_NO_CONFIG = (
    "the file holds only weights: the structure is not known, nor the configuration (momentum, "
    "epsilon, axis, trainable) of its layers; give it as well (--model-config model.json, "
    "written by model.to_json()), or lint the whole model"
)
_WHICH = (
    "the file does not say whether its first variable is gamma or beta, so that one was not "
    "checked"
)
# So many names are given in a message.
_MOST_NAMES = 3


def read(
    name: str,
    store: h5py.File,
    config: Any = None,
    training: Training | None = None,
    *,
    kernels: bool = False,
) -> Graph:
    """The graph of a weights file.

    Args:
        name: what the model is called where nothing else says it.
        store: the open file.
        config: the decoded JSON of `model.to_json()`; None where there is none.
        training: what is known of the training.
        kernels: whether the kernels of layers are wanted; they can be read while it is open.

    Returns:
        The graph. With a configuration it is the whole model, and `not_analysed` names every
        BN layer that only one of the two has; without, it is the BN layers told by names and
        shapes.

    Raises:
        UnreadableModelError: if these are no weights that Keras wrote, or the configuration
            is that of another model.
    """
    training = training or Training()
    found = list(_sets(store))
    if config is not None:
        weights = _weights(store, kernels=kernels)
        return _with_config(weights, config, found, training)
    layers = [found_layer(each) for each in found]
    model = ModelSpec(layers=layers, opaque=_NO_CONFIG)
    graph, specs = build(name, model, training=training, has_weights=True)
    unknown = [path for path, spec in specs.items() if AFFINE in spec.variables]
    return _with_notes(graph, [NotAnalysed(path, _WHICH) for path in unknown])


def _is_legacy(store: h5py.File) -> bool:
    return "layer_names" in store.attrs or "layer_names0" in store.attrs


def _sets(store: h5py.File) -> Iterator[BatchNormSet]:
    if _is_legacy(store):
        yield from weight_sets.legacy_sets(store)
        return
    found = list(weight_sets.keras3_sets(store))
    if not found and not any(name in store for name in _MODULES):
        raise UnreadableModelError(_NOT_KERAS, _EXPECTED)
    yield from found


def _weights(store: h5py.File, *, kernels: bool) -> Weights:
    if _is_legacy(store):
        return hdf5.LegacyWeights(store, kernels=kernels)
    return hdf5.Keras3Weights(store, kernels=kernels)


def _with_config(
    weights: Weights, config: Any, found: list[BatchNormSet], training: Training
) -> Graph:
    name, model = parse(config, weights)
    graph, specs = build(name, model, training=training, has_weights=True)
    layers = {path: spec for path, spec in specs.items() if _is_batch_norm(spec)}
    with_values = [path for path, spec in layers.items() if spec.variables]
    if found and not with_values:
        raise UnreadableModelError(
            f"The configuration is that of another model: of the {len(found)} BN layers in the "
            f"weights ({_names(each.path for each in found)}) it has none.",
            "Write it with model.to_json() of the very model whose weights these are.",
        )
    return _with_notes(graph, list(_differences(layers, found, graph)))


def _differences(
    layers: dict[str, LayerSpec], found: list[BatchNormSet], graph: Graph
) -> Iterator[NotAnalysed]:
    """What only one of configuration and weights has, or each in its own shape."""
    for path, spec in layers.items():
        if not spec.variables:
            yield NotAnalysed(
                path,
                "the weights hold no values for it; the configuration may be another's",
            )
    used = sum(bool(spec.variables) for spec in layers.values())
    left = [each.path for each in found if each.path not in layers]
    if len(found) > used and left:
        yield NotAnalysed(
            "",
            f"the configuration has no BN layer for these in the weights: {_names(left)}",
        )
    for path in layers:
        yield from _other_widths(graph, path)


def _other_widths(graph: Graph, path: str) -> Iterator[NotAnalysed]:
    layer = graph.layer(path)
    width = channels(layer)
    for call in graph.calls_of(layer):
        shape = call.inputs[0].shape if call.inputs else None
        axis = channel_axis(layer, None if shape is None else len(shape))
        if shape is None or axis is None or axis >= len(shape) or width is None:
            continue
        if shape[axis] not in {None, width}:
            yield NotAnalysed(
                path,
                f"the weights hold {width} channels, and by the configuration it has "
                f"{shape[axis]}; they are of different models",
            )


def _is_batch_norm(spec: LayerSpec) -> bool:
    return spec.kind in KINDS or "moving_mean" in spec.variables


def _names(paths: Iterable[str]) -> str:
    paths = list(paths)
    more = len(paths) - _MOST_NAMES
    return ", ".join(paths[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _with_notes(graph: Graph, notes: list[NotAnalysed]) -> Graph:
    return replace(graph, not_analysed=(*graph.not_analysed, *notes)) if notes else graph
