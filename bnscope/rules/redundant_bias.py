"""BN101: a bias that Batch Normalization cancels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from bnscope.graph import batchnorm, kinds
from bnscope.graph.batchnorm import channel_axis, is_batch_norm, is_frozen
from bnscope.graph.flattening import (
    channels_first_along,
    is_first_when_flattened,
    spread,
)
from bnscope.graph.model import Call, Layer
from bnscope.graph.paths import End, ends_after
from bnscope.rewriting.edits import Edit, SetConfig, TransformWeights, Weights
from bnscope.rules.base import Context, Problem, Rule, Severity


class RedundantBias(Rule):
    """A layer has a bias, and the Batch Normalization behind it subtracts it again.

    ## What it does
    Finds convolution and dense layers with `use_bias=True` and no activation whose output
    reaches nothing but BN layers, directly or through layers that pass a shift of a channel
    on unchanged: average and max pooling, upsampling, cropping, `Flatten`.

    ## Why is this bad
    In training BN subtracts the mean of the batch, and the mean contains the bias: it has no
    effect on the output, and its gradient is zero but for rounding. It costs parameters and
    optimizer slots, and under Adam it drifts on that rounding noise. The shift that the
    network needs is BN's beta.

    ## What to do
    Build the layer with `use_bias=False`. In a trained model `bnscope fix` subtracts the bias
    from the moving mean of the BN layers behind it; nothing changes at inference. A BN layer
    that other layers feed too cannot take up the bias.

    ## When it is quiet
    An activation, dropout or other noise, zero padding, an `Add` or a `Reshape` between; a BN
    layer over another axis, or a frozen one (then the bias trains); an output that something
    else uses too, or that is regularized (`activity_regularizer`).

    ## References
    - Ioffe & Szegedy 2015, section 3.2, <https://arxiv.org/abs/1502.03167>
    - <https://github.com/keras-team/keras/issues/1802>
    """

    code = "BN101"
    name = "redundant-bias"
    severity = Severity.WARNING
    fix = "safe"
    advice = "Build the layer with use_bias=False; beta is the shift."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for layer in context.graph.layers:
            if not kinds.is_linear(layer) or not has_bias(layer):
                continue
            ends = _cancelling(context, layer)
            if ends:
                yield _problem(layer, _names(ends), _obstacle(context, layer, ends))

    def repair(self, context: Context, layer: str) -> tuple[Edit, ...]:
        """The bias moves into the moving mean of every BN layer that it feeds."""
        biased = context.graph.layer(layer)
        ends = _cancelling(context, biased)
        if not ends or _obstacle(context, biased, ends):
            return ()
        key = "bias_axes" if biased.kind == "EinsumDense" else "use_bias"
        off = SetConfig(layer, {key: None if key == "bias_axes" else False})
        first = {
            end.call.layer.path: is_first_when_flattened(call, end.through)
            for call, end in ends
            if end.call is not None
        }
        moves = [
            TransformWeights(path, partial(_absorb, biased, channels_first=channels_first))
            for path, channels_first in first.items()
        ]
        return (off, *moves)

    @staticmethod
    def bad_bias_before_bn(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((32, 32, 3)),
                keras.layers.Conv2D(16, 3),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def bad_bias_pooled_and_flattened(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3),
                keras.layers.AveragePooling2D(2),
                keras.layers.Flatten(),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def good_without_bias(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((32, 32, 3)),
                keras.layers.Conv2D(16, 3, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def good_dropout_between(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4),
                keras.layers.Dropout(0.5),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )


def has_bias(layer: Layer) -> bool:
    """Whether a linear layer adds a bias, one value an output channel."""
    if layer.kind == "EinsumDense":
        bias_axes = layer.config.get("bias_axes")
        equation = str(layer.config.get("equation", ""))
        return (
            isinstance(bias_axes, str)
            and len(bias_axes) == 1
            and equation.endswith(bias_axes)
        )
    return bool(layer.config.get("use_bias", layer.config.get("bias", True)))


def _cancelling(context: Context, layer: Layer) -> list[tuple[Call, End]]:
    """The calls of the layer with the BN calls that cancel the bias behind each.

    Empty if anything else sees the bias.
    """
    if layer.config.get("activity_regularizer"):
        return []
    found = [
        (call, end)
        for call in context.graph.calls_of(layer)
        for output in call.outputs
        for end in ends_after(context.graph, output, _passes_a_shift)
    ]
    return found if all(_cancels(call, end) for call, end in found) else []


def _names(ends: list[tuple[Call, End]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(end.call.layer.path for _, end in ends if end.call))


def _obstacle(context: Context, layer: Layer, ends: list[tuple[Call, End]]) -> str | None:
    """Why the bias cannot be moved into the moving mean; None if it can."""
    reached = {end.call.index for _, end in ends if end.call}
    for name in _names(ends):
        batch_norm = context.graph.layer(name)
        if batch_norm.kind not in batchnorm.KINDS:
            return f'what "{name}" computes is not known.'
        if any(call.index not in reached for call in context.graph.calls_of(batch_norm)):
            return f'"{name}" normalizes the output of other layers too.'
        if context.graph.holder(batch_norm) is not None:
            return f'"{name}" is used inside another layer too.'
    if context.graph.holder(layer) is not None:
        return "the layer is used inside another layer too."
    if any(_bias_may_be_misplaced(call) for call, _ in ends):
        return "TensorFlow may add this bias along another axis than the channels'."
    return None


def _bias_may_be_misplaced(call: Call) -> bool:
    # Keras hands the sum to `tf.nn.bias_add`, and decides by the lengths of the axes which of
    # them is the channels' (keras/src/backend/tensorflow/numpy.py, `add`).
    if not kinds.is_channels_first(call.config):
        return False
    shape = call.outputs[0].shape
    bias = call.layer.variables.get("bias")
    channels = call.config.get("filters") if bias is None else bias.shape[0]
    return shape is None or shape[-1] is None or channels in {None, shape[-1]}


def _absorb(biased: Layer, weights: Weights, *, channels_first: bool) -> Weights:
    """The moving means without the bias, which nothing adds any more."""
    bias = biased.variables["bias"].read()
    means = {
        name: weights[name] for name in ("moving_mean", "renorm_mean") if name in weights
    }
    return {
        name: np.asarray(mean, np.float64)
        - spread(bias, mean.size, channels_first=channels_first)
        for name, mean in means.items()
    }


def _passes_a_shift(call: Call) -> bool:
    return (
        call.kind in kinds.SHIFT_EQUIVARIANT
        or call.kind == "Flatten"
        or kinds.is_noise_free_identity(call)
    )


def _cancels(call: Call, end: End) -> bool:
    batch_norm = end.call
    if (
        batch_norm is None
        or not is_batch_norm(batch_norm.layer)
        or is_frozen(batch_norm.layer)
    ):
        return False
    if channels_first_along(call, end.through) is None:
        return False
    if any(passed.kind == "Flatten" for passed in end.through):
        return True  # each value is a channel of its own, with one bias
    axis = channel_axis(batch_norm.layer, end.tensor.rank)
    source = end.through[-1] if end.through else call
    expected = kinds.output_channel_axis(source)
    if expected is None:
        return channel_axis(batch_norm.layer, 2) == 1  # written as -1
    return axis == expected


def _problem(layer: Layer, batch_norms: tuple[str, ...], obstacle: str | None) -> Problem:
    count = layer.config.get("filters", layer.config.get("units"))
    bias = f"a bias of {count} values" if isinstance(count, int) else "a bias"
    names = ", ".join(f'"{name}"' for name in batch_norms)
    return Problem(
        layer.path,
        f"{layer.kind} has {bias}, and the mean that BatchNormalization {names} subtracts "
        "cancels it."
        + (f" It cannot be moved into the moving mean: {obstacle}" if obstacle else ""),
        related=batch_norms,
        fix=None if obstacle else "safe",
        data={"bias": count} if isinstance(count, int) else {},
    )
