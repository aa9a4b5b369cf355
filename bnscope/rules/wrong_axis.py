"""BN108: Batch Normalization over an axis that is not the channels'."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bnscope.graph import kinds
from bnscope.graph.batchnorm import channel_axis, channels, is_batch_norm
from bnscope.graph.model import Call
from bnscope.rules.base import Context, Problem, Rule, Severity

# BN for each time step has its own gamma for each; those who mean it say so in the name.
_PER_STEP = re.compile(r"time|step|frame|temporal|seq", re.IGNORECASE)
_Producer = tuple[Call | None, int | None]
_FIXING = kinds.CONVOLUTIONS | kinds.POOLING | kinds.UPSAMPLING
_KEEPING = (
    kinds.RELU
    | kinds.ADD
    | kinds.MULTIPLY
    | kinds.ZERO_PADDING
    | {"Activation", "LeakyReLU", "PReLU", "ELU", "Concatenate"}
)
_SEQUENCES = kinds.RECURRENT | {"Dense", "Embedding"}


class WrongAxis(Rule):
    """Batch Normalization normalizes rows or columns instead of channels.

    ## What it does
    Compares BN's `axis` with the channel axis of the layer that feeds it, which its
    `data_format` tells, and the number of gammas with the sizes of the tensor.

    ## Why is this bad
    `axis` names the axis that keeps its own statistics. With `axis=1` behind a
    `channels_last` convolution every row of the image is a "channel": all feature maps share
    one mean and variance, and the model accepts no other image size. Nothing fails; the model
    is only worse.

    ## What to do
    Use `axis=-1` behind `channels_last` layers and `axis=1` behind `channels_first` ones, and
    train again. There is no repair: the statistics of rows cannot become those of channels,
    and the weights behind the layer were trained on what it puts out.

    ## When it is quiet
    Tensors of rank 2; a `Permute` or `Reshape` between; BN for each time step that says so in
    its name. Info where the size of the axis equals the number of channels.

    ## References
    - <https://github.com/sharathadavanne/seld-dcase2021/issues/8>
    """

    code = "BN108"
    name = "wrong-axis"
    severity = Severity.ERROR
    advice = "Use axis=-1 behind channels_last layers, axis=1 behind channels_first ones."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        known: dict[int, _Producer] = {}
        for call in context.batch_norm_calls:
            if not call.inputs or _PER_STEP.search(call.layer.name):
                continue
            rank = call.inputs[0].rank
            axis = channel_axis(call.layer, rank)
            producer, expected = _channel_axis_of_producer(context, call, known)
            if producer is None or axis is None or expected in {None, axis} or rank == 2:  # noqa: PLR2004
                continue
            yield _problem(call, producer, axis, expected)

    @staticmethod
    def bad_rows_instead_of_channels(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((32, 24, 3)),
                keras.layers.Conv2D(16, 3, use_bias=False),
                keras.layers.BatchNormalization(axis=1),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def bad_behind_activation(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((20, 3)),
                keras.layers.Conv1D(16, 3, activation="relu"),
                keras.layers.MaxPooling1D(),
                keras.layers.BatchNormalization(axis=1),
                keras.layers.Conv1D(4, 3),
            ]
        )

    @staticmethod
    def good_channels_last(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((32, 24, 3)),
                keras.layers.Conv2D(16, 3, use_bias=False),
                keras.layers.BatchNormalization(axis=-1),
                keras.layers.ReLU(),
            ]
        )


def _channel_axis_of_producer(
    context: Context, call: Call, known: dict[int, _Producer]
) -> _Producer:
    """The call before that fixes where the channels are, and their axis.

    Args:
        context: the graph.
        call: where the walk back begins.
        known: what earlier walks found; long chains are walked once.
    """
    walked = []
    found: _Producer | None = None
    while found is None:
        walked.append(call.index)
        producer = context.graph.producer(call.inputs[0]) if call.inputs else None
        if producer is not None and producer.index in known:
            found = known[producer.index]
        elif producer is not None and _keeps_axes(producer):
            call = producer
        else:
            found = _fixed_axis(producer)
    known.update(dict.fromkeys(walked, found))
    return found


def _fixed_axis(producer: Call | None) -> _Producer:
    if producer is not None and producer.kind in _FIXING:
        return producer, kinds.output_channel_axis(producer)
    if producer is not None and producer.kind in _SEQUENCES:
        rank = producer.outputs[0].rank
        return producer, None if rank is None else rank - 1
    return None, None


def _keeps_axes(call: Call) -> bool:
    return (
        kinds.is_identity_at_inference(call)
        or is_batch_norm(call.layer)
        or call.kind in _KEEPING
    )


def _problem(call: Call, producer: Call, axis: int, expected: int | None) -> Problem:
    shape = call.inputs[0].shape
    size = channels(call.layer)
    width = None
    if shape is not None and expected is not None and expected < len(shape):
        width = shape[expected]
    severity = None
    if producer.kind in _SEQUENCES:
        severity = Severity.WARNING
    elif size is not None and size == width:
        severity = Severity.INFO
    counted = f" It has {size} gammas for {width} channels." if size and width else ""
    return Problem(
        call.layer.path,
        f"normalizes axis {axis}, but the channels of {kinds.describe(producer)} are on axis "
        f"{expected}.{counted}",
        severity=severity,
        related=(producer.layer.path,),
        data={"axis": axis, "channel_axis": expected},
    )
