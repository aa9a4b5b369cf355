"""The values of BN in one checkpoint, as a layout wants them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bnscope.bn import Array
from bnscope.errors import BnscopeError, UnreadableModelError
from bnscope.graph import batchnorm, read
from bnscope.graph.model import Graph, Layer
from bnscope.rules.base import plural
from bnscope.statistics.layout import VARIABLES, Layout
from bnscope.watching.layers import make_layout, readable_layers, select


class Opened:
    """One checkpoint.

    Args:
        path: the file.
        config: the JSON of `model.to_json()`, for a file with only weights.

    Raises:
        UnreadableModelError: if it is missing, damaged or no Keras model, or holds no values
            of BN.
    """

    def __init__(self, path: str, config: str | None = None) -> None:
        self.path = path
        self.graph: Graph = read(path, config)
        self.layers = readable_layers(self.graph)
        if not self.layers:
            found = bool(batchnorm.batch_norms(self.graph))
            what = "holds no values of its BN layers" if found else "has no BN layer"
            raise UnreadableModelError(
                f"{path} {what}.", "Expected a model with BN and its weights."
            )

    def layout(self, globs: Sequence[str] | None = None) -> Layout:
        """The layout of the layers whose paths match.

        Raises:
            BnscopeError: if none does.
        """
        layout = make_layout(self.graph, self.layers)
        chosen = select(layout.paths, globs)
        if not chosen:
            raise BnscopeError(
                f"No BN layer of {self.path} matches {', '.join(globs or ())}.",
                f"The first of {plural(len(layout), 'layer')} is {layout.paths[0]}.",
            )
        return layout.narrowed(chosen)

    def values(self, layout: Layout) -> Array:
        """The variables of the layers of a layout, shape `(4, channels)`.

        Raises:
            UnreadableModelError: if a layer is missing, has another width, or no numbers.
        """
        found = {layer.path: layer for layer in self.layers}
        for path, width in zip(layout.paths, layout.widths, strict=True):
            layer = found.get(path)
            if layer is None:
                raise self._other(f"it has no BN layer {path}")
            channels = batchnorm.channels(layer)
            if channels != width:
                raise self._other(f"{path} has {channels} channels, not {width}")
        try:
            parts = [
                _value(found[layout.paths[index]], VARIABLES[row])
                for row, index in layout.positions()
            ]
            return layout.unpack(np.concatenate(parts))
        except (TypeError, ValueError) as error:
            raise UnreadableModelError(
                f"{self.path} has BN values that are no vectors of numbers.",
                "Save the checkpoint again.",
            ) from error

    def _other(self, what: str) -> UnreadableModelError:
        return UnreadableModelError(
            f"{self.path} is of another architecture: {what}.",
            "The first checkpoint that can be read says what is expected.",
        )


def _value(layer: Layer, name: str) -> npt.NDArray[np.float64]:
    # Of the only one of gamma and beta an earlier checkpoint may have told which it is.
    variable = layer.variables.get(name) or layer.variables.get(batchnorm.AFFINE)
    if variable is None:
        # Absent here and there in the first checkpoint: what it does to the input is the same.
        width = batchnorm.channels(layer) or 0
        return np.full(width, 1.0 if name == "gamma" else 0.0)
    return np.asarray(variable.read(), np.float64)
