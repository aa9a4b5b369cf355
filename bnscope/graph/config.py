"""A model's configuration (JSON) -> its specification. Nothing in it is ever run.

Three dialects: Keras 3 (`__keras_tensor__` objects in `args` and `kwargs`), Keras 2
(`[[name, call, output, kwargs], ...]`), and Sequential lists of both.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from bnscope.errors import UnreadableModelError
from bnscope.graph import kinds
from bnscope.graph.batchnorm import KINDS as BATCH_NORM
from bnscope.graph.build import (
    LayerSpec,
    ModelSpec,
    NodeSpec,
    Reference,
    holds_batch_norm,
)
from bnscope.graph.limits import MAX_CALLS, MAX_NAME, too_much
from bnscope.graph.model import CUSTOM_LAYER, Shape, Variable
from bnscope.graph.shapes import is_plausible

if TYPE_CHECKING:
    from bnscope.graph.weight_sets import BatchNormSet

Config = Mapping[str, Any]

_SEQUENTIAL = "Sequential"
# Layers that hold others in their configuration, and under which keys.
_INNER_LAYERS = ("layer", "forward_layer", "backward_layer", "backward_config", "cell")
# What the configuration of BN, or of a subclass of it, always holds.
_BATCH_NORM_OPTIONS = frozenset({"momentum", "epsilon", "moving_variance_initializer"})
_KERAS_MODULE = re.compile(
    r"^(tf_keras|keras|tensorflow\.python\.keras|tensorflow\.keras)\b"
)
_KERAS_OPS = re.compile(r"^keras\.src\.ops\b")
_OPAQUE_MODEL = (
    "its configuration holds no graph (a subclassed model, or one that saves only its "
    "hyper-parameters): its structure is not known, nor the configuration (momentum, epsilon, "
    "axis, trainable) of the BN layers found in its weights; lint the live model to analyse "
    "them"
)


class Weights(Protocol):
    """Where the variables of layers are found in a file."""

    def inside(self, name: str, class_name: str) -> Weights:
        """The place of a layer or nested model with that name."""
        ...

    def within(self, attribute: str) -> Weights:
        """The place of a layer that this one keeps as an attribute."""
        ...

    def batch_norm(self, config: Config) -> Mapping[str, Variable]:
        """The variables of the BN layer at this place."""
        ...

    def kernels(self, kind: str) -> Mapping[str, Variable]:
        """The variables of the layer with kernels at this place, if they are wanted."""
        ...

    def found_inside(self) -> Iterator[BatchNormSet]:
        """The BN layers below this place, told by names and shapes."""
        ...


class NoWeights:
    """A file without variables."""

    def inside(self, name: str, class_name: str) -> NoWeights:  # noqa: ARG002
        """This place again."""
        return self

    def within(self, attribute: str) -> NoWeights:  # noqa: ARG002
        """This place again."""
        return self

    def batch_norm(self, config: Config) -> Mapping[str, Variable]:  # noqa: ARG002
        """No variables."""
        return {}

    def kernels(self, kind: str) -> Mapping[str, Variable]:  # noqa: ARG002
        """No variables."""
        return {}

    def found_inside(self) -> Iterator[BatchNormSet]:
        """No layers."""
        return iter(())


def parse(obj: object, weights: Weights) -> tuple[str, ModelSpec]:
    """The specification of a whole model.

    Args:
        obj: the decoded JSON: `{"class_name": ..., "config": ...}`.
        weights: where its variables are.

    Returns:
        The model's name and its specification.

    Raises:
        UnreadableModelError: if this is no configuration of a Keras model.
    """
    if not isinstance(obj, Mapping) or "class_name" not in obj or "config" not in obj:
        raise UnreadableModelError(
            "The JSON is no Keras model: it has no `class_name` and `config`.",
            "Expected what `model.to_json()` writes.",
        )
    spec = _layer(obj, weights)
    if spec.kind in BATCH_NORM:
        return spec.name, ModelSpec(layers=[spec], opaque=_OPAQUE_MODEL)
    if spec.model is None or spec.model.opaque:
        layers = spec.children if spec.model is None else spec.model.layers
        return spec.name, ModelSpec(layers=layers, opaque=_OPAQUE_MODEL)
    return spec.name, spec.model


def _layer(obj: Config, weights: Weights) -> LayerSpec:
    """One layer, whose variables are at `weights`."""
    config = obj.get("config")
    class_name = _name(obj.get("class_name", ""))
    layers = _layer_list(config)
    config = config if isinstance(config, Mapping) else {}
    name = _name(config.get("name") or obj.get("name") or class_name)
    kind = _kind(obj, class_name)
    spec = LayerSpec(name, kind, config, trainable=bool(config.get("trainable", True)))
    if layers is not None:
        spec.model = _model(class_name, config, layers, weights)
    elif kind in BATCH_NORM:
        spec.variables = weights.batch_norm(config)
    else:
        if kind in kinds.KERNEL_VARIABLES:
            spec.variables = weights.kernels(kind)
        spec.children = _inner_layers(config, weights)
        is_model = _is_model_class(obj, class_name)
        if is_model or kind.startswith("custom."):
            _add_found_layers(spec, weights, is_model=is_model)
    return spec


def _name(value: object) -> str:
    """A name; long ones are refused, since messages repeat them."""
    name = str(value)
    if len(name) > MAX_NAME:
        raise too_much(f"A layer's name has {len(name):,} characters", MAX_NAME)
    return name


def _kind(obj: Config, class_name: str) -> str:
    """`Conv2D` for Keras's own layers, `ops.Add` for operations, else `custom.Name`."""
    module = obj.get("module")
    short = class_name.rpartition(">")[2].rpartition(".")[2]
    if isinstance(module, str):
        if _KERAS_OPS.match(module):
            return f"ops.{short}"
        own = _KERAS_MODULE.match(module) is not None
    elif module is None and "module" in obj:
        own = False  # Keras 3 writes no module for what the user registered
    elif _is_operation_without_module(obj):
        return f"ops.{short}"
    else:
        own = ">" not in class_name
    return kinds.published(short) if own else f"custom.{short}"


