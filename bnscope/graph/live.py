"""A live Keras model -> its graph, read from its nodes: what was called with what.

Nodes, not `get_config()`: a Functional subclass (a `keras_hub` backbone) saves only its
hyper-parameters, but all its nodes are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnscope.errors import UnsupportedModelError
from bnscope.graph import kinds, optimizers
from bnscope.graph.build import LayerSpec, ModelSpec, NodeSpec, Reference, build
from bnscope.graph.model import Graph, Shape, Training, Variable

_SUBCLASSED = (
    "a subclassed model: which layer feeds which is written in its `call` only; its layers "
    "were checked one by one"
)


def read(model: Any) -> Graph:
    """The graph of a live model.

    Args:
        model: a `keras.Model`; built or not, compiled or not. It is not changed.

    Returns:
        The graph. Of a subclassed model only the layers are known, and `not_analysed` says so.

    Raises:
        UnsupportedModelError: if this is no Keras 3 model.
    """
    return _read(model)[0]


def keras_layers(model: Any) -> dict[str, Any]:
    """The Keras layers of a live model by their path in its graph.

    Args:
        model: a `keras.Model`.

    Returns:
        Layer objects, those inside wrappers and custom layers included.

    Raises:
        UnsupportedModelError: if this is no Keras 3 model.
    """
    return {path: spec.source for path, spec in _read(model)[1].items()}


def _read(model: Any) -> tuple[Graph, dict[str, LayerSpec]]:
    import keras

    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        raise UnsupportedModelError(
            f"Expected a Keras 3 model, got {kind}.",
            "Pass a keras.Model, or the path of a saved model (.keras, .h5, .json).",
        )
    spec = _Reader().layer(model)
    top = spec.model or ModelSpec(layers=spec.children, opaque=_SUBCLASSED)
    return build(spec.name, top, training=_training(model), has_weights=True)


class _Reader:
    def __init__(self) -> None:
        self.specs: dict[int, LayerSpec] = {}

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
        elif hasattr(layer, "_nodes_by_depth"):
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
            for index, node in enumerate(operation._inbound_nodes):  # noqa: SLF001
                if id(node) in nodes:
                    spec.nodes.append(self.node(operation, index, node))
        return spec

    def node(self, operation: Any, index: int, node: Any) -> NodeSpec:
        return NodeSpec(
            layer=self.layer(operation),
            key=(_operation_key(operation), index),
            args=tuple(_decode(value) for value in node.arguments.args),
            kwargs={name: _decode(value) for name, value in node.arguments.kwargs.items()},
            outputs=tuple(_reference(tensor) for tensor in node.output_tensors),
        )


def kind_of(layer: Any) -> str:
    """`Conv2D` for Keras's own layers, `ops.Add` for operations, else `custom.Name`."""
    cls = type(layer)
    module = cls.__module__
    if module.startswith("keras.src.ops"):
        return f"ops.{cls.__name__}"
    own = module == "keras" or module.startswith("keras.")
    return cls.__name__ if own else f"custom.{cls.__name__}"


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
    return config if isinstance(config, dict) else {}


def _variables(layer: Any) -> dict[str, Variable]:
    own = [*layer._trainable_variables, *layer._non_trainable_variables]  # noqa: SLF001
    return {variable.name: _variable(variable) for variable in own}


def _variable(variable: Any) -> Variable:
    def values() -> np.ndarray[Any, Any]:
        import keras

        return np.array(keras.ops.convert_to_numpy(variable))

    return Variable(variable.name, tuple(variable.shape), str(variable.dtype), values)


def _training(model: Any) -> Training:
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
        optimizer_steps=int(counter),
        optimizer=optimizers.from_settings(kind, settings),
    )
