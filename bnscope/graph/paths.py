"""Walks through a graph: what lies behind or before a tensor, through calls that let it pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bnscope.graph.limits import Steps
from bnscope.graph.model import Call, Graph, Tensor

Passes = Callable[[Call], bool]


@dataclass(frozen=True, slots=True)
class _Trail:
    """The calls that a walk has passed, the last first. Walks share what they have in common."""

    call: Call
    before: _Trail | None
    length: int


@dataclass(frozen=True, slots=True)
class End:
    """Where a walk ends.

    Args:
        call: the first call that does not let the tensor pass; None at an end of the model.
        tensor: the tensor between that call and the walk.
    """

    call: Call | None
    tensor: Tensor
    _trail: _Trail | None = None
    _steps: Steps | None = None

    @property
    def through(self) -> tuple[Call, ...]:
        """The calls that were passed, in the order of the walk."""
        found = []
        trail = self._trail
        if trail is not None and self._steps is not None:
            self._steps.spend(trail.length)
        while trail is not None:
            found.append(trail.call)
            trail = trail.before
        return tuple(reversed(found))


def ends_after(graph: Graph, tensor: Tensor, passes: Passes) -> Iterator[End]:
    """Where a tensor goes: every end of the paths forward, each tensor visited once."""
    stack: list[tuple[Tensor, _Trail | None]] = [(tensor, None)]
    seen = set()
    while stack:
        current, trail = stack.pop()
        if current.index in seen:
            continue
        seen.add(current.index)
        if graph.is_output(current):
            yield End(None, current, trail, graph.steps)
        for call in graph.consumers(current):
            if passes(call):
                passed = _after(trail, call)
                stack.extend((output, passed) for output in call.outputs)
            else:
                yield End(call, current, trail, graph.steps)


def ends_before(graph: Graph, tensor: Tensor, passes: Passes) -> Iterator[End]:
    """Where a tensor comes from: every end of the paths backward, each visited once."""
    stack: list[tuple[Tensor, _Trail | None]] = [(tensor, None)]
    seen = set()
    while stack:
        current, trail = stack.pop()
        if current.index in seen:
            continue
        seen.add(current.index)
        call = graph.producer(current)
        if call is not None and passes(call):
            passed = _after(trail, call)
            if graph.steps is not None:
                graph.steps.spend(len(call.inputs))
            unseen = [source for source in call.inputs if source.index not in seen]
            stack.extend((source, passed) for source in unseen)
        else:
            yield End(call, current, trail, graph.steps)


def _after(trail: _Trail | None, call: Call) -> _Trail:
    return _Trail(call, trail, 1 if trail is None else trail.length + 1)