def _is_operation_without_module(obj: Config) -> bool:
    """Whether this is an operation of Keras 3 in a legacy `.h5`, which writes no modules."""
    nodes = obj.get("inbound_nodes")
    modern = isinstance(nodes, list) and any(isinstance(node, Mapping) for node in nodes)
    return modern and set(obj.get("config") or ()) == {"name"}


def _is_model_class(obj: Config, class_name: str) -> bool:
    module = str(obj.get("module") or "")
    return class_name in {"Model", "Functional", _SEQUENTIAL} or ".models" in module


def _layer_list(config: object) -> list[Any] | None:
    """The layers of a nested model; None for what is no model."""
    if isinstance(config, list):  # a Sequential before Keras 2.2.3
        return config
    if isinstance(config, Mapping) and isinstance(config.get("layers"), list):
        layers = config["layers"]
        return layers if all(isinstance(item, Mapping) for item in layers) else None
    return None


def _inner_layers(config: Config, weights: Weights) -> list[LayerSpec]:
    found = []
    for key in _INNER_LAYERS:
        inner = config.get(key)
        if isinstance(inner, Mapping) and "class_name" in inner:
            found.append(_layer(inner, weights.within(key)))
    return found


def _add_found_layers(spec: LayerSpec, weights: Weights, *, is_model: bool) -> None:
    """Adds to a custom layer, or a subclassed model, what its weights say of it."""
    if set(spec.config) >= _BATCH_NORM_OPTIONS:  # a subclass of BN, or an imitation
        with suppress(UnreadableModelError):  # whose variables are of its own kind
            spec.variables = weights.batch_norm(spec.config)
        return
    known = {key for key in _INNER_LAYERS if isinstance(spec.config.get(key), Mapping)}
    spec.children += [
        found_layer(found)
        for found in weights.found_inside()
        if found.place.partition("/")[0] not in known
    ]
    if is_model or any(map(holds_batch_norm, spec.children)):
        reason = _OPAQUE_MODEL if is_model else CUSTOM_LAYER
        spec.model = ModelSpec(layers=spec.children, opaque=reason)
        spec.children = []


def found_layer(found: BatchNormSet) -> LayerSpec:
    """A BN layer of which only the variables are known."""
    return LayerSpec(
        found.path,
        "BatchNormalization",
        found.config,
        variables=found.variables,
        config_known=False,
    )


