"""DepthwiseConv → BN: DepthwiseConv1D and DepthwiseConv2D with any multiplier."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from bnscope.bn import Array
from bnscope.folding.patterns.base import (
    Pattern,
    Site,
    refuse_axis,
    refuse_misplaced_bias,
    times,
)
from bnscope.folding.reasons import Refusal
from bnscope.graph import kinds


class DepthwisePattern(Pattern):
    """Into a depthwise convolution: (k…, in, multiplier), channel in · multiplier + m."""

    kinds = kinds.DEPTHWISE_CONV

    def check(self, site: Site) -> Refusal | None:
        """Why BN cannot be folded into the convolution; None if it can."""
        return refuse_axis(site) or refuse_misplaced_bias(site)

    def scaled(self, kernel: npt.NDArray[Any], scale: Array) -> Array:
        """The kernel with each output channel scaled: its last two axes, in order."""
        return times(kernel, scale.reshape(kernel.shape[-2:]))

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
