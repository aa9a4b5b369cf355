"""Edits: what is to change in a model, as plain data. Making them imports no Keras.

Fold plans and fixes both come down to these three.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bnscope.bn import AnyArray

Weights = Mapping[str, AnyArray]


@dataclass(frozen=True, slots=True)
class TransformWeights:
    """New values for a layer's variables, computed from the old ones when applied.

    Args:
        layer: path of the layer.
        transform: from all variables of the layer by name to all new ones by name; float64,
            rounded once to the variables' dtype when they are assigned.
    """

    layer: str
    transform: Callable[[Weights], Mapping[str, AnyArray]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChangeConfig:
    """Other values in a layer's configuration.

    Args:
        layer: path of the layer.
        changes: the keys that change, with their new values.
    """

    layer: str
    changes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DropLayer:
    """A layer with one input whose output is replaced by that input.

    Args:
        layer: path of the layer.
    """

    layer: str


Edit = TransformWeights | ChangeConfig | DropLayer
