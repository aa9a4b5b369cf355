"""BN113: a gamma that the next layer could hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bnscope.graph import kinds
from bnscope.graph.batchnorm import channel_axis, is_frozen
from bnscope.graph.model import Call, Layer
from bnscope.graph.paths import End, ends_after
from bnscope.rewriting.edits import Edit, SetConfig
from bnscope.rules.base import Context, Problem, Rule, Severity


class UselessGamma(Rule):
    """Batch Normalization has a gamma, and the layer behind it could scale as well.

    ## What it does
    Finds BN layers with `scale=True` whose output goes, directly or through ReLU, to nothing
    but convolution and dense layers.

    ## Why is this bad
    It is not wrong. The next layer's kernel can hold the scale (ReLU lets a positive one
    pass), so gamma is a parameter more without a function more; Keras's documentation
    suggests `scale=False` there. Off unless selected, since gamma often helps training.

    ## What to do
    Use `scale=False`. The fix does so where every gamma is still 1, so that the outputs stay
    the same; training then goes on otherwise. A gamma that has been trained cannot be left out
    without changing what the model computes, so there is no fix for it.

    ## When it is quiet
    Unless it is selected; frozen layers; a BN axis that the next layer does not mix.

    ## References
    - <https://keras.io/api/layers/normalization_layers/batch_normalization/>
    """

    code = "BN113"
    name = "useless-gamma"
    severity = Severity.OFF
    fix = "unsafe"
    advice = "Use scale=False: the next layer can scale."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for layer in context.batch_norms:
            if not layer.config.get("scale", True) or is_frozen(layer):
                continue
            linear = _scaling(context, layer)
            if linear:
                names = dict.fromkeys(kinds.describe(call) for call in linear)
                yield Problem(
                    layer.path,
                    f"gamma only scales what {', '.join(names)} can scale as well.",
                    related=tuple(dict.fromkeys(call.layer.path for call in linear)),
                    fix="unsafe" if _is_one(context, layer) else None,
                )

    def repair(self, context: Context, layer: str) -> tuple[Edit, ...]:
        """Leaves gamma out where it is 1."""
        if not _is_one(context, context.graph.layer(layer)):
            return ()
        return (SetConfig(layer, {"scale": False}),)

    @staticmethod
    def bad_before_a_convolution(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.Conv2D(2, 3),
            ]
        )

    @staticmethod
    def good_without_scale(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3, use_bias=False),
                keras.layers.BatchNormalization(scale=False),
                keras.layers.ReLU(),
                keras.layers.Conv2D(2, 3),
            ]
        )


def _is_one(context: Context, layer: Layer) -> bool:
    state = context.state(layer)
    return state is not None and state.gamma is not None and bool(np.all(state.gamma == 1))


def _scaling(context: Context, layer: Layer) -> list[Call]:
    """The layers behind BN that could scale its channels; none if anything else follows."""
    found = []
    for call in context.graph.calls_of(layer):
        axis = channel_axis(layer, call.inputs[0].rank) if call.inputs else None
        for output in call.outputs:
            for end in ends_after(context.graph, output, _lets_a_scale_pass):
                if end.call is None or not _can_scale(end, axis):
                    return []
                found.append(end.call)
    return found


def _can_scale(end: End, axis: int | None) -> bool:
    """Whether a walk ends in a layer with a weight for each channel of BN."""
    if end.call is None or end.call.kind not in kinds.LINEAR:
        return False
    if any(passed.kind == "Flatten" or "Global" in passed.kind for passed in end.through):
        return True
    rank = end.tensor.rank
    first = end.call.kind in kinds.CONVOLUTIONS and kinds.is_channels_first(end.call.config)
    return rank is None or axis == (1 if first else rank - 1)


def _lets_a_scale_pass(call: Call) -> bool:
    return (
        _is_plain_relu(call)
        or kinds.is_identity_at_inference(call)
        or call.kind in kinds.SHIFT_EQUIVARIANT | kinds.ZERO_PADDING | {"Flatten"}
    )


def _is_plain_relu(call: Call) -> bool:
    """Whether a call is max(x, 0) without an upper bound, which a scale would move."""
    if call.kind == "ReLU":
        return not call.config.get("max_value") and not call.config.get("threshold")
    return call.kind == "ops.Relu" or (
        call.kind == "Activation" and kinds.activation_name(call.config) == "relu"
    )
