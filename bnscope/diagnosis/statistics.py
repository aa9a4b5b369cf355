"""What goes into the BN layers over a data set, and how far two normal distributions are apart.

Per channel, with mu and v the mean and variance of the data, m and w the moving ones (epsilon
added to both variances):

    shift       |mu - m| / sqrt(v)
    divergence  KL(data || moving) = (ln(w / v) + (v + (mu - m)**2) / w - 1) / 2
    remainder   r that fits best m = (1 - r) * mu and w = r + (1 - r) * v: the share of the moving
                values that is still the initial 0 and 1
    noise       sqrt((1 - momentum) / (1 + momentum) * variance of the batches' means / v): how far
                a moving mean swings, as the average of its last batches
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bnscope.bn import Array
from bnscope.calibration.moments import Moments

_FEWEST_BATCHES = 3


@dataclass
class Flow:
    """What went into one BN layer, batch after batch, each call of it for itself.

    Args:
        merged: the moments of each call, over all batches.
        means: the mean of each batch, for each call.
        values: values a channel, in each batch and call.
    """

    merged: list[Moments] = field(default_factory=list)
    means: list[list[Array]] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, moments: Sequence[Moments]) -> None:
        """Adds what went into the layer for one batch, a value a call."""
        for call, each in enumerate(moments):
            if call == len(self.merged):
                self.merged.append(each)
                self.means.append([])
            else:
                self.merged[call] = self.merged[call] + each
            self.means[call].append(each.mean)
            self.values.append(float(np.median(each.count)))

    @property
    def calls(self) -> int:
        """How often a batch calls the layer."""
        return len(self.merged)

    @property
    def all(self) -> Moments:
        """The moments over all calls."""
        whole, *others = self.merged
        for each in others:
            whole = whole + each
        return whole

    def between(self) -> Array | None:
        """The variance of the batches' means, a channel; None of too few batches."""
        if len(self.means[0]) < _FEWEST_BATCHES:
            return None
        parts = [np.var(np.stack(means), axis=0, ddof=1) for means in self.means]
        return np.asarray(np.mean(parts, axis=0), np.float64)

    def calls_apart(self, epsilon: float) -> float:
        """How far the means of the calls are apart, in sigma of a call; of the median channel."""
        means = np.stack([each.mean for each in self.merged])
        sigma = np.sqrt(np.mean([each.variance for each in self.merged], axis=0) + epsilon)
        return float(np.median((means.max(0) - means.min(0)) / sigma))


def shifts(mean: Array, variance: Array, other: Array, epsilon: float) -> Array:
    """How far another mean is from that of the data, in sigma of the data; one a channel."""
    return np.asarray(np.abs(other - mean) / np.sqrt(np.maximum(variance, 0.0) + epsilon))


def divergences(
    data: tuple[Array, Array], moving: tuple[Array, Array], epsilon: float
) -> Array:
    """KL(data || moving) of normal distributions, in nats; one a channel.

    Infinite where a moving variance is negative by more than epsilon.
    """
    (mean, variance), (other, moved) = data, moving
    v, w = np.maximum(variance, 0.0) + epsilon, moved + epsilon
    with np.errstate(invalid="ignore", divide="ignore"):
        found = 0.5 * (np.log(w / v) + (v + (mean - other) ** 2) / w - 1.0)
    return np.where(w > 0, np.maximum(found, 0.0), np.inf)


def remainder(data: Moments, moving: tuple[Array, Array]) -> float:
    """The share of moving values that is still the initial mean 0 and variance 1."""
    mean, moved = moving
    variance = data.variance
    sigma = np.sqrt(variance + 1e-12)
    x = np.concatenate([data.mean / sigma, (variance - 1.0) / (variance + 1.0)])
    y = np.concatenate([mean / sigma, (moved - 1.0) / (variance + 1.0)])
    total = float(np.sum(x * x))
    if total == 0.0 or not np.isfinite(y).all():
        return 0.0
    return float(np.clip(1.0 - np.sum(x * y) / total, 0.0, 1.0))


def collect(flows: Sequence[Flow], moments: Iterable[tuple[int, Moments]]) -> None:
    """Adds what one batch gave to the flow of each layer."""
    calls: dict[int, list[Moments]] = {}
    for place, each in moments:
        calls.setdefault(place, []).append(each)
    for place, found in calls.items():
        flows[place].add(found)


def noise(flow: Flow, momentum: float, epsilon: float) -> float | None:
    """How far the moving mean swings, in sigma of the data; of the median channel."""
    between = flow.between()
    if between is None or not 0.0 <= momentum < 1.0:
        return None
    share = (1.0 - momentum) / (1.0 + momentum)
    return float(np.median(np.sqrt(share * between / (flow.all.variance + epsilon))))


def unlikeness(flow: Flow, samples: float, epsilon: float) -> float | None:
    """Variance of the batches' means over that of means of independent samples, at most 1 then.

    Args:
        flow: what went into the layer.
        samples: samples in a batch.
        epsilon: the layer's epsilon.

    Returns:
        The ratio of the median channel; None of too few batches.
    """
    between = flow.between()
    if between is None:
        return None
    return float(np.median(samples * between / (flow.all.variance + epsilon)))
