"""EinsumDense → BN: along the kernel's axis that bears BN's label."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bnscope.bn import ScaleShift
from bnscope.folding.affine import Affine
from bnscope.folding.patterns.base import Pattern, Values, axis_mismatch, not_taken, times
from bnscope.folding.reasons import Refusal
from bnscope.graph.model import Call, Layer
from bnscope.rewriting.edits import Edit, SetConfig, TransformWeights, Weights


class EinsumDensePattern(Pattern):
    """Into a kernel whose labels the equation gives: "abc,cde->abde".

    What BN does may vary along all output labels that the kernel has; the bias is widened to
    the same.
    """

    kinds = frozenset({"EinsumDense"})

    def check(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift, aligned with the output, or why it is refused."""
        labels = _labels(call.layer)
        if labels is None:
            return not_taken(call)
        kernel, output = labels
        for axis in affine.varies_along:
            if -axis > len(output) or output[axis] not in kernel:
                return axis_mismatch(call, affine, -1)
        return ScaleShift(affine.scale, affine.shift)

    def edits(self, layer: Layer, values: ScaleShift) -> tuple[Edit, ...]:
        """The edits that take up a scale and shift of the output."""
        labels = _labels(layer)
        if labels is None:  # the check refuses such a layer
            raise LookupError(layer.path)
        kernel, output = labels
        varying = {output[axis] for axis in Affine(*values).varies_along}
        known = set(layer.config.get("bias_axes") or "")
        inner = [label for label in output if label in kernel]
        wanted = "".join(x for x in output if x in (varying | known or inner[-1:]))
        fold = partial(self.fold_labels, layer, values, wanted)
        return (
            SetConfig(layer.path, {"bias_axes": wanted}),
            TransformWeights(layer.path, fold),
        )

    def fold_labels(
        self, layer: Layer, values: ScaleShift, wanted: str, weights: Weights
    ) -> Weights:
        """The kernel and the bias with a scale and shift of the output taken up."""
        kernel_labels, output = _labels(layer) or ("", "")
        kernel = weights["kernel"]
        scale, shift = (_spread(value, output) for value in values)
        sizes = dict(zip(kernel_labels, kernel.shape, strict=True))
        target = "".join(label for label in output if label in kernel_labels)
        by_label = scale.reshape(
            [scale.shape[output.index(label)] for label in target] or [1]
        )
        aligned = _transposed(by_label, target, kernel_labels)
        tail = output[output.index(wanted[0]) :]
        full = [sizes.get(label, 1) if label in wanted else 1 for label in tail]
        bias = np.asarray(
            weights.get("bias", 0.0)
        )  # aligned with the output from the right
        bias = times(bias, _last(scale, len(tail))) + _last(shift, len(tail))
        return {"kernel": times(kernel, aligned), "bias": np.broadcast_to(bias, full)}

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
    def refuses_axis_mismatch(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6, 7)),
                keras.layers.EinsumDense("abc,cd->abd", (6, 4)),
                keras.layers.BatchNormalization(axis=1),
            ]
        )


def _labels(layer: Layer) -> tuple[str, str] | None:
    """The labels of the kernel and of the output; None where they are not plain."""
    equation = str(layer.config.get("equation", "")).replace(" ", "")
    left, arrow, output = equation.partition("->")
    operands = left.split(",")
    if not arrow or len(operands) != 2 or "." in equation:  # noqa: PLR2004
        return None
    return operands[1], output


def _spread(values: Values, output: str) -> Values:
    """An array with one axis for each label of the output."""
    return values.reshape((1,) * (len(output) - values.ndim) + values.shape)


def _transposed(values: Values, labels: str, wanted: str) -> Values:
    """An array over some labels, as one that broadcasts over all wanted ones."""
    order = sorted(range(len(labels)), key=lambda i: wanted.index(labels[i]))
    moved = values.transpose(order) if labels else values
    shape = [
        moved.shape[[labels[i] for i in order].index(label)] if label in labels else 1
        for label in wanted
    ]
    return moved.reshape(shape)


def _last(values: Values, count: int) -> Values:
    """The last axes of an array that does not vary along those before them."""
    return values.reshape(values.shape[-count:])
