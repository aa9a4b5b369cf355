"""BN → LSTM, GRU, SimpleRNN, RNN with one of their cells, ConvLSTM, Bidirectional of them.

At step t a cell computes z_t = W*y_t + U*h + d of its input y_t and its state h, so

    z_t = (W·a)*x_t + U*h + (d + sum W·b)          W' = W·a,  d' = d + sum W·b

A step that is masked is skipped by both. Behind a recurrent layer stands an activation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bnscope.bn import ScaleShift
from bnscope.folding.affine import Affine
from bnscope.folding.patterns.base import (
    Pattern,
    Values,
    per_channel,
    refuse_padding,
    times,
)
from bnscope.folding.patterns.conv import input_channels
from bnscope.folding.reasons import Refusal
from bnscope.folding.wrappers import one_step
from bnscope.graph.model import Call, Layer, Tensor
from bnscope.rewriting.edits import Edit, Inside, SetConfig, TransformWeights, Weights

_PLAIN = frozenset({"LSTM", "GRU", "SimpleRNN"})
_CONVOLUTIONAL = frozenset({"ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"})
_CELLS = frozenset({"LSTMCell", "GRUCell", "SimpleRNNCell"})
_BOTH_WAYS = "Bidirectional"


@dataclass(frozen=True, slots=True)
class _Cell:
    """Where a layer has a cell: in its configuration, and as attributes."""

    config: Mapping[str, Any]
    entries: Inside
    attributes: Inside

    def inside(self, entry: str, attribute: str) -> _Cell:
        """The same cell, seen from a layer around its own."""
        return _Cell(self.config, (entry, *self.entries), (attribute, *self.attributes))

    @property
    def bias_rows(self) -> int | None:
        """How many rows the bias has; None where it is a vector."""
        is_split = "reset_after" in self.config and self.config["reset_after"]
        return 2 if is_split else None


class RecurrentPattern(Pattern):
    """Into the kernel for the inputs of each cell: (in, gates · units).

    The bias is (gates · units). A GRU with `reset_after` has two rows, the first of which is
    added to what the kernel makes of the inputs.
    """

    kinds = _PLAIN | _CONVOLUTIONAL | {"RNN", _BOTH_WAYS}
    only_ahead = True

    def match(self, call: Call) -> bool:
        """Whether the cells of a call's layer are Keras's own."""
        return call.kind in self.kinds and bool(_cells(call.layer))

    def taken(self, call: Call) -> Tensor | None:
        """The sequence; initial states are tensors of their own."""
        given = call.kwargs.get("sequences", call.args[0] if call.args else None)
        return given if isinstance(given, Tensor) else None

    def check_ahead(self, call: Call, affine: Affine) -> ScaleShift | Refusal:
        """The scale and shift of each feature, or why it is refused."""
        if call.kind not in _CONVOLUTIONAL:
            shape = call.inputs[0].shape
            return per_channel(call, affine, 1 if shape is None else shape[-1])
        step = one_step(call)
        values = per_channel(step, affine, input_channels(step) or 1)
        if isinstance(values, Refusal):
            return values
        return refuse_padding(step, affine) or values

    def edits_ahead(self, layer: Layer, values: ScaleShift) -> tuple[Edit, ...]:
        """The edits that take up a scale and shift of the input, for each cell."""
        change = {"use_bias": True} if values.shift.any() else {}
        edits: list[Edit] = []
        for cell in _cells(layer):
            fold = partial(fold_cell, values, cell.bias_rows)
            edits += [
                SetConfig(layer.path, change, cell.entries),
                TransformWeights(layer.path, fold, cell.attributes),
            ]
        return tuple(edits)

    @staticmethod
    def folds_before_lstm(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6, 5)),
                keras.layers.BatchNormalization(),
                keras.layers.LSTM(4, use_bias=False, dropout=0.2),
            ]
        )

    @staticmethod
    def folds_before_gru(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6, 5)),
                keras.layers.BatchNormalization(),
                keras.layers.GRU(4, go_backwards=True, return_sequences=True),
            ]
        )

    @staticmethod
    def folds_before_gru_without_bias(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6, 5)),
                keras.layers.BatchNormalization(),
                keras.layers.GRU(4, use_bias=False),
            ]
        )

    @staticmethod
    def folds_before_gru_of_another_kind(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6, 5)),
                keras.layers.BatchNormalization(),
                keras.layers.GRU(4, use_bias=False, reset_after=False),
            ]
        )

    @staticmethod
    def folds_before_simple_rnn(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6, 5)),
                keras.layers.BatchNormalization(),
                keras.layers.SimpleRNN(4),
            ]
        )

    @staticmethod
    def folds_before_a_cell(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6, 5)),
                keras.layers.BatchNormalization(),
                keras.layers.RNN(keras.layers.LSTMCell(4, use_bias=False)),
            ]
        )

    @staticmethod
    def folds_before_bidirectional(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6, 5)),
                keras.layers.BatchNormalization(),
                keras.layers.Bidirectional(keras.layers.LSTM(4)),
            ]
        )

    @staticmethod
    def folds_before_conv_lstm(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((3, 6, 6, 2)),
                keras.layers.BatchNormalization(),
                keras.layers.ConvLSTM2D(3, 3, use_bias=False, strides=2),
            ]
        )

    @staticmethod
    def refuses_padding(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((3, 6, 6, 2)),
                keras.layers.BatchNormalization(),
                keras.layers.ConvLSTM2D(3, 3, padding="same"),
            ]
        )

    @staticmethod
    def refuses_no_linear_neighbour(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6, 5)),
                keras.layers.LSTM(4),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )


def fold_cell(values: ScaleShift, bias_rows: int | None, weights: Weights) -> Weights:
    """The kernel and the bias of a cell with a scale and shift of its input taken up.

    Args:
        values: the scale and shift of each input feature.
        bias_rows: how many rows the bias has; None where it is a vector.
        weights: the cell's variables; a kernel of (k…, in, gates · units).
    """
    kernel = np.asarray(weights["kernel"])
    scale, shift = (value[:, np.newaxis] for value in values)
    folded = times(kernel, scale)
    if not values.shift.any():
        return {"kernel": folded}
    added = times(kernel, shift).sum(tuple(range(kernel.ndim - 1)))
    shape = added.shape if bias_rows is None else (bias_rows, *added.shape)
    bias: Values = np.array(weights.get("bias", np.zeros(shape)), np.float64)
    first = bias if bias_rows is None else bias[0]
    first += added
    return {"kernel": folded, "bias": bias}


def _cells(layer: Layer) -> tuple[_Cell, ...]:
    """The cells of a recurrent layer that see its input; none where one is not known."""
    if layer.kind in _PLAIN | _CONVOLUTIONAL:
        return (_Cell(layer.config, (), ("cell",)),)
    if layer.kind == "RNN":
        cells = [inner for inner in layer.children if inner.kind in _CELLS]
        return tuple(_Cell(cell.config, ("cell",), ("cell",)) for cell in cells)
    if layer.kind != _BOTH_WAYS or not layer.children:
        return ()
    # Old files write down only one of the two, which are alike.
    first, last = _cells(layer.children[0]), _cells(layer.children[-1])
    if not first or not last:
        return ()
    return tuple(_both_ways(first, last))


def _both_ways(first: tuple[_Cell, ...], last: tuple[_Cell, ...]) -> Iterator[_Cell]:
    yield from (cell.inside("layer", "forward_layer") for cell in first)
    yield from (cell.inside("backward_layer", "backward_layer") for cell in last)
