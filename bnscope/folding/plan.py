"""What folding will do to a model, and why: a verdict for each BN layer, from its graph alone.

No Keras is needed and no kernel is read; only the statistics of BN are, to refuse invalid ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bnscope.folding.checks import first_refusal, no_pattern, refuse_layer, refuse_way
from bnscope.folding.patterns import pattern_for
from bnscope.folding.patterns.base import Pattern, Site
from bnscope.folding.reasons import Refusal
from bnscope.folding.walk import Way, refuse_sharing, way_back
from bnscope.graph import batchnorm, kinds
from bnscope.graph.model import Graph, Layer
from bnscope.rewriting.edits import Edit, Step


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one BN layer.

    Args:
        layer: path of the BN layer.
        folded: whether it is folded.
        into: path of the layer it is folded into; None if it is kept.
        through: paths of the layers between the two, in forward order.
        reason: the reason code if it is kept, a `Reason`; None if it is folded.
        detail: what was found, in a sentence.
    """

    layer: str
    folded: bool
    into: str | None = None
    through: tuple[str, ...] = ()
    reason: str | None = None
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The verdict for JSON."""
        return {
            "layer": self.layer,
            "folded": self.folded,
            "into": self.into,
            "through": list(self.through),
            "reason": None if self.reason is None else str(self.reason),
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Fold:
    """One BN layer that is folded, with the edits that do it."""

    layer: str
    into: str
    edits: tuple[Edit, ...] = field(repr=False)

    def step(self) -> Step:
        """The fold as a step of a rewrite."""
        return Step(f'the fold of "{self.layer}" into "{self.into}"', self.edits)


@dataclass(frozen=True, slots=True)
class Plan:
    """What folding will do to a model.

    Args:
        model: name of the model.
        verdicts: one for each BN layer, in forward order.
        folds: those that are folded, in forward order.
    """

    model: str
    verdicts: tuple[Verdict, ...]
    folds: tuple[Fold, ...] = field(default=(), repr=False)

    @property
    def folded(self) -> tuple[Verdict, ...]:
        """The verdicts on the layers that are folded."""
        return tuple(verdict for verdict in self.verdicts if verdict.folded)

    @property
    def kept(self) -> tuple[Verdict, ...]:
        """The verdicts on the layers that are kept."""
        return tuple(verdict for verdict in self.verdicts if not verdict.folded)

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits of all folds, in order."""
        return tuple(edit for fold in self.folds for edit in fold.edits)

    def steps(self) -> tuple[Step, ...]:
        """The folds as steps of a rewrite."""
        return tuple(fold.step() for fold in self.folds)

    def to_dict(self) -> dict[str, Any]:
        """The plan for JSON."""
        return {
            "model": self.model,
            "folded": len(self.folded),
            "kept": len(self.kept),
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
        }


def make_plan(graph: Graph) -> Plan:
    """Decides for every BN layer whether it is folded, and into what.

    Args:
        graph: the graph of a file or of a live model.

    Returns:
        The plan; the same for a file and for the model loaded from it.
    """
    planner = _Planner(graph)
    verdicts = tuple(planner.decide(layer) for layer in _in_call_order(graph))
    in_order = {layer.path: i for i, layer in enumerate(batchnorm.batch_norms(graph))}
    return Plan(
        model=graph.name,
        verdicts=tuple(sorted(verdicts, key=lambda verdict: in_order[verdict.layer])),
        folds=tuple(planner.folds.values()),
    )


class _Planner:
    """Decides layer by layer; a BN layer that is folded lets later ones pass."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.folds: dict[str, Fold] = {}

    def decide(self, layer: Layer) -> Verdict:
        refusal = refuse_layer(self.graph, layer)
        if refusal is not None:
            return _kept(layer, refusal)
        ways = [
            way_back(self.graph, call, self.folds) for call in self.graph.calls_of(layer)
        ]
        refusal = first_refusal(partial(refuse_way, self.graph, layer, way) for way in ways)
        sites = [Site(way.batch_norm, way.producer) for way in ways if way.producer]
        producers = [site.producer for site in sites]
        refusal = refusal or refuse_sharing(self.graph, layer, producers)
        if refusal is not None:
            return _kept(layer, refusal)
        pattern = pattern_for(producers[0])
        if pattern is None:
            return _kept(layer, no_pattern(producers[0]))
        refusal = first_refusal(partial(pattern.check, site) for site in sites)
        if refusal is not None:
            return _kept(layer, refusal)
        return self.fold(ways[0], sites[0], pattern)

    def fold(self, way: Way, site: Site, pattern: Pattern) -> Verdict:
        into = site.producer
        path = site.batch_norm.layer.path
        self.folds[path] = Fold(path, into.layer.path, pattern.rewrite(site))
        between = ", ".join(kinds.describe(call) for call in way.through)
        return Verdict(
            layer=path,
            folded=True,
            into=into.layer.path,
            through=tuple(call.layer.path for call in way.through),
            detail=f"Into {kinds.describe(into)}{' through ' + between if between else ''}.",
        )


def _in_call_order(graph: Graph) -> Iterator[Layer]:
    """The BN layers, each at its first call, so that those before are decided first."""
    first: dict[str, int] = {}
    for call in batchnorm.batch_norm_calls(graph):
        first.setdefault(call.layer.path, call.index)
    last = len(graph.calls)
    yield from sorted(
        batchnorm.batch_norms(graph), key=lambda layer: first.get(layer.path, last)
    )


def _kept(layer: Layer, refusal: Refusal) -> Verdict:
    return Verdict(layer.path, folded=False, reason=refusal.reason, detail=refusal.detail)
