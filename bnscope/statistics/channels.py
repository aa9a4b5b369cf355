"""The statistics of every channel at one step, and of the layers as a whole."""

from __future__ import annotations

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


def channel_statistics(
    layout: Layout, before: Array | None, after: Array, updates: int
) -> Array:
    """The statistics of every channel.

    Args:
        layout: where the channels stand.
        before: the variables `updates` updates earlier, shape `(4, channels)`; None if they
            were not read.
        after: the variables now, shape `(4, channels)`.
        updates: how many updates lie between.

    Returns:
        Float64 of shape `(len(STATISTICS), channels)`, NaN where a value cannot be told.
    """
    values = np.full((len(STATISTICS), layout.channels), np.nan)
    values[:4] = after
    gamma, _, mean, variance = after
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        sigma = np.sqrt(variance + layout.channel_epsilon)
        values[6] = gamma / sigma
        if before is not None and updates > 0:
            batch = batch_from_moving(
                before[2:4], after[2:4], layout.channel_momentum, updates
            )
            known = layout.recoverable & layout.spread(moved(layout, before, after))
            values[4:6] = np.where(known, batch, np.nan)
            values[7] = np.abs(values[4] - mean) / sigma
    return values


def layer_fields(layout: Layout, before: Array | None, after: Array, updates: int) -> Array:
    """What is kept of each layer beside its statistics.

    Args:
        layout: where the channels stand.
        before: the variables `updates` updates earlier; None if they were not read.
        after: the variables now.
        updates: how many updates lie between.

    Returns:
        Float64 of shape `(layers, len(FIELDS))`.
    """
    fields = np.full((len(layout), len(FIELDS)), np.nan)
    fields[:, 0] = updates if before is not None else 0
    starts = layout.starts[:-1]
    if before is not None and updates > 0:
        fields[:, 1:3] = _error_bounds(layout, before, after, updates)
    dead = after[3] < DEAD_SHARE_OF_EPSILON * layout.channel_epsilon
    dead |= np.abs(after[0]) < DEAD_GAMMA
    fields[:, 3] = np.add.reduceat(dead.astype(np.float64), starts) / layout.widths
    fields[:, 4] = [STATUSES.index(status) for status in layout.statuses]
    if before is not None and updates > 0:
        still = _exact(layout) & ~moved(layout, before, after)
        fields[still, :3] = 0, np.nan, np.nan
        fields[still, 4] = STATUSES.index(Status.UNCHANGED)
    return fields


def moved(layout: Layout, before: Array, after: Array) -> npt.NDArray[np.bool_]:
    """Which layers' moving averages changed.

    They do not where `call` passes `training=False`, or where a step trains another part of
    the model; the inversion would then give the moving average itself.

    Args:
        layout: where the channels stand.
        before: the variables at the earlier reading, shape `(4, channels)`.
        after: the variables now.

    Returns:
        Booleans of shape `(layers,)`.
    """
    changed = (before[2:4] != after[2:4]).any(
        0
    )  # NaN differs from itself: it counts as moved
    return np.logical_or.reduceat(changed, layout.starts[:-1])


def _error_bounds(layout: Layout, before: Array, after: Array, updates: int) -> Array:
    """Bounds on the rounding error of the mini-batch mean and variance, a layer a row."""
    starts = layout.starts[:-1]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        errors = recovery_error(before[2:4], after[2:4], layout.channel_momentum, updates)
        mean = errors[0] / np.sqrt(after[3] + layout.channel_epsilon)
        variance = errors[1] / np.abs(after[3])
    bounds = np.stack([np.maximum.reduceat(part, starts) for part in (mean, variance)], 1)
    return np.where(_exact(layout)[:, None], bounds, np.nan)


def _exact(layout: Layout) -> npt.NDArray[np.bool_]:
    return np.array([status is Status.EXACT for status in layout.statuses])
