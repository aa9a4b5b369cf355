"""What BN folds into: one file a family, each with its own check and rewrite.

Backward, into the layer before, with BN at inference written as `y = a * x + b`:

    W' = W * a   along the output channels        bias' = bias * a + b
"""

from __future__ import annotations

from bnscope.folding.patterns.base import Pattern
from bnscope.folding.patterns.conv import Convolution
from bnscope.folding.patterns.conv_transpose import ConvolutionTranspose
from bnscope.folding.patterns.dense import Dense
from bnscope.folding.patterns.depthwise import DepthwiseConvolution
from bnscope.folding.patterns.separable import SeparableConvolution

PATTERNS: tuple[Pattern, ...] = (
    Convolution(),
    ConvolutionTranspose(),
    Dense(),
    DepthwiseConvolution(),
    SeparableConvolution(),
)


def pattern_for(kind: str) -> Pattern | None:
    """The pattern that folds BN into a kind of layer; None if there is none."""
    return next((pattern for pattern in PATTERNS if kind in pattern.kinds), None)
