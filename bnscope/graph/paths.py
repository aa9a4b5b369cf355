"""Walks through a graph: what lies behind or before a tensor, through calls that let it pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bnscope.graph.model import Call, Graph, Tensor

Passes = Callable[[Call], bool]


@dataclass(frozen=True, slots=True)
class End:
    """Where a walk ends.

    Args:
        call: the first call that does not let the tensor pass; None at an end of the model.
        tensor: the tensor between that call and the walk.
        through: the calls that were passed, in the order of the walk.
    """

    call: Call | None
    tensor: Tensor
    through: tuple[Call, ...] = ()


def ends_after(graph: Graph, tensor: Tensor, passes: Passes) -> Iterator[End]:
    """Where a tensor goes: every end of the paths forward, each tensor visited once."""
    stack: list[tuple[Tensor, tuple[Call, ...]]] = [(tensor, ())]
    seen = set()
    while stack:
        current, through = stack.pop()
        if current.index in seen:
            continue
        seen.add(current.index)
        if graph.is_output(current):
            yield End(None, current, through)
        for call in graph.consumers(current):
            if passes(call):
                stack.extend((output, (*through, call)) for output in call.outputs)
            else:
                yield End(call, current, through)


def ends_before(graph: Graph, tensor: Tensor, passes: Passes) -> Iterator[End]:
    """Where a tensor comes from: every end of the paths backward, each visited once."""
    stack: list[tuple[Tensor, tuple[Call, ...]]] = [(tensor, ())]
    seen = set()
    while stack:
        current, through = stack.pop()
        if current.index in seen:
            continue
        seen.add(current.index)
        call = graph.producer(current)
        if call is not None and passes(call):
            stack.extend((source, (*through, call)) for source in call.inputs)
        else:
            yield End(call, current, through)
