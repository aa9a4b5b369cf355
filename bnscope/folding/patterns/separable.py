"""SeparableConv1D, SeparableConv2D: into the pointwise kernel (1, ..., in * m, out)."""

from __future__ import annotations

from bnscope.folding.patterns.base import BACKEND_BIAS, Pattern, adds_bias_along_wrong_axis
from bnscope.graph import kinds
from bnscope.graph.model import Call


class SeparableConvolution(Pattern):
    """The output channels are the last axis of the pointwise kernel."""

    kinds = kinds.SEPARABLE_CONV
    kernel = "pointwise_kernel"

    def refuse(self, call: Call) -> tuple[str, str] | None:
        """`channels_first` is where TensorFlow adds the bias wrongly."""
        return BACKEND_BIAS if adds_bias_along_wrong_axis(call) else None
