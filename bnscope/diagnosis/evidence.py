"""All that a verdict rests on: what was measured, and what the rules found in the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bnscope.bn import initial_share, is_cold
from bnscope.diagnosis.measuring import BATCH, INFERENCE, RECALIBRATED
from bnscope.diagnosis.result import LayerDiagnosis
from bnscope.diagnosis.scoring import LOSS
from bnscope.linting import Finding

TRAINING, VALIDATION = "training", "validation"
# The rules whose findings say what a measurement cannot.
CODES = ("BN401", "BN402", "BN403")

# A loss is worse than another one if it is above it by this share of it.
WORSE = 0.25
# ... and as good as another one if it is above it by no more than this.
AS_GOOD = 0.02
# The gap is BN's if it is at least this share of what validation is worse than training.
LEAST_SHARE = 0.2
# Outputs nearer than this, in their standard deviation, are the same for all purposes.
SAME_OUTPUTS = 0.1
# Without a loss, outputs at least this far apart make a gap.
OTHER_OUTPUTS = 0.25
# Moving statistics at least this far from the data, in nats, are stale.
STALE_KL = 0.02
# A layer is cold if at least this share of it fits to be initial; without a count of updates it
# takes more, as other causes may look alike.
LEAST_INITIAL = 0.05
LEAST_INITIAL_UNCOUNTED = 0.2


@dataclass(frozen=True)
class Evidence:
    """All that a verdict rests on.

    Args:
        losses: as in `Diagnosis`.
        apart: as in `Diagnosis`.
        layers: the BN layers.
        findings: what the rules in `CODES` found.
        samples: how many samples were used, by data.
        batch_size: samples in a batch of the training data.
        steps: batches that the optimizer counts; None where it counts none.
        behind_dropout: the layers that have dropout somewhere before them.
    """

    losses: Mapping[str, Mapping[str, Mapping[str, float]]]
    apart: Mapping[str, Mapping[str, float]]
    layers: tuple[LayerDiagnosis, ...]
    findings: Sequence[Finding]
    samples: Mapping[str, int]
    batch_size: int
    steps: int | None
    behind_dropout: frozenset[str] = frozenset()

    def loss(self, mode: str, data: str = TRAINING) -> float | None:
        """A loss, infinite for NaN; None where it is not known."""
        modes = self.losses.get(data)
        if modes is None:
            return None
        value = modes[mode][LOSS]
        return float("inf") if np.isnan(value) else value

    def distance(self, one: str, other: str, data: str = TRAINING) -> float:
        """How far the outputs of two modes lie apart."""
        return self.apart[data][f"{one}_{other}"]

    def found(self, *codes: str) -> list[LayerDiagnosis]:
        """The layers at which one of these rules found something."""
        names = {finding.layer for finding in self.findings if finding.code in codes}
        return [layer for layer in self.layers if layer.layer in names]

    @cached_property
    def better(self) -> str:
        """The better of the modes other than inference; without a loss, the other one."""
        batch, recalibrated = self.loss(BATCH), self.loss(RECALIBRATED)
        if batch is None or recalibrated is None:
            stale = self.distance(INFERENCE, RECALIBRATED) >= OTHER_OUTPUTS
            return RECALIBRATED if stale else BATCH
        return BATCH if batch < recalibrated else RECALIBRATED

    @cached_property
    def has_gap(self) -> bool:
        """Whether inference is worse than another mode, on the same samples."""
        if self.loss(INFERENCE) is None:
            apart = self.distance(INFERENCE, RECALIBRATED)
            return apart >= OTHER_OUTPUTS or self.has_remainder
        return self.is_gap(self.better, TRAINING) or self.is_gap(RECALIBRATED, VALIDATION)

    def is_gap(self, mode: str, data: str) -> bool:
        """Whether a loss is so much worse at inference that BN makes a part of what is wrong."""
        inference, other = self.loss(INFERENCE, data), self.loss(mode, data)
        whole, best = self.loss(INFERENCE, VALIDATION), self.loss(self.better)
        if inference is None or other is None or best is None:
            return False
        whole = (inference if whole is None else whole) - best
        apart = self.distance(INFERENCE, mode, data)
        return (
            is_worse(inference, other)
            and apart >= SAME_OUTPUTS
            and (inference - other >= LEAST_SHARE * whole)
        )

    @property
    def judge(self) -> str:
        """The data by which recalibration is judged: those for validation, if their loss is known."""
        return VALIDATION if VALIDATION in self.losses else TRAINING

    @cached_property
    def recalibrating_harms(self) -> bool:
        """Whether the loss is higher with the exact statistics of `x` than with the moving ones."""
        before, after = (self.loss(x, self.judge) for x in (INFERENCE, RECALIBRATED))
        return before is not None and after is not None and after > before

    @cached_property
    def fits_validation(self) -> bool:
        """Whether the moving statistics are those of the validation data, and those of `x` are not."""
        if VALIDATION not in self.apart:
            return False
        before, own, after = (
            self.loss(mode, VALIDATION) for mode in (INFERENCE, BATCH, RECALIBRATED)
        )
        if before is None or own is None or after is None:
            apart = self.distance(BATCH, RECALIBRATED, VALIDATION)
            nearer = 2.0 * self.distance(INFERENCE, BATCH, VALIDATION) < apart
            return nearer and apart >= OTHER_OUTPUTS
        return is_worse(after, before) and not is_worse(before, own)

    @cached_property
    def has_remainder(self) -> bool:
        """Whether batch statistics are better than those of all samples, too."""
        apart = self.distance(BATCH, RECALIBRATED)
        batch, recalibrated = self.loss(BATCH), self.loss(RECALIBRATED)
        if batch is None or recalibrated is None:
            return apart >= OTHER_OUTPUTS
        return is_worse(recalibrated, batch) and apart >= OTHER_OUTPUTS

    @cached_property
    def stale(self) -> list[LayerDiagnosis]:
        """The layers whose moving statistics are not those of the data, the worst first."""
        found = [layer for layer in self.layers if layer.kl >= STALE_KL]
        return sorted(found, key=lambda layer: -layer.kl)

    def share_left(self, layer: LayerDiagnosis) -> float | None:
        """The share of a moving value that is initial by the count of updates, if known."""
        if not self.steps:
            return None
        return initial_share(layer.momentum, self.steps * max(layer.calls, 1))

    def is_cold(self, layer: LayerDiagnosis) -> bool:
        """Whether moving statistics are still partly initial, by count and by their values."""
        share = self.share_left(layer)
        if share is None:
            return layer.initial >= LEAST_INITIAL_UNCOUNTED
        # Statistics that were never updated at all contradict the count.
        return layer.initial >= LEAST_INITIAL and (is_cold(share) or layer.initial == 1.0)


def is_worse(loss: float, other: float) -> bool:
    """Whether a loss is clearly above another one."""
    return bool(np.isfinite(other)) and loss - other > WORSE * abs(other)
