"""BN101: a bias that Batch Normalization cancels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph import kinds
from bnscope.graph.batchnorm import channel_axis, is_batch_norm, is_frozen
from bnscope.graph.model import Call, Layer
from bnscope.graph.paths import End, ends_after
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
    Build the layer with `use_bias=False`. In a trained model the bias can be moved into the
    moving mean of the BN layers behind it; nothing changes at inference.

    ## When it is quiet
    An activation, dropout or other noise, zero padding, an `Add` or a `Reshape` between; a BN
    layer over another axis, or a frozen one (then the bias trains); an output that something
    else uses too.

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
            batch_norms = _cancelling(context, layer)
            if batch_norms:
                yield _problem(layer, batch_norms)

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


def _cancelling(context: Context, layer: Layer) -> tuple[str, ...]:
    """The BN layers that cancel the bias; empty if anything else sees it."""
    found: dict[str, None] = {}
    for call in context.graph.calls_of(layer):
        for output in call.outputs:
            for end in ends_after(context.graph, output, _passes_a_shift):
                if end.call is None or not _cancels(call, end):
                    return ()
                found[end.call.layer.path] = None
    return tuple(found)


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
    if any(passed.kind == "Flatten" for passed in end.through):
        return True  # each value is a channel of its own, with one bias
    axis = channel_axis(batch_norm.layer, end.tensor.rank)
    source = end.through[-1] if end.through else call
    expected = kinds.output_channel_axis(source)
    if expected is None:
        return channel_axis(batch_norm.layer, 2) == 1  # written as -1
    return axis == expected


def _problem(layer: Layer, batch_norms: tuple[str, ...]) -> Problem:
    count = layer.config.get("filters", layer.config.get("units"))
    bias = f"a bias of {count} values" if isinstance(count, int) else "a bias"
    names = ", ".join(f'"{name}"' for name in batch_norms)
    return Problem(
        layer.path,
        f"{layer.kind} has {bias}, and the mean that BatchNormalization {names} subtracts "
        "cancels it.",
        related=batch_norms,
        data={"bias": count} if isinstance(count, int) else {},
    )
