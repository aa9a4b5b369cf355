"""Averages with weights that sum to 1: average pooling, upsampling, resizing, the mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnscope.folding.affine import Affine
from bnscope.folding.patterns.base import Demand, Passing, not_passed
from bnscope.folding.reasons import Refusal
from bnscope.graph import kinds
from bnscope.graph.model import Call


class AveragingFamily(Passing):
    """Through what mixes places of one channel with weights that sum to 1.

    Such an average of a·x + b is a times the average plus b, where a and b do not vary over
    the places that are mixed.
    """

    kinds = (
        kinds.AVERAGE_POOLING
        | kinds.UPSAMPLING
        # RandomCrop resizes at inference, or does nothing: that depends on the version.
        | {"Resizing", "RandomCrop", "ops.Mean", "ops.AveragePool", "ops.Resize"}
    )

    def match(self, call: Call) -> bool:
        """Whether a call averages, padding not counted."""
        padded = (
            call.config.get("pad_to_aspect_ratio") or call.kwargs.get("mask") is not None
        )
        return call.kind in self.kinds and len(call.inputs) == 1 and not padded

    def back(self, call: Call, affine: Affine) -> tuple[Demand, ...] | Refusal:
        """The same for each channel of the input."""
        axes, keeps = mixed_axes(call)
        found = unmixed(affine, axes, keeps=keeps) if axes else None
        return not_passed(call) if found is None else (Demand(call.inputs[0], found),)

    def ahead(self, call: Call, given: Mapping[int, Affine]) -> Affine | Refusal:
        """The same for each channel of the output."""
        affine = given[call.inputs[0].index]
        axes, keeps = mixed_axes(call)
        found = mixed(affine, axes, keeps=keeps) if axes else None
        return not_passed(call) if found is None else found

    @staticmethod
    def folds_average_pooling(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((7, 7, 3)),
                keras.layers.Conv2D(4, 3),
                keras.layers.AveragePooling2D(2, padding="same"),
                keras.layers.UpSampling2D(2, interpolation="bilinear"),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def folds_global_pooling(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((7, 7, 3)),
                keras.layers.Conv2D(4, 3),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def folds_before_pooling(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((7, 7, 3)),
                keras.layers.BatchNormalization(),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(4),
            ]
        )

    @staticmethod
    def refuses_no_linear_neighbour(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6, 6, 3)),
                keras.layers.Conv2D(4, 3, padding="same"),
                keras.layers.AveragePooling2D(2),
                keras.layers.BatchNormalization(axis=1),
            ]
        )


def mixed_axes(call: Call) -> tuple[tuple[int, ...], bool]:
    """The axes that are mixed, counted from the right of the input; whether they stay."""
    rank = call.inputs[0].rank
    if call.kind in {"ops.Mean", "ops.Max"}:
        return reduced_axes(call), bool(call.config.get("keepdims"))
    spatial = kinds.spatial_rank(call.kind) or (None if rank is None else rank - 2)
    if spatial is None or spatial < 1:
        return (), True
    first = kinds.is_channels_first(call.config)
    last = 0 if first else 1
    axes = tuple(range(-spatial - last, -last))
    keeps = not call.kind.startswith("Global") or bool(call.config.get("keepdims"))
    return axes, keeps


def reduced_axes(call: Call) -> tuple[int, ...]:
    """The axes that an operation reduces, counted from the right; () if the batch is one."""
    rank = call.inputs[0].rank
    axis = call.config.get("axis")
    if rank is None or axis is None:
        return ()
    axes = axis if isinstance(axis, (list, tuple)) else (axis,)
    found = tuple(sorted(item if item < 0 else item - rank for item in axes))
    return () if -rank in found else found


def unmixed(affine: Affine, axes: tuple[int, ...], *, keeps: bool) -> Affine | None:
    """The affine of the input of a reduction; None if it varies along what is mixed."""
    if keeps:
        return None if set(affine.varies_along) & set(axes) else affine
    rank = affine.rank + len(axes)
    wanted = tuple(axis for axis in axes if -axis <= rank)
    return affine.mapped(lambda values: np.expand_dims(values, wanted))


def mixed(affine: Affine, axes: tuple[int, ...], *, keeps: bool) -> Affine | None:
    """The affine of the output of a reduction; None if it varies along what is mixed."""
    if set(affine.varies_along) & set(axes):
        return None
    if keeps:
        return affine
    there = tuple(axis for axis in axes if -axis <= affine.rank)
    return affine.mapped(lambda values: np.squeeze(values, there))
