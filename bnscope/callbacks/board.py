"""What the callbacks of one `fit` tell each other: alerts, and what was done to the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary, WeakMethod

from bnscope.callbacks.messages import say
from bnscope.watching.alerts import Alert
from bnscope.watching.marks import Mark

T = TypeVar("T")


class Signal(Generic[T]):
    """Methods that are called with what is told. It keeps no callback alive."""

    def __init__(self) -> None:
        self._told: list[T] = []
        self._methods: list[WeakMethod[Callable[[T], None]]] = []

    def connect(self, method: Callable[[T], None]) -> None:
        """Has a bound method called from now on, and with what was told before."""
        self._methods.append(WeakMethod(method))
        for what in self._told:
            method(what)

    def tell(self, what: T) -> None:
        """Calls all of them."""
        self._told.append(what)
        for reference in self._methods:
            method = reference()
            if method is not None:
                method(what)


class Board:
    """What the callbacks of one `fit` tell each other.

    Attributes:
        alerts: tells each alert once, whichever callback raised it.
        marks: tells what a callback did to the model. Whatever was read before is out of date.
        frozen: paths of the layers that `BatchNormFreeze` has frozen.
        recalibrates: whether the statistics are recalibrated before the first validation, which
            is still to come.
    """

    def __init__(self) -> None:
        self.alerts: Signal[Alert] = Signal()
        self.marks: Signal[Mark] = Signal()
        self.frozen: frozenset[str] = frozenset()
        self.recalibrates = False
        self._said: set[tuple[str, str, tuple[int, ...]]] = set()

    def announce(self, alert: Alert) -> None:
        """Tells people and callbacks of an alert, unless another callback has."""
        key = (alert.code, alert.layer, alert.channels)
        if key not in self._said:
            self._said.add(key)
            say(str(alert))
            self.alerts.tell(alert)


_boards: WeakKeyDictionary[Any, tuple[Any, Board]] = WeakKeyDictionary()


def board_for(model: Any, fit: Any) -> Board:
    """The board that all callbacks of one `fit` share.

    Args:
        model: a `keras.Model`.
        fit: what only the callbacks of this `fit` have: their `params`, which are one object.
    """
    known, board = _boards.get(model, (None, None))
    if board is None or known is not fit:
        board = Board()
        _boards[model] = fit, board
    return board
