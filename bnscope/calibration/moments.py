"""Mean and variance of the input of a BN layer: of one batch on the device, merged in float64.

Rounding: float32 sums of a large batch are off by 1e-5 sigma and more where the mean is many
sigma from zero. Each batch is therefore reduced in two stages, first within a sample, and the
mean is corrected by the mean of what is left. Batches are merged by Chan's formula.

Source: Chan, Golub & LeVeque 1983, Algorithms for computing the sample variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Moments:
    """Count, mean and variance per channel, of all batches added so far; float64.

    Args:
        count: values per channel; one number for all, or one a channel.
        mean: shape `(channels,)`.
        variance: biased variance, shape `(channels,)`.
    """

    def __init__(self, count: npt.ArrayLike, mean: Array, variance: Array) -> None:
        self.mean = np.asarray(mean, np.float64)
        self.count = np.broadcast_to(np.asarray(count, np.float64), self.mean.shape)
        self._squares = self.count * np.asarray(variance, np.float64)

    @classmethod
    def of_batch(cls, values: Sequence[npt.ArrayLike]) -> Moments:
        """What `Centered.moments` are."""
        count, mean, rest, variance = (np.asarray(value, np.float64) for value in values)
        with np.errstate(invalid="ignore"):  # what is not finite stays so
            return cls(count, mean + rest, np.maximum(variance, 0.0) + variance * 0.0)

    @property
    def variance(self) -> Array:
        """The biased variance, as Keras's moving variance is; NaN for no values."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self._squares / self.count)

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        share = other.count / np.maximum(count, 1.0)
        apart = np.where(other.count > 0, other.mean - self.mean, 0.0)
        merged = Moments(count, self.mean + apart * share, np.zeros_like(count))
        merged._squares = (
            self._squares + other._squares + apart * apart * self.count * share
        )
        return merged


class Centered(NamedTuple):
    """One batch around its mean, as tensors; the moments have the dimensions of the batch.

    Args:
        rest: the batch less `mean`.
        count: how many values: one number, or one a channel.
        mean: the mean, as float32 sums tell it.
        correction: the mean of `rest`, to be added to the mean in float64.
        variance: the biased variance.
    """

    rest: Any
    count: Any
    mean: Any
    correction: Any
    variance: Any

    @property
    def moments(self) -> list[Any]:
        """Count, mean, correction and variance, the last three of shape `(channels,)`."""
        from keras import ops

        count, *others = self[1:]
        if len(count.shape):
            count = ops.reshape(count, (-1,))
        return [count, *(ops.reshape(each, (-1,)) for each in others)]


def centered(x: Any, axis: int, mask: Any = None) -> Centered:
    """One batch around its mean.

    Args:
        x: input of a BN layer, any floating dtype; computed in float32 at least.
        axis: the layer's channel axis.
        mask: None, or booleans with one dimension less than `x`; as Keras does it, only
            values at True are counted.
    """
    import keras
    from keras import ops

    x = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
    rank = len(x.shape)
    axes = [each for each in range(rank) if each != axis % rank]
    if mask is None:
        count, kept = _count(x, axes), None
    else:
        kept = ops.cast(ops.broadcast_to(ops.expand_dims(mask, -1), ops.shape(x)), "bool")
        count = _in_two_stages(ops.cast(kept, x.dtype), axes, ops.sum)

    def mean_of(values: Any) -> Any:
        if kept is None:
            return _in_two_stages(values, axes, ops.mean)
        total = _in_two_stages(ops.where(kept, values, 0), axes, ops.sum)
        return total / ops.maximum(count, 1)

    mean = mean_of(x)
    rest = x - mean
    correction = mean_of(rest)
    variance = mean_of(ops.square(rest)) - ops.square(correction)
    return Centered(rest, count, mean, correction, variance)


def batch_moments(x: Any, axis: int, mask: Any = None) -> list[Any]:
    """The moments of one batch, as `Centered.moments`; the arguments are those of `centered`."""
    return centered(x, axis, mask).moments


def _in_two_stages(x: Any, axes: Sequence[int], reduce: Any) -> Any:
    """Reduces within each sample, then over the samples; the dimensions stay."""
    first, *others = axes
    if others:
        x = reduce(x, axis=others, keepdims=True)
    return reduce(x, axis=first, keepdims=True)


def _count(x: Any, axes: Sequence[int]) -> Any:
    from keras import ops

    count = ops.ones((), "float32")
    for axis in axes:
        count = count * ops.cast(ops.shape(x)[axis], "float32")
    return count
