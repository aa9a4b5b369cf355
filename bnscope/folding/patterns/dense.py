"""Dense → BN, on tensors of any rank."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnscope.bn import Array, ScaleShift
from bnscope.folding.affine import Affine
from bnscope.folding.patterns.base import Pattern, Values, beside_itself, times
from bnscope.folding.patterns.conv import check_input
from bnscope.folding.reasons import Refusal
from bnscope.graph import kinds
from bnscope.graph.model import Call, Layer


class DensePattern(Pattern):
    """Into a dense layer: the kernel is (in, out), and out is the tensor's last axis."""

    kinds = kinds.DENSE

    def check_ahead(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each input feature, or why it is refused."""
        return check_input(call, affine)

    def scaled_ahead(
        self, layer: Layer, kernel: Values, values: ScaleShift
    ) -> tuple[Array, Array]:
        """The kernel with each input feature scaled, and what the shift adds to the bias."""
        del layer
        scale, shift = (value[:, np.newaxis] for value in values)
        return times(kernel, scale), times(kernel, shift).sum(0)

    def check_beside(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each feature, or why it is refused."""
        return beside_itself(call, affine)

    def add_diagonal(self, layer: Layer, kernel: Array, scale: Array) -> None:
        """Adds the scale to the diagonal, in place."""
        del layer
        kernel[np.diag_indices_from(kernel)] += scale

    @staticmethod
    def folds_beside_dense(keras: Any) -> Any:  # noqa: D102
        inputs = x = keras.Input((5, 6))
        x = keras.layers.ReLU()(x)
        branch = keras.layers.Dense(6)(x) + keras.layers.Dense(6)(x)
        return keras.Model(inputs, branch + keras.layers.BatchNormalization()(x))

    @staticmethod
    def folds_dense(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((7,)),
                keras.layers.Dense(5, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.Activation("tanh"),
            ]
        )

    @staticmethod
    def folds_dense_on_a_sequence(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6, 7)),
                keras.layers.Dense(5),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def refuses_axis_mismatch(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6, 7)),
                keras.layers.Dense(6),
                keras.layers.BatchNormalization(axis=1),
            ]
        )

    @staticmethod
    def refuses_nonlinear_producer(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((7,)),
                keras.layers.Dense(5, activation="tanh"),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def folds_before_dense(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((5, 7)),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(4, use_bias=False, activation="tanh"),
            ]
        )
