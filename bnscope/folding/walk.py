"""The way of a scale and shift through the graph: back from BN, or ahead of it.

Backward, the calls are visited from the last to the first. A tensor may be scaled and shifted
only if everyone who uses it asks for the same; then whoever makes it takes that up, or hands it
on to its own inputs. Forward likewise: whoever uses a tensor must take it up, or hand it on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from bnscope.bn import ScaleShift
from bnscope.folding.affine import Affine
from bnscope.folding.patterns import family_for
from bnscope.folding.patterns.base import Demand, Passing, Pattern, not_taken
from bnscope.folding.patterns.joins import same
from bnscope.folding.reasons import Reason, Refusal
from bnscope.folding.wrappers import on_a_step
from bnscope.graph import kinds
from bnscope.graph.model import Call, Graph, Layer, Tensor

Check = Callable[[Call], Refusal | None]
# What a visit takes, in steps of `Graph.spend`: arrays are compared and handed on.
_COST = 20
# So many consumers are named in a reason.
_MOST_NAMES = 8
# What only some statistics forbid; told if nothing in the structure forbids the fold anyway.
_SOFT = frozenset({Reason.NEGATIVE_SCALE, Reason.PADDING})


@dataclass(frozen=True, slots=True)
class Take:
    """A call of a layer that takes a scale and shift up."""

    call: Call
    pattern: Pattern
    values: ScaleShift


@dataclass(slots=True)
class Way:
    """Where a scale and shift went.

    Args:
        takes: the calls that take it up, in the order of the walk.
        through: the calls that hand it on, in forward order.
    """

    takes: list[Take] = field(default_factory=list)
    through: list[Call] = field(default_factory=list)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that take it up, each once."""
        return tuple(
            {take.call.layer.path: take.call.layer for take in self.takes}.values()
        )


def normalized(call: Call) -> Tensor:
    """The tensor that a call works on; others among its arguments are masks."""
    named = call.kwargs.get("inputs")
    return named if isinstance(named, Tensor) else call.inputs[0]


def way_back(
    graph: Graph,
    demands: Iterable[tuple[Call, Demand]],
    *,
    gone: Collection[str],
    refuse: Check,
) -> Way | Refusal:
    """Takes up a scale and shift in what comes before.

    Args:
        graph: the graph.
        demands: the calls of the BN layer, with what is to be done to their inputs.
        gone: paths of BN layers that are folded already, and so let everything pass.
        refuse: what speaks against a layer that would take it up.

    Returns:
        The way, or why there is none.
    """
    return _Back(graph, gone, refuse).walk(demands)


def way_ahead(
    graph: Graph, demands: Iterable[Demand], *, gone: Collection[str], refuse: Check
) -> Way | Refusal:
    """Takes up a scale and shift in what comes behind.

    Args:
        graph: the graph.
        demands: what is to be done to the outputs of the BN layer.
        gone: paths of BN layers that are folded already, and so let everything pass.
        refuse: what speaks against a layer that would take it up.

    Returns:
        The way, or why there is none.
    """
    return _Ahead(graph, gone, refuse).walk(demands)


class _Back:
    def __init__(self, graph: Graph, gone: Collection[str], refuse: Check) -> None:
        self.graph = graph
        self.gone = gone
        self.refuse = refuse
        self.asked: dict[int, dict[int, Affine]] = {}
        self.soft: Refusal | None = None
        self.way = Way()

    def walk(self, demands: Iterable[tuple[Call, Demand]]) -> Way | Refusal:
        for user, demand in demands:
            self.ask(user, demand)
        while self.asked:
            index = max(self.asked, key=self.made_at)
            refusal = self.settle(self.graph.tensors[index], self.asked.pop(index))
            if refusal is not None:
                return refusal
        self.way.through.reverse()
        return self.soft or self.way

    def made_at(self, index: int) -> int:
        producer = self.graph.tensors[index].producer
        return -1 if producer is None else producer

    def ask(self, user: Call, demand: Demand) -> None:
        self.asked.setdefault(demand.tensor.index, {})[user.index] = demand.affine

    def settle(self, tensor: Tensor, asked: dict[int, Affine]) -> Refusal | None:
        """Does to a tensor what all its users ask for."""
        self.graph.spend(_COST)
        call = self.graph.producer(tensor)
        if call is None:
            return Refusal(
                Reason.NO_LINEAR_NEIGHBOUR, "It normalizes an input of the model."
            )
        affine, *others = asked.values()
        if call.layer.path in self.gone:
            family = None
        else:
            family = family_for(call)
            refusal = self.refuse(call)
            if refusal is not None:
                return refusal
        refusal = _refuse_other_users(self.graph, tensor, asked, call, family)
        if refusal is not None:
            return refusal
        if any(not same(affine, other) for other in others):
            return _unlike(call)
        return self.hand_on(call, family, affine)

    def hand_on(
        self, call: Call, family: Passing | Pattern | None, affine: Affine
    ) -> Refusal | None:
        seen = on_a_step(affine, call.outputs[0])
        if seen is None:
            return _from_step_to_step(call)
        affine = seen
        if isinstance(family, Pattern):
            values = family.check(call, affine)
            if isinstance(values, Refusal):
                return values
            self.way.takes.append(Take(call, family, values))
            return None
        if family is None:  # a BN layer that is folded
            found: tuple[Demand, ...] | Refusal = (Demand(normalized(call), affine),)
        else:
            found = family.back(call, affine)
        if family is not None and isinstance(found, Refusal) and found.reason in _SOFT:
            self.soft = self.soft or found
            found = family.back(call, affine.harmless())
        if isinstance(found, Refusal):
            return found
        self.way.through.append(call)
        for demand in found:
            self.ask(call, demand)
        return None


