"""The runs that are shown, kept until they grow or room is needed."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from bnscope.events.provider import Source, State
from bnscope.events.run import Run
from bnscope.health import Health, examine

# What the values of all kept runs may take, in bytes; the one asked for last is always kept.
_ROOM = 90 << 20
_MOST_HEALTHS = 1000
_Key = tuple[str, str]


@dataclass(slots=True)
class _Kept:
    """A run as it was at a state.

    Args:
        state: what it had then.
        run: the run, with the newest values of every channel.
        whole: the same with all values of every channel; None while nobody asked.
    """

    state: State
    run: Run
    whole: Run | None = None

    @property
    def nbytes(self) -> int:
        """What it takes, in bytes; the records are the same."""
        return (self.whole or self.run).nbytes


@dataclass(slots=True)
class Store:
    """Reads each run once, whoever asks, and again when it has grown."""

    _runs: OrderedDict[_Key, _Kept] = field(default_factory=OrderedDict)
    _healths: OrderedDict[_Key, tuple[State, Health]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, source: Source, name: str, *, channels: bool = False) -> Run:
        """A run as it is now.

        Args:
            source: where runs are read.
            name: its name in TensorBoard.
            channels: whether it must have the values of every channel at all steps.

        Raises:
            BnscopeError: if there is no such run, or it cannot be read.
        """
        with self._lock:
            kept = self._run(source, name)
            if not channels:
                return kept.run
            if kept.whole is None:
                kept.whole = source.read_channels(kept.run, name)
                self._make_room()
                _give_back()
            return kept.whole

    def health(self, source: Source, name: str) -> Health:
        """How a run is doing now.

        Raises:
            BnscopeError: if there is no such run, or it cannot be read.
        """
        key = source.experiment, name
        with self._lock:
            state = source.state(name)
            if key not in self._healths or self._healths[key][0] != state:
                self._healths[key] = state, examine(self._run(source, name).run)
            self._healths.move_to_end(key)
            while len(self._healths) > _MOST_HEALTHS:
                self._healths.popitem(last=False)
            return self._healths[key][1]

    def _run(self, source: Source, name: str) -> _Kept:
        key = source.experiment, name
        state = source.state(name)
        if key not in self._runs or self._runs[key].state != state:
            self._runs.pop(key, None)  # before the new one is read: both may not have room
            self._runs[key] = _Kept(state, source.read(name))
            _give_back()
        self._runs.move_to_end(key)
        self._make_room()
        return self._runs[key]

    def _make_room(self) -> None:
        """Drops the runs that were asked for longest ago: first their channels, then whole."""
        for kept in list(self._runs.values())[:-1]:
            if self._taken() > _ROOM:
                kept.whole = None  # whoever draws it goes on with what it got
        while len(self._runs) > 1 and self._taken() > _ROOM:
            self._runs.popitem(last=False)

    def _taken(self) -> int:
        return sum(kept.nbytes for kept in self._runs.values())


def _give_back() -> None:
    """Gives freed memory back: an answer of the data server takes several times its values.

    The C library of Linux keeps it otherwise, as it thinks that the next answer comes soon.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
