"""One reader for each model: whoever asks at a step, the variables are read once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from bnscope.backend import FlatRead, flat_reader
from bnscope.bn import Array
from bnscope.graph import batchnorm, live
from bnscope.graph.model import Graph, Layer
from bnscope.statistics.layout import MOVING, VARIABLES, Layout, Status

_HALF = frozenset({"float16", "bfloat16"})


class Reader:
    """Reads gamma, beta, moving mean and moving variance of all BN layers of a model.

    Args:
        model: a built `keras.Model`.
    """

    def __init__(self, model: Any) -> None:
        layers = live.keras_layers(model)
        self.graph: Graph = live.read(model)
        built = [
            layer for layer in batchnorm.batch_norms(self.graph) if _is_readable(layer)
        ]
        self.layout = make_layout(self.graph, built, replicas=_replicas(model))
        found = {path: _variables(layers[path]) for path in self.layout.paths}
        variables = [
            (row, found[self.layout.paths[index]][VARIABLES[row]])
            for row, index in self.layout.positions()
        ]
        self._read: FlatRead = flat_reader([variable for _, variable in variables])
        moving = [variable for row, variable in variables if VARIABLES[row] in MOVING]
        self._read_moving: FlatRead = flat_reader(moving)
        self._step: int | None = None
        self._values: Array | None = None

    def read(self, step: int) -> Array:
        """The variables after a step, shape `(4, channels)`; read once a step."""
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


_readers: WeakKeyDictionary[Any, Reader] = WeakKeyDictionary()


def reader_for(model: Any, *, fresh: bool = False) -> Reader:
    """The reader that all callbacks of a model share; `fresh` makes a new one."""
    if fresh or model not in _readers:
        _readers[model] = Reader(model)
    return _readers[model]


def make_layout(graph: Graph, layers: Sequence[Layer], *, replicas: int = 1) -> Layout:
    """The layout of some BN layers of a graph."""
    return Layout(
        paths=tuple(layer.path for layer in layers),
        widths=tuple(batchnorm.channels(layer) or 0 for layer in layers),
        momentum=tuple(batchnorm.momentum(layer) for layer in layers),
        epsilon=tuple(batchnorm.epsilon(layer) for layer in layers),
        statuses=tuple(
            _status(graph, [layer, *graph.around(layer)], replicas) for layer in layers
        ),
        has_gamma=tuple("gamma" in layer.variables for layer in layers),
        has_beta=tuple("beta" in layer.variables for layer in layers),
    )


def select(paths: Iterable[str], globs: Sequence[str] | None) -> list[int]:
    """Which paths a list of globs chooses; None chooses all."""
    return [
        index
        for index, path in enumerate(paths)
        if globs is None or any(fnmatchcase(path, glob) for glob in globs)
    ]


def _is_readable(layer: Layer) -> bool:
    """Whether a layer has what is read of it: vectors, one value a channel."""
    width = batchnorm.channels(layer)
    if not width or not {"moving_mean", "moving_variance"} <= set(layer.variables):
        return False
    return all(
        layer.variables[name].shape == (width,)
        for name in VARIABLES
        if name in layer.variables
    )


def _variables(layer: Any) -> dict[str, Any]:
    """A Keras layer's own variables by name; its attributes may have other names."""
    own = [*layer._trainable_variables, *layer._non_trainable_variables]  # noqa: SLF001
    return {variable.name: variable for variable in own}


def _status(graph: Graph, nest: Sequence[Layer], replicas: int) -> Status:
    """Whether the mini-batch statistics of `nest[0]` can be told from its moving values."""
    layer, *around = nest
    tests = (
        (Status.FROZEN, not layer.trainable),
        (Status.TIME_DISTRIBUTED, any(each.kind == "TimeDistributed" for each in around)),
        (Status.SHARED, any(len(graph.calls_of(each)) > 1 for each in nest)),
        (Status.RENORM, bool(layer.config.get("renorm"))),
        (Status.HALF_PRECISION, layer.variables["moving_mean"].dtype in _HALF),
        (Status.MOMENTUM, not 0.0 <= batchnorm.momentum(layer) < 1.0),
        (Status.REPLICAS, replicas > 1),
    )
    return next((status for status, holds in tests if holds), Status.EXACT)


def _replicas(model: Any) -> int:
    strategy = getattr(model, "distribute_strategy", None)
    return int(getattr(strategy, "num_replicas_in_sync", 1) or 1)
