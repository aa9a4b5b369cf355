r"""How far the weights of a kernel's channels reach, before and after folding.

The range of channel c is r_c = max\|W_c\|. Quantization to int8 with one scale for the whole
kernel has steps of max r / 127, so a channel whose range is 127 times smaller than the widest
is rounded to zero. Folding multiplies each r_c by \|a_c\|. The spread is max r / min r.

The channels are those of the output, as in per-channel quantization; where BN was folded
forward also those of the input, along which it scales. Channels that are zero, or less than a
millionth of the widest, compute nothing and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.bn import WIDE_SPREAD, Array
from bnscope.errors import UnreadableModelError
from bnscope.folding.plan import Plan
from bnscope.graph import kinds
from bnscope.graph.batchnorm import is_batch_norm
from bnscope.graph.model import Graph, Layer, NotAnalysed
from bnscope.rewriting.edits import LayerEdits, Weights, by_layer

# A channel below this share of the widest one computes nothing.
DEAD_SHARE = 1e-6
_NOT_READ = "the kernels of this kind of layer are not read from files"
_NO_VALUES = "the file holds no values for its kernel"
_NOT_FINITE = "its weights are not all finite"
_NO_FIT = "its kernel does not fit its configuration; the file may be damaged"


@dataclass(frozen=True, slots=True)
class ChannelRange:
    """One channel of a kernel, and how far its weights reach."""

    channel: int
    range: float


@dataclass(frozen=True, slots=True)
class KernelRange:
    """The ranges of the channels of one kernel that folding changes.

    Args:
        layer: path of the layer.
        variable: name of the kernel.
        along: "output" or "input", the channels in which the spread after folding is larger.
        before: largest range over smallest before folding.
        after: likewise after folding.
        widest: the channel with the largest range after folding.
        narrowest: the channel with the smallest one.
        left_out: how many channels compute nothing after folding.
    """

    layer: str
    variable: str
    along: str
    before: float
    after: float
    widest: ChannelRange
    narrowest: ChannelRange
    left_out: int

    def to_dict(self) -> dict[str, Any]:
        """The ranges for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ranges:
    """The ranges of all kernels that folding changes.

    Args:
        kernels: one entry a kernel, in the order of the folds.
        not_read: the layers whose kernel could not be read, and why.
    """

    kernels: tuple[KernelRange, ...] = ()
    not_read: tuple[NotAnalysed, ...] = ()

    def wide(self) -> tuple[KernelRange, ...]:
        """The kernels whose spread after folding is wide, the widest first."""
        found = [kernel for kernel in self.kernels if kernel.after > WIDE_SPREAD]
        return tuple(sorted(found, key=lambda kernel: -kernel.after))

    def to_dict(self) -> dict[str, Any]:
        """The ranges for JSON."""
        return {
            "kernels": [kernel.to_dict() for kernel in self.kernels],
            "not_read": [asdict(part) for part in self.not_read],
        }


def fold_ranges(graph: Graph, plan: Plan, folded: Graph | None = None) -> Ranges:
    """The ranges of the kernels that a plan changes, one layer at a time.

    Args:
        graph: the graph of a live model, or of a file with its kernels
            (`Graph.with_kernels`).
        plan: what folding does to the model.
        folded: the graph of the folded model, to take the new kernels from; None to compute
            them.

    Returns:
        The ranges, and the layers whose kernel could not be read.
    """
    ahead = {
        path
        for verdict in plan.verdicts
        if verdict.direction == "forward"
        for path in verdict.layers
    }
    kernels: list[KernelRange] = []
    not_read = []
    for path, edits in by_layer(plan.edits).items():
        layer = graph.layer(path) if graph.has_layer(path) else None
        if layer is None or not edits.transforms or is_batch_norm(layer):
            continue
        try:
            pairs = _planned(layer, edits) if folded is None else _made(layer, folded)
            # No loop here: its variables would keep one kernel while the next is read.
            ranges = (_ranges(*pair, forward=path in ahead) for pair in pairs)
            kernels += chain.from_iterable(ranges)
        except _NotReadError as error:
            not_read.append(NotAnalysed(path, str(error)))
    return Ranges(tuple(kernels), tuple(not_read))


class _NotReadError(Exception):
    """Why a kernel could not be read."""


def _ranges(
    layer: Layer, before: Weights, after: Weights, *, forward: bool
) -> Iterator[KernelRange]:
    for name, values in after.items():
        if (
            name in before
            and _is_kernel(name, values)
            and not np.array_equal(values, before[name])
        ):
            found = [
                _spread(layer, name, before[name], values, along)
                for along in (("output", "input") if forward else ("output",))
            ]
            known = [spread for spread in found if spread is not None]
            if known:
                yield max(known, key=lambda spread: spread.after)


