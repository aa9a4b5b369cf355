"""A BN layer in a sum, beside a layer that works on the same tensor and takes it up.

    W*x + d + (a·x + b) = (W + diag(a))*x + (d + b)

as in the branches of RepVGG (Ding et al., 2021, https://arxiv.org/abs/2101.03697). The branch
of BN is cut off: the sum loses an operand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from bnscope.folding.affine import Affine
from bnscope.folding.patterns import family_for
from bnscope.folding.patterns.base import Pattern
from bnscope.folding.patterns.identity import IdentityFamily
from bnscope.folding.patterns.joins import is_sum
from bnscope.folding.reasons import Refusal
from bnscope.folding.walk import Check, Take, Way, normalized
from bnscope.graph.model import Call, Graph, Tensor


@dataclass(frozen=True, slots=True)
class Cut:
    """An operand that a sum loses.

    Args:
        total: the call that sums up.
        operand: the operand, which the branch of BN ends in.
        source: path of the layer that makes it; that is called once.
    """

    total: Call
    operand: Tensor
    source: str


def way_beside(
    graph: Graph, call: Call, affine: Affine, *, gone: Collection[str], refuse: Check
) -> tuple[Way, Cut] | None:
    """Takes up a scale and shift in a layer whose output is added to BN's.

    Args:
        graph: the graph.
        call: the only call of the BN layer.
        affine: what it does.
        gone: paths of BN layers that are folded already, and so let everything pass.
        refuse: what speaks against a layer that would take it up.

    Returns:
        The way, and what is cut off behind it; None if there is no such layer.
    """
    cut = _sum_behind(graph, call, gone)
    if cut is None:
        return None
    source = _origin(graph, normalized(call), gone)
    for other in _addends(graph, cut.total, gone):
        if other is call or _origin(graph, normalized(other), gone) != source:
            continue
        family = family_for(other)
        if not isinstance(family, Pattern) or refuse(other) is not None:
            continue
        values = family.check_beside(other, affine)
        if not isinstance(values, Refusal):
            return Way([Take(other, family, values)], [cut.total]), cut
    return None


def without(graph: Graph, call: Call, cut: Cut) -> Graph:
    """The graph where a BN layer takes nothing, and a sum has one operand less."""
    total = cut.total
    rest = tuple(tensor for tensor in total.inputs if tensor.index != cut.operand.index)
    calls = list(graph.calls)
    calls[call.index] = replace(call, inputs=())
    calls[total.index] = replace(total, inputs=rest, args=(list(rest),), kwargs={})
    return replace(graph, calls=tuple(calls))


def _sum_behind(graph: Graph, call: Call, gone: Collection[str]) -> Cut | None:
    """The sum that all of BN's output goes into, once."""
    while True:
        tensor = call.outputs[0]
        user = graph.sole_consumer(tensor)
        if user is None or len(graph.calls_of(call.layer)) != 1:
            return None
        if is_sum(user):
            once = [other.index for other in user.inputs].count(tensor.index) == 1
            fits = once and len(user.inputs) > 1
            beside = _folder(user) == _folder(call)
            return Cut(user, tensor, call.layer.path) if fits and beside else None
        if not _lets_pass(user, gone):
            return None
        call = user


def _addends(graph: Graph, total: Call, gone: Collection[str]) -> Iterator[Call]:
    """The calls whose outputs are added up, and go nowhere else."""
    for tensor in total.inputs:
        call = graph.producer(tensor)
        while call is not None and graph.sole_consumer(tensor) is not None:
            if not _lets_pass(call, gone):
                if is_sum(call):
                    yield from _addends(graph, call, gone)
                else:
                    yield call
                break
            tensor = normalized(call)  # noqa: PLW2901
            call = graph.producer(tensor)


def _origin(graph: Graph, tensor: Tensor, gone: Collection[str]) -> int:
    """The index of the tensor that only layers without effect at inference lie behind."""
    while True:
        call = graph.producer(tensor)
        if call is None or not _lets_pass(call, gone):
            return tensor.index
        tensor = normalized(call)


def _lets_pass(call: Call, gone: Collection[str]) -> bool:
    if call.layer.path in gone:
        return True
    family = family_for(call)
    if not isinstance(family, IdentityFamily):
        return False
    unchanged = Affine.identity()
    return not isinstance(family.back(call, unchanged), Refusal)


def _folder(call: Call) -> str:
    """The path of the model that a layer belongs to."""
    return call.layer.path.rpartition("/")[0]
