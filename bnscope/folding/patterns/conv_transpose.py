"""Conv1DTranspose, Conv2DTranspose, Conv3DTranspose: kernel (..., out, in)."""

from __future__ import annotations

import numpy as np

from bnscope.bn import Array
from bnscope.folding.patterns.base import BACKEND_BIAS, Pattern, adds_bias_along_wrong_axis
from bnscope.graph import kinds
from bnscope.graph.model import Call


class ConvolutionTranspose(Pattern):
    """The output channels are the kernel's second last axis."""

    kinds = kinds.CONV_TRANSPOSE

    def refuse(self, call: Call) -> tuple[str, str] | None:
        """`channels_first` is where TensorFlow adds the bias wrongly."""
        return BACKEND_BIAS if adds_bias_along_wrong_axis(call) else None

    def scale_kernel(self, kernel: Array, scale: Array) -> Array:
        """Scales the second last axis."""
        return kernel * scale[:, np.newaxis]
