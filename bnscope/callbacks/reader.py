"""One reader for each model: whoever asks at a step, the variables are read once."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from bnscope.backend import FlatRead, flat_reader
from bnscope.bn import Array
from bnscope.graph import live
from bnscope.graph.model import Graph
from bnscope.statistics.layout import MOVING, VARIABLES
from bnscope.watching.layers import make_layout, readable_layers


class Reader:
    """Reads gamma, beta, moving mean and moving variance of all BN layers of a model.

    Args:
        model: a built `keras.Model`.

    Attributes:
        graph: the model's graph.
        layout: where the channels of its BN layers stand.
        variables: all Keras variables of each layer, by its path and their names.
    """

    def __init__(self, model: Any) -> None:
        layers = live.keras_layers(model)
        self.graph: Graph = live.read(model)
        built = readable_layers(self.graph)
        self.layout = make_layout(self.graph, built, replicas=_replicas(model))
        found = {path: _variables(layers[path]) for path in self.layout.paths}
        self.variables: dict[str, dict[str, Any]] = found
        variables = [
            (row, found[self.layout.paths[index]][VARIABLES[row]])
            for row, index in self.layout.positions()
        ]
        self._read: FlatRead = flat_reader([variable for _, variable in variables], model)
        moving = [variable for row, variable in variables if VARIABLES[row] in MOVING]
        self._read_moving: FlatRead = flat_reader(moving, model)
        self._step: int | None = None
        self._values: Array | None = None

    def read(self, step: int) -> Array:
        """The variables after a step, shape `(4, channels)`; read once a step.

        Args:
            step: updates since this `fit` began (`UpdateCounter.in_fit`).
        """
        if self._values is None or step != self._step:
            self._values = self.layout.unpack(self._read())
            self._step = step
        return self._values

    def read_moving(self, step: int) -> Array:
        """The same with only the moving values, in half the time; gamma and beta are NaN."""
        if self._values is not None and step == self._step:
            return self._values
        values = np.full((len(VARIABLES), self.layout.channels), np.nan)
        values[-len(MOVING) :] = self._read_moving().reshape(len(MOVING), -1)
        return values

    def forget(self) -> None:
        """Reads anew the next time: a callback has changed the variables."""
        self._values = None


_readers: WeakKeyDictionary[Any, tuple[Any, Reader]] = WeakKeyDictionary()


def reader_for(model: Any, fit: Any) -> Reader:
    """The reader that all callbacks of one `fit` share.

    Args:
        model: a built `keras.Model`.
        fit: what only the callbacks of this `fit` have: their `params`, which are one object.
    """
    known, reader = _readers.get(model, (None, None))
    if reader is None or known is not fit:
        reader = Reader(model)
        _readers[model] = fit, reader
    return reader


def _variables(layer: Any) -> dict[str, Any]:
    """A Keras layer's own variables by name; its attributes may have other names."""
    own = [*layer._trainable_variables, *layer._non_trainable_variables]  # noqa: SLF001
    return {variable.name: variable for variable in own}


def _replicas(model: Any) -> int:
    strategy = getattr(model, "distribute_strategy", None)
    return int(getattr(strategy, "num_replicas_in_sync", 1) or 1)