def _model(
    class_name: str, config: Config, layers: list[Any], weights: Weights
) -> ModelSpec:
    if len(layers) > MAX_CALLS:
        raise too_much(f"A model has {len(layers):,} layers", MAX_CALLS)
    specs = []
    for obj in layers:
        inner = obj.get("config")
        own_name = inner.get("name") if isinstance(inner, Mapping) else None
        name = _name(own_name or obj.get("name") or obj.get("class_name"))
        place = weights.inside(name, str(obj.get("class_name", "")))
        spec = _layer(obj, place)
        spec.name = _name(obj.get("name") or spec.name)
        specs.append(spec)
    _check_names(specs)
    if "input_layers" in config and "output_layers" in config:
        return _functional(config, layers, specs)
    if class_name.rpartition(">")[2] == _SEQUENTIAL or "input_layers" not in config:
        return _sequential(config, layers, specs)
    return ModelSpec(layers=specs, opaque=_OPAQUE_MODEL)


def _check_names(specs: list[LayerSpec]) -> None:
    """Refuses a model whose calls cannot be told apart; Keras makes none."""
    name, count = (
        Counter(spec.name for spec in specs).most_common(1)[0] if specs else ("", 0)
    )
    if count > 1:
        raise UnreadableModelError(
            f"{count} layers of one model are called {name!r}.",
            "The file is damaged; save the model again.",
        )


def _functional(config: Config, layers: list[Any], specs: list[LayerSpec]) -> ModelSpec:
    nodes = [
        node for obj, spec in zip(layers, specs, strict=True) for node in _nodes(obj, spec)
    ]
    outputs = _ends(config["output_layers"], {})
    if any(_is_keras_3(obj) for obj in layers):
        models = {spec.name for spec in specs if spec.model and spec.kind != "Sequential"}
        outputs = [_counted_from_zero(output, models) for output in outputs]
    else:
        _count_from_one(nodes, outputs)
    return ModelSpec(
        layers=specs,
        nodes=nodes,
        inputs=_ends(config["input_layers"], {spec.name: spec for spec in specs}),
        outputs=outputs,
    )


def _is_keras_3(obj: Config) -> bool:
    written = obj.get("inbound_nodes")
    return isinstance(written, list) and any(isinstance(n, Mapping) for n in written)


def _counted_from_zero(output: Reference, models: Collection[str]) -> Reference:
    """An output, whose call of a nested Functional model Keras 3 counts from 1.

    Only there: in the arguments of calls it counts from 0 (`get_config` and `serialize_node` in
    keras/src/models/functional.py).
    """
    name, index, tensor = output.key
    return replace(output, key=(name, index - 1, tensor)) if name in models else output


def _count_from_one(nodes: list[NodeSpec], outputs: list[Reference]) -> None:
    """Gives the calls of nested models the numbers by which Keras 2 refers to them.

    From 2.3 on it counted from 1: call 0 is the one that a nested model was made with, which is
    not written down.
    """
    used: dict[Any, int] = {}
    for reference in [*outputs, *(found for node in nodes for found in node.references())]:
        name, index, _ = reference.key
        used[name] = max(used.get(name, 0), index)
    counts = Counter(node.layer.name for node in nodes)
    for node in nodes:
        name = node.layer.name
        if node.layer.model is not None and used.get(name, 0) == counts[name]:
            node.key = (name, node.key[1] + 1)


def _nodes(obj: Config, spec: LayerSpec) -> list[NodeSpec]:
    written = obj.get("inbound_nodes")
    nodes = []
    for index, node in enumerate(written if isinstance(written, list) else ()):
        key = (spec.name, index)
        if isinstance(node, Mapping):
            kwargs = node.get("kwargs")
            args = node.get("args")
            nodes.append(
                NodeSpec(
                    spec,
                    key,
                    tuple(_decode(item) for item in args or ()),
                    _decode(kwargs) if isinstance(kwargs, Mapping) else {},
                )
            )
        else:
            args, kwargs = _decode_legacy(node, spec.kind)
            nodes.append(NodeSpec(spec, key, args, kwargs))
    if spec.kind == kinds.INPUT and not nodes:
        nodes.append(NodeSpec(spec, (spec.name, 0)))
    return nodes


