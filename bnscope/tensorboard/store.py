"""The runs that are shown, kept until they grow or room is needed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from bnscope.errors import BnscopeError
from bnscope.events.provider import Source, State
from bnscope.events.run import Run
from bnscope.health import Health, examine

# What the values of all kept runs may take, in bytes; the newest one is always kept.
_ROOM = 140 << 20
_MOST_HEALTHS = 1000
_Key = tuple[str, str]


@dataclass(slots=True)
class Store:
    """Reads each run once, whoever asks, and again when it has grown."""

    _runs: OrderedDict[_Key, tuple[State, Run]] = field(default_factory=OrderedDict)
    _healths: OrderedDict[_Key, tuple[State, Health]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, source: Source, name: str) -> Run:
        """A run as it is now.

        Raises:
            BnscopeError: if there is no such run, or it cannot be read.
        """
        with self._lock:
            return self._run(source, name)

    def health(self, source: Source, name: str) -> Health:
        """How a run is doing now.

        Raises:
            BnscopeError: if there is no such run, or it cannot be read.
        """
        key = source.experiment, name
        with self._lock:
            state = _state(source, name)
            if key not in self._healths or self._healths[key][0] != state:
                self._healths[key] = state, examine(self._run(source, name))
            self._healths.move_to_end(key)
            while len(self._healths) > _MOST_HEALTHS:
                self._healths.popitem(last=False)
            return self._healths[key][1]

    def _run(self, source: Source, name: str) -> Run:
        key = source.experiment, name
        state = _state(source, name)
        if key not in self._runs or self._runs[key][0] != state:
            self._runs.pop(key, None)  # before the new one is read: both may not have room
            self._runs[key] = state, source.read(name)
        self._runs.move_to_end(key)
        while len(self._runs) > 1 and self._taken() > _ROOM:
            self._runs.popitem(last=False)
        return self._runs[key][1]

    def _taken(self) -> int:
        return sum(run.nbytes for _, run in self._runs.values())


def _state(source: Source, name: str) -> State:
    state = source.states([name]).get(name)
    if state is None:
        raise BnscopeError(f"There is no run {name!r} any more.", "Choose another one.")
    return state
