"""BN502: what training normalizes with is far from what inference will."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bnscope.bn import Array, recovery_error
from bnscope.rules.base import Severity, StateProblem, plural
from bnscope.rules.window import Booleans, Floats, Window, WindowRule


class TrainInferenceGap(WindowRule):
    """The statistics of the batches stay far from the moving ones, beyond what chance explains.

    ## What it does
    Compares the mini-batch mean and standard deviation of the last five logged steps, also of
    every second, fourth, ... one, with the moving values that each of them met. The gap of a
    channel is the larger of

    - `|average of (batch mean - moving mean)| / sqrt(batch variance + epsilon)`, in sigma;
    - `|log(moving standard deviation / batch standard deviation)|`, each with epsilon.

    From it everything is taken off that explains it without a fault: four standard errors of
    such an average, where the sampling error of one batch is told from the spread of the batch
    statistics over the window, and that of the moving average follows from it; the lag of the
    moving average behind a drift, `(1 - m^t) / (1 - m)` updates at step `t`, at the slope seen
    in the window and at one standard error more; and the rounding error of the recovered batch
    statistics. A layer is reported if of more than half of its channels more than 0.5 is left.

    ## Why is this bad
    Training normalizes each batch with its own statistics, inference with the moving ones.
    Where these are those of other data, or of another network, the validation loss is that of a
    network nobody trained: it looks like overfitting and is none.

    ## What to do
    Find out where the moving values come from: a pretrained model fed with data scaled in
    another way, data that changed in the middle of the run, weights that were loaded or changed
    without their statistics. Training on brings them back at the speed of the momentum
    (299 updates at 0.99); recomputing them on the training data does it at once.

    ## When it is quiet
    While statistics that began at 0 and 1 are cold (BN503). Frozen layers, and all whose
    mini-batch statistics cannot be told: shared, `TimeDistributed`, `renorm`, several replicas.
    A gap that lasts less than five logged steps. Whether the loss differs is not measured here.

    ## References
    - <https://github.com/keras-team/keras/issues/12851>
    - <https://github.com/keras-team/keras/issues/7265>
    """

    code = "BN502"
    name = "train-inference-gap"
    severity = Severity.WARNING
    advice = (
        "Check that the data is scaled as it was when the statistics were made; recompute them "
        "on the training data, or train until they have followed."
    )

    LARGEST_GAP = 0.5
    LEAST_SHARE = 0.5
    STANDARD_ERRORS = 4.0
    LARGEST_INITIAL_SHARE = 0.05

    @np.errstate(all="ignore")  # values of any size
    def suspects(self, window: Window) -> Booleans:
        """The channels whose gap is large before anything is taken off."""
        cold = self._is_cold(window)
        if cold.all():
            return cold & False
        return np.asarray(_gap(window, cold).max(0) > self.LARGEST_GAP)

    @np.errstate(all="ignore")
    def check_window(self, window: Window) -> tuple[StateProblem, ...]:
        """Whether more than half of the channels have a gap that nothing explains."""
        gap = _gap(window, self._is_cold(window))
        explained = self._explained(window)
        left = (gap - explained).max(0)
        found = left > self.LARGEST_GAP  # NaN is not
        if not found.size or found.mean() <= self.LEAST_SHARE:
            return ()
        order = np.argsort(-np.where(found, left, -np.inf))[: int(found.sum())]
        worst = int(order[0])
        return (
            StateProblem(
                self._message(window, gap[:, found], explained[:, found]),
                "gap",
                tuple(int(channel) for channel in order),
                float(gap[:, worst].max()),
                self.LARGEST_GAP,
                self.severity,
            ),
        )

    def _message(self, window: Window, gap: Floats, explained: Array) -> str:
        first, last = window.readings[0].step, window.readings[-1].step
        count = f"{gap.shape[1]} of {plural(window.epsilon.size, 'channel')}"
        gaps, why = np.median(gap, 1), np.median(explained, 1)
        far = f"{gaps[0]:.2g} sigma in the mean", f"{why[0]:.2g}"
        if gaps[1] - why[1] > gaps[0] - why[0]:
            far = (
                f"a factor of {np.exp(gaps[1]):.2g} in the standard deviation",
                f"{np.exp(why[1]):.2g}",
            )
        return (
            f"from step {first} to {last} the moving statistics are far from those of the "
            f"batches in {count}: by {far[0]} (median), of which sampling, lag and rounding "
            f"explain {far[1]}."
        )

    def _is_cold(self, window: Window) -> Booleans:
        share = window.readings[0].share
        if share is None:
            return np.zeros(window.epsilon.shape, np.bool_)
        return np.asarray(share >= self.LARGEST_INITIAL_SHARE)

    def _explained(self, window: Window) -> Array:
        """How much of the gaps sampling, lag and rounding explain, in their units."""
        batch = np.stack([window.batch(reading) for reading in window.readings])
        steps = window.steps - window.steps.mean()
        count, square = len(steps), float(steps @ steps)
        momentum, now = window.momentum, window.readings[-1]
        variance = batch.mean(0, np.float64)[1] + window.epsilon
        units = np.stack([np.sqrt(variance), 2.0 * variance])
        slope = np.tensordot(steps, batch, 1) / square / units
        rest = (batch - batch.mean(0)) / units - steps[:, None, None] * slope
        spread = np.sqrt((rest**2).sum(0) / (count - 2))  # of one batch
        # Few readings may lie close together by chance, not so in most channels.
        spread = np.fmax(spread, np.nanmedian(spread, 1, keepdims=True))
        follows = (1.0 - momentum) / (1.0 + momentum)  # of its variance the average has
        error = spread * np.sqrt(1.0 / count + follows)
        lag = (1.0 - momentum**now.step) / (1.0 - momentum)
        drift = (np.abs(slope) + spread / np.sqrt(square)) * lag
        explained = self.STANDARD_ERRORS * error + drift + _rounding(window) / units
        return np.asarray(explained)


def _gap(window: Window, leave_out: Booleans) -> Floats:
    """The gap of mean and of standard deviation, shape `(2, channels)`; NaN if unknown."""
    batch = _mean([window.batch(reading) for reading in window.readings])
    moving = _mean([window.met(reading) for reading in window.readings])
    variance = batch[1] + window.epsilon
    gap = np.empty_like(batch)
    gap[0] = np.abs(batch[0] - moving[0]) / np.sqrt(variance)
    gap[1] = 0.5 * np.abs(np.log((moving[1] + window.epsilon) / variance))
    gap[:, leave_out] = np.nan
    return gap


def _mean(parts: Sequence[Floats]) -> Floats:
    """Their mean; without a copy of them all, as they are large."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total / len(parts)


def _rounding(window: Window) -> Array:
    """The bound on the rounding error of the last batch, shape `(2, channels)`."""
    now = window.readings[-1]
    if now.before is None:
        return np.full((2, window.epsilon.size), np.nan)
    return recovery_error(now.before[-2:], now.values[-2:], window.momentum, now.updates)
