"""Conv1D, Conv2D, Conv3D, grouped and dilated too: kernel (..., in / groups, out)."""

from __future__ import annotations

from bnscope.folding.patterns.base import BACKEND_BIAS, Pattern, adds_bias_along_wrong_axis
from bnscope.graph import kinds
from bnscope.graph.model import Call


class Convolution(Pattern):
    """The output channels are the kernel's last axis, groups or not."""

    kinds = kinds.CONV

    def refuse(self, call: Call) -> tuple[str, str] | None:
        """Conv3D in `channels_first` is where TensorFlow adds the bias wrongly."""
        faulty = call.kind == "Conv3D" and adds_bias_along_wrong_axis(call)
        return BACKEND_BIAS if faulty else None
