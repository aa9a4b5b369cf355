"""The statistics of every channel at one step, and of the layers as a whole."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bnscope.bn import (
    DEAD_GAMMA,
    DEAD_SHARE_OF_EPSILON,
    Array,
    batch_from_moving,
    recovery_error,
)
from bnscope.statistics.layout import STATISTICS, Layout, Status

# What is kept of each layer beside its statistics.
FIELDS = (
    "updates",  # between the two readings; 1 means one mini-batch, more a weighted average
    "mean_error",  # bound on the rounding error of batch_mean, in sigma
    "variance_error",  # bound on that of batch_variance, as a share of the moving variance
    "dead_share",  # channels with a constant input, or a gamma near 0
    "status",  # position in STATUSES
)
STATUSES = tuple(Status)


class Window(NamedTuple):
    """What BN averages, at two moments.

    Args:
        before: the moving averages at the first, shape `(2, channels)`: of the mean, and of the
            variance or, with `renorm=True`, of the standard deviation.
        after: the same at the second.
        updates: how many updates lie between, at least 1.
    """

    before: Array
    after: Array
    updates: int


def channel_statistics(layout: Layout, values: Array, window: Window | None) -> Array:
    """The statistics of every channel.

    Args:
        layout: where the channels stand.
        values: the variables, shape `(4, channels)`.
        window: what was averaged, up to now; None if it was not read.

    Returns:
        Float64 of shape `(len(STATISTICS), channels)`, NaN where a value cannot be told.
    """
    statistics = np.full((len(STATISTICS), layout.channels), np.nan)
    statistics[:4] = values
    gamma, _, mean, variance = values
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        sigma = np.sqrt(variance + layout.channel_epsilon)
        statistics[6] = gamma / sigma
        if window is not None:
            known = layout.spread(layout.told & moved(layout, window))
            statistics[4:6] = np.where(known, _batch(layout, window), np.nan)
            statistics[7] = np.abs(statistics[4] - mean) / sigma
    return statistics


def layer_fields(layout: Layout, values: Array, window: Window | None) -> Array:
    """What is kept of each layer beside its statistics.

    Args:
        layout: where the channels stand.
        values: the variables, shape `(4, channels)`.
        window: what was averaged, up to now; None if it was not read.

    Returns:
        Float64 of shape `(layers, len(FIELDS))`.
    """
    fields = np.full((len(layout), len(FIELDS)), np.nan)
    fields[:, 0] = 0 if window is None else window.updates
    dead = values[3] < DEAD_SHARE_OF_EPSILON * layout.channel_epsilon
    dead |= np.abs(values[0]) < DEAD_GAMMA
    starts = layout.starts[:-1]
    fields[:, 3] = np.add.reduceat(dead.astype(np.float64), starts) / layout.widths
    fields[:, 4] = [STATUSES.index(status) for status in layout.statuses]
    if window is not None:
        fields[:, 1:3] = _error_bounds(layout, values, window)
        still = layout.told & ~moved(layout, window)
        fields[still, :3] = 0, np.nan, np.nan
        fields[still, 4] = STATUSES.index(Status.UNCHANGED)
    return fields


def moved(layout: Layout, window: Window) -> npt.NDArray[np.bool_]:
    """Which layers' moving averages changed.

    They do not where `call` passes `training=False`, or where a step trains another part of
    the model; the inversion would then give the moving average itself.

    Args:
        layout: where the channels stand.
        window: what was averaged.

    Returns:
        Booleans of shape `(layers,)`.
    """
    # NaN differs from itself: it counts as moved.
    changed = (window.before != window.after).any(0)
    return np.logical_or.reduceat(changed, layout.starts[:-1])


def _batch(layout: Layout, window: Window) -> Array:
    """The mini-batch mean and variance."""
    batch = batch_from_moving(
        window.before, window.after, layout.channel_momentum, window.updates
    )
    # Keras averages sqrt(variance + epsilon) with `renorm=True`.
    variance = batch[1] ** 2 - layout.channel_epsilon
    batch[1] = np.where(layout.renorm, variance, batch[1])
    return batch


def _error_bounds(layout: Layout, values: Array, window: Window) -> Array:
    """Bounds on the rounding error of the mini-batch mean and variance, a layer a row."""
    starts = layout.starts[:-1]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mean, spread = recovery_error(
            window.before, window.after, layout.channel_momentum, window.updates
        )
        mean /= np.sqrt(values[3] + layout.channel_epsilon)
        if layout.renorm.any():  # of the square of a deviation
            deviation = np.sqrt(_batch(layout, window)[1] + layout.channel_epsilon)
            square = (2 * deviation + spread) * spread
            spread = np.where(layout.renorm, square, spread)
        variance = spread / np.abs(values[3])
    bounds = np.stack([np.maximum.reduceat(part, starts) for part in (mean, variance)], 1)
    return np.where(layout.told[:, None], bounds, np.nan)
