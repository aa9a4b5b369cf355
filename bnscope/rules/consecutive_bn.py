"""BN105: Batch Normalization twice in a row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bnscope.bn import DEAD_GAMMA, BatchNormState, scale_and_shift
from bnscope.graph import batchnorm, kinds
from bnscope.graph.batchnorm import channel_axis, is_batch_norm, is_frozen
from bnscope.graph.flattening import (
    channels_first_along,
    is_first_when_flattened,
    spread,
)
from bnscope.graph.model import Call, Layer
from bnscope.rewriting.edits import DropLayer, Edit, SetConfig, TransformWeights, Weights
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
    Keep one of the two. In a trained model `bnscope fix --unsafe-fixes` puts the first into
    the second: at inference the two computed

        y = a2·(a1·x + b1) + b2        a = gamma / sqrt(moving_variance + epsilon)

    and the second alone computes the same with the statistics that its own input now has,
    (moving_mean - b1) / a1 and moving_variance / a1². Training goes on otherwise than it would
    have, since the first layer's gamma and beta are gone.

    ## When it is quiet
    An activation, an `Add` or a layer with weights between; a first layer whose output is
    used elsewhere too; different axes. Info where the first one is frozen (an affine layer).
    No repair where the second is frozen and the first is not, or where one is shared.

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
            pair = _pair(context, call)
            if pair is None:
                continue
            first = pair.first
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
                fix="unsafe" if _can_collapse(context, pair) else None,
            )

    def repair(self, context: Context, layer: str) -> tuple[Edit, ...]:
        """The first layer goes, and the second computes what both computed."""
        calls = context.graph.calls_of(context.graph.layer(layer))
        pair = _pair(context, calls[0]) if calls else None
        if pair is None or not _can_collapse(context, pair):
            return ()
        return (
            DropLayer(pair.first.layer.path),
            SetConfig(layer, {"scale": True, "center": True}),
            TransformWeights(layer, partial(_collapsed, pair)),
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


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two BN calls in a row, and what lies between, in forward order."""

    first: Call
    second: Call
    between: tuple[Call, ...]


def _pair(context: Context, call: Call) -> _Pair | None:
    """The BN call whose output, and nobody else's input, this call normalizes again."""
    graph = context.graph
    current = call
    between: tuple[Call, ...] = ()
    while current.inputs:
        tensor = current.inputs[0]
        if graph.sole_consumer(tensor) is not current:
            return None
        producer = graph.producer(tensor)
        if producer is None:
            return None
        if is_batch_norm(producer.layer):
            flattened = any(passed.kind == "Flatten" for passed in between)
            same = flattened or _same_axis(producer, call)
            return _Pair(producer, call, between) if same else None
        if not _per_channel(producer):
            return None
        between = (producer, *between)
        current = producer
    return None


def _can_collapse(context: Context, pair: _Pair) -> bool:
    """Whether one layer can compute what both compute, and be trained on."""
    layers = (pair.first.layer, pair.second.layer)
    if is_frozen(layers[1]) and not is_frozen(layers[0]):
        return False  # the layer that is left would not normalize batches any more
    return channels_first_along(pair.first, pair.between) is not None and all(
        layer.kind in batchnorm.KINDS
        and not layer.config.get("renorm")
        and len(context.graph.calls_of(layer)) == 1
        and context.graph.holder(layer) is None
        and not any(call.training for call in context.graph.calls_of(layer))
        for layer in layers
    )


def _collapsed(pair: _Pair, weights: Weights) -> Weights:
    """The second layer's variables, so that it computes what both computed.

    Where the first layer's gamma is nearly zero nothing is known of its input but its own
    moving values, which are taken over then.
    """
    first = _read(pair.first.layer)
    second = BatchNormState(
        weights.get("gamma"),
        weights.get("beta"),
        weights["moving_mean"],
        weights["moving_variance"],
        epsilon=batchnorm.epsilon(pair.second.layer),
    )
    wide = partial(
        spread,
        size=second.channels,
        channels_first=is_first_when_flattened(pair.first, pair.between),
    )
    scale, shift = (wide(values) for values in scale_and_shift(first))
    outer_scale, outer_shift = scale_and_shift(second)
    gamma = np.ones(first.channels) if first.gamma is None else first.gamma
    dead = wide(np.abs(gamma)) < DEAD_GAMMA
    divisor = np.where(dead, 1.0, scale)
    mean = np.where(
        dead,
        wide(first.moving_mean),
        (np.asarray(second.moving_mean, np.float64) - shift) / divisor,
    )
    variance = np.where(
        dead,
        wide(first.moving_variance),
        np.asarray(second.moving_variance, np.float64) / divisor**2,
    )
    product = outer_scale * scale
    return {
        "gamma": product * np.sqrt(variance + second.epsilon),
        "beta": product * mean + outer_scale * shift + outer_shift,
        "moving_mean": mean,
        "moving_variance": variance,
    }


def _read(layer: Layer) -> BatchNormState:
    state = batchnorm.state(layer)
    if state is None:  # an edit is made on a model with weights
        raise LookupError(f"{layer.path} has no statistics")
    return state


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
