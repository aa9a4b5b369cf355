"""More records than a screen has columns go into bins that keep the extremes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.bn import Array

MOST_COLUMNS = 600
_LOWER = frozenset({"min", "q05", "q25", "since_min"})
_UPPER = frozenset({"max", "q75", "q95", "since_max", "nonfinite", "since_nonfinite"})


class Bins:
    """Puts records side by side into at most so many bins.

    The first record has a bin of its own, since what happens first matters most; each further
    bin stands at its last step.

    Args:
        steps: the logged steps, shape `(records,)`.
        most: how many bins there may be.
    """

    def __init__(self, steps: npt.NDArray[np.int64], most: int = MOST_COLUMNS) -> None:
        count = len(steps)
        self.size = max(1, -(-(count - 1) // (most - 1))) if count else 1
        self._starts = np.concatenate([[0], np.arange(1, count, self.size)])[:count]
        ends = np.append(self._starts[1:], count) - 1
        self.steps = steps[ends] if count else steps

    def __call__(self, values: Array, column: str) -> Array:
        """The values of each bin, along the first axis.

        Args:
            values: shape `(records, ...)`.
            column: lower quantiles keep their smallest value, upper ones and counts their
                largest; of others the one that is farthest from the bin's middle stays.

        Returns:
            Shape `(bins, ...)`; NaN only where all values of a bin are.
        """
        if self.size == 1 or not len(values):
            return values
        reduce: Callable[..., Any] = _farthest
        if column in _LOWER:
            reduce = np.nanmin
        elif column in _UPPER:
            reduce = np.nanmax
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a bin without a value is NaN
            rest = self._padded(values[1:])
            return np.concatenate([values[:1], reduce(rest, axis=1)])

    def _padded(self, values: Array) -> Array:
        missing = -len(values) % self.size
        fill = np.full((missing, *values.shape[1:]), np.nan)
        return np.concatenate([values, fill]).reshape(-1, self.size, *values.shape[1:])


def _farthest(values: Array, axis: int) -> Array:
    """The value that is farthest from the median along an axis."""
    off = np.abs(values - np.nanmedian(values, axis=axis, keepdims=True))
    place = np.argmax(np.where(np.isnan(off), -1.0, off), axis=axis)
    return np.take_along_axis(values, np.expand_dims(place, axis), axis).squeeze(axis)
