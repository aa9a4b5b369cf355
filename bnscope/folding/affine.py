"""A scale and a shift for each element of a tensor, and how they travel.

At inference BN is y = a·x + b. Here a and b are arrays over the tensor's shape without the
batch, aligned from the right as in broadcasting: along an axis of size 1 they do not vary. So
what a layer does to its elements can be done to a and b, and a fold is exact where, arrived
at a layer with weights, they vary along that layer's channel axis only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.bn import Array, ScaleShift
from bnscope.graph.model import Shape

# Elements of the largest tensor whose elements are followed one by one.
MOST_ELEMENTS = 1 << 25
# Stands for a size that is not known.
_UNKNOWN = 7
Indices = npt.NDArray[np.int64]
Move = Callable[[Indices], Indices]


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """What is to be done to a tensor: `scale · x + shift`.

    Args:
        scale: float64, aligned from the right with the tensor's shape without the batch.
        shift: likewise; of the same rank.
    """

    scale: Array
    shift: Array

    @classmethod
    def per_channel(cls, values: ScaleShift, axis: int) -> Affine:
        """One scale and shift a channel.

        Args:
            values: vectors of one length.
            axis: the channel axis, counted from the right (-1 is the last).
        """
        shape = (-1, *(1,) * (-axis - 1))
        return cls(values.scale.reshape(shape), values.shift.reshape(shape))

    @classmethod
    def identity(cls) -> Affine:
        """The one that changes nothing."""
        return cls(np.ones(1), np.zeros(1))

    @property
    def rank(self) -> int:
        """The number of axes that are written down."""
        return self.scale.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes, with 1 where neither scale nor shift varies."""
        return tuple(np.broadcast_shapes(self.scale.shape, self.shift.shape))

    @property
    def varies_along(self) -> tuple[int, ...]:
        """The axes, counted from the right, along which scale or shift varies."""
        shape = self.shape
        return tuple(axis for axis in range(-len(shape), 0) if shape[axis] != 1)

    @property
    def is_shift_free(self) -> bool:
        """Whether the shift is zero everywhere."""
        return not self.shift.any()

    @property
    def is_order_preserving(self) -> bool:
        """Whether no scale is negative."""
        return bool((self.scale >= 0).all())

    def vectors(self, axis: int, size: int | None) -> ScaleShift | None:
        """The values along one axis; None if they vary along another one too.

        Args:
            axis: the axis, counted from the right.
            size: its length; None if only vectors of their own length are wanted.
        """
        if set(self.varies_along) - {axis}:
            return None
        parts = [
            values.reshape(-1) if values.size > 1 else np.full(1, values.item())
            for values in (self.scale, self.shift)
        ]
        length = size or max(part.size for part in parts)
        if any(part.size not in {1, length} for part in parts):
            return None
        return ScaleShift(*(np.array(np.broadcast_to(part, length)) for part in parts))

    def harmless(self) -> Affine:
        """One that varies likewise, but passes maxima and zeros."""
        return Affine(np.abs(self.scale), np.zeros((1,) * self.rank))

    def with_shift(self, share: float) -> Affine:
        """The scale, and a share of the shift."""
        return Affine(self.scale, self.shift * share)

    def aligned(self) -> Affine:
        """The same, with scale and shift of one rank."""
        rank = max(self.scale.ndim, self.shift.ndim)
        return self.mapped(lambda values: _aligned(values, rank))

    def mapped(self, function: Callable[[Array], Array]) -> Affine:
        """A function of arrays applied to scale and shift."""
        return Affine(function(self.scale), function(self.shift))

    def part(self, axis: int, start: int, stop: int) -> Affine:
        """A stretch of an axis; all of it where nothing varies along it."""

        def cut(values: Array) -> Array:
            if -axis > values.ndim or values.shape[axis] == 1:
                return values
            index: list[Any] = [slice(None)] * values.ndim
            index[axis] = slice(start, stop)
            stretch: Array = values[tuple(index)]
            return stretch

        return self.mapped(cut)

    def fits(self, shape: Shape) -> Affine | None:
        """The same for a tensor that is broadcast to a larger one; None if it would vary.

        Args:
            shape: the smaller tensor's shape, batch first.
        """
        sizes = shape[1:]
        for axis in self.varies_along:
            if -axis > len(sizes) or sizes[axis] == 1:
                return None
        return self.mapped(lambda values: _cut_to(values, len(sizes)))

    def before_move(self, shape: Shape, move: Move) -> Affine | None:
        """What must be done before elements are moved, so that this comes out behind.

        Args:
            shape: shape before the move, batch first.
            move: what moves the elements, as a function of arrays with a batch of one.

        Returns:
            The affine of the input; elements that the move drops keep scale 1 and shift 0.
            None where an element that is copied would need two values.
        """
        sizes = _sizes(shape)
        origin = _moved(sizes, move)
        parts = []
        for values, neutral in ((self.scale, 1.0), (self.shift, 0.0)):
            wanted = np.broadcast_to(values, origin.shape)
            before = np.full(int(np.prod(sizes)), np.nan)
            before[origin.reshape(-1)] = wanted.reshape(-1)
            if not np.array_equal(before[origin], wanted):
                return None
            tight = _tight(before.reshape(sizes))
            parts.append(np.where(np.isnan(tight), neutral, tight))
        return _if_known(Affine(*parts), shape)

    def behind_move(self, shape: Shape, move: Move) -> Affine | None:
        """What this becomes behind a move of elements; None where that depends on sizes.

        Args:
            shape: shape before the move, batch first.
            move: what moves the elements, as a function of arrays with a batch of one.
        """
        sizes = _sizes(shape)
        origin = _moved(sizes, move)

        def moved(values: Array) -> Array:
            return _tight(np.broadcast_to(values, sizes).reshape(-1)[origin])

        return _if_known(self, shape) and self.mapped(moved)


