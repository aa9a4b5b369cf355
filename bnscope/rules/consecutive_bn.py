"""BN105: Batch Normalization twice in a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph import kinds
from bnscope.graph.batchnorm import channel_axis, is_batch_norm, is_frozen
from bnscope.graph.model import Call
from bnscope.rules.base import Context, Problem, Rule, Severity


class ConsecutiveBn(Rule):
    """Two Batch Normalization layers follow each other with nothing to learn between.

    ## What it does
    Finds BN layers whose input is another BN layer's output, directly or through layers that
    treat each channel linearly by itself: dropout, average pooling, upsampling, flattening.

    ## Why is this bad
    The second layer normalizes again what the first one scaled and shifted: the first one's
    gamma and beta have no effect in training. Two moving averages must agree at inference
    where one would do.

    ## What to do
    Keep one of the two. A model that is trained already can be folded: `bnscope fold`.

    ## When it is quiet
    An activation, an `Add` or a layer with weights between; a first layer whose output is
    used elsewhere too; different axes. Info where the first one is frozen (an affine layer).

    ## References
    - <https://github.com/kwotsin/TensorFlow-Xception/issues/1>
    """

    code = "BN105"
    name = "consecutive-bn"
    severity = Severity.WARNING
    fix = "unsafe"
    advice = "Keep one of the two BN layers."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for call in context.batch_norm_calls:
            first = _previous_bn(context, call)
            if first is None:
                continue
            frozen = is_frozen(first.layer)
            effect = (
                "(frozen) is an affine layer that this one could hold."
                if frozen
                else "has a gamma and beta without effect in training."
            )
            yield Problem(
                call.layer.path,
                "normalizes again what another BN layer just normalized: BatchNormalization "
                f'"{first.layer.path}" {effect}',
                severity=Severity.INFO if frozen else None,
                related=(first.layer.path,),
            )

    @staticmethod
    def bad_twice(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def bad_pooling_between(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def good_activation_between(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.BatchNormalization(),
                keras.layers.Conv2D(4, 3),
            ]
        )


def _previous_bn(context: Context, call: Call) -> Call | None:
    """The BN call whose output, and nobody else's input, this call normalizes again."""
    graph = context.graph
    current = call
    flattened = False
    while current.inputs:
        tensor = current.inputs[0]
        if graph.sole_consumer(tensor) is not current:
            return None
        producer = graph.producer(tensor)
        if producer is None:
            return None
        if is_batch_norm(producer.layer):
            return producer if flattened or _same_axis(producer, call) else None
        if not _per_channel(producer):
            return None
        flattened = flattened or producer.kind == "Flatten"
        current = producer
    return None


def _per_channel(call: Call) -> bool:
    return (
        kinds.is_identity_at_inference(call)
        or call.kind in kinds.AVERAGE_POOLING | kinds.UPSAMPLING | kinds.CROPPING
        or call.kind == "Flatten"
    )


def _same_axis(first: Call, second: Call) -> bool:
    axes = [
        channel_axis(call.layer, call.inputs[0].rank) if call.inputs else None
        for call in (first, second)
    ]
    ranks = {call.inputs[0].rank for call in (first, second)}
    return axes[0] == axes[1] or len(ranks) > 1
