"""`TimeDistributed` seen through: its calls as calls of the layer inside, on single steps.

`TimeDistributed` does the same to each step, so what is to be done to its input or output must
not vary along the steps, and is then what is to be done to those of the layer inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

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

    Those stay that are called with a mask, whose layer is a model, or is used elsewhere too.
    """
    wrapped = {layer.path: layer.children[0] for layer in _transparent(graph)}
    if not wrapped:
        return View(graph)
    calls = tuple(_innermost(call, wrapped) for call in graph.calls)
    layers = tuple(
        replace(layer, children=()) if layer.path in wrapped else layer
        for layer in graph.layers
    )
    wrappers = {inner.path: path for path, inner in wrapped.items()}
    return View(replace(graph, calls=calls, layers=layers), wrappers)


def one_step(call: Call) -> Call:
    """A call whose tensors have no steps."""
    tensors = {tensor.index: _step(tensor) for tensor in (*call.inputs, *call.outputs)}
    return replace(
        call,
        inputs=tuple(tensors[tensor.index] for tensor in call.inputs),
        outputs=tuple(tensors[tensor.index] for tensor in call.outputs),
        args=tuple(_replaced(value, tensors) for value in call.args),
        kwargs={key: _replaced(value, tensors) for key, value in call.kwargs.items()},
    )


def on_a_step(affine: Affine, tensor: Tensor) -> Affine | None:
    """What is to be done to a tensor as a call sees it; None if it varies along the steps."""
    if tensor.shape is None or affine.rank < len(tensor.shape):
        return affine
    return affine.fits(tensor.shape)


def _transparent(graph: Graph) -> Iterable[Layer]:
    holders = Counter(child.path for layer in graph.layers for child in layer.children)
    for layer in graph.layers:
        if layer.kind != kinds.TIME_DISTRIBUTED or len(layer.children) != 1:
            continue
        inner = layer.children[0]
        own = holders[inner.path] == 1 and not graph.calls_of(inner)
        if own and not graph.is_traced(layer) and inner.kind not in kinds.MODELS:
            calls = graph.calls_of(layer)
            if all(_is_plain(call) for call in calls):
                yield layer


def _is_plain(call: Call) -> bool:
    return len(call.inputs) == 1 and call.kwargs.get("mask") is None


def _innermost(call: Call, wrapped: Mapping[str, Layer]) -> Call:
    while call.layer.path in wrapped:
        call = replace(one_step(call), layer=wrapped[call.layer.path])
    return call


def _step(tensor: Tensor) -> Tensor:
    shape = tensor.shape
    return tensor if shape is None else replace(tensor, shape=(*shape[:1], *shape[2:]))


def _replaced(value: object, tensors: Mapping[int, Tensor]) -> object:
    return tensors.get(value.index, value) if isinstance(value, Tensor) else value
