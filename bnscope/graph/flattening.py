"""Where the values of a channel end up when `Flatten` makes a channel of every position.

A tensor of shape (batch, positions…, C) becomes (batch, positions·C): the C values repeat as a
whole. With the channels first, (batch, C, positions…), each value is repeated by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bnscope.graph import kinds
from bnscope.graph.batchnorm import axis, is_batch_norm
from bnscope.graph.model import Call

Array = npt.NDArray[np.float64]


def spread(values: npt.NDArray[np.generic], size: int, *, channels_first: bool) -> Array:
    """One value a channel -> one value a channel of the flattened tensor.

    Args:
        values: shape `(channels,)`.
        size: number of channels after `Flatten`; that of `values` where there is none.
        channels_first: whether the channels come before the positions.

    Returns:
        Shape `(size,)`, float64.
    """
    wide = np.asarray(values, np.float64)
    count = size // wide.size
    return np.repeat(wide, count) if channels_first else np.tile(wide, count)


def channels_first_along(source: Call, through: Sequence[Call]) -> bool | None:
    """Whether the channels of a call come first, in all layers that pass them on.

    Args:
        source: the call that makes the tensor.
        through: the calls it passes, which treat each channel by itself.

    Returns:
        False for channels at the end. None where two of the calls disagree, so that one of
        them mixes channels, or where `Flatten` mixes channels and positions.
    """
    first = _channels_first(source)
    for call in through:
        if call.kind == "Flatten":
            return None if kinds.is_channels_first(call.config) and not first else first
        spatial = kinds.POOLING | kinds.UPSAMPLING | kinds.CROPPING
        if call.kind in spatial and kinds.is_channels_first(call.config) != first:
            return None
    return first


def is_first_when_flattened(source: Call, through: Sequence[Call]) -> bool:
    """Whether each value is repeated by itself; `Flatten` itself can put the channels last."""
    moved = any(
        call.kind == "Flatten" and kinds.is_channels_first(call.config) for call in through
    )
    return _channels_first(source) and not moved


def _channels_first(call: Call) -> bool:
    if is_batch_norm(call.layer):
        rank = call.inputs[0].rank if call.inputs else None
        return axis(call.layer) == 1 and rank != 2  # noqa: PLR2004
    return kinds.is_channels_first(call.config)
