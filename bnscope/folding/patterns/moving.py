"""What moves values about: reshaping, permuting, cropping, slicing, repeating, mirroring."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bnscope.folding.affine import Affine, Indices, Move
from bnscope.folding.patterns.base import Demand, Passing, as_tuple, not_passed
from bnscope.folding.reasons import Refusal
from bnscope.graph import kinds
from bnscope.graph.model import Call, Shape

_NEEDS_SIZES = frozenset({"Reshape", "Flatten", "ops.Reshape", "CenterCrop"})


class MovingFamily(Passing):
    """Through layers whose every output value is one of their input values."""

    kinds = (
        kinds.CROPPING
        | kinds.RESHAPING
        | {
            "ops.Transpose",
            "ops.Reshape",
            "ops.ExpandDims",
            "ops.Squeeze",
            "ops.GetItem",
            "ops.Flip",
            "ops.Pad",
        }
    )

    def match(self, call: Call) -> bool:
        """Whether a call moves the values of one tensor about."""
        return call.kind in self.kinds and len(call.inputs) == 1 and not _is_filling(call)

    def back(self, call: Call, affine: Affine) -> tuple[Demand, ...] | Refusal:
        """For each value of the input what is to be done where it goes."""
        found = _try(call, affine.before_move)
        return not_passed(call) if found is None else (Demand(call.inputs[0], found),)

    def ahead(self, call: Call, given: Mapping[int, Affine]) -> Affine | Refusal:
        """For each value of the output what was to be done where it comes from."""
        affine = given[call.inputs[0].index]
        found = _try(call, affine.behind_move)
        return not_passed(call) if found is None else found

    @staticmethod
    def folds_reshape(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((7,)),
                keras.layers.Dense(4 * 5 * 3),
                keras.layers.Reshape((4, 5, 3)),
                keras.layers.Permute((2, 1, 3)),
                keras.layers.CenterCrop(4, 3),
                keras.layers.Cropping2D(((1, 0), (0, 1))),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def folds_before_flatten(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((4, 5, 3)),
                keras.layers.BatchNormalization(),
                keras.layers.Flatten(),
                keras.layers.Dense(6),
            ]
        )

    @staticmethod
    def refuses_axis_mismatch(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((4, 5, 3)),
                keras.layers.Conv2D(2, 1),
                keras.layers.Flatten(),
                keras.layers.BatchNormalization(),
            ]
        )


def _is_filling(call: Call) -> bool:
    """Whether a call fills in values that are not its input's."""
    return call.kind == "ops.Pad" and call.config.get("mode") not in {
        "reflect",
        "symmetric",
    }


def _try(call: Call, function: Callable[[Shape, Move], Affine | None]) -> Affine | None:
    """The affine on the other side of the move; None where that is not known."""
    shape = call.inputs[0].shape
    if shape is None or (call.kind in _NEEDS_SIZES and None in shape[1:]):
        return None
    with contextlib.suppress(
        TypeError, ValueError, IndexError, KeyError, OverflowError, AttributeError
    ):
        return function(shape, lambda indices: _moved(call, indices))
    return None  # a configuration that does not fit the shapes


def _moved(call: Call, indices: Indices) -> Indices:
    config = call.config
    kind = call.kind
    if kind in _MOVES:
        return _MOVES[kind](config, indices)
    if kind in kinds.CROPPING:
        return _cropped(config, indices, kind)
    # Arguments of an operation, with the tensor first.
    taken: Indices = indices[_with_whole_batch(call.args[1])]
    return taken


def _flatten(config: Mapping[str, Any], values: Indices) -> Indices:
    if kinds.is_channels_first(config) and values.ndim > 2:  # noqa: PLR2004
        values = np.moveaxis(values, 1, -1)
    return values.reshape(1, -1)


def _cropped(config: Mapping[str, Any], values: Indices, kind: str) -> Indices:
    rank = kinds.spatial_rank(kind)
    if rank is None:
        raise ValueError(kind)
    amounts = config["cropping"]
    if rank == 1 and isinstance(amounts[0], int):
        amounts = [amounts]
    start = 2 if kinds.is_channels_first(config) else 1
    index: list[Any] = [slice(None)] * values.ndim
    for axis, pair in enumerate(amounts):
        before, after = as_tuple(pair, 2)
        index[start + axis] = slice(before, values.shape[start + axis] - after)
    cropped: Indices = values[tuple(index)]
    return cropped


def _center_cropped(config: Mapping[str, Any], values: Indices) -> Indices:
    start = 2 if kinds.is_channels_first(config) else 1
    index: list[Any] = [slice(None)] * values.ndim
    for axis, key in ((start, "height"), (start + 1, "width")):
        first = (values.shape[axis] - config[key]) // 2
        if first < 0:
            raise ValueError("smaller images are resized instead")
        index[axis] = slice(first, first + config[key])
    cropped: Indices = values[tuple(index)]
    return cropped


def _axes(config: Mapping[str, Any], key: str) -> Any:
    value = config[key]
    if value in {0, None} if isinstance(value, int) or value is None else 0 in value:
        raise ValueError("the batch is moved")
    return value if isinstance(value, int) else tuple(value)


def _transpose(config: Mapping[str, Any], values: Indices) -> Indices:
    axes = tuple(config["axes"])
    if axes[0] != 0:
        raise ValueError("the batch is moved")
    return values.transpose(axes)


def _reshape(config: Mapping[str, Any], values: Indices) -> Indices:
    shape = tuple(config["newshape"])
    if shape[0] not in {-1, None}:
        raise ValueError("the batch is moved")
    return values.reshape(1, *shape[1:])


def _pad(config: Mapping[str, Any], values: Indices) -> Indices:
    width = [as_tuple(pair, 2) for pair in config["pad_width"]]
    if any(width[0]):
        raise ValueError("the batch is padded")
    return np.pad(values, width, mode=config["mode"])


def _with_whole_batch(index: Any) -> tuple[Any, ...]:
    """The index of a slice, if it leaves the batch alone."""
    given = index if isinstance(index, (list, tuple)) else [index]
    items = tuple(_slice(item) for item in given)
    if items[0] is not Ellipsis and items[0] != slice(None):
        raise ValueError("the batch is cut")
    if any(
        not isinstance(item, (slice, int, type(None), type(Ellipsis))) for item in items
    ):
        raise TypeError("an index that is no constant")
    return items


def _slice(item: Any) -> Any:
    """A slice, which files write as `{"class_name": "__slice__", ...}`."""
    if isinstance(item, Mapping) and item.get("class_name") == "__slice__":
        config = item["config"]
        return slice(config["start"], config["stop"], config["step"])
    if isinstance(item, Mapping) and item.get("class_name") == "__ellipsis__":
        return Ellipsis
    return item


_MOVES: Mapping[str, Callable[[Mapping[str, Any], Indices], Indices]] = {
    "CenterCrop": _center_cropped,
    "Flatten": _flatten,
    "Permute": lambda config, values: values.transpose((0, *config["dims"])),
    "Reshape": lambda config, values: values.reshape(1, *config["target_shape"]),
    "RepeatVector": lambda config, values: np.repeat(values[:, None], config["n"], 1),
    "ops.Transpose": _transpose,
    "ops.Reshape": _reshape,
    "ops.ExpandDims": lambda config, values: np.expand_dims(values, _axes(config, "axis")),
    "ops.Squeeze": lambda config, values: np.squeeze(values, _axes(config, "axis")),
    "ops.Flip": lambda config, values: np.flip(values, _axes(config, "axis")),
    "ops.Pad": _pad,
}
