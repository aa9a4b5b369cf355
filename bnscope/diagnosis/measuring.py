"""Losses, outputs and statistics in each mode, on the same samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bnscope.diagnosis.probe import Mode, Probe
from bnscope.diagnosis.samples import Batch
from bnscope.diagnosis.scoring import Apart, Scorer
from bnscope.diagnosis.statistics import Flow, collect

INFERENCE, BATCH, RECALIBRATED = "inference", "batch", "recalibrated"
MODES: Mapping[str, Mode] = {
    INFERENCE: Mode.MOVING,
    BATCH: Mode.BATCH,
    RECALIBRATED: Mode.GIVEN,
}
# Of which outputs the distance is measured, in standard deviations of the second.
PAIRS = ((INFERENCE, BATCH), (INFERENCE, RECALIBRATED), (BATCH, RECALIBRATED))


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on one data set.

    Args:
        losses: loss and metrics by mode; empty without targets or a loss.
        apart: how far the outputs of two modes lie apart, by the names of both.
        flows: what went into each BN layer while it used batch statistics.
    """

    losses: dict[str, dict[str, float]]
    apart: dict[str, float]
    flows: list[Flow]


def measure(
    probe: Probe,
    batches: Sequence[Batch],
    scorer: Callable[[], Scorer] | None,
    tick: Callable[[int], None],
) -> Measured:
    """Runs all modes on a data set.

    Args:
        probe: runs the model.
        batches: the samples.
        scorer: makes what works out loss and metrics; None without targets or a loss.
        tick: called with the number of batches done.
    """
    flows = [Flow() for _ in probe.norms]
    scorers = {} if scorer is None else {name: scorer() for name in MODES}
    apart = {pair: Apart() for pair in PAIRS}
    for batch in batches:
        seen = {name: probe(batch, probe.all(mode)) for name, mode in MODES.items()}
        collect(flows, seen[BATCH].moments())
        for name, each in scorers.items():
            each.add(seen[name].outputs, batch)
        for (one, other), distance in apart.items():
            distance.add(seen[one].outputs, seen[other].outputs)
        tick(1)
    return Measured(
        {name: each.values() for name, each in scorers.items()},
        {f"{one}_{other}": each.value for (one, other), each in apart.items()},
        flows,
    )


@dataclass(frozen=True, slots=True)
class Swap:
    """What one layer alone does to the gap between inference and the better mode, as shares.

    Args:
        causes: how much of the gap there is if only this layer uses its moving statistics.
        repairs: how much of it goes if only this layer uses the better mode's statistics.
    """

    causes: float
    repairs: float


def swaps(
    probe: Probe,
    batches: Sequence[Batch],
    scorer: Scorer | None,
    good: Mode,
    tick: Callable[[int], None],
) -> list[Swap] | None:
    """Swaps the statistics of one layer at a time.

    Args:
        probe: runs the model.
        batches: the samples.
        scorer: works out the loss; None to go by the outputs.
        good: the mode that is better than inference.
        tick: called with the number of batches done.

    Returns:
        One value a layer; None if there is no gap on these samples.
    """
    count = len(probe.norms)
    runs = [probe.all(Mode.MOVING), probe.all(good)]
    runs += [probe.one(place, Mode.MOVING, good) for place in range(count)]
    runs += [probe.one(place, good, Mode.MOVING) for place in range(count)]
    reference = (
        [probe(batch, runs[1]).outputs for batch in batches] if scorer is None else []
    )
    costs = []
    for modes in runs:
        outputs = (probe(batch, modes).outputs for batch in batches)
        costs.append(
            _distance(outputs, reference)
            if scorer is None
            else _loss(outputs, batches, scorer)
        )
        tick(len(batches))
    inference, better, *others = costs
    gap = inference - better
    if gap <= 0.0:
        return None
    return [
        Swap((cause - better) / gap, (inference - repair) / gap)
        for cause, repair in zip(others[:count], others[count:], strict=True)
    ]


def _loss(outputs: Iterable[Any], batches: Sequence[Batch], scorer: Scorer) -> float:
    scorer.reset(metrics=False)
    for each, batch in zip(outputs, batches, strict=True):
        scorer.add(each, batch)
    return scorer.loss()


def _distance(outputs: Iterable[Any], reference: Sequence[Any]) -> float:
    """Without a loss: the squared distance from the outputs of the better mode."""
    apart = Apart()
    for one, other in zip(outputs, reference, strict=True):
        apart.add(one, other)
    return apart.value**2
