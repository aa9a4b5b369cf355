"""Where tensors meet: Concatenate, Add, Subtract, Average, Maximum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bnscope.folding.affine import Affine, joined
from bnscope.folding.patterns.base import Demand, Passing, not_passed
from bnscope.folding.patterns.order import refuse_negative
from bnscope.folding.reasons import Refusal
from bnscope.graph.model import Call, Tensor


class ConcatenateFamily(Passing):
    """Through a concatenation: each input gets its stretch of a and b."""

    kinds = frozenset({"Concatenate", "ops.Concatenate"})

    def back(self, call: Call, affine: Affine) -> tuple[Demand, ...] | Refusal:
        """For each input its stretch, if all inputs are tensors whose sizes are known."""
        axis = _joined_axis(call)
        if axis is None or not _all_tensors(call):
            return not_passed(call)
        sizes = [tensor.shape[axis] for tensor in call.inputs if tensor.shape]
        varies = axis in affine.varies_along
        if len(sizes) != len(call.inputs) or (varies and None in sizes):
            return not_passed(call)
        ends = np.cumsum([size or 0 for size in sizes])
        demands = [
            Demand(tensor, affine.part(axis, int(end) - (size or 0), int(end)))
            for tensor, size, end in zip(call.inputs, sizes, ends, strict=True)
        ]
        return agreeing(call, demands)

    def ahead(self, call: Call, given: Mapping[int, Affine]) -> Affine | Refusal:
        """The affines of the inputs, side by side."""
        axis = _joined_axis(call)
        shapes = [tensor.shape for tensor in call.inputs if tensor.shape is not None]
        if axis is None or len(shapes) != len(call.inputs) or not _all_tensors(call):
            return not_passed(call)
        parts = [given.get(tensor.index, Affine.identity()) for tensor in call.inputs]
        found = joined(parts, shapes, axis)
        return not_passed(call) if found is None else found

    @staticmethod
    def folds_concatenation(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((6, 6, 3))
        parts = [
            keras.layers.Conv2D(4, 3, padding="same")(inputs),
            keras.layers.DepthwiseConv2D(3, padding="same")(inputs),
        ]
        x = keras.layers.Concatenate()(parts)
        return keras.Model(inputs, keras.layers.BatchNormalization()(x))

    @staticmethod
    def folds_before_concatenation(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((6, 6, 3))
        parts = [
            keras.layers.BatchNormalization()(inputs),
            keras.layers.ReLU()(inputs),
        ]
        x = keras.layers.Concatenate()(parts)
        return keras.Model(inputs, keras.layers.Conv2D(4, 3)(x))

    @staticmethod
    def refuses_no_linear_neighbour(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((6, 6, 3))
        x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
        x = keras.layers.Concatenate()([x, keras.layers.ReLU()(inputs)])
        return keras.Model(inputs, keras.layers.BatchNormalization()(x))


class SumFamily(Passing):
    """Through a sum, difference or average: a into each part, b into one."""

    kinds = frozenset({"Add", "Subtract", "Average", "ops.Add", "ops.Subtract"})

    def match(self, call: Call) -> bool:
        """Whether a call joins tensors, and no constants."""
        return call.kind in self.kinds and _all_tensors(call)

    def back(self, call: Call, affine: Affine) -> tuple[Demand, ...] | Refusal:
        """The scale for each input; the shift once, or for each input of an average."""
        counts = Counter(tensor.index for tensor in call.inputs)
        if call.kind.endswith("Subtract") and len(counts) == 1:
            return not_passed(call)
        first = call.inputs[0]
        demands = []
        for tensor in dict.fromkeys(call.inputs):
            share = 1.0 / counts[tensor.index] if tensor is first else 0.0
            if call.kind == "Average":
                share = 1.0
            part = affine.with_shift(share)
            fitting = None if tensor.shape is None else part.fits(tensor.shape)
            if fitting is None:
                return not_passed(call)
            demands.append(Demand(tensor, fitting))
        return tuple(demands)

    @staticmethod
    def folds_sum(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((6, 6, 3))
        parts = [keras.layers.Conv2D(4, 3)(inputs) for _ in range(3)]
        parts[2] = keras.layers.Subtract()([parts[2], keras.layers.Conv2D(4, 3)(inputs)])
        x = keras.layers.Add()(parts)
        return keras.Model(inputs, keras.layers.BatchNormalization()(x))

    @staticmethod
    def folds_sum_of_one_tensor_with_itself(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((7,))
        x = keras.layers.Dense(4)(inputs)
        x = keras.layers.Add()([x, x])
        x = keras.layers.Average()([x, keras.layers.Dense(4)(inputs)])
        return keras.Model(inputs, keras.layers.BatchNormalization()(x))

    @staticmethod
    def refuses_multiple_consumers(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((7,))
        x = keras.layers.Dense(4)(inputs)
        y = keras.layers.Add()([x, keras.layers.Dense(4)(inputs)])
        y = keras.layers.BatchNormalization()(y)
        return keras.Model(inputs, keras.layers.Multiply()([x, y]))


class MaximumFamily(Passing):
    """Through the largest of several tensors: the same for each, if no scale is negative."""

    kinds = frozenset({"Maximum", "ops.Maximum"})

    def match(self, call: Call) -> bool:
        """Whether a call joins tensors of one shape, and no constants."""
        shapes = {tensor.shape for tensor in call.inputs}
        return (
            call.kind in self.kinds
            and len(call.inputs) > 1
            and _all_tensors(call)
            and len(shapes) == 1
            and None not in shapes
        )

    def back(self, call: Call, affine: Affine) -> tuple[Demand, ...] | Refusal:
        """The same for each input."""
        demands = tuple(Demand(tensor, affine) for tensor in dict.fromkeys(call.inputs))
        return refuse_negative(call, affine) or demands

    @staticmethod
    def folds_maximum(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((7,))
        parts = [keras.layers.Dense(4)(inputs), keras.layers.Dense(4)(inputs)]
        x = keras.layers.Maximum()(parts)
        return keras.Model(inputs, keras.layers.BatchNormalization(scale=False)(x))

    @staticmethod
    def refuses_negative_scale(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((7,))
        parts = [keras.layers.Dense(4)(inputs), keras.layers.Dense(4)(inputs)]
        x = keras.layers.Maximum()(parts)
        return keras.Model(inputs, keras.layers.BatchNormalization()(x))


def is_sum(call: Call) -> bool:
    """Whether a call adds tensors up, and no constants."""
    return call.kind in {"Add", "ops.Add"} and _all_tensors(call)


def same(one: Affine, other: Affine) -> bool:
    """Whether two affines do the same."""
    shape = np.broadcast_shapes(one.shape, other.shape)
    return all(
        np.array_equal(np.broadcast_to(a, shape), np.broadcast_to(b, shape))
        for a, b in ((one.scale, other.scale), (one.shift, other.shift))
    )


def agreeing(call: Call, demands: Sequence[Demand]) -> tuple[Demand, ...] | Refusal:
    """One demand a tensor, if a tensor that comes several times gets the same each time."""
    found: dict[Tensor, Affine] = {}
    for demand in demands:
        known = found.setdefault(demand.tensor, demand.affine)
        if not same(known, demand.affine):
            return not_passed(call)
    return tuple(Demand(tensor, affine) for tensor, affine in found.items())


def _joined_axis(call: Call) -> int | None:
    """The axis that is joined, counted from the right; None if unknown or the batch."""
    rank = call.inputs[0].rank if call.inputs else None
    axis = call.config.get("axis", -1)
    if rank is None or not isinstance(axis, int):
        return None
    axis = axis if axis < 0 else axis - rank
    return None if axis <= -rank else axis


def _all_tensors(call: Call) -> bool:
    """Whether every argument of a call is a tensor."""
    given: list[Any] = []
    for value in call.args:
        given += value if isinstance(value, (list, tuple)) else [value]
    return len(given) == len(call.inputs) and all(isinstance(v, Tensor) for v in given)
