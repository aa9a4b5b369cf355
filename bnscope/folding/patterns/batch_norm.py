"""BN → BN: the second becomes part of the first, where that one has to stay."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bnscope.bn import ScaleShift
from bnscope.folding.affine import Affine
from bnscope.folding.patterns.base import Pattern, axis_mismatch, times
from bnscope.folding.reasons import Refusal
from bnscope.graph import batchnorm
from bnscope.graph.model import Call, Layer
from bnscope.rewriting.edits import Edit, SetConfig, TransformWeights, Weights


class BatchNormPattern(Pattern):
    """Into a BN layer that stays: gamma' = a·gamma and beta' = a·beta + b."""

    kinds = batchnorm.KINDS

    def check(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each channel, or why it is refused."""
        rank = call.inputs[0].rank
        axis = batchnorm.axis(call.layer)
        if axis is not None and axis >= 0:
            axis = None if rank is None else axis - rank
        if axis is None:
            return axis_mismatch(call, affine, 0)
        values = affine.vectors(axis, batchnorm.channels(call.layer))
        return axis_mismatch(call, affine, axis) if values is None else values

    def edits(self, layer: Layer, values: ScaleShift) -> tuple[Edit, ...]:
        """The edits that take up a scale and shift of the output."""
        fold = partial(self.fold, values)
        return (
            SetConfig(layer.path, {"scale": True, "center": True}),
            TransformWeights(layer.path, fold),
        )

    def fold(self, values: ScaleShift, weights: Weights) -> Weights:
        """Gamma and beta with a scale and shift of the output taken up."""
        scale, shift = values
        gamma = weights.get("gamma", np.ones_like(scale))
        beta = weights.get("beta", np.zeros_like(shift))
        return {"gamma": times(gamma, scale), "beta": times(beta, scale) + shift}

    def check_beside(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each channel, or why it is refused."""
        return self.check(call, affine)

    def edits_beside(self, layer: Layer, values: ScaleShift) -> tuple[Edit, ...]:
        """The edits that add a scaled and shifted input to the output."""
        fold = partial(self.fold_beside, layer, values)
        return (
            SetConfig(layer.path, {"scale": True, "center": True}),
            TransformWeights(layer.path, fold),
        )

    def fold_beside(self, layer: Layer, values: ScaleShift, weights: Weights) -> Weights:
        """Gamma and beta with a scaled and shifted input added to the output."""
        mean = np.asarray(weights["moving_mean"], np.float64)
        variance = np.asarray(weights["moving_variance"], np.float64)
        deviation = np.sqrt(variance + batchnorm.epsilon(layer))
        return {
            "gamma": weights.get("gamma", 1.0) + values.scale * deviation,
            "beta": weights.get("beta", 0.0) + values.shift + values.scale * mean,
        }

    @staticmethod
    def folds_two_beside_each_other(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(4, 3)(inputs)
        branches = [
            keras.layers.BatchNormalization(scale=False)(x),
            keras.layers.BatchNormalization(center=False)(x),
        ]
        return keras.Model(inputs, keras.layers.Add()(branches))

    @staticmethod
    def refuses_axis_mismatch(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((5, 4)),
                keras.layers.ReLU(),
                keras.layers.BatchNormalization(),
                keras.layers.BatchNormalization(axis=1),
                keras.layers.ReLU(),
            ]
        )
