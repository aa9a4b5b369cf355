"""What a backward pattern is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from bnscope.bn import AnyArray, Array, ScaleShift
from bnscope.graph import kinds
from bnscope.graph.model import Call

Weights = Mapping[str, AnyArray]


class Pattern:
    """A family of layers that take BN into their kernel and bias.

    Attributes:
        kinds: the kinds of layers.
        kernel: the name of the variable whose output channels are scaled.
    """

    kinds: ClassVar[frozenset[str]]
    kernel: ClassVar[str] = "kernel"

    def refuse(self, call: Call) -> tuple[str, str] | None:  # noqa: ARG002
        """A reason code and its sentence if this very layer cannot take BN, else None."""
        return None

    def output_channels(self, call: Call) -> int | None:
        """The axis of the output, from the front, along which the kernel can scale."""
        return kinds.output_channel_axis(call)

    def scale_kernel(self, kernel: Array, scale: Array) -> Array:
        """The kernel with each output channel scaled.

        Args:
            kernel: float64, in Keras's layout.
            scale: float64, shape `(channels,)`.
        """
        return kernel * scale

    def rewrite(self, weights: Weights, batch_norm: ScaleShift) -> dict[str, Array]:
        """The weights of the layer that computes itself and BN behind it.

        Args:
            weights: the layer's variables by name.
            batch_norm: BN as scale and shift, float64, shape `(channels,)`.

        Returns:
            All variables, float64; `bias` among them even if there was none.
        """
        scale, shift = batch_norm
        folded = {name: np.asarray(value, np.float64) for name, value in weights.items()}
        folded[self.kernel] = self.scale_kernel(folded[self.kernel], scale)
        folded["bias"] = folded.get("bias", np.zeros_like(shift)) * scale + shift
        return folded

    def new_config(self, config: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """What changes in the layer's configuration."""
        return {"use_bias": True}


def adds_bias_along_wrong_axis(call: Call) -> bool:
    """Whether Keras on TensorFlow may add this layer's bias along its last axis.

    With `channels_first` and a last spatial size equal to the number of channels some layers
    do (Conv2DTranspose, Conv3D, DepthwiseConv2D, SeparableConv1D).
    """
    if not kinds.is_channels_first(call.config):
        return False
    shape = call.outputs[0].shape
    return shape is None or shape[-1] is None or shape[-1] == shape[1]


BACKEND_BIAS = (
    "backend-bias",
    "TensorFlow adds its bias along the wrong axis (channels_first, columns = channels)",
)
