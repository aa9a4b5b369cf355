"""Conv → BN: Conv1D, Conv2D, Conv3D with any groups, strides, dilation and padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnscope.bn import Array, ScaleShift
from bnscope.folding.affine import Affine
from bnscope.folding.patterns.base import (
    Pattern,
    Values,
    beside_itself,
    centre,
    channel_axis,
    per_channel,
    refuse_misplaced_bias,
    refuse_padding,
    times,
)
from bnscope.folding.reasons import Reason, Refusal
from bnscope.graph import kinds
from bnscope.graph.model import Call, Layer


class ConvPattern(Pattern):
    """Into a convolution: the kernel is (k…, in / groups, out), so out is its last axis.

    Forward, the inputs of group g are those of its outputs, in order.
    """

    kinds = kinds.CONV

    def check(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each output channel, or why it is refused."""
        values = per_channel(call, affine)
        return checked_bias(call, values)

    def check_ahead(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each input channel, or why it is refused."""
        return check_input(call, affine)

    def scaled_ahead(
        self, layer: Layer, kernel: Values, values: ScaleShift
    ) -> tuple[Array, Array]:
        """The kernel with each input channel scaled, and what the shift adds to the bias."""
        groups = int(layer.config.get("groups", 1))
        inputs, outputs = kernel.shape[-2:]
        # (in / groups, out): the value of each input of the group an output belongs to
        scale, shift = (
            np.repeat(value.reshape(groups, inputs), outputs // groups, 0).T
            for value in values
        )
        space = tuple(range(kernel.ndim - 1))
        return times(kernel, scale), times(kernel, shift).sum(space)

    def check_beside(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each channel, or why it is refused."""
        return checked_bias(call, beside_itself(call, affine))

    def add_diagonal(self, layer: Layer, kernel: Array, scale: Array) -> None:
        """Adds the scale to the tap in the centre, in place."""
        inputs = kernel.shape[-2]
        channels = np.arange(kernel.shape[-1])
        kernel[centre(layer, kernel.ndim - 2)][channels % inputs, channels] += scale

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
    def folds_beside_conv2d(keras: Any) -> Any:  # noqa: D102
        inputs = x = keras.Input((8, 9, 4))
        x = keras.layers.ReLU()(x)
        branches = [
            keras.layers.Conv2D(4, 3, padding="same", groups=2, dilation_rate=2)(x),
            keras.layers.Conv2D(4, 1, use_bias=False)(x),
        ]
        branches = [keras.layers.BatchNormalization()(branch) for branch in branches]
        branches.append(keras.layers.BatchNormalization()(x))
        return keras.Model(inputs, keras.layers.ReLU()(keras.layers.Add()(branches)))

    @staticmethod
    def folds_beside_conv1d_causal(keras: Any) -> Any:  # noqa: D102
        inputs = x = keras.Input((8, 4))
        x = keras.layers.ReLU()(x)
        branch = keras.layers.Conv1D(4, 2, padding="causal", use_bias=False)(x)
        return keras.Model(inputs, keras.layers.BatchNormalization()(x) + branch)

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

    @staticmethod
    def folds_before_conv2d(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6, 7, 4)),
                keras.layers.ReLU(),
                keras.layers.BatchNormalization(),
                keras.layers.Conv2D(6, 3, groups=2, strides=2, use_bias=False),
            ]
        )

    @staticmethod
    def folds_before_pointwise(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6, 7, 4)),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.5),
                keras.layers.Conv2D(5, 1, padding="same", activation="relu"),
            ]
        )

    @staticmethod
    def refuses_padding(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.BatchNormalization(),
                keras.layers.Conv2D(4, 3, padding="same"),
            ]
        )


def check_input(call: Call, affine: Affine) -> ScaleShift | Refusal:
    """The scale and shift of each input channel of a convolution, or why it is refused."""
    size = input_channels(call)
    if size is None:
        return Refusal(Reason.OPAQUE_GRAPH, "How many channels it has is not known.")
    values = per_channel(call, affine, size)
    refusal = refuse_padding(call, affine)
    if refusal is not None and not isinstance(values, Refusal):
        return refusal
    return values if affine.is_shift_free else checked_bias(call, values)


def checked_bias(call: Call, values: ScaleShift | Refusal) -> ScaleShift | Refusal:
    """The values, unless the bias that they need would be misplaced."""
    if isinstance(values, Refusal):
        return values
    shape = call.outputs[0].shape
    size = values.shift.size if shape is None else (shape[channel_axis(call)] or -1)
    return refuse_misplaced_bias(call, size) or values


def input_channels(call: Call) -> int | None:
    """The number of channels that a call is given."""
    shape = call.inputs[0].shape
    return None if shape is None else shape[channel_axis(call)]
