"""DepthwiseConv → BN: DepthwiseConv1D and DepthwiseConv2D with any multiplier."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnscope.bn import Array, ScaleShift
from bnscope.folding.affine import Affine
from bnscope.folding.patterns.base import (
    Pattern,
    Values,
    beside_itself,
    centre,
    per_channel,
    times,
)
from bnscope.folding.patterns.conv import check_input, checked_bias
from bnscope.folding.reasons import Refusal
from bnscope.graph import kinds
from bnscope.graph.model import Call, Layer


class DepthwisePattern(Pattern):
    """Into a depthwise convolution: (k…, in, multiplier), channel in · multiplier + m."""

    kinds = kinds.DEPTHWISE_CONV

    def check(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each output channel, or why it is refused."""
        return checked_bias(call, per_channel(call, affine))

    def scaled(self, kernel: Values, scale: Array) -> Array:
        """The kernel with each output channel scaled: its last two axes, in order."""
        return times(kernel, scale.reshape(kernel.shape[-2:]))

    def check_ahead(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each input channel, or why it is refused."""
        return check_input(call, affine)

    def scaled_ahead(
        self, layer: Layer, kernel: Values, values: ScaleShift
    ) -> tuple[Array, Array]:
        """The kernel with each input channel scaled, and what the shift adds to the bias."""
        del layer
        scale, shift = (value[:, np.newaxis] for value in values)
        space = tuple(range(kernel.ndim - 2))
        return times(kernel, scale), times(kernel, shift).sum(space).reshape(-1)

    def check_beside(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each channel, or why it is refused."""
        return checked_bias(call, beside_itself(call, affine))

    def add_diagonal(self, layer: Layer, kernel: Array, scale: Array) -> None:
        """Adds the scale to the tap in the centre, in place."""
        kernel[centre(layer, kernel.ndim - 2)][:, 0] += scale

    @staticmethod
    def folds_beside_depthwise_conv2d(keras: Any) -> Any:  # noqa: D102
        inputs = x = keras.Input((8, 8, 3))
        x = keras.layers.ReLU()(x)
        branch = keras.layers.DepthwiseConv2D((3, 5), padding="same", use_bias=False)(x)
        x = keras.layers.Dropout(0.2)(keras.layers.BatchNormalization()(x))
        return keras.Model(inputs, keras.layers.Add()([x, branch]))

    @staticmethod
    def folds_depthwise_conv1d(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((9, 4)),
                keras.layers.DepthwiseConv1D(3, use_bias=False),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def folds_depth_multiplier(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def refuses_backend_bias(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6, 8, 8)),
                keras.layers.DepthwiseConv2D(3, data_format="channels_first"),
                keras.layers.BatchNormalization(axis=1),
            ]
        )

    @staticmethod
    def folds_before_depthwise_conv2d(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.ReLU(),
                keras.layers.BatchNormalization(),
                keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
            ]
        )
