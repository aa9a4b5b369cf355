"""EinsumDense, before and behind BN: along the kernel's axes that bear BN's labels.

Forward, with labels i of the input, k of the kernel and o of the output, in
z[o] = sum W[k]·y[i] + d[o] the scale multiplies W along the labels that both have, and

    d'[o] = d[o] + sum W[k]·b[i]

summed over the labels that the output does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bnscope.bn import Array, ScaleShift
from bnscope.folding.affine import Affine
from bnscope.folding.patterns.base import Pattern, Values, axis_mismatch, not_taken, times
from bnscope.folding.reasons import Refusal
from bnscope.graph.model import Call, Layer
from bnscope.rewriting.edits import Edit, SetConfig, TransformWeights, Weights

_ELLIPSIS = "..."


@dataclass(frozen=True, slots=True)
class _Equation:
    """The labels of the axes; those that an ellipsis stands for are left out.

    Args:
        inputs: labels of the input, the batch included unless an ellipsis stands for it.
        kernel: labels of the kernel.
        output: labels of the output, likewise.
    """

    inputs: str
    kernel: str
    output: str

    @property
    def kept(self) -> str:
        """The labels that kernel and output have, in the order of the output."""
        return "".join(label for label in self.output if label in self.kernel)

    @property
    def lost(self) -> str:
        """The labels of the input that only a sum runs over, without the kernel."""
        return "".join(x for x in self.inputs if x not in self.output + self.kernel)


class EinsumDensePattern(Pattern):
    """Into a kernel whose labels the equation gives: "abc,cde->abde".

    What BN does may vary along all labels that the kernel has; the bias is widened to those
    of the output among them.
    """

    kinds = frozenset({"EinsumDense"})

    def check(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift, aligned with the output, or why it is refused."""
        equation = _equation(call.layer)
        if equation is None:
            return not_taken(call)
        return _aligned(call, affine, equation.output, equation.kernel)

    def edits(self, layer: Layer, values: ScaleShift) -> tuple[Edit, ...]:
        """The edits that take up a scale and shift of the output."""
        equation = _known(layer)
        varying = {equation.output[axis] for axis in Affine(*values).varies_along}
        wanted = _bias_axes(layer, varying) or equation.kept[-1]
        fold = partial(self.fold_labels, layer, values, wanted)
        return (
            SetConfig(layer.path, {"bias_axes": wanted}),
            TransformWeights(layer.path, fold),
        )

    def fold_labels(
        self, layer: Layer, values: ScaleShift, wanted: str, weights: Weights
    ) -> Weights:
        """The kernel and the bias with a scale and shift of the output taken up."""
        equation = _known(layer)
        output = equation.output
        kernel = weights["kernel"]
        sizes = dict(zip(equation.kernel, kernel.shape, strict=True))
        scale, shift = (_spread(value, output) for value in values)
        tail = output[output.index(wanted[0]) :]
        full = [sizes.get(label, 1) if label in wanted else 1 for label in tail]
        # aligned with the output from the right
        bias = np.asarray(weights.get("bias", 0.0))
        bias = times(bias, _last(scale, len(tail))) + _last(shift, len(tail))
        return {
            "kernel": times(kernel, _transposed(scale, output, equation.kernel)),
            "bias": np.broadcast_to(bias, np.broadcast_shapes(bias.shape, full)),
        }

    def check_ahead(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift, aligned with the input, or why it is refused.

        A shift along an axis that is summed without the kernel counts as often as it is long.
        """
        equation = _equation(call.layer)
        if equation is None:
            return not_taken(call)
        count = 1
        for label in equation.lost:
            shape = call.inputs[0].shape
            axis = equation.inputs.index(label) - len(equation.inputs)
            size = None if shape is None or axis == -len(shape) else shape[axis]
            if size is None and not affine.is_shift_free:
                return not_taken(call)
            count *= size or 1
        known = Affine(affine.scale, affine.shift * count)
        return _aligned(call, known, equation.inputs, equation.kernel)

    def edits_ahead(self, layer: Layer, values: ScaleShift) -> tuple[Edit, ...]:
        """The edits that take up a scale and shift of the input."""
        change = {}
        if values.shift.any():
            wanted = _bias_axes(layer, set(_known(layer).kept))
            # Without a label that both have, one number is added everywhere.
            change = {"bias_axes": wanted}
        fold = partial(self.fold_ahead, layer, values)
        return (SetConfig(layer.path, change), TransformWeights(layer.path, fold))

    def fold_ahead(self, layer: Layer, values: ScaleShift, weights: Weights) -> Weights:
        """The kernel and the bias with a scale and shift of the input taken up."""
        equation = _known(layer)
        kernel = weights["kernel"]
        scale, shift = (
            _transposed(_spread(value, equation.inputs), equation.inputs, equation.kernel)
            for value in values
        )
        folded = times(kernel, scale)
        if not values.shift.any():
            return {"kernel": folded}
        wanted = _bias_axes(layer, set(equation.kept))
        summed = tuple(
            axis for axis, x in enumerate(equation.kernel) if x not in equation.output
        )
        added = times(kernel, shift).sum(summed, keepdims=True)
        added = _transposed(added, equation.kernel, equation.output)
        tail = len(equation.output) - equation.output.index(wanted[0])
        return {"kernel": folded, "bias": weights.get("bias", 0.0) + _last(added, tail)}

    @staticmethod
    def folds_einsum_dense(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((5, 6)),
                keras.layers.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d"),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def folds_einsum_dense_without_bias(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((5, 6)),
                keras.layers.EinsumDense("abc,cde->abde", (None, 4, 3)),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def folds_einsum_dense_along_another_axis(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((5, 6)),
                keras.layers.EinsumDense("abc,cde->abde", (None, 4, 3), bias_axes="e"),
                keras.layers.BatchNormalization(axis=2),
            ]
        )

    @staticmethod
    def folds_einsum_dense_with_an_ellipsis(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((5, 6)),
                keras.layers.EinsumDense("...x,xy->...y", 4),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def folds_before_an_ellipsis(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((5, 6)),
                keras.layers.BatchNormalization(),
                keras.layers.EinsumDense("...x,xy->...y", 4, bias_axes="y"),
            ]
        )

    @staticmethod
    def folds_before_einsum_dense(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((5, 6)),
                keras.layers.BatchNormalization(),
                keras.layers.EinsumDense("abc,cde->abde", (None, 4, 3), bias_axes="e"),
            ]
        )

    @staticmethod
    def folds_before_einsum_dense_of_two_axes(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((5, 4, 3)),
                keras.layers.BatchNormalization(axis=2),
                keras.layers.EinsumDense("abde,fde->abf", (None, 2)),
            ]
        )

    @staticmethod
    def folds_before_einsum_dense_that_sums(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((5, 6)),
                keras.layers.BatchNormalization(),
                keras.layers.EinsumDense("abf,fg->ag", 3),
            ]
        )

    @staticmethod
    def refuses_axis_mismatch(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((5, 6)),
                keras.layers.EinsumDense("abc,cd->abd", (5, 4)),
                keras.layers.BatchNormalization(axis=1),
            ]
        )

    @staticmethod
    def refuses_no_linear_neighbour(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((None, 6)),
                keras.layers.BatchNormalization(),
                keras.layers.EinsumDense("abc,cd->ad", 4),
            ]
        )


def _equation(layer: Layer) -> _Equation | None:
    """The equation; None where its labels are not plain."""
    text = str(layer.config.get("equation", "")).replace(" ", "")
    left, _, output = text.partition("->")
    inputs, _, kernel = left.partition(",")
    elided = inputs.startswith(_ELLIPSIS) and output.startswith(_ELLIPSIS)
    if elided:
        inputs, output = (x.removeprefix(_ELLIPSIS) for x in (inputs, output))
    elif inputs[:1] != output[:1] or inputs[:1] in kernel:
        return None  # the first axis is not the batch
    parts = (inputs, kernel, output)
    plain = all(part.isalpha() and len(set(part)) == len(part) for part in parts)
    found = _Equation(*parts)
    return found if plain and found.kept else None


def _known(layer: Layer) -> _Equation:
    equation = _equation(layer)
    if equation is None:  # the checks refuse such a layer
        raise LookupError(layer.path)
    return equation


def _aligned(call: Call, affine: Affine, labels: str, kernel: str) -> ScaleShift | Refusal:
    """Scale and shift with no more axes than labels, if they vary along the kernel's only."""
    for axis in affine.varies_along:
        if -axis > len(labels) or labels[axis] not in kernel:
            return axis_mismatch(call, affine, -1)
    rank = min(affine.rank, len(labels))
    return ScaleShift(*(_last(value, rank) for value in (affine.scale, affine.shift)))


def _bias_axes(layer: Layer, labels: set[str]) -> str:
    """The labels of the bias and these, in the order of the output."""
    wanted = labels | set(layer.config.get("bias_axes") or "")
    return "".join(label for label in _known(layer).output if label in wanted)


def _spread(values: Values, output: str) -> Values:
    """An array with one axis for each label of the output."""
    return values.reshape((1,) * (len(output) - values.ndim) + values.shape)


def _transposed(values: Values, labels: str, wanted: str) -> Values:
    """An array over some labels as one over others, which do not vary along new ones."""
    places = [labels.index(label) for label in wanted if label in labels]
    others = [place for place in range(len(labels)) if place not in places]
    moved = values.transpose(places + others)  # the others are of size 1
    shape = [
        values.shape[labels.index(label)] if label in labels else 1 for label in wanted
    ]
    return moved.reshape(shape)


def _last(values: Values, count: int) -> Array:
    """The last axes of an array that does not vary along those before them."""
    return values.reshape(values.shape[max(values.ndim - count, 0) :])
