"""ConvTranspose → BN: Conv1DTranspose, Conv2DTranspose, Conv3DTranspose."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnscope.bn import Array, ScaleShift
from bnscope.folding.affine import Affine
from bnscope.folding.patterns.base import Pattern, Values, as_tuple, per_channel, times
from bnscope.folding.patterns.conv import check_input, checked_bias
from bnscope.folding.reasons import Reason, Refusal
from bnscope.graph import kinds
from bnscope.graph.model import Call, Layer


class TransposePattern(Pattern):
    """Into a transposed convolution: (k…, out, in), so out is the last axis but one."""

    kinds = kinds.CONV_TRANSPOSE

    def check(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each output channel, or why it is refused."""
        return checked_bias(call, per_channel(call, affine))

    def scaled(self, kernel: Values, scale: Array) -> Array:
        """The kernel with each output channel scaled."""
        return times(kernel, scale[:, np.newaxis])

    def check_ahead(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each input channel, or why it is refused.

        With strides, or a kernel over more than one place, outputs see different numbers of
        inputs, so no one bias stands for the shift.
        """
        rank = kinds.spatial_rank(call.kind) or 1
        sizes = (
            *as_tuple(call.config.get("kernel_size", 1), rank),
            *as_tuple(call.config.get("strides", 1), rank),
        )
        if not affine.is_shift_free and any(size != 1 for size in sizes):
            return Refusal(
                Reason.PADDING,
                f"The outputs of {kinds.describe(call)} see different numbers of inputs, so "
                "that a shift of the input is no bias.",
            )
        return check_input(call, affine)

    def scaled_ahead(
        self, layer: Layer, kernel: Values, values: ScaleShift
    ) -> tuple[Array, Array]:
        """The kernel with each input channel scaled, and what the shift adds to the bias."""
        del layer
        space = (*range(kernel.ndim - 2), kernel.ndim - 1)
        return times(kernel, values.scale), times(kernel, values.shift).sum(space)

    @staticmethod
    def folds_conv1d_transpose(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((9, 4)),
                keras.layers.Conv1DTranspose(6, 3, strides=2),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def folds_conv2d_transpose(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((4, 4, 3)),
                keras.layers.Conv2DTranspose(
                    5, 3, strides=2, padding="same", use_bias=False
                ),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def folds_conv3d_transpose(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((3, 3, 3, 2)),
                keras.layers.Conv3DTranspose(3, 2),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def refuses_axis_mismatch(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((4, 4, 3)),
                keras.layers.Conv2DTranspose(5, 3),
                keras.layers.BatchNormalization(axis=2),
            ]
        )

    @staticmethod
    def folds_before_conv2d_transpose(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((4, 4, 3)),
                keras.layers.ReLU(),
                keras.layers.BatchNormalization(),
                keras.layers.Conv2DTranspose(5, 1, activation="relu"),
            ]
        )

    @staticmethod
    def refuses_padding(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((4, 4, 3)),
                keras.layers.ReLU(),
                keras.layers.BatchNormalization(),
                keras.layers.Conv2DTranspose(5, 2, strides=2),
            ]
        )
