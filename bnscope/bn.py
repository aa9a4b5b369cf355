r"""The algebra of Batch Normalization, in the paper's symbols, in float64.

Per channel, with \(\gamma\) gamma, \(\beta\) beta, \(\mu\) the mean, \(\sigma^2\) the
variance, \(\epsilon\) epsilon and \(m\) the momentum:

    training     y = gamma * (x - mean(batch)) / sqrt(var(batch) + epsilon) + beta
    inference    y = gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta
                   = a * x + b,  a = gamma / sqrt(moving_variance + epsilon),
                                 b = beta - moving_mean * a
    update       moving = m * moving + (1 - m) * batch
    inverted     batch  = (new - m * old) / (1 - m)
    after k      moving = m**k * initial + ..., so m**k of it is still the initial value

Source: Ioffe & Szegedy 2015, arXiv 1502.03167, algorithms 1 and 2; Keras updates with the
biased batch variance on all backends (keras/src/layers/normalization/batch_normalization.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
AnyArray = npt.NDArray[np.generic]

# Below these a channel's input is constant, or its output is.
DEAD_SHARE_OF_EPSILON = 0.1
DEAD_GAMMA = 1e-4
# Ranges of channels that differ by more leave the narrowest hardly one step of int8.
WIDE_SPREAD = 100.0
# Statistics are cold while more of them than this is still their initial value.
LARGEST_INITIAL_SHARE = 0.05
# Rounding of one float32 value, relative.
FLOAT32_EPSILON = float(np.finfo(np.float32).eps)
# Below it float32 loses digits, or all of them where subnormal numbers are flushed to zero.
FLOAT32_TINY = float(np.finfo(np.float32).tiny) / FLOAT32_EPSILON


@dataclass(frozen=True, slots=True)
class BatchNormState:
    """The values of one BN layer at one moment.

    Args:
        gamma: scale, shape `(channels,)`, or None with `scale=False`.
        beta: shift, shape `(channels,)`, or None with `center=False`.
        moving_mean: shape `(channels,)`.
        moving_variance: shape `(channels,)`.
        momentum: momentum of the moving average.
        epsilon: added to the variance before the square root.
        config_known: False where momentum and epsilon are Keras's defaults for want of better
            knowledge.
    """

    gamma: AnyArray | None
    beta: AnyArray | None
    moving_mean: AnyArray
    moving_variance: AnyArray
    momentum: float = 0.99
    epsilon: float = 1e-3
    config_known: bool = True

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.moving_mean.size)

    @property
    def has_initial_statistics(self) -> bool:
        """Whether every moving mean is exactly 0 and every moving variance exactly 1."""
        return bool(np.all(self.moving_mean == 0) and np.all(self.moving_variance == 1))

    @property
    def is_initial(self) -> bool:
        """Whether gamma and beta are also at their usual initial values."""
        gamma = self.gamma is None or np.all(self.gamma == 1) or np.all(self.gamma == 0)
        beta = self.beta is None or np.all(self.beta == 0)
        return bool(gamma and beta and self.has_initial_statistics)


class ScaleShift(NamedTuple):
    """BN at inference as `y = scale * x + shift`, both float64 of shape `(channels,)`."""

    scale: Array
    shift: Array


def scale_and_shift(state: BatchNormState) -> ScaleShift:
    """BN at inference as a scale and a shift per channel.

    Args:
        state: values of the layer, any floating dtype.

    Returns:
        `a = gamma / sqrt(moving_variance + epsilon)` and `b = beta - moving_mean * a`.
    """
    variance = np.asarray(state.moving_variance, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = 1.0 / np.sqrt(variance + state.epsilon)
        if state.gamma is not None:
            scale = scale * np.asarray(state.gamma, np.float64)
        shift = -np.asarray(state.moving_mean, np.float64) * scale
        if state.beta is not None:
            shift = shift + np.asarray(state.beta, np.float64)
    return ScaleShift(scale, shift)


def dead_channels(state: BatchNormState) -> npt.NDArray[np.bool_]:
    """Which channels carry nothing: a constant input, or a gamma that removes it.

    Args:
        state: values of the layer.

    Returns:
        Booleans of shape `(channels,)`: variance below a tenth of epsilon, or gamma nearly 0.
    """
    variance = np.asarray(state.moving_variance, np.float64)
    dead = variance < DEAD_SHARE_OF_EPSILON * state.epsilon
    if state.gamma is not None:
        dead |= np.abs(np.asarray(state.gamma, np.float64)) < DEAD_GAMMA
    return dead


def update_moving(moving: npt.ArrayLike, batch: npt.ArrayLike, momentum: float) -> Array:
    """The moving value after one training step: `m * moving + (1 - m) * batch`."""
    return np.asarray(moving, np.float64) * momentum + np.asarray(batch, np.float64) * (
        1.0 - momentum
    )


def batch_from_moving(
    old: npt.ArrayLike, new: npt.ArrayLike, momentum: npt.ArrayLike, updates: int = 1
) -> Array:
    """The mini-batch value that moved `old` to `new`.

    With one update this is the batch's own value. With K updates it is the average of the K
    batches, weighted by the moving average's own weights (the last batch weighs most).

    Args:
        old: moving value before, shape `(channels,)`.
        new: moving value after, shape `(channels,)`.
        momentum: momentum of the moving average, in [0, 1); one, or one a channel.
        updates: how many updates lie between the two.

    Returns:
        `(new - m**K * old) / (1 - m**K)`, float64 of shape `(channels,)`.
    """
    kept = _kept(momentum, updates)
    difference = np.asarray(new, np.float64) - kept * np.asarray(old, np.float64)
    return np.asarray(difference / (1.0 - kept))


def recovery_error(
    old: npt.ArrayLike, new: npt.ArrayLike, momentum: npt.ArrayLike, updates: int = 1
) -> Array:
    """A bound on the rounding error of `batch_from_moving` for float32 variables.

    Keras rounds the momentum and `1 - momentum`, both products and the sum to float32, half a
    unit each: `eps * (|m * old| + |new - m * old| + |new| / 2)`, which the inversion divides by
    `1 - m**K`. With K updates the values between are not known; the bound takes them to be no
    larger than these.

    Args:
        old: moving value before, shape `(channels,)`.
        new: moving value after, shape `(channels,)`.
        momentum: momentum of the moving average, in [0, 1); one, or one a channel.
        updates: how many updates lie between the two.

    Returns:
        The bound in the units of the values, float64 of shape `(channels,)`.
    """
    kept = _kept(momentum, updates)
    new = np.asarray(new, np.float64)
    part = kept * np.asarray(old, np.float64)
    size = np.abs(part) + np.abs(new - part) + 0.5 * np.abs(new) + FLOAT32_TINY
    return np.asarray(updates * FLOAT32_EPSILON * size / (1.0 - kept))


def _kept(momentum: npt.ArrayLike, updates: int) -> Array:
    """`m**K`; a power of one a channel takes longer than all the rest, and K is mostly 1."""
    momentum = np.asarray(momentum, np.float64)
    return momentum if updates == 1 else momentum**updates


def initial_share(momentum: float, updates: int) -> float:
    """The share of a moving value that is still its initial value: `m**updates`."""
    return float(momentum**updates) if abs(momentum) <= 1.0 else float("inf")


def is_cold(share: float) -> bool:
    """Whether moving values are cold that still hold this share of their initial values."""
    return share >= LARGEST_INITIAL_SHARE


def updates_until(momentum: float, share: float) -> int:
    """How many updates it takes until at most `share` of the initial value is left."""
    if momentum <= 0.0:
        return 1
    return int(np.ceil(np.log(share) / np.log(momentum)))
