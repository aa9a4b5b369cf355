"""DepthwiseConv1D, DepthwiseConv2D: kernel (..., in, multiplier), channels in-major."""

from __future__ import annotations

from bnscope.bn import Array
from bnscope.folding.patterns.base import BACKEND_BIAS, Pattern, adds_bias_along_wrong_axis
from bnscope.graph import kinds
from bnscope.graph.model import Call


class DepthwiseConvolution(Pattern):
    """Output channel `i * multiplier + m` is input channel i seen by its kernel m."""

    kinds = kinds.DEPTHWISE_CONV

    def refuse(self, call: Call) -> tuple[str, str] | None:
        """`channels_first` is where TensorFlow adds the bias wrongly."""
        return BACKEND_BIAS if adds_bias_along_wrong_axis(call) else None

    def scale_kernel(self, kernel: Array, scale: Array) -> Array:
        """Scales the last two axes together."""
        return kernel * scale.reshape(kernel.shape[-2:])
