"""The plan: for every BN layer a verdict, folded or kept and why. Pure, on the graph.

A dry run, the inspection, the linter and the applier read the same plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from bnscope.bn import BatchNormState, scale_and_shift
from bnscope.folding.patterns import pattern_for
from bnscope.folding.patterns.base import Pattern
from bnscope.graph import batchnorm, kinds
from bnscope.graph.model import Call, Graph, Layer, Tensor
from bnscope.rewriting.edits import ChangeConfig, DropLayer, Edit, TransformWeights
from bnscope.rules.base import channel_list
from bnscope.rules.invalid_statistics import InvalidStatistics


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one BN layer.

    Args:
        layer: path of the BN layer.
        folded: whether it is folded.
        into: path of the layer that takes it.
        through: paths of the layers between, in order from that layer to BN.
        reason: reason code if it is kept.
        detail: the reason in words.
    """

    layer: str
    folded: bool
    into: str | None = None
    through: tuple[str, ...] = ()
    reason: str | None = None
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The verdict for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Fold:
    """One BN layer that is folded, and the edits that do it."""

    layer: str
    into: str
    edits: tuple[Edit, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """All verdicts in forward order, and the folds in the order in which they are applied."""

    verdicts: tuple[Verdict, ...]
    folds: tuple[Fold, ...]

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits of all folds, in order."""
        return tuple(edit for fold in self.folds for edit in fold.edits)


class _RefusedError(Exception):
    """A fold that is not exact: reason code and sentence."""


def make_plan(graph: Graph) -> Plan:
    """Decides for every BN layer whether it can be folded exactly, and into what.

    Args:
        graph: the model. Of variables only those of BN are read; a graph without values
            (a configuration) is planned as if the values were valid.

    Returns:
        The plan.
    """
    planner = _Planner(graph)
    verdicts = tuple(planner.verdict(layer) for layer in batchnorm.batch_norms(graph))
    return Plan(verdicts, tuple(planner.folds))


class _Planner:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.folds: list[Fold] = []
        self.folded: set[str] = set()

    def verdict(self, layer: Layer) -> Verdict:
        """The verdict on one BN layer; those before it are decided already."""
        try:
            call = self.foldable_call(layer)
            producer, through = self.linear_producer(call)
            pattern = self.pattern(producer, call)
            state = self.state(layer)
        except _RefusedError as refusal:
            reason, detail = refusal.args
            return Verdict(layer.path, folded=False, reason=reason, detail=detail)
        into = producer.layer
        self.folded.add(layer.path)
        self.folds.append(Fold(layer.path, into.path, _edits(pattern, into, layer, state)))
        paths = tuple(passed.layer.path for passed in reversed(through))
        return Verdict(layer.path, folded=True, into=into.path, through=paths)

    def foldable_call(self, layer: Layer) -> Call:
        """The one call of a BN layer that runs in inference mode."""
        if layer.is_custom:
            raise _RefusedError(
                "custom-layer",
                f"{layer.kind.removeprefix('custom.')} is not Keras's own class",
            )
        calls = self.graph.calls_of(layer)
        if not calls:
            raise _not_called(self.graph, layer)
        if len(calls) > 1:
            raise _RefusedError("shared-layer", f"it is called {len(calls)} times")
        if calls[0].training:
            raise _RefusedError(
                "baked-training",
                "it is called with training=True, so it uses batch statistics",
            )
        return calls[0]

    def linear_producer(self, call: Call) -> tuple[Call, list[Call]]:
        """The linear layer that feeds BN alone, and the calls between, from BN backward."""
        through: list[Call] = []
        tensor = call.inputs[0]
        while True:
            producer = self.producer(tensor)
            if not self.passes(producer):
                return producer, through
            through.append(producer)
            tensor = producer.inputs[0]

    def producer(self, tensor: Tensor) -> Call:
        """The call that makes a tensor which nothing else uses."""
        producer = self.graph.producer(tensor)
        if producer is None:
            raise _RefusedError("no-linear-neighbour", "the model's input feeds it")
        if self.graph.sole_consumer(tensor) is None and _could_take(producer):
            where = (
                "is an output of the model"
                if self.graph.is_output(tensor)
                else "is used by "
            )
            others = [kinds.describe(other) for other in self.graph.consumers(tensor)]
            uses = "" if self.graph.is_output(tensor) else ", ".join(others)
            raise _RefusedError(
                "multiple-consumers",
                f"the output of {kinds.describe(producer)} {where}{uses}",
            )
        return producer

    def passes(self, call: Call) -> bool:
        """Whether a call returns its input at inference, BN that was folded included."""
        noise = bool(call.training) and not kinds.is_noise_free_identity(call)
        return bool(call.inputs) and (
            (kinds.is_identity_at_inference(call) and not noise)
            or call.layer.path in self.folded
        )

    def pattern(self, producer: Call, call: Call) -> Pattern:
        """The pattern that takes BN into its producer, once all its conditions hold."""
        layer = producer.layer
        pattern = pattern_for(layer.kind)
        if pattern is None:
            reason = "custom-layer" if layer.is_custom else "no-linear-neighbour"
            raise _RefusedError(reason, f"{kinds.describe(producer)} feeds it")
        if not kinds.is_linear_activation(layer.config):
            name = kinds.activation_name(layer.config)
            raise _RefusedError(
                "nonlinear-producer", f"{kinds.describe(producer)} applies {name} itself"
            )
        count = len(self.graph.calls_of(layer))
        if count > 1:
            raise _RefusedError(
                "shared-layer", f"{kinds.describe(producer)} is called {count} times"
            )
        refused = _special_weights(layer) or pattern.refuse(producer)
        if refused is not None:
            raise _RefusedError(*refused)
        _check_axis(pattern, producer, call)
        return pattern

    def state(self, layer: Layer) -> BatchNormState | None:
        """The values of BN, which must be valid; None where there are none to read."""
        state = batchnorm.state(layer)
        problems = InvalidStatistics().check_state(state) if state else ()
        if problems:
            worst = problems[0]
            raise _RefusedError(
                "invalid-statistics",
                f"{worst.statistic} is {worst.value:g} in {channel_list(worst.channels)}",
            )
        return state


def _could_take(call: Call) -> bool:
    return pattern_for(call.kind) is not None or kinds.is_identity_at_inference(call)


def _not_called(graph: Graph, layer: Layer) -> _RefusedError:
    parent, _, _ = layer.path.rpartition("/")
    outer = next((other for other in graph.layers if other.path == parent), None)
    if outer is not None and graph.calls_of(outer):
        return _RefusedError(
            "no-linear-neighbour",
            f"it lies inside {outer.kind} {outer.path!r}, where no linear "
            "layer is its neighbour",
        )
    return _RefusedError("opaque-graph", "which layer feeds it is not known")


def _special_weights(layer: Layer) -> tuple[str, str] | None:
    """Weights that are not plain numbers: quantized, or low-rank adapted."""
    config = layer.config
    policy = config.get("dtype")
    policy_name = policy.get("class_name", "") if isinstance(policy, Mapping) else ""
    if "Quantized" in str(policy_name) or config.get("quantization_config"):
        return "quantized-layer", f"the weights of {layer.path!r} are quantized"
    if config.get("lora_rank"):
        return (
            "lora",
            f"the weights of {layer.path!r} are adapted by LoRA; merge them first",
        )
    return None


def _check_axis(pattern: Pattern, producer: Call, call: Call) -> None:
    """BN must normalize the axis along which the kernel scales; nothing between moves axes."""
    rank = next(
        (t.rank for t in (call.inputs[0], producer.outputs[0]) if t.rank is not None),
        kinds.tensor_rank(producer.kind),
    )
    axis = batchnorm.channel_axis(call.layer, rank)
    expected = pattern.output_channels(producer)
    if rank is None and batchnorm.axis(call.layer) == -1 and expected is None:
        return  # Dense, whatever the rank
    if axis is None or axis != expected:
        raise _RefusedError(
            "axis-mismatch",
            f"it normalizes axis {batchnorm.axis(call.layer)}, but the channels of "
            f"{kinds.describe(producer)} are on axis {expected if expected is not None else '?'}",
        )


def _edits(
    pattern: Pattern, into: Layer, batch_norm: Layer, state: BatchNormState | None
) -> tuple[Edit, ...]:
    if state is None:
        return ()
    transform = partial(pattern.rewrite, batch_norm=scale_and_shift(state))
    return (
        TransformWeights(into.path, transform),
        ChangeConfig(into.path, pattern.new_config(into.config)),
        DropLayer(batch_norm.path),
    )
