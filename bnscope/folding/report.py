"""What folding saves, and what it costs: plain data, worked out of graphs and a plan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bnscope.folding.plan import Plan
from bnscope.folding.ranges import Ranges, fold_ranges
from bnscope.graph import batchnorm, costs, kinds
from bnscope.graph.costs import Costs, Sample
from bnscope.graph.limits import MAX_SIZE
from bnscope.graph.model import Graph, Layer
from bnscope.rewriting.edits import LayerEdits, by_layer


@dataclass(frozen=True, slots=True)
class Change:
    """A number of the original model and of the folded one; None where it is not known."""

    before: int | None
    after: int | None

    @property
    def saved(self) -> int | None:
        """By how much it is less."""
        known = self.before is not None and self.after is not None
        return self.before - self.after if known else None  # type: ignore[operator]

    def to_dict(self) -> dict[str, int | None]:
        """The numbers for JSON."""
        return {"before": self.before, "after": self.after, "saved": self.saved}


@dataclass(frozen=True, slots=True)
class Report:
    """What folding does to a model, in numbers.

    Args:
        plan: what becomes of each BN layer.
        layers: how many layers the model calls, operations included; None before the folded
            model exists.
        parameters: how many parameters the model has; None before the folded model exists.
        parameters_saved: how many fewer it has than before; None where that is not known.
        multiply_adds: multiply-adds of the layers that are counted, for one sample.
        uncounted: calls whose multiply-adds are not counted, by the kind of the layer.
        samples: the shape of a sample of each input for which they are counted, with a number
            for sizes left open; None where the shape is not known.
        ranges: the ranges of the kernels that are changed; None before the folded model
            exists.
        constrained: changed kernels whose layer has a constraint or regularizer, by path:
            the options of the configuration.
        compile_state: what the original was compiled with, and the folded model is not; None
            where it was not compiled, or that is not known.
    """

    plan: Plan
    layers: Change | None
    parameters: Change | None
    parameters_saved: int | None
    multiply_adds: Change
    uncounted: Mapping[str, int] = field(default_factory=dict)
    samples: tuple[Sample | None, ...] = ()
    ranges: Ranges | None = None
    constrained: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    compile_state: str | None = None

    @property
    def batch_norms(self) -> Change:
        """How many BN layers there are."""
        return Change(len(self.plan.verdicts), len(self.plan.kept))

    @property
    def reasons(self) -> dict[str, int]:
        """How many BN layers are kept, by reason code, the most frequent first."""
        return dict(Counter(str(v.reason) for v in self.plan.kept).most_common())

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return {
            "batch_norms": self.batch_norms.to_dict(),
            "reasons": self.reasons,
            "layers": None if self.layers is None else self.layers.to_dict(),
            "parameters": {
                **(self.parameters or Change(None, None)).to_dict(),
                "saved": self.parameters_saved,
            },
            "multiply_adds": {
                **self.multiply_adds.to_dict(),
                "samples": [shape and list(shape) for shape in self.samples],
                "uncounted": dict(self.uncounted),
            },
            "ranges": None if self.ranges is None else self.ranges.to_dict(),
            "constrained": {path: list(names) for path, names in self.constrained.items()},
            "compile_state": self.compile_state,
        }


def expected(graph: Graph, plan: Plan) -> Report:
    """What a plan will save, as far as the graph of the original tells.

    Args:
        graph: the graph of a file or of a live model.
        plan: what folding will do to it.
    """
    counted = costs.multiply_adds(graph)
    saved = sum(counted.by_layer.get(verdict.layer, 0) for verdict in plan.folded)
    return Report(
        plan=plan,
        layers=None,
        parameters=None,
        parameters_saved=_parameters_saved(graph, plan),
        multiply_adds=Change(counted.total, counted.total - saved),
        uncounted=counted.uncounted,
        samples=counted.samples,
        constrained=_constrained(graph, plan),
        compile_state=compile_state(graph),
    )


def measured(
    before: Graph, after: Graph, plan: Plan, parameters: tuple[int, int]
) -> Report:
    """What a plan has saved.

    Args:
        before: the graph of the original, a live model.
        after: the graph of the folded model.
        plan: what was done to it.
        parameters: the numbers of parameters of the two.
    """
    first, second = costs.multiply_adds(before), costs.multiply_adds(after)
    return replace(
        expected(before, plan),
        layers=Change(_count_layers(before), _count_layers(after)),
        parameters=Change(*parameters),
        parameters_saved=parameters[0] - parameters[1],
        multiply_adds=Change(first.total, second.total),
        uncounted=_either(first, second),
        ranges=fold_ranges(before, plan, after),
    )


def _count_layers(graph: Graph) -> int:
    return len({call.layer.path for call in graph.calls})


def _either(first: Costs, second: Costs) -> dict[str, int]:
    """What is not counted in one of the two."""
    return {**second.uncounted, **first.uncounted}


def compile_state(graph: Graph) -> str | None:
    """What a model is compiled with, for people; None if it is not compiled."""
    training = graph.training
    if not training.compiled:
        return None
    kind = training.optimizer.kind if training.optimizer is not None else ""
    return f"optimizer {kind}, loss and metrics" if kind else "optimizer, loss and metrics"


def _constrained(graph: Graph, plan: Plan) -> dict[str, tuple[str, ...]]:
    """The constraints and regularizers of layers whose weights a plan changes."""
    found = {}
    for path, edits in by_layer(plan.edits).items():
        layer = graph.layer(path) if graph.has_layer(path) else None
        if layer is not None and edits.transforms and not edits.dropped:
            names = tuple(_options(layer))
            if names:
                found[path] = names
    return found


def _options(layer: Layer) -> Iterator[str]:
    for name, value in layer.config.items():
        if name.endswith(("_constraint", "_regularizer")) and value is not None:
            yield name


def _parameters_saved(graph: Graph, plan: Plan) -> int | None:
    """Those of the BN layers that go, less the biases that come; None if not all are known."""
    saved = 0
    for path, edits in by_layer(plan.edits).items():
        layer = graph.layer(path) if graph.has_layer(path) else None
        change = None if layer is None else _saved_at(graph, layer, edits)
        if change is None:
            return None
        saved += change
    return saved


def _saved_at(graph: Graph, layer: Layer, edits: LayerEdits) -> int | None:
    """How many parameters fewer one layer has; None where that is not known."""
    if batchnorm.is_batch_norm(layer):
        return _saved_of_batch_norm(graph, layer, edits)
    changes = {**layer.config, **edits.config}
    added = _bias(graph, layer, changes)
    present = _bias(graph, layer, layer.config)
    return None if added is None or present is None else present - added


def _saved_of_batch_norm(graph: Graph, layer: Layer, edits: LayerEdits) -> int | None:
    calls = graph.calls_of(layer)
    channels = batchnorm.channels(layer)
    if channels is None and calls and calls[0].inputs:
        shape = calls[0].inputs[0].shape or ()
        axis = batchnorm.channel_axis(layer, len(shape))
        channels = shape[axis] if axis is not None and axis < len(shape) else None
    if channels is None:
        return None
    config = {**layer.config, **edits.config}
    after = 0 if edits.dropped else len(batchnorm.variable_names(config))
    return channels * (len(batchnorm.variable_names(layer.config)) - after)


def _bias(graph: Graph, layer: Layer, config: Mapping[str, Any]) -> int | None:
    """The number of biases of a layer with that configuration; None where not known."""
    calls = graph.calls_of(layer)
    shape = calls[0].outputs[0].shape if calls else None
    if layer.kind == "EinsumDense":
        return _einsum_bias(config, shape)
    if not config.get("use_bias", layer.kind in kinds.LINEAR):
        return 0
    if layer.kind in kinds.LINEAR - kinds.DEPTHWISE_CONV:
        size = config.get("filters", config.get("units"))
        return size if isinstance(size, int) and 0 <= size <= MAX_SIZE else None
    axis = kinds.output_channel_axis(calls[0]) if calls else None
    known = layer.kind in kinds.DEPTHWISE_CONV and axis is not None and shape is not None
    return shape[axis] if known else None  # type: ignore[index]


def _einsum_bias(config: Mapping[str, Any], shape: Any) -> int | None:
    axes = config.get("bias_axes") or ""
    output = str(config.get("equation", "")).replace(" ", "").rpartition("->")[2]
    if shape is None or len(output) != len(shape) or not set(axes) <= set(output):
        return None if axes else 0
    sizes = [shape[output.index(label)] for label in axes]
    return None if None in sizes else math.prod(sizes) if axes else 0
