"""BN113: a gamma that the next layer could hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph import kinds
from bnscope.graph.batchnorm import is_frozen
from bnscope.graph.model import Call
from bnscope.graph.paths import ends_after
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
    Use `scale=False`.

    ## When it is quiet
    Unless it is selected; frozen layers.

    ## References
    - <https://keras.io/api/layers/normalization_layers/batch_normalization/>
    """

    code = "BN113"
    name = "useless-gamma"
    severity = Severity.OFF
    advice = "Use scale=False: the next layer can scale."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for layer in context.batch_norms:
            if not layer.config.get("scale", True) or is_frozen(layer):
                continue
            ends = [
                end
                for call in context.graph.calls_of(layer)
                for output in call.outputs
                for end in ends_after(context.graph, output, _lets_a_scale_pass)
            ]
            linear = [
                end.call for end in ends if end.call and end.call.kind in kinds.LINEAR
            ]
            if linear and len(linear) == len(ends):
                names = dict.fromkeys(kinds.describe(call) for call in linear)
                yield Problem(
                    layer.path,
                    f"gamma only scales what {', '.join(names)} can scale as well.",
                    related=tuple(dict.fromkeys(call.layer.path for call in linear)),
                )

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
