"""Conv → BN: Conv1D, Conv2D, Conv3D with any groups, strides, dilation and padding."""

from __future__ import annotations

from typing import Any

from bnscope.folding.patterns.base import (
    Pattern,
    Site,
    refuse_axis,
    refuse_misplaced_bias,
)
from bnscope.folding.reasons import Refusal
from bnscope.graph import kinds


class ConvPattern(Pattern):
    """Into a convolution: the kernel is (k…, in / groups, out), so out is its last axis."""

    kinds = kinds.CONV

    def check(self, site: Site) -> Refusal | None:
        """Why BN cannot be folded into the convolution; None if it can."""
        return refuse_axis(site) or refuse_misplaced_bias(site)

    @staticmethod
    def folds_conv1d_causal(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((9, 4)),
                keras.layers.Conv1D(6, 3, padding="causal", use_bias=False),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def folds_conv2d_in_groups(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 9, 4)),
                keras.layers.Conv2D(6, 3, strides=2, groups=2, padding="same"),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def folds_conv2d_dilated(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((9, 9, 3)),
                keras.layers.Conv2D(5, 3, dilation_rate=2),
                keras.layers.BatchNormalization(scale=False),
            ]
        )

    @staticmethod
    def folds_conv3d(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((5, 5, 5, 2)),
                keras.layers.Conv3D(4, 2),
                keras.layers.BatchNormalization(center=False),
            ]
        )

    @staticmethod
    def refuses_axis_mismatch(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(8, 3, padding="same"),
                keras.layers.BatchNormalization(axis=1),
            ]
        )

    @staticmethod
    def refuses_backend_bias(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((3, 8, 8)),
                keras.layers.Conv2D(8, 3, padding="same", data_format="channels_first"),
                keras.layers.BatchNormalization(axis=1),
            ]
        )

    @staticmethod
    def refuses_nonlinear_producer(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3, activation="relu"),
                keras.layers.BatchNormalization(),
            ]
        )
