"""ConvTranspose → BN: Conv1DTranspose, Conv2DTranspose, Conv3DTranspose."""

from __future__ import annotations

from typing import Any

import numpy as np
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


class TransposePattern(Pattern):
    """Into a transposed convolution: (k…, out, in), so out is the last axis but one."""

    kinds = kinds.CONV_TRANSPOSE

    def check(self, site: Site) -> Refusal | None:
        """Why BN cannot be folded into the convolution; None if it can."""
        return refuse_axis(site) or refuse_misplaced_bias(site)

    def scaled(self, kernel: npt.NDArray[Any], scale: Array) -> Array:
        """The kernel with each output channel scaled."""
        return times(kernel, scale[:, np.newaxis])

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
