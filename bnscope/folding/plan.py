"""What folding will do to a model, and why: a verdict for each BN layer, from its graph alone.

No Keras is needed and no kernel is read; only the statistics of BN are, to refuse invalid ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from bnscope.bn import ScaleShift, scale_and_shift
from bnscope.folding.affine import Affine
from bnscope.folding.beside import Cut, way_beside, without
from bnscope.folding.checks import refuse_layer, refuse_producer, refuse_weights
from bnscope.folding.patterns.base import Demand, Pattern
from bnscope.folding.reasons import Reason, Refusal
from bnscope.folding.walk import Take, Way, normalized, refuse_sharing, way_ahead, way_back
from bnscope.folding.wrappers import View, see_through
from bnscope.graph import batchnorm, kinds
from bnscope.graph.limits import MAX_CHANNELS, too_much
from bnscope.graph.model import Call, Graph, Layer
from bnscope.rewriting.edits import DropInput, DropLayer, Edit, Step

Edits = Callable[[Layer, ScaleShift], tuple[Edit, ...]]
# Of a tensor that numpy can hold.
_MOST_AXES = 32
_EDITS: Mapping[str, Callable[[Pattern], Edits]] = {
    "backward": lambda pattern: pattern.edits,
    "forward": lambda pattern: pattern.edits_ahead,
    "beside": lambda pattern: pattern.edits_beside,
}
# Stands for a number of channels that a file does not tell.
_UNKNOWN_CHANNELS = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one BN layer.

    Args:
        layer: path of the BN layer.
        folded: whether it is folded.
        into: path of the layer it is folded into, the first if there are several; None if it
            is kept.
        layers: paths of all layers it is folded into.
        direction: "backward" into what comes before, "forward" into what comes behind,
            "beside" into another layer on the same tensor; None if it is kept.
        through: paths of the layers between the two, in forward order.
        reason: the reason code if it is kept, a `Reason`; None if it is folded.
        detail: what was found, in a sentence.
    """

    layer: str
    folded: bool
    into: str | None = None
    layers: tuple[str, ...] = ()
    direction: str | None = None
    through: tuple[str, ...] = ()
    reason: str | None = None
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The verdict for JSON."""
        return {
            "layer": self.layer,
            "folded": self.folded,
            "into": self.into,
            "layers": list(self.layers),
            "direction": self.direction,
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
    planner = _Planner(see_through(graph))
    verdicts = planner.decide()
    in_order = {layer.path: i for i, layer in enumerate(batchnorm.batch_norms(graph))}
    return Plan(
        model=graph.name,
        verdicts=tuple(sorted(verdicts, key=lambda verdict: in_order[verdict.layer])),
        folds=tuple(planner.folds.values()),
    )


class _Planner:
    """Decides layer by layer; a BN layer that is folded lets later ones pass.

    First each layer is tried backward, then beside others in a sum; each one of these cuts a
    branch off, so that others may go backward now. What is left is tried forward, the last one
    first, so that one finds those behind it as they will be.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self.graph = view.graph
        self.folds: dict[str, Fold] = {}
        # What BN layers that stay do, where they have taken up another one.
        self.composed: dict[str, ScaleShift] = {}

    def decide(self) -> list[Verdict]:
        """A verdict for each BN layer, in the order of their calls."""
        layers = list(_in_call_order(self.graph))
        verdicts = {layer.path: self.backward(layer) for layer in layers}
        if self.try_beside(layers, verdicts):
            for layer in layers:
                if not verdicts[layer.path].folded:
                    verdicts[layer.path] = self.backward(layer)
        for layer in reversed(layers):
            if not verdicts[layer.path].folded:
                verdicts[layer.path] = self.forward(layer, verdicts[layer.path])
        return list(verdicts.values())

    def try_beside(self, layers: Sequence[Layer], verdicts: dict[str, Verdict]) -> bool:
        """Folds what another layer in the same sum can take up; whether there was any."""
        found = False
        for layer in layers:
            verdict = None if verdicts[layer.path].folded else self.beside(layer)
            if verdict is not None:
                verdicts[layer.path] = verdict
                found = True
        return found

    def backward(self, layer: Layer) -> Verdict:
        """Tries what comes before a BN layer."""
        refusal = refuse_layer(self.graph, layer)
        if refusal is not None:
            return _kept(layer, refusal)
        demands = []
        for call in self.graph.calls_of(layer):
            affine = self.affine(call)
            if isinstance(affine, Refusal):
                return _kept(layer, affine)
            demands.append((call, Demand(normalized(call), affine)))
        refuse = partial(refuse_producer, self.graph)
        way = _sound(lambda: way_back(self.graph, demands, gone=self.folds, refuse=refuse))
        return self.finish(layer, way, "backward")

    def beside(self, layer: Layer) -> Verdict | None:
        """Tries what works on the same tensor; None if nothing can take it up."""
        calls = self.graph.calls_of(layer)
        if len(calls) != 1 or refuse_layer(self.graph, layer) is not None:
            return None
        affine = self.affine(calls[0])
        if isinstance(affine, Refusal):
            return None
        found = way_beside(
            self.graph, calls[0], affine, gone=self.folds, refuse=self.refuse_beside
        )
        if found is None or refuse_sharing(self.graph, layer, found[0]) is not None:
            return None
        way, cut = found
        verdict = self.fold(layer, way, "beside", cut)
        self.graph = without(self.graph, calls[0], cut)
        return verdict

    def refuse_beside(self, call: Call) -> Refusal | None:
        """What speaks against a layer that would take up BN beside it."""
        batch_norm = batchnorm.is_batch_norm(call.layer)
        own = refuse_layer(self.graph, call.layer) if batch_norm else None
        return own or refuse_producer(self.graph, call)

    def forward(self, layer: Layer, kept: Verdict) -> Verdict:
        """Tries what comes behind a BN layer that found no place before."""
        if refuse_layer(self.graph, layer) is not None:
            return kept
        demands = []
        for call in self.graph.calls_of(layer):
            affine = self.affine(call)
            if isinstance(affine, Refusal):
                return kept
            demands.append(Demand(call.outputs[0], affine))
        way = _sound(
            lambda: way_ahead(self.graph, demands, gone=self.folds, refuse=refuse_weights)
        )
        if isinstance(way, Way) and not way.takes:
            return kept  # nothing uses it
        verdict = self.finish(layer, way, "forward")
        return verdict if verdict.folded else _more_telling(kept, verdict)

    def affine(self, call: Call) -> Affine | Refusal:
        """What a call of a BN layer does."""
        layer, tensor = call.layer, normalized(call)
        axis = self.axis(call)
        if axis is None:
            return Refusal(
                Reason.AXIS_MISMATCH,
                f"It normalizes axis {layer.config.get('axis', -1)} of a tensor that is not "
                "known to have it.",
            )
        if layer.path in self.composed:
            return Affine.per_channel(self.composed[layer.path], axis)
        shape = tensor.shape
        size = None if shape is None or len(shape) < -axis else shape[axis]
        values = _values(layer, size)
        if not values.scale.size:
            return Refusal(Reason.INVALID_STATISTICS, "It has no channels.")
        return Affine.per_channel(values, axis)

    def axis(self, call: Call) -> int | None:
        """The channel axis, counted from the right; None where that is not known."""
        axis = batchnorm.axis(call.layer)
        if axis is not None and axis >= 0:
            tensor = normalized(call)
            producer = self.graph.producer(tensor)
            rank = tensor.rank
            if rank is None and producer is not None:
                rank = kinds.tensor_rank(producer.kind)
            axis = None if rank is None else axis - rank
        return axis if axis is not None and -_MOST_AXES <= axis < 0 else None

    def finish(self, layer: Layer, way: Way | Refusal, direction: str) -> Verdict:
        """The verdict; what a fold changes is kept in mind."""
        if isinstance(way, Way):
            refusal = refuse_sharing(self.graph, layer, way)
            if refusal is None:
                return self.fold(layer, way, direction)
            way = refusal
        return _kept(layer, way)

    def fold(
        self, layer: Layer, way: Way, direction: str, cut: Cut | None = None
    ) -> Verdict:
        edits: list[Edit] = []
        for target in way.layers:
            take = next(take for take in way.takes if take.call.layer is target)
            edits += _EDITS[direction](take.pattern)(target, take.values)
            if batchnorm.is_batch_norm(target):
                self.compose(take, direction)
        if cut is not None:
            edits.append(DropInput(cut.total.layer.path, cut.source))
        edits.append(DropLayer(layer.path))
        paths = tuple(target.path for target in way.layers)
        into = ", ".join(paths)
        self.folds[layer.path] = Fold(layer.path, into, self.view.edits(edits))
        through = [call for call in way.through if call.layer.path not in self.folds]
        return Verdict(
            layer=layer.path,
            folded=True,
            into=paths[0],
            layers=paths,
            direction=direction,
            through=tuple(call.layer.path for call in way.through),
            detail=_into(way.takes, through),
        )

    def compose(self, take: Take, direction: str) -> None:
        """Keeps in mind what a BN layer that stays does from now on."""
        path = take.call.layer.path
        own = self.composed.get(path) or _values(take.call.layer, take.values.scale.size)
        scale, shift = take.values
        with np.errstate(over="ignore", invalid="ignore"):  # which verification sees
            if direction == "beside":
                self.composed[path] = ScaleShift(own.scale + scale, own.shift + shift)
            else:
                self.composed[path] = ScaleShift(
                    own.scale * scale, own.shift * scale + shift
                )