class _Ahead:
    def __init__(self, graph: Graph, gone: Collection[str], refuse: Check) -> None:
        self.graph = graph
        self.gone = gone
        self.refuse = refuse
        self.given: dict[int, Affine] = {}
        self.waiting: set[int] = set()
        self.way = Way()

    def walk(self, demands: Iterable[Demand]) -> Way | Refusal:
        for demand in demands:
            refusal = self.give(demand.tensor, demand.affine)
            if refusal is not None:
                return refusal
        while self.waiting:
            index = min(self.waiting)
            self.waiting.remove(index)
            refusal = self.settle(self.graph.calls[index])
            if refusal is not None:
                return refusal
        return self.way

    def give(self, tensor: Tensor, affine: Affine) -> Refusal | None:
        if self.graph.is_output(tensor):
            return Refusal(
                Reason.NO_LINEAR_NEIGHBOUR, "What it makes is an output of the model."
            )
        self.given[tensor.index] = affine
        self.waiting.update(call.index for call in self.graph.consumers(tensor))
        return None

    def settle(self, call: Call) -> Refusal | None:
        """Lets a call take up or hand on what is to be done to its inputs."""
        self.graph.spend(_COST)
        given: dict[int, Affine] = {}
        for tensor in call.inputs:
            if tensor.index in self.given:
                seen = on_a_step(self.given[tensor.index], tensor)
                if seen is None:
                    return _from_step_to_step(call)
                given[tensor.index] = seen
        return self.hand_on(call, given)

    def hand_on(self, call: Call, given: dict[int, Affine]) -> Refusal | None:
        if call.layer.path in self.gone:
            self.way.through.append(call)
            return self.give(call.outputs[0], given[normalized(call).index])
        family = family_for(call)
        if isinstance(family, Passing):
            found = family.ahead(call, given)
            if isinstance(found, Refusal):
                return found
            self.way.through.append(call)
            return self.give(call.outputs[0], found)
        taken = None if family is None else family.taken(call)
        if family is None or taken is None or set(given) != {taken.index}:
            return not_taken(call)
        values = family.check_ahead(call, given[taken.index])
        refusal = self.refuse(call) if not isinstance(values, Refusal) else values
        if refusal is None and not isinstance(values, Refusal):
            self.way.takes.append(Take(call, family, values))
        return refusal


def _refuse_other_users(
    graph: Graph,
    tensor: Tensor,
    asked: Collection[int],
    maker: Call,
    family: Passing | Pattern | None,
) -> Refusal | None:
    """Refuses a tensor that someone uses who did not ask."""
    calls = [call for call in graph.consumers(tensor) if call.index not in asked]
    others = [kinds.describe(call) for call in calls[:_MOST_NAMES]]
    if len(calls) > _MOST_NAMES:
        others.append(f"{len(calls) - _MOST_NAMES} others")
    if graph.is_output(tensor):
        others.append("the model, as an output")
    if not others:
        return None
    # A layer that could take it up is in reach only where no merge or pooling lies between.
    joins = isinstance(family, Passing) and not kinds.is_identity_at_inference(maker)
    reason = Reason.NO_LINEAR_NEIGHBOUR if joins else Reason.MULTIPLE_CONSUMERS
    return Refusal(
        reason,
        f"The output of {kinds.describe(maker)} is also used by {' and '.join(others)}.",
    )


def _unlike(call: Call) -> Refusal:
    return Refusal(
        Reason.MULTIPLE_CONSUMERS,
        f"The output of {kinds.describe(call)} would have to be scaled in several ways.",
    )


def _from_step_to_step(call: Call) -> Refusal:
    return Refusal(
        Reason.AXIS_MISMATCH,
        "Its scale and shift vary from step to step, and "
        f"{kinds.describe(call)} does the same to each.",
    )


def refuse_sharing(graph: Graph, batch_norm: Layer, way: Way) -> Refusal | None:
    """Refuses layers with several calls, unless all their calls ask for the same."""
    for layer in (batch_norm, *way.layers):
        holder = graph.holder(layer)
        if holder is not None:
            return Refusal(
                Reason.SHARED_LAYER, f"{layer.path} is also used inside {holder.path}."
            )
    for layer in way.layers:
        takes = [take for take in way.takes if take.call.layer is layer]
        count = len(graph.calls_of(layer))
        if len(takes) < count:
            return Refusal(
                Reason.SHARED_LAYER,
                f'{layer.kind} "{layer.path}" is called {count} times, and only '
                f"{len(takes)} of these calls feed this layer.",
            )
        if any(not _equal(takes[0].values, take.values) for take in takes):
            return Refusal(
                Reason.SHARED_LAYER,
                f'{layer.kind} "{layer.path}" is called {count} times, and the calls would '
                "need different weights.",
            )
    return None


def _equal(one: ScaleShift, other: ScaleShift) -> bool:
    return same(Affine(*one), Affine(*other))