_Pairs = Iterator[tuple[Layer, Weights, Weights]]


def _planned(layer: Layer, edits: LayerEdits) -> _Pairs:
    """The variables of a layer before and after its edits."""
    if not layer.variables:
        known = layer.kind in kinds.KERNEL_VARIABLES
        raise _NotReadError(_NO_VALUES if known else _NOT_READ)
    try:
        before = _values(layer)
        yield layer, before, edits.transformed(before)
    except UnreadableModelError as error:
        raise _NotReadError(error.message.rstrip(".")) from error
    except (ValueError, LookupError) as error:  # shapes that do not fit, or none
        raise _NotReadError(_NO_FIT) from error


def _made(layer: Layer, folded: Graph) -> _Pairs:
    """The variables of a layer, and of those inside it, before and after folding."""
    if not folded.has_layer(layer.path):
        raise _NotReadError("the folded model has no layer of that name")
    yield layer, _values(layer), _values(folded.layer(layer.path))
    for child in layer.children:
        yield from _made(child, folded)


def _values(layer: Layer) -> Weights:
    return {name: variable.read() for name, variable in layer.variables.items()}


def _is_kernel(name: str, values: npt.NDArray[Any]) -> bool:
    return values.ndim > 1 and not name.endswith("bias")


def _spread(
    layer: Layer,
    name: str,
    before: npt.NDArray[Any],
    after: npt.NDArray[Any],
    along: str,
) -> KernelRange | None:
    axes = channel_axes(layer, name, after.ndim, along)
    if not axes or before.shape != after.shape:
        return None
    ranges = channel_ranges(after, axes)
    if not np.all(np.isfinite(ranges)):
        raise _NotReadError(_NOT_FINITE)
    living = _living(ranges)
    if living.size == 0:
        return None
    return KernelRange(
        layer=layer.path,
        variable=name,
        along=along,
        before=_factor(channel_ranges(before, axes)),
        after=_factor(ranges),
        widest=_channel(ranges, living[np.argmax(ranges[living])]),
        narrowest=_channel(ranges, living[np.argmin(ranges[living])]),
        left_out=int(ranges.size - living.size),
    )


def channel_ranges(kernel: npt.NDArray[Any], axes: tuple[int, ...]) -> Array:
    """The largest absolute weight of each channel.

    Args:
        kernel: the weights.
        axes: the axes of the channels, counted from the right; several are one, in order.

    Returns:
        One range a channel, float64.
    """
    channel = {axis % kernel.ndim for axis in axes}
    others = tuple(axis for axis in range(kernel.ndim) if axis not in channel)
    if not kernel.size:
        return np.zeros(0)
    largest = kernel.max(others) if others else kernel
    smallest = kernel.min(others) if others else kernel
    return np.maximum(
        np.asarray(largest, np.float64), -np.asarray(smallest, np.float64)
    ).reshape(-1)


def channel_axes(layer: Layer, name: str, rank: int, along: str) -> tuple[int, ...]:
    """The axes of a kernel, counted from the right, that its channels lie along."""
    if layer.kind in kinds.DEPTHWISE_CONV or name == "depthwise_kernel":
        return (-2, -1)
    if layer.kind == "EinsumDense":
        return _einsum_axes(layer.config, rank, along)
    output, given = (-2, -1) if layer.kind in kinds.CONV_TRANSPOSE else (-1, -2)
    if along == "output":
        return (output,)
    # The input channels of a grouped kernel are others in each group.
    return () if layer.config.get("groups", 1) != 1 or name == "embeddings" else (given,)


def _einsum_axes(config: Mapping[str, Any], rank: int, along: str) -> tuple[int, ...]:
    left, _, output = str(config.get("equation", "")).replace(" ", "").partition("->")
    labels = left.rpartition(",")[2]
    if len(labels) != rank:
        return ()
    wanted = [(label in output) == (along == "output") for label in labels]
    return tuple(axis - rank for axis, found in enumerate(wanted) if found)


def _living(ranges: Array) -> npt.NDArray[np.intp]:
    """The channels that compute something; none where a range is not finite."""
    if ranges.size == 0 or not np.all(np.isfinite(ranges)):
        return np.zeros(0, np.intp)
    return np.flatnonzero(ranges > DEAD_SHARE * ranges.max())


def _factor(ranges: Array) -> float:
    living = ranges[_living(ranges)]
    return float(living.max() / living.min()) if living.size else 1.0


def _channel(ranges: Array, channel: np.intp) -> ChannelRange:
    return ChannelRange(int(channel), float(ranges[channel]))
