"""The last readings of a run at several time scales, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from bnscope.rules.window import Reading

# Readings in a window.
READINGS = 5
# Every reading, every second, every fourth, ... every 512th.
SCALES = 10


class Scales:
    """Windows of the last readings: the last five, of every second one, of every fourth, ..."""

    def __init__(self) -> None:
        self._count = 0
        self._windows: list[deque[Reading]] = [
            deque(maxlen=READINGS) for _ in range(SCALES)
        ]

    def add(self, reading: Reading) -> Iterator[tuple[tuple[Reading, ...], bool]]:
        """Adds a reading.

        Yields:
            Each full window that it ends, and whether that shares no reading with the last
            one of its scale that was such.
        """
        self._count += 1
        for scale, window in enumerate(self._windows):
            if self._count % 2**scale:
                return
            window.append(reading)
            if len(window) == READINGS:
                yield tuple(window), (self._count >> scale) % READINGS == 0