def _sound(walk: Callable[[], Way | Refusal]) -> Way | Refusal:
    """The result of a walk; a damaged file may contradict itself about shapes."""
    try:
        return walk()
    except ValueError:  # numpy's word for shapes that do not fit each other
        return Refusal(
            Reason.OPAQUE_GRAPH,
            "The shapes around it do not fit each other; is it damaged?",
        )


def _values(layer: Layer, size: int | None) -> ScaleShift:
    """The scale and shift of each channel."""
    state = batchnorm.state(layer)
    if state is not None:
        return scale_and_shift(state)
    # A file without values: each channel is taken to do something of its own, in order.
    count = size or _UNKNOWN_CHANNELS
    if count > MAX_CHANNELS:
        raise too_much(f"{layer.path} normalizes {count:,} channels", MAX_CHANNELS)
    channels = np.arange(1.0, count + 1)
    center = bool(layer.config.get("center", True))
    return ScaleShift(channels, channels if center else np.zeros(count))


def _into(takes: Sequence[Take], through: Sequence[Call]) -> str:
    into = list(dict.fromkeys(kinds.describe(take.call) for take in takes))
    between = list(dict.fromkeys(kinds.describe(call) for call in through))
    way = f" through {', '.join(between)}" if between else ""
    return f"Into {', '.join(into)}{way}."


def _more_telling(backward: Verdict, forward: Verdict) -> Verdict:
    """The verdict with the reason that says more about what could be done."""
    if str(forward.reason) not in {Reason.PADDING, Reason.NEGATIVE_SCALE}:
        return backward
    if backward.reason == Reason.NO_LINEAR_NEIGHBOUR:
        return forward
    return replace(backward, detail=f"{backward.detail} Behind it, {forward.detail}")


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
