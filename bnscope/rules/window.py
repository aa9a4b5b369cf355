"""What a rule on a run sees: a short window of readings of the BN layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from bnscope.bn import Array, batch_from_moving
from bnscope.rules.base import RunRule, StateProblem

Floats = npt.NDArray[np.floating]
Booleans = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Reading:
    """The variables of one BN layer, or of many side by side, around one step.

    Args:
        step: the step.
        values: gamma, beta, moving mean and moving variance now, shape `(4, channels)`.
        before: the same `updates` updates earlier; only its moving rows are read. None if they
            were not read.
        updates: how many updates lie between the two.
        share: how much of the moving values is still the initial mean 0 and variance 1, shape
            `(channels,)`; None for nothing.
        share_before: the same before.
        settled: of which channels a fall of the variance from here on cannot be that from the
            initial 1 to the first real one, shape `(channels,)`; None for all.
        batch: mean and variance of the mini-batch between them, shape `(2, channels)`, NaN
            where they cannot be told; None until they are asked for.
    """

    step: int
    values: Floats
    before: Floats | None = None
    updates: int = 0
    share: Floats | None = None
    share_before: Floats | None = None
    settled: Booleans | None = None
    batch: Floats | None = None

    def part(self, channels: slice) -> Reading:
        """The same of some channels."""

        def cut(values: Floats | None) -> Floats | None:
            return None if values is None else values[..., channels]

        return replace(
            self,
            values=self.values[:, channels],
            before=cut(self.before),
            share=cut(self.share),
            share_before=cut(self.share_before),
            settled=None if self.settled is None else self.settled[channels],
            batch=cut(self.batch),
        )


@dataclass(frozen=True, slots=True)
class Window:
    """Some readings in order, of one BN layer or of many side by side.

    Args:
        readings: the readings, the last one now.
        momentum: momentum of each channel.
        epsilon: epsilon of each channel.
        told: of which channels the mini-batch statistics can be told from the moving values.
        pruned: of which channels gamma is under an L1 penalty.
    """

    readings: Sequence[Reading]
    momentum: Array
    epsilon: Floats
    told: Booleans
    pruned: Booleans

    @property
    def steps(self) -> Array:
        """The steps, shape `(readings,)`."""
        return np.array([reading.step for reading in self.readings], np.float64)

    def part(self, channels: slice) -> Window:
        """The window of some channels."""
        return Window(
            [reading.part(channels) for reading in self.readings],
            self.momentum[channels],
            self.epsilon[channels],
            self.told[channels],
            self.pruned[channels],
        )

    def batch(self, reading: Reading) -> Floats:
        """Mean and variance of a reading's mini-batch, shape `(2, channels)`; NaN if unknown."""
        if reading.batch is None:
            reading.batch = self._batch(reading).astype(np.float32)
        return reading.batch

    def _batch(self, reading: Reading) -> Array:
        if reading.before is None or reading.updates < 1:
            return np.full((2, self.momentum.size), np.nan)
        old, new = reading.before[-2:], reading.values[-2:]
        batch = batch_from_moving(old, new, self.momentum, reading.updates)
        # Where neither average moved, BN was not updated in this step.
        batch[:, ~self.told | (old == new).all(0)] = np.nan
        return batch

    def met(self, reading: Reading) -> Floats:
        """The moving values that a reading's mini-batch met, without their initial share.

        Returns:
            Moving mean and variance before the step, shape `(2, channels)`; NaN if unknown.
        """
        if reading.before is None:
            return np.full((2, self.momentum.size), np.nan)
        share = reading.share_before
        mean, variance = reading.before[-2:]
        if share is None:
            return reading.before[-2:]
        return np.stack([mean / (1 - share), without_initial(variance, share)])

    def variance(self, reading: Reading) -> Floats:
        """The moving variance of a reading without its initial share, shape `(channels,)`."""
        return without_initial(reading.values[-1], reading.share)


def without_initial(variance: Floats, share: Floats | None) -> Floats:
    """A moving variance as if it had not begun at 1: the average of the batches alone."""
    return variance if share is None else (variance - share) / (1 - share)


class WindowRule(RunRule):
    """A rule on how the values of BN move while a model trains.

    It looks in two steps, since all channels of all layers are looked at while training waits:
    `suspects` is a quick necessary condition for all at once, `check_window` the rule itself for
    one layer.

    Attributes:
        LEAST_SHARE: of the channels of a layer so many must be suspects to look closer.
    """

    LEAST_SHARE: ClassVar[float] = 0.0

    def suspects(self, window: Window) -> Booleans:
        """Which channels may have the fault, of many layers side by side."""
        raise NotImplementedError

    def check_window(self, window: Window) -> tuple[StateProblem, ...]:
        """What it finds in a window of one layer."""
        raise NotImplementedError
