"""From the specification of a model to its frozen graph.

A file and a live model both give a `ModelSpec`: layers, nodes (who is called with what),
inputs and outputs, nested as the user nested them. `build` flattens it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bnscope.errors import UnreadableModelError
from bnscope.graph import kinds, shapes
from bnscope.graph.batchnorm import KINDS as BATCH_NORM
from bnscope.graph.limits import MAX_CALLS, MAX_NAME, MAX_NESTING, MAX_TENSORS, too_much
from bnscope.graph.model import (
    Call,
    Graph,
    Layer,
    NotAnalysed,
    Shape,
    Tensor,
    Training,
    Variable,
)

_UNCALLED = (
    "the call that was followed does not reach it, so only its values and configuration "
    "were checked"
)
# (layer key, index of the call among the layer's calls in its model, index of the output)
Key = tuple[Hashable, int, int]


@dataclass(frozen=True, slots=True)
class Reference:
    """A tensor in the arguments of a call."""

    key: Key
    shape: Shape | None = None
    dtype: str | None = None


@dataclass(eq=False)
class LayerSpec:
    """A layer as it is written; `model` is set for a nested model."""

    name: str
    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    trainable: bool = True
    variables: Mapping[str, Variable] = field(default_factory=dict)
    children: list[LayerSpec] = field(default_factory=list)
    model: ModelSpec | None = None
    source: Any = None
    config_known: bool = True


@dataclass(eq=False)
class NodeSpec:
    """A call as it is written, with a `Reference` in the place of each tensor."""

    layer: LayerSpec
    key: tuple[Hashable, int]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[Reference, ...] = ()

    def references(self) -> list[Reference]:
        """The tensors among the arguments, in order."""
        return list(_references((*self.args, *self.kwargs.values())))


@dataclass(eq=False)
class ModelSpec:
    """A model as it is written.

    Args:
        layers: its layers.
        nodes: its calls.
        inputs: the tensors it takes.
        outputs: the tensors it returns.
        opaque: why no calls are known, where none are.
        traced: whether the calls are those of one symbolic call.
    """

    layers: list[LayerSpec] = field(default_factory=list)
    nodes: list[NodeSpec] = field(default_factory=list)
    inputs: list[Reference] = field(default_factory=list)
    outputs: list[Reference] = field(default_factory=list)
    opaque: str = ""
    traced: bool = False


def build(
    name: str, model: ModelSpec, *, training: Training, has_weights: bool
) -> tuple[Graph, dict[str, LayerSpec]]:
    """Flattens a specification into a graph.

    Args:
        name: the model's name.
        model: the specification.
        training: what is known of the training.
        has_weights: whether values of variables can be read.

    Returns:
        The graph, and the specification of each of its layers by path.

    Raises:
        UnreadableModelError: if the calls form a cycle or refer to what does not exist.
    """
    flattener = _Flattener()
    outputs = flattener.model(model, prefix="", given=None, training=None)
    return flattener.freeze(name, outputs, training, has_weights=has_weights)


@dataclass(eq=False)
class _Tensor:
    producer: int | None
    shape: Shape | None
    dtype: str | None
    name: str = ""


@dataclass(eq=False)
class _Frame:
    """One walk through one model: what its tensors are bound to."""

    prefix: str
    bound: dict[Key, int]
    widths: Mapping[tuple[Hashable, int], int]
    training: bool | None
    traced: bool = False

    def training_of(self, node: NodeSpec) -> bool | None:
        """The `training` of a call.

        In a graph of Keras a value from outside wins over one inside; in a `call` that
        Python runs, the value written there does.
        """
        written = _bool_or_none(node.kwargs.get("training"))
        first, second = (
            (written, self.training) if self.traced else (self.training, written)
        )
        return second if first is None else first


@dataclass(eq=False)
class _Call:
    layer: Layer
    node: NodeSpec
    frame: _Frame
    inputs: list[int]
    outputs: list[int]
    training: bool | None


class _Flattener:
    def __init__(self) -> None:
        self.tensors: list[_Tensor] = []
        self.calls: list[_Call] = []
        self.layers: dict[str, Layer] = {}
        self.specs: dict[str, LayerSpec] = {}
        self.made: dict[int, Layer] = {}
        self.inputs: list[int] = []
        self.not_analysed: list[NotAnalysed] = []
        self.traced: dict[str, ModelSpec] = {}
        self.plans: dict[int, _Plan] = {}
        self.counts: dict[str, int] = {}
        self.visited = 0
        self.nesting = 0

    def model(
        self,
        model: ModelSpec,
        *,
        prefix: str,
        given: list[int] | None,
        training: bool | None,
    ) -> list[int]:
        """Adds the calls of a model; returns the tensors it returns."""
        if model.opaque:
            self.opaque(model, prefix)
            return []
        plan = self.plan(model)
        bound = self.bind_inputs(model, given)
        frame = _Frame(prefix, bound, plan.widths, training, model.traced)
        if model.traced:
            self.traced[prefix] = model
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise too_much("Models are nested more deeply in each other", MAX_NESTING)
        for node in plan.order:
            if node.layer.kind == kinds.INPUT:
                self.bind_stray_input(node, bound)
                continue
            inputs = [self.resolve(reference, bound) for reference in node.references()]
            for index, tensor in enumerate(self.node(node, inputs, frame)):
                bound[*node.key, index] = tensor
        self.nesting -= 1
        return [self.resolve(reference, bound) for reference in model.outputs]

    def plan(self, model: ModelSpec) -> _Plan:
        """The order of a model's calls, and what it costs to walk through them once more.

        A nested model is walked through at each of its calls: twice in each of 40 levels would
        be 2**40 times.
        """
        plan = self.plans.get(id(model))
        if plan is None:
            plan = self.plans[id(model)] = _make_plan(model)
        self.visited += plan.cost
        if self.visited > MAX_TENSORS:
            raise too_much(
                "With each call of a nested model counted, there are more tensors than in any "
                "real model",
                MAX_TENSORS,
            )
        return plan

    def node(self, node: NodeSpec, inputs: list[int], frame: _Frame) -> list[int]:
        training = frame.training_of(node)
        inner = node.layer.model
        if inner is not None and not inner.opaque and len(inner.inputs) == len(inputs):
            prefix = f"{frame.prefix}{node.layer.name}/"
            return self.model(inner, prefix=prefix, given=inputs, training=training)
        if not inputs and node.layer.kind in BATCH_NORM:
            raise UnreadableModelError(
                f"A call of {node.layer.name!r} takes no tensor.",
                "The file is damaged; save the model again.",
            )
        layer = self.layer(node.layer, frame.prefix)
        if len(self.calls) >= MAX_CALLS:
            raise too_much(
                "The model has more calls of layers than any real one", MAX_CALLS
            )
        call = _Call(layer, node, frame, inputs, [], training)
        call.outputs.extend(self.outputs(call))
        self.calls.append(call)
        return call.outputs

    def outputs(self, call: _Call) -> Iterator[int]:
        """The tensors a call returns; their shapes are given, or inferred."""
        given = call.node.outputs
        layer = call.layer
        inferred = shapes.infer_layer(
            layer, [self.tensors[index].shape for index in call.inputs]
        )
        count = max(call.frame.widths.get(call.node.key, 1), len(given))
        for position in range(count):
            if position < len(given):
                shape, dtype = given[position].shape, given[position].dtype
            else:
                shape, dtype = (inferred if position == 0 else None), None
            yield self.tensor(len(self.calls), shape, dtype)

    def bind_inputs(self, model: ModelSpec, given: list[int] | None) -> dict[Key, int]:
        if given is None:
            given = []
            for reference in model.inputs:
                tensor = self.tensor(
                    None, reference.shape, reference.dtype, str(reference.key[0])
                )
                given.append(tensor)
                self.inputs.append(tensor)
        return {
            reference.key: tensor
            for reference, tensor in zip(model.inputs, given, strict=True)
        }

    def bind_stray_input(self, node: NodeSpec, bound: dict[Key, int]) -> None:
        # An input layer that the model does not list: a constant tensor, or a damaged file.
        key = (*node.key, 0)
        if key not in bound:
            shape = _shape(node.layer.config)
            bound[key] = self.tensor(None, shape, node.layer.config.get("dtype"))

    def tensor(
        self, producer: int | None, shape: Shape | None, dtype: str | None, name: str = ""
    ) -> int:
        if len(self.tensors) >= MAX_TENSORS:
            raise too_much("The model has more tensors than any real one", MAX_TENSORS)
        self.tensors.append(_Tensor(producer, shape, dtype, name))
        return len(self.tensors) - 1

    def resolve(self, reference: Reference, bound: Mapping[Key, int]) -> int:
        index = bound.get(reference.key)
        if index is None:
            raise UnreadableModelError(
                f"The configuration refers to output {reference.key[2]} of call "
                f"{reference.key[1]} of {str(reference.key[0])!r}, which does not exist.",
                "The file is damaged; save the model again.",
            )
        tensor = self.tensors[index]
        if reference.shape is not None:
            tensor.shape = reference.shape
        if reference.dtype is not None:
            tensor.dtype = reference.dtype
        return index

    def uncalled(self) -> None:
        """Adds the BN layers of traced models that no call was seen of."""
        for prefix, model in self.traced.items():
            for spec in model.layers:
                if any(id(inner) not in self.made for inner in _batch_norms(spec)):
                    path = self.layer(spec, prefix).path
                    self.not_analysed.append(NotAnalysed(path, _UNCALLED))

    def opaque(self, model: ModelSpec, prefix: str) -> None:
        self.not_analysed.append(NotAnalysed(prefix.rstrip("/"), model.opaque))
        for spec in model.layers:
            self.layer(spec, prefix)

    def layer(self, spec: LayerSpec, prefix: str) -> Layer:
        """The frozen layer; one for a specification, however often it is called."""
        made = self.made.get(id(spec))
        if made is not None:
            return made
        path = self.unique(prefix + spec.name)
        if len(path) > MAX_NAME:
            raise too_much(f"The path of a layer has {len(path):,} characters", MAX_NAME)
        if len(self.layers) >= MAX_CALLS:
            raise too_much("The model has more layers than any real one", MAX_CALLS)
        self.layers[path] = placeholder = Layer(path, spec.kind, spec.config)
        self.made[id(spec)] = placeholder
        self.specs[path] = spec
        inside = [*spec.children, *(spec.model.layers if spec.model else ())]
        children = tuple(self.layer(child, path + "/") for child in inside)
        if spec.model is not None and spec.model.opaque:
            self.not_analysed.append(NotAnalysed(path, spec.model.opaque))
        layer = Layer(
            path,
            spec.kind,
            spec.config,
            spec.trainable,
            spec.variables,
            children,
            spec.config_known,
            self.inside(spec),
        )
        self.layers[path] = self.made[id(spec)] = layer
        return layer

    def inside(self, spec: LayerSpec) -> Graph | None:
        """What the model inside a `TimeDistributed` does, if that can be told."""
        inner = spec.children[0] if len(spec.children) == 1 else None
        if spec.kind != kinds.TIME_DISTRIBUTED or inner is None or inner.model is None:
            return None
        if inner.model.opaque or inner.kind not in kinds.MODELS:
            return None
        other = _Flattener()
        other.layers, other.specs, other.made = self.layers, self.specs, self.made
        other.counts, other.plans, other.visited = self.counts, self.plans, self.visited
        prefix = f"{self.made[id(inner)].path}/"
        outputs = other.model(inner.model, prefix=prefix, given=None, training=None)
        self.visited = other.visited
        return other.freeze(inner.name, outputs, Training(), has_weights=True)[0]

    def unique(self, path: str) -> str:
        if path not in self.layers:
            return path
        number = self.counts.get(path, 2)
        while f"{path}#{number}" in self.layers:
            number += 1
        self.counts[path] = number + 1
        return f"{path}#{number}"

    def shape(self, made: _Tensor) -> Shape | None:
        # Layers inside a traced model were built on some batch, whose size means nothing.
        shape = made.shape
        return (
            (None, *shape[1:]) if shape and len(shape) > 1 and "" in self.traced else shape
        )

    def freeze(
        self, name: str, outputs: list[int], training: Training, *, has_weights: bool
    ) -> tuple[Graph, dict[str, LayerSpec]]:
        self.uncalled()
        tensors = tuple(
            Tensor(index, made.producer, self.shape(made), made.dtype, made.name)
            for index, made in enumerate(self.tensors)
        )
        calls = tuple(
            _freeze(index, made, tensors) for index, made in enumerate(self.calls)
        )
        graph = Graph(
            name=name,
            calls=calls,
            layers=tuple(self.layers.values()),
            tensors=tensors,
            inputs=tuple(tensors[index] for index in self.inputs),
            outputs=tuple(tensors[index] for index in outputs),
            not_analysed=tuple(self.not_analysed),
            training=training,
            has_weights=has_weights,
            traced=tuple(prefix.rstrip("/") for prefix in self.traced),
        )
        return graph, self.specs


def _freeze(index: int, made: _Call, tensors: tuple[Tensor, ...]) -> Call:
    def replace(value: Reference) -> Tensor:
        return tensors[made.frame.bound[value.key]]

    return Call(
        index=index,
        layer=made.layer,
        inputs=tuple(tensors[i] for i in made.inputs),
        outputs=tuple(tensors[i] for i in made.outputs),
        args=tuple(_map(value, replace) for value in made.node.args),
        kwargs={name: _map(value, replace) for name, value in made.node.kwargs.items()},
        training=made.training,
    )


def _batch_norms(spec: LayerSpec) -> Iterator[LayerSpec]:
    """The BN layers in a layer, itself included."""
    if spec.kind in BATCH_NORM or "moving_mean" in spec.variables:
        yield spec
    for inner in (*spec.children, *(spec.model.layers if spec.model else ())):
        yield from _batch_norms(inner)


def holds_batch_norm(spec: LayerSpec) -> bool:
    """Whether a layer is BN, or has BN inside."""
    return any(True for _ in _batch_norms(spec))


@dataclass(frozen=True)
class _Plan:
    """How to walk through a model: its calls in order, and how many outputs each has."""

    order: tuple[NodeSpec, ...]
    widths: Mapping[tuple[Hashable, int], int]
    cost: int


def _make_plan(model: ModelSpec) -> _Plan:
    order = tuple(_in_order(model))
    references = sum(len(node.references()) for node in order)
    cost = 1 + len(order) + references + len(model.inputs) + len(model.outputs)
    return _Plan(order, _output_counts(model), cost)


def _in_order(model: ModelSpec) -> Iterator[NodeSpec]:
    """The nodes, each behind those it needs; otherwise in the order they are written."""
    by_key = {node.key: node for node in model.nodes}
    done: set[tuple[Hashable, int]] = set()
    open_: set[tuple[Hashable, int]] = set()
    for root in model.nodes:
        stack = [(root, False)]
        while stack:
            node, entered = stack.pop()
            if node.key in done:
                continue
            if entered:
                done.add(node.key)
                yield node
                continue
            if node.key in open_:
                raise UnreadableModelError(
                    f"The calls of {node.layer.name!r} form a cycle.",
                    "The file is damaged; save the model again.",
                )
            open_.add(node.key)
            stack.append((node, True))
            for reference in reversed(node.references()):
                needed = by_key.get(reference.key[:2])
                if needed is not None and needed.key not in done:
                    stack.append((needed, False))


def _output_counts(model: ModelSpec) -> dict[tuple[Hashable, int], int]:
    """How many outputs of each call are used; files do not say how many there are."""
    counts: dict[tuple[Hashable, int], int] = {}
    used = [reference for node in model.nodes for reference in node.references()]
    for reference in [*used, *model.outputs]:
        key = reference.key[:2]
        counts[key] = max(counts.get(key, 1), min(reference.key[2] + 1, 4096))
    return counts


def _references(value: object) -> Iterator[Reference]:
    if isinstance(value, Reference):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _references(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _references(item)


def _map(value: Any, function: Callable[[Reference], Any]) -> Any:
    if isinstance(value, Reference):
        return function(value)
    if isinstance(value, list):
        return [_map(item, function) for item in value]
    if isinstance(value, tuple):
        return tuple(_map(item, function) for item in value)
    if isinstance(value, Mapping):
        return {name: _map(item, function) for name, item in value.items()}
    return value


def _bool_or_none(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _shape(config: Mapping[str, Any]) -> Shape | None:
    value = config.get("batch_shape", config.get("batch_input_shape"))
    return tuple(value) if isinstance(value, (list, tuple)) else None
