"""Sums and products with constants, and Rescaling: they compose with a and b."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnscope.folding.affine import Affine
from bnscope.folding.patterns.base import Demand, Passing, not_passed
from bnscope.folding.reasons import Refusal
from bnscope.graph.model import Call, Tensor

_OPERATIONS = frozenset(
    {
        "ops.Add",
        "ops.Subtract",
        "ops.Multiply",
        "ops.TrueDivide",
        "ops.Divide",
        "ops.Negative",
    }
)


class ConstantFamily(Passing):
    """Through s·x + o, which stays: what comes before it must become a·x + (a·o + b - o)/s."""

    kinds = _OPERATIONS | {"Rescaling"}

    def match(self, call: Call) -> bool:
        """Whether a call computes s·x + o with constants."""
        return call.kind in self.kinds and _constants(call) is not None

    def back(self, call: Call, affine: Affine) -> tuple[Demand, ...] | Refusal:
        """What comes before s·x + o, so that a·(s·x + o) + b comes out."""
        scale, offset = _constants(call) or (0.0, 0.0)
        if not np.all(scale):
            return not_passed(call)
        shift = (affine.scale * offset + affine.shift - offset) / scale
        found = Affine(affine.scale, np.asarray(shift, np.float64)).aligned()
        shape = call.inputs[0].shape
        fitting = found.fits(shape) if shape is not None else found
        return not_passed(call) if fitting is None else (Demand(call.inputs[0], fitting),)

    def ahead(self, call: Call, given: Mapping[int, Affine]) -> Affine | Refusal:
        """What comes behind s·x + o where x was to be a·x + b: s·(a·x + b) + o."""
        scale, offset = _constants(call) or (0.0, 0.0)
        if not np.all(scale):
            return not_passed(call)
        affine = given[call.inputs[0].index]
        # a·(s·x + o) + c  with  c = s·b + o - a·o
        shift = scale * affine.shift + offset - affine.scale * offset
        return Affine(affine.scale, np.asarray(shift, np.float64)).aligned()

    @staticmethod
    def folds_through_constants(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((7,))
        x = keras.layers.Dense(4)(inputs)
        x = 3.0 - keras.layers.Rescaling(0.5, offset=-1.0)(x) * 2.0
        return keras.Model(inputs, keras.layers.BatchNormalization()(x))

    @staticmethod
    def folds_before_constants(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((7,))
        x = keras.layers.BatchNormalization()(keras.layers.ReLU()(inputs))
        return keras.Model(inputs, keras.layers.Dense(4)(x / 2.0 - 1.0))

    @staticmethod
    def refuses_no_linear_neighbour(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((7,))
        x = keras.layers.Dense(4)(inputs) * 0.0 + keras.layers.ReLU()(inputs)[:, :4]
        return keras.Model(inputs, keras.layers.BatchNormalization()(x))


def _constants(call: Call) -> tuple[Any, Any] | None:
    """S and o of a call that computes s·x + o; None if it does something else."""
    if len(call.inputs) != 1:
        return None
    if call.kind == "Rescaling":
        return _numbers(call.config.get("scale"), call.config.get("offset", 0.0))
    if call.kind == "ops.Negative":
        return -1.0, 0.0
    if len(call.args) != 2 or call.kwargs:  # noqa: PLR2004
        return None
    left, right = call.args
    tensor_first = isinstance(left, Tensor)
    known = _numbers(right if tensor_first else left, 0.0)
    if known is None:
        return None
    return _composed(call.kind, known[0], tensor_first=tensor_first)


def _composed(kind: str, value: Any, *, tensor_first: bool) -> tuple[Any, Any] | None:
    if kind == "ops.Add":
        return 1.0, value
    if kind == "ops.Multiply":
        return value, 0.0
    if kind == "ops.Subtract":
        return (1.0, -value) if tensor_first else (-1.0, value)
    return (1.0 / value, 0.0) if tensor_first and np.all(value) else None


def _numbers(scale: Any, offset: Any) -> tuple[Any, Any] | None:
    try:
        values = np.asarray(scale, np.float64), np.asarray(offset, np.float64)
    except (TypeError, ValueError):
        return None
    finite = all(np.isfinite(value).all() for value in values)
    return values if finite and all(value.ndim <= 1 for value in values) else None
