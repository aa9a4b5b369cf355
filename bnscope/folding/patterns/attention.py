"""BN → attention → BN: MultiHeadAttention and GroupQueryAttention.

The query, key and value are projected, q = Wq*y + dq and so on, and what attention makes of
them is projected to the output. Where all three are one tensor, BN before it goes into these
three; BN behind goes into the projection of the output:

    q = (Wq·a)*x + (dq + sum Wq·b), k and v likewise          Wo' = a·Wo,  do' = a·do + b

Scores, masks and the gate are made of the same projections, and stay.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bnscope.bn import ScaleShift
from bnscope.folding.affine import Affine
from bnscope.folding.patterns.base import Pattern, not_taken, per_channel, times
from bnscope.folding.reasons import Refusal
from bnscope.graph.model import Call, Layer, Tensor
from bnscope.rewriting.edits import Edit, SetConfig, TransformWeights, Weights

# The arguments of a call that are projected, in order; then the masks, then the scores.
_OPERANDS = ("query", "value", "key")
_SCORES = ("return_attention_scores", 7)
_INPUTS = ("query_dense", "key_dense", "value_dense", "gate_dense")
_OUTPUT = "output_dense"


class AttentionPattern(Pattern):
    """Into the projections: (in, heads, dim) before, (heads, dim, out…) behind.

    With `use_bias` all projections have one.
    """

    kinds = frozenset({"MultiHeadAttention", "GroupQueryAttention"})

    def taken(self, call: Call) -> Tensor | None:
        """The tensor that is query, key and value at once."""
        query, value, key = (
            call.kwargs.get(name, call.args[place] if place < len(call.args) else None)
            for place, name in enumerate(_OPERANDS)
        )
        same = query is value and (key is None or key is value)
        return query if same and isinstance(query, Tensor) else None

    def check(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each output channel, or why it is refused."""
        name, place = _SCORES
        positional = call.args[place] if place < len(call.args) else False
        if call.kwargs.get(name, positional):
            return not_taken(call)  # which of its outputs is normalized is not told
        return per_channel(call, affine)

    def fold(self, values: ScaleShift, weights: Weights) -> Weights:
        """The projection of the output with a scale and shift taken up."""
        scale, shift = values
        found = _biases(weights)
        name = f"{_OUTPUT}/bias"
        kernel = np.asarray(weights[f"{_OUTPUT}/kernel"])
        return {
            **found,
            f"{_OUTPUT}/kernel": times(kernel, scale),
            name: times({**weights, **found}[name], scale) + shift,
        }

    def check_ahead(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each input channel, or why it is refused."""
        shape = call.inputs[0].shape
        return per_channel(call, affine, 1 if shape is None else shape[-1])

    def edits_ahead(self, layer: Layer, values: ScaleShift) -> tuple[Edit, ...]:
        """The edits that take up a scale and shift of the input."""
        change = {"use_bias": True} if values.shift.any() else {}
        fold = partial(self.fold_inputs, values)
        return (SetConfig(layer.path, change), TransformWeights(layer.path, fold))

    def fold_inputs(self, values: ScaleShift, weights: Weights) -> Weights:
        """The projections of the inputs with a scale and shift taken up."""
        scale, shift = (value[:, np.newaxis, np.newaxis] for value in values)
        found = dict(_biases(weights)) if shift.any() else {}
        for name in _INPUTS:
            if f"{name}/kernel" not in weights:
                continue
            kernel = np.asarray(weights[f"{name}/kernel"])
            found[f"{name}/kernel"] = times(kernel, scale)
            if shift.any():
                bias = weights.get(f"{name}/bias", found.get(f"{name}/bias", 0.0))
                found[f"{name}/bias"] = bias + times(kernel, shift).sum(0)
        return found

    @staticmethod
    def folds_before_attention(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((5, 6))
        x = keras.layers.BatchNormalization()(inputs)
        return keras.Model(inputs, keras.layers.MultiHeadAttention(2, 3, dropout=0.1)(x, x))

    @staticmethod
    def folds_before_attention_without_bias(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((5, 6))
        x = keras.layers.BatchNormalization()(inputs)
        return keras.Model(
            inputs,
            keras.layers.MultiHeadAttention(2, 3, value_dim=2, use_bias=False)(x, x, x),
        )

    @staticmethod
    def folds_before_grouped_attention(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((5, 6))
        x = keras.layers.BatchNormalization()(inputs)
        return keras.Model(
            inputs,
            keras.layers.GroupQueryAttention(3, 4, 2, use_bias=False)(
                x, x, use_causal_mask=True
            ),
        )

    @staticmethod
    def folds_behind_attention(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((5, 6))
        x = keras.layers.MultiHeadAttention(2, 3, output_shape=4)(inputs, inputs[:, ::-1])
        return keras.Model(inputs, keras.layers.BatchNormalization()(x))

    @staticmethod
    def folds_behind_grouped_attention(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((5, 6))
        x = keras.layers.GroupQueryAttention(3, 4, 2, use_bias=False)(inputs, inputs)
        return keras.Model(inputs, keras.layers.BatchNormalization()(x))

    @staticmethod
    def refuses_no_linear_neighbour(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((5, 6))
        x = keras.layers.BatchNormalization()(inputs)
        return keras.Model(inputs, keras.layers.MultiHeadAttention(2, 3)(x, inputs))

    @staticmethod
    def refuses_axis_mismatch(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((5, 6))
        x = keras.layers.MultiHeadAttention(2, 3)(inputs, inputs)
        return keras.Model(inputs, keras.layers.BatchNormalization(axis=1)(x))


def _biases(weights: Weights) -> Weights:
    """Zeros for the biases that are not there; a layer has all of them or none."""
    found = {}
    for name in (*_INPUTS, _OUTPUT):
        kernel = weights.get(f"{name}/kernel")
        if kernel is not None and f"{name}/bias" not in weights:
            # (in, heads, dim) to (heads, dim), and (heads, dim, out…) to (out…)
            found[f"{name}/bias"] = np.zeros(kernel.shape[2 if name == _OUTPUT else 1 :])
    return found
