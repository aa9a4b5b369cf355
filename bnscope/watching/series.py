"""The last readings of a run at several time scales, as the rules on a run see them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from bnscope.bn import Array
from bnscope.rules.window import Booleans, Floats, Reading, Window
from bnscope.statistics import channels
from bnscope.statistics.layout import Layout, Status

# Readings in a window.
READINGS = 5
# Every reading, every second, every fourth, ... every 512th.
SCALES = 10
# Updated once a step, each moving value by the batch's own.
_COUNTED = frozenset({Status.EXACT, Status.REPLICAS})
# What is left of an initial variance of 1 then is less than any limit.
_NO_SHARE = 1e-9


class Series:
    """Readings of some layers, with what is left of the initial values in each.

    Args:
        layout: the layers.
        warm: layers whose statistics are not the initial ones of step 0.
        pruned: layers whose gamma is under an L1 penalty.
    """

    def __init__(
        self, layout: Layout, warm: frozenset[str], pruned: frozenset[str]
    ) -> None:
        self._scales = Scales()
        self._epsilon = layout.channel_epsilon.astype(np.float32)
        self._pruned = layout.spread([path in pruned for path in layout.paths])
        self._settled = np.zeros(layout.channels, np.bool_)
        self._previous: Array | None = None
        self.set_layout(layout, warm)

    def set_layout(self, layout: Layout, warm: frozenset[str]) -> None:
        """Takes the same layers with other statuses, or with statistics that are warm now."""
        self.layout = layout
        counted = np.array([status in _COUNTED for status in layout.statuses], np.bool_)
        is_warm = np.array([path in warm for path in layout.paths], np.bool_)
        self._fresh = counted & ~is_warm  # what is left of the initial values is known
        self._counted = layout.spread(counted)
        self._told = layout.spread([status is Status.EXACT for status in layout.statuses])
        self._settled |= layout.spread(is_warm)

    def add(
        self,
        step: int,
        values: Array,
        window: channels.Window | None,
        trained: int | None,
    ) -> Iterator[tuple[Window, bool]]:
        """Adds a reading; see `Watch.reading`.

        Yields:
            Each window that it ends, and whether that shares no reading with the last one of
            its scale that was such.
        """
        reading = Reading(step, _narrow(values))
        known = self._settled
        if trained is not None:
            reading.share = self._share(trained)
            known = known | self._counted
            if window is not None:
                reading.before, reading.updates = _narrow(window.before), window.updates
                reading.share_before = self._share(trained - window.updates)
        if not known.all():
            reading.settled = known | self._settle(values[3])
        momentum, told = self.layout.channel_momentum, self._told
        for readings, apart in self._scales.add(reading):
            yield Window(readings, momentum, self._epsilon, told, self._pruned), apart

    def _share(self, trained: int) -> Floats | None:
        """The share of the initial values in the moving ones, a channel each; None for none."""
        if not self._fresh.any():
            return None
        with np.errstate(over="ignore"):  # a momentum above 1, whose layer is not counted
            left = np.array(self.layout.momentum) ** trained
        shares = np.where(self._fresh, left, 0.0)
        if shares.max() < _NO_SHARE:
            return None
        return np.asarray(self.layout.spread(shares.astype(np.float32)))

    def _settle(self, variance: Array) -> Booleans:
        """The channels of which the readings show that they are settled from here on."""
        # The share of the initial 1 is the same for all and no larger than the smallest
        # variance: of a channel with twice that most is real.
        least = np.full(variance.shape, np.inf)
        for momentum in set(self.layout.momentum):
            same = self.layout.channel_momentum == momentum
            least[same] = variance[same].min()
        self._settled |= variance >= 2.0 * least
        if self._previous is not None:
            self._settled |= variance >= self._previous
        self._previous = variance.copy()
        return np.array(self._settled)


class Scales:
    """The last five readings, of every second one, of every fourth, ... in bounded memory."""

    def __init__(self) -> None:
        self._count = 0
        self._windows: list[deque[Reading]] = [
            deque(maxlen=READINGS) for _ in range(SCALES)
        ]

    def add(self, reading: Reading) -> Iterator[tuple[tuple[Reading, ...], bool]]:
        """Adds a reading; yields as `Series.add` does."""
        self._count += 1
        for scale, window in enumerate(self._windows):
            if self._count % 2**scale:
                return
            window.append(reading)
            if len(window) == READINGS:
                yield tuple(window), (self._count >> scale) % READINGS == 0


def _narrow(values: Array) -> Floats:
    """In half the memory; beyond float32 is infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