def joined(parts: Sequence[Affine], shapes: Sequence[Shape], axis: int) -> Affine | None:
    """The affine of a concatenation.

    Args:
        parts: the affines of its inputs.
        shapes: the shapes of its inputs, batch first.
        axis: the axis that is joined, counted from the right.
    """
    sizes = [shape[axis] for shape in shapes]
    if any(size is None for size in sizes):
        return None
    rank = len(shapes[0]) - 1
    arrays = []
    for index in (0, 1):
        values = [_aligned((p.scale, p.shift)[index], rank) for p in parts]
        common = np.broadcast_shapes(*(_without(v.shape, axis) for v in values))
        wide = []
        for value, size in zip(values, sizes, strict=True):
            target = list(common)
            target[axis] = size or 1
            wide.append(np.broadcast_to(value, target))
        arrays.append(_tight(np.concatenate(wide, axis)))
    return Affine(*arrays)


def _sizes(shape: Shape) -> tuple[int, ...]:
    return tuple(_UNKNOWN if size is None else size for size in shape[1:])


def _moved(sizes: tuple[int, ...], move: Move) -> Indices:
    count = int(np.prod(sizes))
    if count > MOST_ELEMENTS:
        raise OverflowError(f"{count} elements")
    moved: Indices = move(np.arange(count).reshape((1, *sizes)))[0]
    return moved


def _if_known(affine: Affine, shape: Shape) -> Affine | None:
    """The affine, unless it varies along an axis whose size is not known."""
    known = all(
        shape[axis] is not None for axis in affine.varies_along if -axis < len(shape)
    )
    return affine if known else None


def _tight(values: Array) -> Array:
    for axis in range(values.ndim):
        if values.shape[axis] == 1:
            continue
        with np.errstate(invalid="ignore"):
            low = np.fmin.reduce(values, axis, keepdims=True)
            high = np.fmax.reduce(values, axis, keepdims=True)
        if np.array_equal(low, high, equal_nan=True):
            values = low
    return values


def _cut_to(values: Array, rank: int) -> Array:
    return values.reshape(values.shape[-rank:]) if values.ndim > rank else values


def _aligned(values: Array, rank: int) -> Array:
    return values.reshape((1,) * (rank - values.ndim) + values.shape)


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    sizes = list(shape)
    sizes[axis] = 1
    return tuple(sizes)
