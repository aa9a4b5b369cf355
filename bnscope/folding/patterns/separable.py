"""SeparableConv → BN: SeparableConv1D and SeparableConv2D."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnscope.bn import Array, ScaleShift
from bnscope.folding.affine import Affine
from bnscope.folding.patterns.base import Pattern, per_channel, times
from bnscope.folding.patterns.conv import check_input, checked_bias
from bnscope.folding.reasons import Refusal
from bnscope.graph import kinds
from bnscope.graph.model import Call, Layer
from bnscope.rewriting.edits import Weights


class SeparablePattern(Pattern):
    """Into a separable convolution: its pointwise kernel is (1…, in · multiplier, out)."""

    kinds = kinds.SEPARABLE_CONV
    kernel = "pointwise_kernel"

    def check(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each output channel, or why it is refused."""
        return checked_bias(call, per_channel(call, affine))

    def check_ahead(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each input channel, or why it is refused."""
        return check_input(call, affine)

    def fold_ahead(self, layer: Layer, values: ScaleShift, weights: Weights) -> Weights:
        """The depthwise kernel and the bias with a scale and shift of the input taken up."""
        del layer
        depthwise = np.asarray(weights["depthwise_kernel"])
        scale, shift = (value[:, np.newaxis] for value in values)
        changed: dict[str, Array] = {"depthwise_kernel": times(depthwise, scale)}
        bias = weights.get("bias")
        if bias is None and not values.shift.any():
            return changed
        space = tuple(range(depthwise.ndim - 2))
        middle = times(depthwise, shift).sum(space).reshape(-1)
        pointwise = np.asarray(weights["pointwise_kernel"], np.float64)
        added = middle @ pointwise.reshape(middle.size, -1)
        return {**changed, "bias": added + (0.0 if bias is None else bias)}

    @staticmethod
    def folds_separable_conv1d(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((9, 4)),
                keras.layers.SeparableConv1D(6, 3, use_bias=False),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def folds_separable_conv2d(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.SeparableConv2D(5, 3, depth_multiplier=2),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def refuses_nonlinear_producer(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.SeparableConv2D(5, 3, activation="relu"),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def folds_before_separable_conv2d(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.ReLU(),
                keras.layers.BatchNormalization(),
                keras.layers.SeparableConv2D(5, 3, use_bias=False),
            ]
        )
