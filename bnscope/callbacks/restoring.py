"""Values of BN layers that are no numbers, and the last ones that were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.bn import Array
from bnscope.rewriting.copying import own_variables, to_numpy
from bnscope.statistics.layout import VARIABLES, Layout

# Of each layer the Keras variables by name.
Variables = Mapping[str, Mapping[str, Any]]


class Restorer:
    """Keeps the last values of every channel that were fine, and puts them back.

    Args:
        layout: the layers.
        variables: their variables.
    """

    def __init__(self, layout: Layout, variables: Variables) -> None:
        self._layout = layout
        self._variables = variables
        self._good = np.full((len(VARIABLES), layout.channels), np.nan)

    def look(self, values: Array) -> npt.NDArray[np.bool_]:
        """Keeps what is fine of a reading of shape `(4, channels)`.

        Returns:
            Per channel whether one of its values is NaN or infinite, or its variance negative.
        """
        bad: npt.NDArray[np.bool_] = ~np.isfinite(values).all(0) | (values[3] < 0)
        # Readings are shared: nothing is written into one.
        self._good = np.where(bad, self._good, values) if bad.any() else values
        return bad

    def restore(self, values: Array) -> tuple[str, ...]:
        """Assigns the last fine values where a reading is bad.

        Mean and variance of a channel go together; gamma and beta stay if they are fine.

        Returns:
            The paths of the layers that were written to.
        """
        bad = ~np.isfinite(values)
        bad[2:4] = bad[2:4].any(0) | (values[3] < 0)
        mended = np.where(bad & ~np.isnan(self._good), self._good, values)
        changed = bad & ~np.isnan(self._good)
        written = []
        for index, path in enumerate(self._layout.paths):
            part = self._layout.part(index)
            rows = changed[:, part].any(1)
            variables = self._variables[path]
            for row in np.flatnonzero(rows):
                variables[VARIABLES[row]].assign(mended[row, part])
            if rows[2:4].any():
                self._restore_renorm(index, variables, mended[2:4, part])
            if rows.any():
                written.append(path)
        return tuple(written)

    def _restore_renorm(
        self, index: int, variables: Mapping[str, Any], moving: Array
    ) -> None:
        """The other statistics that Batch Renormalization keeps, out of mean and variance."""
        mean, variance = moving
        deviation = np.sqrt(variance + self._layout.epsilon[index])
        others = {
            "moving_stddev": deviation,
            "renorm_mean": mean,
            "renorm_stddev": deviation,
        }
        for name in others.keys() & variables.keys():
            value = to_numpy(variables[name])
            variables[name].assign(np.where(np.isfinite(value), value, others[name]))


def variables_of(layers: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The Keras variables of layers by name."""
    return {
        path: {variable.name: variable for variable in own_variables(layer)}
        for path, layer in layers.items()
    }


def not_finite(model: Any, apart_from: Mapping[str, Any]) -> list[str]:
    """The weights and the optimizer's states that hold NaN or infinity, by path.

    Args:
        model: the model, its running state in its variables.
        apart_from: Keras layers by path, whose variables are left out.
    """
    from keras import ops

    known = {id(v) for layer in apart_from.values() for v in own_variables(layer)}
    return [
        variable.path
        for variable in _all_variables(model)
        if id(variable) not in known
        and "float" in str(variable.dtype)
        and not bool(ops.all(ops.isfinite(variable)))
    ]


def _all_variables(model: Any) -> Iterable[Any]:
    yield from model.variables
    yield from getattr(getattr(model, "optimizer", None), "variables", ())