def _decode(value: Any) -> Any:
    """Keras 3's arguments, with a `Reference` in the place of each tensor."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            config = value.get("config", {})
            name, node, tensor = config["keras_history"]
            return Reference(
                (str(name), int(node), int(tensor)),
                _shape(config.get("shape")),
                _dtype(config),
            )
        return {name: _decode(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value


def _decode_legacy(node: Any, kind: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Keras 2's arguments: one list a tensor, the last entry its keyword arguments."""
    if _is_legacy_tensor(node):  # a call with a single tensor, not in a list
        node = [node]
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for item in node if isinstance(node, list) else ():
        if not _is_legacy_tensor(item):
            continue
        name, index, tensor = item[:3]
        if name == "_CONSTANT_VALUE":  # index -1, and the value in the tensor's place
            args.append(tensor)
        else:
            args.append(Reference((str(name), int(index), int(tensor))))
        if len(item) > 3 and isinstance(item[3], Mapping):  # noqa: PLR2004
            kwargs.update(
                {
                    key: _legacy_value(value) if kind.endswith("OpLambda") else value
                    for key, value in item[3].items()
                }
            )
    return tuple(args), kwargs


def _is_legacy_tensor(item: object) -> bool:
    return (
        isinstance(item, list)
        and len(item) >= 3  # noqa: PLR2004
        and isinstance(item[0], str)
        and isinstance(item[1], int)
    )


def _legacy_value(value: Any) -> Any:
    if _is_legacy_tensor(value) and isinstance(value[2], int) and value[1] >= 0:
        return Reference((value[0], value[1], value[2]))
    return value


def _ends(value: Any, layers: Mapping[str, LayerSpec]) -> list[Reference]:
    """The tensors at the ends of a model: one, a list, a dictionary, or nested."""
    if isinstance(value, Mapping):
        return [end for item in value.values() for end in _ends(item, layers)]
    if not isinstance(value, list):
        return []
    if len(value) == 3 and isinstance(value[0], str) and isinstance(value[1], int):  # noqa: PLR2004
        name = value[0]
        config = layers[name].config if name in layers else {}
        shape = _shape(config.get("batch_shape", config.get("batch_input_shape")))
        return [Reference((name, value[1], int(value[2])), shape, _dtype(config))]
    return [end for item in value for end in _ends(item, layers)]


def _sequential(config: Config, layers: list[Any], specs: list[LayerSpec]) -> ModelSpec:
    """A chain. An input is put before it where the file has none."""
    model = ModelSpec(layers=specs)
    first = specs[0] if specs else None
    if first is None or first.kind != kinds.INPUT:
        model.inputs.append(_implied_input(config, first))
    previous = model.inputs[0] if model.inputs else None
    for obj, spec in zip(layers, specs, strict=True):
        key = (spec.name, 0)
        if spec.kind == kinds.INPUT:
            shape = _shape(
                spec.config.get("batch_shape", spec.config.get("batch_input_shape"))
            )
            previous = Reference((*key, 0), shape, _dtype(spec.config))
            model.inputs.append(previous)
            model.nodes.append(NodeSpec(spec, key))
            continue
        built = obj.get("build_config")
        shape = _shape(built.get("input_shape")) if isinstance(built, Mapping) else None
        if previous is not None:
            previous = Reference(previous.key, shape or previous.shape, previous.dtype)
            model.nodes.append(NodeSpec(spec, key, (previous,)))
        previous = Reference((*key, 0))
    if previous is not None:
        model.outputs.append(previous)
    return model


def _implied_input(config: Config, first: LayerSpec | None) -> Reference:
    shape = config.get("build_input_shape")
    if first is not None and shape is None:
        shape = first.config.get("batch_input_shape", first.config.get("batch_shape"))
    name = f"{first.name}_input" if first is not None else "input"
    return Reference((name, 0, 0), _shape(shape), _dtype(first.config if first else {}))


def _shape(value: object) -> Shape | None:
    if isinstance(value, (list, tuple)) and is_plausible(value):
        return tuple(value)
    return None


def _dtype(config: Config) -> str | None:
    value = config.get("dtype")
    return value if isinstance(value, str) else None
