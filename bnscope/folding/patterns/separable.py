"""SeparableConv → BN: SeparableConv1D and SeparableConv2D."""

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


class SeparablePattern(Pattern):
    """Into a separable convolution: its pointwise kernel is (1…, in · multiplier, out)."""

    kinds = kinds.SEPARABLE_CONV
    kernel = "pointwise_kernel"

    def check(self, site: Site) -> Refusal | None:
        """Why BN cannot be folded into the convolution; None if it can."""
        return refuse_axis(site) or refuse_misplaced_bias(site)

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
