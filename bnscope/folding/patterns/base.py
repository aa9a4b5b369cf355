r"""What a family of layers does for a Batch Normalization behind or before it.

At inference BN is y = a·x + b, with

    a = gamma / sqrt(moving_variance + epsilon)        b = beta - moving_mean·a

Backward, a layer with weights computes x = W*h + d per output channel, so

    a·x + b = (a·W)*h + (a·d + b)        W' = a·W,  d' = a·d + b

Forward, the layer behind computes z = W*y + d per input channel, so

    z = (W·a)*x + (d + sum W·b)          W' = W·a,  d' = d + sum W·b

Layers between hand a and b on, as arrays over the tensor (`affine.py`). All in float64, rounded
once to the dtype of the variable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bnscope.bn import Array, ScaleShift
from bnscope.folding.affine import Affine
from bnscope.folding.reasons import Reason, Refusal
from bnscope.graph import kinds
from bnscope.graph.model import Call, Layer, Tensor
from bnscope.rewriting.edits import Edit, SetConfig, TransformWeights, Weights

Example = Callable[[Any], Any]
Values = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Demand:
    """What is to be done to a tensor, so that a BN layer can be taken out."""

    tensor: Tensor
    affine: Affine


class Family:
    """One family of layers.

    The static methods `folds_*` and `refuses_*` are its examples: given the module `keras`,
    they return a model whose BN layers are all folded, or whose last one is kept for the
    reason that the method's name says.

    Attributes:
        kinds: the kinds of layers.
    """

    kinds: ClassVar[frozenset[str]]

    def match(self, call: Call) -> bool:
        """Whether a call is of a layer of this family."""
        return call.kind in self.kinds

    @classmethod
    def examples(cls, prefix: str) -> dict[str, Example]:
        """The examples by name: `prefix` is "folds" or "refuses"."""
        return {
            name: getattr(cls, name) for name in vars(cls) if name.startswith(prefix + "_")
        }


class Passing(Family):
    """A family that hands a scale and shift on, unchanged itself."""

    def back(self, call: Call, affine: Affine) -> tuple[Demand, ...] | Refusal:
        """What must be done to the inputs, so that `affine` is done to the output."""
        raise NotImplementedError

    def ahead(self, call: Call, given: Mapping[int, Affine]) -> Affine | Refusal:
        """What must be done to the output where it was to be done to inputs.

        Args:
            call: the call.
            given: affines by the index of the input tensor.
        """
        del given
        return not_passed(call)


class Pattern(Family):
    """A family of layers with weights, which can take up BN behind or before them.

    Attributes:
        kernel: the variable that is scaled.
        only_ahead: whether BN behind is never taken up.
    """

    kernel: ClassVar[str] = "kernel"
    only_ahead: ClassVar[bool] = False

    def check(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each output channel, or why BN behind cannot be taken up."""
        return per_channel(call, affine)

    def edits(self, layer: Layer, values: ScaleShift) -> tuple[Edit, ...]:
        """The edits that take up a scale and shift of the output."""
        fold = partial(self.fold, values)
        return (
            SetConfig(layer.path, {"use_bias": True}),
            TransformWeights(layer.path, fold),
        )

    def fold(self, values: ScaleShift, weights: Weights) -> Weights:
        """The kernel and the bias with a scale and shift of the output taken up."""
        scale, shift = values
        bias = times(weights.get("bias", np.zeros_like(shift)), scale)
        return {
            self.kernel: self.scaled(weights[self.kernel], scale),
            "bias": bias + shift,
        }

    def scaled(self, kernel: Values, scale: Array) -> Array:
        """The kernel with each output channel scaled, float64; channels are its last axis."""
        return times(kernel, scale)

    def taken(self, call: Call) -> Tensor | None:
        """The tensor before which BN may be taken up; None if the call takes others too."""
        return call.inputs[0] if len(call.inputs) == 1 else None

    def check_ahead(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each input channel, or why BN before cannot be taken up."""
        del affine
        return not_taken(call)

    def edits_ahead(self, layer: Layer, values: ScaleShift) -> tuple[Edit, ...]:
        """The edits that take up a scale and shift of the input."""
        fold = partial(self.fold_ahead, layer, values)
        change = {"use_bias": True} if values.shift.any() else {}
        return (SetConfig(layer.path, change), TransformWeights(layer.path, fold))

    def fold_ahead(self, layer: Layer, values: ScaleShift, weights: Weights) -> Weights:
        """The kernel and the bias with a scale and shift of the input taken up."""
        kernel, added = self.scaled_ahead(layer, np.asarray(weights[self.kernel]), values)
        bias = weights.get("bias")
        if bias is None and not values.shift.any():
            return {self.kernel: kernel}
        return {self.kernel: kernel, "bias": added + (0.0 if bias is None else bias)}

    def scaled_ahead(
        self, layer: Layer, kernel: Values, values: ScaleShift
    ) -> tuple[Array, Array]:
        """The kernel with each input channel scaled, and what the shift adds to the bias."""
        raise NotImplementedError

    def check_beside(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each channel of the input that is added to the output.

        Returns:
            They, or why the layer cannot add them itself.
        """
        del affine
        return not_taken(call)

    def edits_beside(self, layer: Layer, values: ScaleShift) -> tuple[Edit, ...]:
        """The edits that add a scaled and shifted input to the output."""
        fold = partial(self.fold_beside, layer, values)
        return (
            SetConfig(layer.path, {"use_bias": True}),
            TransformWeights(layer.path, fold),
        )

    def fold_beside(self, layer: Layer, values: ScaleShift, weights: Weights) -> Weights:
        """The kernel and the bias with a scaled and shifted input added to the output."""
        scale, shift = values
        kernel = np.array(weights[self.kernel], np.float64)
        self.add_diagonal(layer, kernel, scale)
        return {self.kernel: kernel, "bias": weights.get("bias", 0.0) + shift}

    def add_diagonal(self, layer: Layer, kernel: Array, scale: Array) -> None:
        """Adds the scale to what leads each channel of one place to itself, in place."""
        raise NotImplementedError


def times(values: Values, scale: Array) -> Array:
    """`values · scale` in float64, as a new array."""
    product: Array = np.multiply(values, scale, dtype=np.float64)
    return product


def per_channel(
    call: Call, affine: Affine, size: int | None = None
) -> ScaleShift | Refusal:
    """The scale and shift of each channel of a layer's output, or of its input.

    Args:
        call: the call of the layer.
        affine: what is to be done to the tensor.
        size: the number of channels; None for that of the output.
    """
    axis = channel_axis(call)
    shape = call.outputs[0].shape
    known = size or (shape[axis] if shape is not None and len(shape) >= -axis else None)
    values = affine.vectors(axis, known)
    return axis_mismatch(call, affine, axis) if values is None else values


def channel_axis(call: Call) -> int:
    """The channel axis of a layer with weights, counted from the right."""
    rank = kinds.spatial_rank(call.kind)
    if rank is None or not kinds.is_channels_first(call.config):
        return -1
    return -1 - rank


def axis_mismatch(call: Call, affine: Affine, axis: int) -> Refusal:
    """The refusal of a scale and shift along another axis than the channels'."""
    rank = call.outputs[0].rank or kinds.tensor_rank(call.kind) or 0
    along = " and ".join(str(found + rank) for found in affine.varies_along)
    return Refusal(
        Reason.AXIS_MISMATCH,
        f"Its scale and shift vary along axis {along or 'unknown'}, and the channels of "
        f"{kinds.describe(call)} are on axis {axis + rank}.",
    )


def not_passed(call: Call) -> Refusal:
    """The refusal of a layer that hands nothing on."""
    return Refusal(
        Reason.NO_LINEAR_NEIGHBOUR,
        f"A scale and shift do not pass {kinds.describe(call)}.",
    )


def not_taken(call: Call) -> Refusal:
    """The refusal of a layer that can take nothing up."""
    return Refusal(
        Reason.NO_LINEAR_NEIGHBOUR,
        f"{kinds.describe(call)} feeds it, which cannot take it up.",
    )


def refuse_misplaced_bias(call: Call, channels: int) -> Refusal | None:
    """Refuses `channels_first` where TensorFlow may add the bias along the wrong axis.

    Keras hands the sum of output and bias to `tf.nn.bias_add` and decides by the lengths of
    the axes which is the channels' (keras/src/backend/tensorflow/numpy.py, `add`).
    """
    if not kinds.is_channels_first(call.config):
        return None
    shape = call.outputs[0].shape
    last = None if shape is None else shape[-1]
    if last is not None and last != channels:
        return None
    length = "may be" if last is None else "is"
    return Refusal(
        Reason.BACKEND_BIAS,
        f"The last axis of the output of {kinds.describe(call)} {length} as long as its "
        "channel axis, and there Keras on TensorFlow adds a bias along the wrong one.",
    )


def beside_itself(call: Call, affine: Affine) -> ScaleShift | Refusal:
    """The scale and shift of each channel, if output and input lie place on place."""
    before, after = call.inputs[0].shape, call.outputs[0].shape
    rank = kinds.spatial_rank(call.kind) or 0
    strides = as_tuple(call.config.get("strides", 1), rank)
    kernel = as_tuple(call.config.get("kernel_size", 1), rank)
    causal = call.config.get("padding") == "causal"
    centred = causal or all(size % 2 == 1 for size in kernel)
    plain = centred and all(size == 1 for size in strides)
    if before is None or before != after or not plain:
        return not_taken(call)
    return per_channel(call, affine)


def centre(layer: Layer, rank: int) -> tuple[int, ...]:
    """The tap of a kernel that sees the place of the output itself."""
    kernel = as_tuple(layer.config.get("kernel_size", 1), rank)
    if layer.config.get("padding") == "causal":
        return tuple(size - 1 for size in kernel)
    return tuple(size // 2 for size in kernel)


def refuse_padding(call: Call, affine: Affine) -> Refusal | None:
    """Refuses a shift before a kernel that also sees the zeros of padding."""
    if affine.is_shift_free or not sees_padding(call):
        return None
    return Refusal(
        Reason.PADDING,
        f"{kinds.describe(call)} pads with zeros, which a shift would have to pass too.",
    )


def sees_padding(call: Call) -> bool:
    """Whether a convolution's kernel reaches over the edge of its input, as far as known."""
    padding = call.config.get("padding", "valid")
    rank = kinds.spatial_rank(call.kind) or 1
    kernel = as_tuple(call.config.get("kernel_size", 1), rank)
    if padding == "valid" or all(size == 1 for size in kernel):
        return False
    shape = call.inputs[0].shape
    if padding != "same" or shape is None:
        return True
    first = kinds.is_channels_first(call.config)
    space = shape[2:] if first else shape[1:-1]
    strides = as_tuple(call.config.get("strides", 1), rank)
    dilation = as_tuple(call.config.get("dilation_rate", 1), rank)
    return any(
        size is None or _padded(size, k, s, d)
        for size, k, s, d in zip(space, kernel, strides, dilation, strict=True)
    )


def _padded(size: int, kernel: int, stride: int, dilation: int) -> bool:
    reach = (kernel - 1) * dilation + 1
    outputs = -(-size // stride)
    return (outputs - 1) * stride + reach > size


def as_tuple(value: Any, count: int) -> tuple[int, ...]:
    """A size for each spatial axis."""
    return (value,) * count if isinstance(value, int) else tuple(value)
