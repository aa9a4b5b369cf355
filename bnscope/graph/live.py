"""A live Keras model -> its graph, read from its nodes: what was called with what.

Nodes, not `get_config()`: a Functional subclass (a `keras_hub` backbone) saves only its
hyper-parameters, but all its nodes are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any

import numpy as np

from bnscope.errors import UnsupportedModelError
from bnscope.graph import kinds, optimizers
from bnscope.graph.build import (
    LayerSpec,
    ModelSpec,
    NodeSpec,
    Reference,
    build,
    holds_batch_norm,
)
from bnscope.graph.model import Graph, Shape, Training, Variable
from bnscope.graph.sandbox import UntraceableError
from bnscope.graph.traces import Arguments, Trace
from bnscope.graph.tracing import Tracer, is_followed

_SUBCLASSED = (
    "a subclassed model: which layer feeds which is written in its `call` only; its layers "
    "were checked one by one"
)
_CHECKED_SINGLY = "its layers were checked one by one"


def read(model: Any, *, trace: bool = False) -> Graph:
    """The graph of a live model.

    Args:
        model: a `keras.Model`; built or not, compiled or not. It is not changed.
        trace: whether to follow the `call` of subclassed models and of custom layers by
            calling them once on symbolic tensors, which takes as long as building them.

    Returns:
        The graph. Where a `call` was not followed only the layers are known, and
        `not_analysed` says so.

    Raises:
        UnsupportedModelError: if this is no Keras 3 model.
    """
    _check_model(model)
    return _read(model, Tracer(model) if trace else None)[0]


def read_with_layers(model: Any) -> tuple[Graph, dict[str, Any]]:
    """The graph of a live model, whose `call`s are followed, and its Keras layers by path.

    Args:
        model: a `keras.Model`.

    Raises:
        UnsupportedModelError: if this is no Keras 3 model.
    """
    _check_model(model)
    graph, specs = _read(model, Tracer(model))
    return graph, {path: spec.source for path, spec in specs.items()}


def keras_layers(model: Any, tracer: Tracer | None = None) -> dict[str, Any]:
    """The Keras layers of a live model by their path in its graph.

    Args:
        model: a `keras.Model`.
        tracer: what follows the `call`s of the user's, if they are to be followed. The
            operations inside are those of its traces.

    Returns:
        Layer objects, those inside wrappers and custom layers included.

    Raises:
        UnsupportedModelError: if this is no Keras 3 model.
    """
    _check_model(model)
    return {path: spec.source for path, spec in _read(model, tracer)[1].items()}


def batch_norms(model: Any) -> dict[str, Any]:
    """The BN layers of a live model by their path, in forward order; as `keras_layers`."""
    import keras

    kind = keras.layers.BatchNormalization
    layers = keras_layers(model)
    return {path: layer for path, layer in layers.items() if isinstance(layer, kind)}


def _check_model(model: Any) -> None:
    import keras

    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        raise UnsupportedModelError(
            f"Expected a Keras 3 model, got {kind}.",
            "Pass a keras.Model, or the path of a saved model (.keras, .h5, .json).",
        )


def _read(model: Any, tracer: Tracer | None) -> tuple[Graph, dict[str, LayerSpec]]:
    reader = _Reader(tracer)
    spec = reader.whole(model)
    top = spec.model or ModelSpec(layers=spec.children, opaque=_SUBCLASSED)
    return build(spec.name, top, training=_training(model), has_weights=True)


class _Reader:
    def __init__(self, tracer: Tracer | None) -> None:
        self.tracer = tracer
        self.specs: dict[int, LayerSpec] = {}

    def whole(self, model: Any) -> LayerSpec:
        """The specification of the model that is read."""
        spec = self.layer(model)
        if self.tracer is not None and is_followed(model):
            try:
                call = self.tracer.first_call(model)
            except UntraceableError as error:
                self.leave(spec, str(error))
            else:
                self.follow(spec, [call])
        return spec

    def layer(self, layer: Any) -> LayerSpec:
        """The specification of a layer; one for an object, wherever it is called."""
        spec = self.specs.get(id(layer))
        if spec is None:
            spec = self.specs[id(layer)] = LayerSpec(
                name=layer.name,
                kind=kind_of(layer),
                config=_config(layer),
                trainable=bool(getattr(layer, "trainable", True)),
                source=layer,
            )
            self.furnish(spec, layer)
        return spec

    def furnish(self, spec: LayerSpec, layer: Any) -> None:
        import keras

        if isinstance(layer, keras.Sequential):
            spec.model = self.sequential(layer)
        elif _has_nodes(layer):
            spec.model = self.functional(layer)
        elif isinstance(layer, keras.Model):
            spec.model = ModelSpec(layers=self.inside(layer), opaque=_SUBCLASSED)
        elif isinstance(layer, keras.layers.Layer):
            spec.variables = _variables(layer)
            spec.children = self.inside(layer)

    def inside(self, layer: Any) -> list[LayerSpec]:
        return [self.layer(child) for child in getattr(layer, "_layers", ())]

    def sequential(self, model: Any) -> ModelSpec:
        functional = getattr(model, "_functional", None)
        if functional is not None:
            return self.functional(functional)
        layers = [self.layer(layer) for layer in model.layers]
        previous = Reference((f"{model.name}_input", 0, 0))
        spec = ModelSpec(layers=layers, inputs=[previous])
        for index, layer in enumerate(layers):
            key = (index, 0)
            spec.nodes.append(NodeSpec(layer, key, (previous,)))
            previous = Reference((*key, 0))
        spec.outputs = [previous]
        return spec

    def functional(self, model: Any) -> ModelSpec:
        nodes = {id(node) for depth in model._nodes_by_depth.values() for node in depth}  # noqa: SLF001
        spec = ModelSpec(
            layers=[self.layer(operation) for operation in model.operations],
            inputs=[_reference(tensor) for tensor in model.inputs],
            outputs=[_reference(tensor) for tensor in model.outputs],
        )
        for operation in model.operations:
            own = [
                (index, node)
                for index, node in enumerate(operation._inbound_nodes)  # noqa: SLF001
                if id(node) in nodes
            ]
            spec.nodes += [self.node(operation, index, node) for index, node in own]
            self.follow_calls(operation, [node for _, node in own])
        return spec

    def node(self, operation: Any, index: int, node: Any) -> NodeSpec:
        return NodeSpec(
            layer=self.layer(operation),
            key=(_operation_key(operation), index),
            args=tuple(_decode(value) for value in node.arguments.args),
            kwargs={name: _decode(value) for name, value in node.arguments.kwargs.items()},
            outputs=tuple(_reference(tensor) for tensor in node.output_tensors),
        )

    def follow_calls(self, operation: Any, nodes: list[Any]) -> None:
        """Follows the calls of a custom layer that these nodes are."""
        if self.tracer is not None and nodes and is_followed(operation):
            calls = [
                Arguments(node.arguments.args, node.arguments.kwargs) for node in nodes
            ]
            self.follow(self.layer(operation), calls)

    def follow(self, spec: LayerSpec, calls: list[Arguments]) -> None:
        """Puts in what a `call` does with the layers inside, if that can be told."""
        if self.tracer is None or (spec.model is not None and spec.model.traced):
            return
        try:
            trace = self.tracer.trace(spec.source, calls)
        except UntraceableError as error:
            self.leave(spec, str(error))
        else:
            spec.model, spec.children = self.traced(spec.source, trace), []

    def leave(self, spec: LayerSpec, reason: str) -> None:
        """Says why a `call` was not followed, if there is BN in it."""
        if holds_batch_norm(spec):
            layers = spec.model.layers if spec.model else spec.children
            inside = [each for each in layers if each.kind != kinds.INPUT]
            spec.model = ModelSpec(inside, opaque=f"{reason}; {_CHECKED_SINGLY}")
            spec.children = []

    def traced(self, layer: Any, trace: Trace) -> ModelSpec:
        spec = ModelSpec(
            layers=self.inside(layer),
            inputs=[_reference(tensor) for tensor in trace.inputs],
            outputs=[_reference(tensor) for tensor in trace.outputs],
            traced=True,
        )
        calls: dict[int, list[Any]] = {}
        for node, training in zip(trace.nodes, trace.training, strict=True):
            index = node.output_tensors[0]._keras_history.node_index  # noqa: SLF001
            made = self.node(node.operation, index, node)
            rest = {
                name: value for name, value in made.kwargs.items() if name != "training"
            }
            made.kwargs = rest if training is None else {**rest, "training": training}
            spec.nodes.append(made)
            calls.setdefault(id(node.operation), []).append(node)
        for nodes in calls.values():
            self.follow_calls(nodes[0].operation, nodes)
        return spec


def kind_of(layer: Any) -> str:
    """`Conv2D` for Keras's own layers, `ops.Add` for operations, else `custom.Name`."""
    cls = type(layer)
    module = cls.__module__
    if hasattr(layer, "bnscope_kind"):
        return str(layer.bnscope_kind)
    if module.startswith("keras.src.ops"):
        return f"ops.{cls.__name__}"
    own = module == "keras" or module.startswith("keras.")
    return kinds.published(cls.__name__) if own else f"custom.{cls.__name__}"


