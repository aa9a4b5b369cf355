"""How far the moving statistics of several replicas are apart."""

from __future__ import annotations

import numpy as np

from bnscope.bn import Array
from bnscope.statistics.layout import Layout

# What is kept of each layer: of its moving mean, and of its moving variance.
DIVERGENCE = ("mean", "variance")


def divergence(layout: Layout, replicas: Array) -> Array:
    """The largest differences between replicas, over the channels of each layer.

    Args:
        layout: where the channels stand.
        replicas: what each replica averages, shape `(replicas, 2, channels)`
            (`Window.before`).

    Returns:
        Shape `(layers, len(DIVERGENCE))`: the moving means in sigma, the moving variances as a
        share of the largest. NaN where values are not finite.
    """
    mean, spread = replicas[:, 0], replicas[:, 1]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        variance = np.where(layout.renorm, spread**2 - layout.channel_epsilon, spread)
        largest = variance.max(0) + layout.channel_epsilon
        apart = np.stack(
            [np.ptp(mean, 0) / np.sqrt(largest), np.ptp(variance, 0) / largest]
        )
    return np.maximum.reduceat(apart, layout.starts[:-1], axis=1).T
