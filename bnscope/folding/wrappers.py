"""`TimeDistributed` seen through: its calls as calls of the layer inside, on single steps.

`TimeDistributed` does the same to each step, so what is to be done to its input or output must
not vary along the steps, and is then what is to be done to those of the layer inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bnscope.folding.affine import Affine
from bnscope.graph import kinds
from bnscope.graph.model import Call, Graph, Layer, Tensor
from bnscope.rewriting.edits import Edit, moved_inside


@dataclass(frozen=True, slots=True)
class View:
    """A graph in which the layers inside `TimeDistributed` are called themselves.

    Args:
        graph: the graph. Its tensors have the steps; those in the calls of layers inside do
            not.
        wrappers: path of the wrapper by that of the layer inside.
    """

    graph: Graph
    wrappers: Mapping[str, str] = field(default_factory=dict)

    def edits(self, edits: Iterable[Edit]) -> tuple[Edit, ...]:
        """The same edits, of layers inside wrappers through the wrappers."""
        return tuple(self._outermost(edit) for edit in edits)

    def _outermost(self, edit: Edit) -> Edit:
        while edit.layer in self.wrappers:
            edit = moved_inside(edit, self.wrappers[edit.layer], "layer")
        return edit


def see_through(graph: Graph) -> View:
    """The graph with each call of a `TimeDistributed` as one of the layer inside.

    Those stay that are called with a mask, or whose layer is used elsewhere too.
    """
    wrapped = {layer.path: layer for layer in _transparent(graph)}
    return _Unfolding(graph, wrapped).view() if wrapped else View(graph)


class _Unfolding:
    """Makes the calls of a graph again, those of wrappers as what is done inside of them."""

    def __init__(self, graph: Graph, wrapped: Mapping[str, Layer]) -> None:
        self.graph = graph
        self.wrapped = wrapped
        self.calls: list[Call] = []
        self.tensors = list(graph.tensors)
        self.wrappers: dict[str, str] = {}
        self.unfolded: set[str] = set()
        self.traced: set[str] = set(graph.traced)

    def view(self) -> View:
        for call in self.graph.calls:
            self.add(call)
        layers = tuple(
            replace(layer, children=()) if layer.path in self.unfolded else layer
            for layer in self.graph.layers
        )
        graph = replace(
            self.graph,
            calls=tuple(_with_tensors(call, self.made) for call in self.calls),
            tensors=tuple(self.tensors),
            layers=layers,
            traced=tuple(self.traced),
        )
        return View(graph, self.wrappers)

    def add(self, call: Call) -> None:
        wrapper = self.wrapped.get(call.layer.path)
        if wrapper is None:
            index = len(self.calls)
            self.calls.append(replace(call, index=index))
            for tensor in call.outputs:
                old = self.tensors[tensor.index]
                self.tensors[tensor.index] = replace(old, producer=index)
            return
        self.unfolded.add(wrapper.path)
        (inner,) = wrapper.children
        if wrapper.inside is None:
            self.wrappers[inner.path] = wrapper.path
            self.add(replace(one_step(call), layer=inner))
        else:
            self.add_model(one_step(call), inner, wrapper.inside)

    def add_model(self, call: Call, model: Layer, inside: Graph) -> None:
        """Adds the calls of a model that is called on a step."""
        self.unfolded.update(layer.path for layer in _models(model))
        self.traced.update(inside.traced)
        bound = {inside.inputs[0].index: call.inputs[0]}
        if inside.outputs[0].index not in bound:
            bound[inside.outputs[0].index] = call.outputs[0]
        for tensor in inside.tensors:
            if tensor.index not in bound:
                bound[tensor.index] = replace(tensor, index=len(self.tensors))
                self.tensors.append(bound[tensor.index])
        for each in inside.calls:
            training = each.training if call.training is None else call.training
            made = _with_tensors(each, lambda tensor: bound[tensor.index])
            self.add(replace(made, training=training))

    def made(self, tensor: Tensor) -> Tensor:
        """A tensor with the call that makes it now."""
        return replace(tensor, producer=self.tensors[tensor.index].producer)


def one_step(call: Call) -> Call:
    """A call whose tensors have no steps."""
    return _with_tensors(call, _step)


def on_a_step(affine: Affine, tensor: Tensor) -> Affine | None:
    """What is to be done to a tensor as a call sees it; None if it varies along the steps."""
    if tensor.shape is None or affine.rank < len(tensor.shape):
        return affine
    return affine.fits(tensor.shape)


def _transparent(graph: Graph) -> Iterator[Layer]:
    """The wrappers that are called, and are all that uses the layer inside."""
    graphs = list({id(each): each for each in _graphs(graph)}.values())
    calls = [call for each in graphs for call in each.calls]
    reached = {w.path: w for call in calls for w in _wrappers(call.layer)}
    masked = {w.path for c in calls if not _is_plain(c) for w in _wrappers(c.layer)}
    holders = Counter(child.path for layer in graph.layers for child in layer.children)
    uses = Counter(path for each in graphs for path in {c.layer.path for c in each.calls})
    for path, wrapper in reached.items():
        inner, inside = wrapper.children[0], wrapper.inside
        if path in masked or holders[inner.path] > 1 or graph.is_traced(wrapper):
            continue
        if inside is None:
            if not uses[inner.path] and inner.kind not in kinds.MODELS:
                yield wrapper
        elif _is_plain_model(inside) and all(uses[c.layer.path] == 1 for c in inside.calls):
            yield wrapper


def _graphs(graph: Graph) -> Iterator[Graph]:
    """A graph, and those of the models inside its wrappers."""
    yield graph
    for call in graph.calls:
        for wrapper in _wrappers(call.layer):
            if wrapper.inside is not None:
                yield from _graphs(wrapper.inside)


def _wrappers(layer: Layer) -> Iterator[Layer]:
    """A layer and those inside it, as long as they are wrappers."""
    if layer.kind == kinds.TIME_DISTRIBUTED and len(layer.children) == 1:
        yield layer
        yield from _wrappers(layer.children[0])


def _is_plain(call: Call) -> bool:
    one = len(call.inputs) == len(call.outputs) == 1
    return one and call.kwargs.get("mask") is None


def _is_plain_model(graph: Graph) -> bool:
    ends = len(graph.inputs), len(graph.outputs)
    loose = [tensor for tensor in graph.tensors if tensor.producer is None]
    return ends == (1, 1) and len(loose) == 1 and graph.inputs != graph.outputs


def _models(layer: Layer) -> Iterator[Layer]:
    """A model and the models inside it."""
    yield layer
    for inner in layer.children:
        if inner.kind in kinds.MODELS:
            yield from _models(inner)


def _step(tensor: Tensor) -> Tensor:
    shape = tensor.shape
    return tensor if shape is None else replace(tensor, shape=(*shape[:1], *shape[2:]))


def _with_tensors(call: Call, function: Callable[[Tensor], Tensor]) -> Call:
    """A call with other tensors in the places of its own."""
    made = {t.index: function(t) for t in (*call.inputs, *call.outputs)}

    def replaced(value: Any) -> Any:
        if isinstance(value, Tensor):
            return made[value.index]
        if isinstance(value, (list, tuple)):
            return type(value)(replaced(item) for item in value)
        if isinstance(value, dict):
            return {key: replaced(item) for key, item in value.items()}
        return value

    return replace(
        call,
        inputs=tuple(made[tensor.index] for tensor in call.inputs),
        outputs=tuple(made[tensor.index] for tensor in call.outputs),
        args=tuple(replaced(value) for value in call.args),
        kwargs={key: replaced(value) for key, value in call.kwargs.items()},
    )