def _has_nodes(layer: Any) -> bool:
    return hasattr(layer, "_nodes_by_depth")


def _operation_key(operation: Any) -> Any:
    # The name of an input, by which a graph's inputs are called; else the object's identity.
    return operation.name if kind_of(operation) == kinds.INPUT else id(operation)


def _reference(tensor: Any) -> Reference:
    operation, node, index = tensor._keras_history  # noqa: SLF001
    return Reference(
        (_operation_key(operation), node, index), _shape(tensor.shape), str(tensor.dtype)
    )


def _decode(value: Any) -> Any:
    if hasattr(value, "_keras_history"):
        return _reference(value)
    if isinstance(value, Mapping):
        return {name: _decode(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_decode(item) for item in value]
    return value


def _shape(shape: Any) -> Shape | None:
    return None if shape is None else tuple(shape)


def _config(layer: Any) -> dict[str, Any]:
    if hasattr(layer, "layers"):
        return {}  # a model's holds those of all its layers again
    try:
        config = layer.get_config()
    except Exception:  # noqa: BLE001  a user's class may raise anything; it stays opaque
        return {}
    return {**config, **_renamed(layer)} if isinstance(config, dict) else {}


def _renamed(layer: Any) -> dict[str, str]:
    """The user's activation, where Keras gives it the name of one of its own."""
    import keras

    function = getattr(layer, "activation", None)
    name = str(getattr(function, "__name__", ""))
    module = str(getattr(function, "__module__", ""))
    if isinstance(function, FunctionType) and not module.startswith("keras."):
        return {"activation": f"custom.{name}"} if hasattr(keras.activations, name) else {}
    return {}


def _variables(layer: Any) -> dict[str, Variable]:
    own = [*layer._trainable_variables, *layer._non_trainable_variables]  # noqa: SLF001
    return {variable.name: _variable(variable) for variable in own}


def _variable(variable: Any) -> Variable:
    def values() -> np.ndarray[Any, Any]:
        import keras

        return np.array(keras.ops.convert_to_numpy(variable))

    return Variable(variable.name, tuple(variable.shape), str(variable.dtype), values)


def _training(model: Any) -> Training:
    import keras

    compiled = bool(getattr(model, "compiled", False))
    optimizer = getattr(model, "optimizer", None)
    if not compiled or optimizer is None:
        return Training(compiled=compiled)
    # A LossScaleOptimizer's own count stays 0; the optimizer inside it counts.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    counter = getattr(optimizer, "_iterations", optimizer.iterations)
    names = ("weight_decay", "use_ema", "gradient_accumulation_steps")
    settings = {name: getattr(optimizer, name, None) for name in names}
    kind = type(optimizer).__name__
    return Training(
        compiled=True,
        optimizer_steps=int(keras.ops.convert_to_numpy(counter)),
        optimizer=optimizers.from_settings(kind, settings),
    )
