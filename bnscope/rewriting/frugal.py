"""Running models without keeping every intermediate tensor.

Keras holds all of them until a call of a Functional model has ended: of ResNet152 more than its
weights, for each image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from bnscope.rewriting.copying import all_layers
from bnscope.rewriting.structure import nodes

_METHOD = "_run_through_graph"


@contextmanager
def frugal(model: Any) -> Iterator[None]:
    """Lets a model, and those inside it, drop each tensor after its last use.

    Args:
        model: a Keras model, called eagerly meanwhile. It is as before afterwards.
    """
    graphs = {id(graph): graph for graph in _graphs(model)}.values()
    for graph in graphs:
        vars(graph)[_METHOD] = partial(_run, graph)
    try:
        yield
    finally:
        for graph in graphs:
            vars(graph).pop(_METHOD, None)


def _graphs(model: Any) -> Iterator[Any]:
    for layer in all_layers(model):
        graph = getattr(layer, "_functional", layer)  # a Sequential model's
        if hasattr(graph, "_nodes_by_depth"):
            yield graph


def _run(
    model: Any,
    inputs: Any,
    operation_fn: Callable[[Any], Any] = lambda operation: operation,
    call_fn: Any = None,
) -> Any:
    """What Keras does in the method of this name, but for the tensors that are dropped."""
    import keras

    if call_fn is not None:  # symbolic
        return getattr(type(model), _METHOD)(model, inputs, operation_fn, call_fn)
    uses = Counter(id(tensor) for node in nodes(model) for tensor in node.input_tensors)
    uses.update(id(tensor) for tensor in model.outputs)
    given = keras.tree.flatten(inputs)
    values = {id(old): value for old, value in zip(model.inputs, given, strict=True)}
    for node in nodes(model):
        args, kwargs = node.arguments.fill_in(values)
        returned = keras.tree.flatten(operation_fn(node.operation)(*args, **kwargs))
        del args, kwargs
        pairs = zip(node.output_tensors, returned, strict=True)
        values.update((id(old), value) for old, value in pairs if uses[id(old)])
        del returned
        for tensor in node.input_tensors:
            uses[id(tensor)] -= 1
            if not uses[id(tensor)]:
                del values[id(tensor)]
    made = [values[id(tensor)] for tensor in model.outputs]
    return keras.tree.pack_sequence_as(model._outputs_struct, made)  # noqa: SLF001
