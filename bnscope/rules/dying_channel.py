"""BN505: a channel that is dying now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bnscope.bn import DEAD_GAMMA, DEAD_SHARE_OF_EPSILON
from bnscope.rules.base import Severity, StateProblem, channel_list
from bnscope.rules.window import Booleans, Floats, Window, WindowRule


class DyingChannel(WindowRule):
    """The variance, or gamma, of a channel falls geometrically: the channel is dying.

    ## What it does
    Looks at five readings in a row: the last five, every second one, every fourth, and so on up
    to every 512th: a fall is seen whether it takes a few steps or, with a reading every 10,
    twenty thousand. A channel is dying if one of these holds.

    - Its moving variance fell from each reading to the next, by at least a factor of 5 in all, at
      a steady rate (the slowest at least a third of the fastest), and would at this rate be
      below epsilon/10 (BN304) within as many steps again.
    - Its moving variance fell by that factor while the variance of each of the five mini-batches
      was below epsilon/10 already: the channel is constant, and the moving variance only has not
      followed yet.
    - Its gamma fell likewise, towards a hundredth of the layer's median: from at least a fifth
      of the median, at a rate that is steady within a fifth, while nine of ten of the other
      channels changed by less than a tenth of it on a logarithmic scale.

    ## Why is this bad
    A channel whose variance goes to 0 carries nothing, and what is left of it is multiplied by
    up to `gamma / sqrt(epsilon)`. It does not come back: a dead filter gets no gradient. While
    it dies, something can still be done.

    ## What to do
    Look at the layer that feeds BN: weight decay that is too strong, a learning rate that was
    too high, ReLU units that no input reaches. Lower them, or go on from an earlier checkpoint.

    ## When it is quiet
    The fall from the initial variance 1 to the first real one, which is taken off where the
    updates are counted; where they are not (`bnscope track`, shared layers) a channel counts
    only once its variance has risen, stood still, or was twice the smallest of the model. Channels below the limit already: they are
    dead, which BN304 says. Gamma under an L1 penalty, which is there to make it 0, and gamma
    that swings through 0. What dies between two checkpoints of `bnscope track` is seen by BN304
    when it is dead: five readings of the fall are needed. The variance of layers that get a
    single value a channel: it is 0 for that reason, which BN405 and BN408 say.

    ## References
    - Liu et al. 2017, pruning by an L1 penalty on gamma, <https://arxiv.org/abs/1708.06519>
    """

    code = "BN505"
    name = "dying-channel"
    severity = Severity.WARNING
    advice = (
        "Look at the layer that feeds this one (weight decay, learning rate, units that no "
        "input reaches), or go on from a checkpoint before the fall."
    )

    LEAST_FALL = 5.0
    STEADY_SHARE = 1 / 3
    SHARE_OF_EPSILON = DEAD_SHARE_OF_EPSILON
    SHARE_OF_MEDIAN_GAMMA = 0.01
    STEADY_SHARE_OF_GAMMA = 0.8
    LEAST_SHARE_OF_MEDIAN_GAMMA = 0.2
    STILL_SHARE = 0.1

    @np.errstate(all="ignore")  # values of any size
    def suspects(self, window: Window) -> Booleans:
        """The channels whose variance or gamma fell far enough, and steadily."""
        readings = window.readings
        moving = [reading.values[3] for reading in readings]
        variance = self._fell(moving[0], moving[-1])
        if readings[0].share is not None:
            variance |= self._fell(*map(window.variance, (readings[0], readings[-1])))
        variance &= moving[-1] >= self.SHARE_OF_EPSILON * window.epsilon
        gammas = [reading.values[0] for reading in readings]
        gamma = self._fell(np.abs(gammas[0]), np.abs(gammas[-1])) & ~window.pruned
        found = _sinks(window, moving, variance, self.STEADY_SHARE)
        return found | _sinks(window, gammas, gamma, self.STEADY_SHARE_OF_GAMMA)

    @np.errstate(all="ignore")
    def check_window(self, window: Window) -> tuple[StateProblem, ...]:
        """The channels whose variance falls, and those whose gamma does."""
        return tuple(self._problems(window))

    def _problems(self, window: Window) -> Iterator[StateProblem]:
        variance = np.stack([window.variance(reading) for reading in window.readings])
        gamma = np.stack([reading.values[0] for reading in window.readings]).astype(
            np.float64
        )
        limit = self.SHARE_OF_EPSILON * window.epsilon
        constant = self._is_constant(window, limit)
        falls = self._falls(window, variance, limit, self.STEADY_SHARE)
        falls &= ~constant
        if window.readings[0].settled is not None:
            falls &= window.readings[0].settled
        least_gamma = self._least_gamma(gamma)
        shrinks = self._shrinks(window, gamma, np.full(limit.shape, least_gamma))
        if constant.any():
            yield self._constant(window, constant, float(limit[0]))
        if falls.any():
            yield self._falling(window, "the variance", variance, falls, float(limit[0]))
        if shrinks.any():
            yield self._falling(window, "gamma", gamma, shrinks, least_gamma)

    def _fell(self, first: Floats, last: Floats) -> Booleans:
        return np.asarray(first >= self.LEAST_FALL * last)

    def _falls(
        self, window: Window, series: Floats, limit: Floats, steady: float
    ) -> Booleans:
        """Which channels fall far, steadily, and towards the limit; series `(readings, c)`."""
        level = np.log(series)
        fallen, ahead = level[0] - level[-1], level[-1] - np.log(limit)
        far = (fallen >= np.log(self.LEAST_FALL)) & (ahead > 0) & (ahead <= fallen)
        return np.asarray(far & _is_even(window, level, steady))

    def _shrinks(self, window: Window, gamma: Floats, limit: Floats) -> Booleans:
        """Which gammas fall, out of the ordinary size, while the others stand still.

        Where all swing, as with a large learning rate, some always fall for a while.
        """
        size = np.abs(gamma)
        falls = self._falls(window, size, limit, self.STEADY_SHARE_OF_GAMMA)
        falls &= ~window.pruned & ((gamma > 0).all(0) | (gamma < 0).all(0))
        falls &= size[0] >= self.LEAST_SHARE_OF_MEDIAN_GAMMA * np.median(size[0])
        if not falls.any():
            return falls
        fallen = np.log(size[0] / size[-1])
        rest = np.abs(fallen[~(fallen >= np.log(self.LEAST_FALL))])
        if rest.size < falls.size / 2:
            return falls & False
        return np.asarray(falls & (np.quantile(rest, 0.9) <= self.STILL_SHARE * fallen))

    def _least_gamma(self, gamma: Floats) -> float:
        median = float(np.median(np.abs(gamma[-1])))
        return max(DEAD_GAMMA, self.SHARE_OF_MEDIAN_GAMMA * median)

    def _is_constant(self, window: Window, limit: Floats) -> Booleans:
        """Which channels are constant, while the moving variance has not followed yet."""
        first, last = window.readings[0].values[3], window.readings[-1].values[3]
        flat = [window.batch(reading)[1] < limit for reading in window.readings]
        return np.asarray(np.all(flat, 0) & self._fell(first, last) & (last >= limit))

    def _constant(self, window: Window, bad: Booleans, limit: float) -> StateProblem:
        last = window.readings[-1]
        channels = _ordered(bad, last.values[3])
        value = float(last.values[3][channels[0]])
        return StateProblem(
            f"the mini-batch variance of {channel_list(channels)} of {bad.size} is below "
            f"epsilon/10 ({limit:.3g}) at each of the last {len(window.readings)} readings: the "
            f"input is constant. moving_variance is still {value:.3g} and falls.",
            "moving_variance",
            channels,
            value,
            limit,
            self.severity,
        )

    def _falling(
        self, window: Window, what: str, series: Floats, bad: Booleans, limit: float
    ) -> StateProblem:
        channels = _ordered(bad, np.abs(series[-1]))
        worst = channels[0]
        start, value = float(series[0, worst]), float(series[-1, worst])
        first, last = window.readings[0].step, window.readings[-1].step
        ahead = np.log(abs(value) / limit) / np.log(start / value) * (last - first)
        return StateProblem(
            f"{what} falls geometrically in {channel_list(channels)} of {bad.size}: from "
            f"{start:.3g} at step {first} to {value:.3g} at step {last} in channel {worst}; at "
            f"this rate it is below {limit:.3g} at step {last + np.ceil(ahead):.0f}.",
            "gamma" if what == "gamma" else "moving_variance",
            channels,
            value,
            limit,
            self.severity,
        )


def _sinks(
    window: Window, series: Sequence[Floats], wanted: Booleans, steady: float
) -> Booleans:
    """Which of the wanted channels, which are few, sink at a steady rate."""
    few = np.flatnonzero(wanted)
    found = np.zeros(wanted.shape, np.bool_)
    if few.size:
        level = np.log(np.abs(np.stack([each[few] for each in series])))
        found[few] = _is_even(window, level, steady)
    return found


def _is_even(window: Window, level: Floats, share: float) -> Booleans:
    """Which series sink at a rate whose smallest is at least a share of the largest."""
    pace = -np.diff(level, axis=0) / np.diff(window.steps)[:, None]
    return np.asarray((pace.min(0) > 0) & (pace.min(0) >= share * pace.max(0)))


def _ordered(bad: Booleans, size: Floats) -> tuple[int, ...]:
    """The bad channels, the smallest first."""
    found = np.flatnonzero(bad)
    return tuple(int(channel) for channel in found[np.argsort(size[found])])
