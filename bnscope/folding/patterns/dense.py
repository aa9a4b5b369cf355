"""Dense → BN, on tensors of any rank."""

from __future__ import annotations

from typing import Any

from bnscope.folding.patterns.base import Pattern
from bnscope.graph import kinds


class DensePattern(Pattern):
    """Into a dense layer: the kernel is (in, out), and out is the tensor's last axis."""

    kinds = kinds.DENSE

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
