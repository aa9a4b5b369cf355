"""One reader for each model: whoever asks at a step, the variables are read once."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from bnscope import backend
from bnscope.bn import Array
from bnscope.graph import live
from bnscope.graph.model import Graph
from bnscope.statistics.layout import VARIABLES, Status
from bnscope.watching.layers import make_layout, readable_layers


class Reader:
    """Reads gamma, beta, moving mean and moving variance of all BN layers of a model.

    Args:
        model: a built `keras.Model`.

    Attributes:
        graph: the model.
        layout: its BN layers.
        replicas: how many replicas update moving values of their own.
        layers: their Keras layers by path.
    """

    def __init__(self, model: Any) -> None:
        self.graph: Graph
        self.graph, layers = live.read_with_layers(model)
        self.replicas = backend.independent_replicas(model)
        self.layout = make_layout(
            self.graph,
            readable_layers(self.graph),
            replicas=self.replicas,
            own_step=not type(model).train_step.__module__.startswith("keras."),
        )
        self.layers = {path: layers[path] for path in self.layout.paths}
        found = [_variables(layer) for layer in self.layers.values()]
        variables = [found[index][VARIABLES[row]] for row, index in self.layout.positions()]
        averages = [own["moving_mean"] for own in found]
        averages += [
            own["moving_stddev" if status is Status.RENORM else "moving_variance"]
            for own, status in zip(found, self.layout.statuses, strict=True)
        ]
        deviations = [own for own in averages if own.name == "moving_stddev"]
        self._read = backend.flat_reader([*variables, *deviations], model)
        self._read_averages = backend.flat_reader(averages, model)
        self._read_replicas = backend.replica_reader(averages, model)
        self._step: int | None = None
        self._values: Array | None = None
        self._averages: Array | None = None

    def read(self, step: int) -> Array:
        """The variables after a step, shape `(4, channels)`; read once a step.

        Args:
            step: updates since this `fit` began (`UpdateCounter.in_fit`).
        """
        if self._values is None or step != self._step:
            flat = self._read()
            deviations = int(self.layout.renorm.sum())
            end = flat.size - deviations
            self._values = self.layout.unpack(flat[:end])
            self._averages = self._values[2:4]
            if deviations:
                self._averages = self._averages.copy()
                self._averages[1, self.layout.renorm] = flat[end:]
            self._step = step
        return self._values

    def averages(self, step: int) -> Array:
        """What BN averages after a step, in half the time if nothing was read at it.

        Args:
            step: updates since this `fit` began (`UpdateCounter.in_fit`).

        Returns:
            Shape `(2, channels)`: the moving mean, and the moving variance or, with
            `renorm=True`, the moving standard deviation.
        """
        if self._averages is not None and step == self._step:
            return self._averages
        return self._read_averages().reshape(2, -1).astype(np.float64)

    def read_replicas(self) -> Array | None:
        """The averages of each replica of this process now; None if there is one only.

        Returns:
            Shape `(replicas, 2, channels)`.
        """
        flat = self._read_replicas()
        return None if flat is None else flat.reshape(len(flat), 2, -1).astype(np.float64)

    def forget(self) -> None:
        """Reads anew the next time: a callback has changed the variables."""
        self._values = self._averages = None


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


def is_built(model: Any) -> bool:
    """Whether the variables are there; a subclassed model may say so before they are."""
    import keras

    norms = keras.layers.BatchNormalization
    layers = model._flatten_layers()  # noqa: SLF001
    return model.built and all(each.built for each in layers if isinstance(each, norms))


def _variables(layer: Any) -> dict[str, Any]:
    """A Keras layer's own variables by name; its attributes may have other names."""
    own = [*layer._trainable_variables, *layer._non_trainable_variables]  # noqa: SLF001
    return {variable.name: variable for variable in own}
