"""Which channel of which layer stands where: all BN layers of a model side by side."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.bn import Array, BatchNormState

# Read from the model, a row each.
VARIABLES = ("gamma", "beta", "moving_mean", "moving_variance")
# What is kept of each channel at a logged step: what was read, and what follows from it.
STATISTICS = (
    *VARIABLES,
    "batch_mean",
    "batch_variance",
    "scale",  # gamma / sqrt(moving_variance + epsilon)
    "distance",  # |batch_mean - moving_mean| / sqrt(moving_variance + epsilon)
)


class Status(StrEnum):
    """Whether the mini-batch statistics of a layer can be told from its moving values.

    Events hold positions in this list: a new one goes to its end.
    """

    EXACT = "exact"  # one update a step
    FROZEN = "frozen"  # no update
    SHARED = "shared"  # called several times, so updated several times a step
    TIME_DISTRIBUTED = "time-distributed"  # updated once for each time step
    RENORM = "renorm"  # as exact; the variance is told from the moving standard deviation
    HALF_PRECISION = "half-precision"  # rounding is larger than an update
    MOMENTUM = "momentum"  # outside [0, 1)
    REPLICAS = "replicas"  # several replicas; what is read is the first one's
    UNCHANGED = "unchanged"  # told at each step: no average moved, so BN was not updated
    ASSUMED = "assumed"  # as exact, if BN is updated once a step, which is not known


# What is recovered is right, or right if what is assumed holds.
TOLD = frozenset({Status.EXACT, Status.RENORM, Status.ASSUMED})


@dataclass(frozen=True, eq=False)
class Layout:
    """The BN layers that are tracked, in forward order.

    Args:
        paths: path of each layer.
        widths: channels of each layer.
        momentum: momentum of each layer.
        epsilon: epsilon of each layer.
        statuses: whether its mini-batch statistics can be told.
        has_gamma: whether it has a gamma.
        has_beta: whether it has a beta.
        config_known: whether momentum and epsilon are known, or Keras's defaults for want of
            better knowledge; empty where all are known.
    """

    paths: tuple[str, ...]
    widths: tuple[int, ...]
    momentum: tuple[float, ...]
    epsilon: tuple[float, ...]
    statuses: tuple[Status, ...]
    has_gamma: tuple[bool, ...]
    has_beta: tuple[bool, ...]
    config_known: tuple[bool, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def has_axes_of(self, other: Layout) -> bool:
        """Whether both can stand in one series: the same layers with as many channels."""
        return (self.paths, self.widths) == (other.paths, other.widths)

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """Where each layer's channels begin, and behind the last where they end."""
        return np.concatenate([[0], np.cumsum(self.widths, dtype=np.int64)])

    @property
    def channels(self) -> int:
        """Channels of all layers."""
        return int(self.starts[-1])

    def narrowed(self, chosen: Sequence[int]) -> Layout:
        """The layout of some of the layers."""
        columns = {each.name: getattr(self, each.name) for each in fields(self)}
        return Layout(
            **{
                name: tuple(column[index] for index in chosen) if column else ()
                for name, column in columns.items()
            }
        )

    def frozen(self, paths: Collection[str]) -> Layout:
        """The layout with some of the layers marked as not updated."""
        statuses = (
            Status.FROZEN if path in paths else status
            for path, status in zip(self.paths, self.statuses, strict=True)
        )
        return replace(self, statuses=tuple(statuses))

    def columns(self, chosen: Sequence[int]) -> npt.NDArray[np.int64]:
        """Where the channels of some of the layers stand."""
        parts = [np.arange(self.starts[i], self.starts[i + 1]) for i in chosen]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def part(self, index: int) -> slice:
        """Where the channels of a layer stand."""
        return slice(int(self.starts[index]), int(self.starts[index + 1]))

    def spread(self, values: Any) -> npt.NDArray[Any]:
        """One value a layer -> one a channel."""
        return np.repeat(np.asarray(values), self.widths)

    @cached_property
    def channel_momentum(self) -> Array:
        """Momentum of each channel."""
        return self.spread(np.asarray(self.momentum, np.float64))

    @cached_property
    def channel_epsilon(self) -> Array:
        """Epsilon of each channel."""
        return self.spread(np.asarray(self.epsilon, np.float64))

    @cached_property
    def told(self) -> npt.NDArray[np.bool_]:
        """Per layer, whether its mini-batch statistics can be told."""
        return np.array([status in TOLD for status in self.statuses], np.bool_)

    @cached_property
    def renorm(self) -> npt.NDArray[np.bool_]:
        """Per channel, whether what is averaged is the standard deviation (`renorm=True`)."""
        return self.spread([status is Status.RENORM for status in self.statuses])

    @cached_property
    def by_width(self) -> tuple[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]], ...]:
        """Layers of equal width: their indices, and their channels as (layers, width)."""
        widths = np.asarray(self.widths)
        groups = []
        for width in np.unique(widths):
            layers = np.flatnonzero(widths == width)
            groups.append((layers, self.starts[layers][:, None] + np.arange(width)))
        return tuple(groups)

    def positions(self) -> Iterator[tuple[int, int]]:
        """The variables that exist, as (row in `VARIABLES`, layer), in the order of reading."""
        for row, name in enumerate(VARIABLES):
            present = {"gamma": self.has_gamma, "beta": self.has_beta}.get(name)
            for index in range(len(self)):
                if present is None or present[index]:
                    yield row, index

    def unpack(self, flat: npt.NDArray[np.floating[Any]]) -> Array:
        """A flat reading -> float64 of shape `(4, channels)`; 1 and 0 for absent ones."""
        shape = (len(VARIABLES), self.channels)
        if all(self.has_gamma) and all(self.has_beta):
            return flat.astype(np.float64).reshape(shape)
        values = np.zeros(shape)
        values[0] = 1.0
        values.ravel()[self._targets] = flat
        return values

    @cached_property
    def _targets(self) -> npt.NDArray[np.int64]:
        places = [
            row * self.channels + np.arange(self.starts[index], self.starts[index + 1])
            for row, index in self.positions()
        ]
        return np.concatenate(places) if places else np.zeros(0, np.int64)

    def state(self, values: Array, index: int) -> BatchNormState:
        """The values of one layer out of `(4, channels)` or more rows."""
        gamma, beta, mean, variance = values[:4, self.part(index)]
        return BatchNormState(
            gamma=gamma if self.has_gamma[index] else None,
            beta=beta if self.has_beta[index] else None,
            moving_mean=mean,
            moving_variance=variance,
            momentum=self.momentum[index],
            epsilon=self.epsilon[index],
            config_known=not self.config_known or self.config_known[index],
        )
