"""BN107: Batch Normalization behind an activation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph import kinds
from bnscope.graph.model import Call
from bnscope.rules.base import Context, Problem, Rule, Severity

_OPERATIONS = {
    "Celu",
    "Elu",
    "Gelu",
    "HardSigmoid",
    "HardSilu",
    "HardTanh",
    "LeakyRelu",
    "LogSigmoid",
    "LogSoftmax",
    "Selu",
    "Sigmoid",
    "Silu",
    "Softmax",
    "Softplus",
    "Softsign",
    "Tanh",
}
_ACTIVATIONS = (
    kinds.RELU
    | {"LeakyReLU", "PReLU", "ELU", "Softmax"}
    | {f"ops.{name}" for name in _OPERATIONS}
)


class BnAfterActivation(Rule):
    """Batch Normalization stands behind the activation, not before it.

    ## What it does
    Finds BN layers that are fed by an activation layer, or by a layer with an activation of
    its own.

    ## Why is this bad
    The paper puts BN before the activation. Behind it BN cannot be folded into the layer
    before, and normalizes values that are far from symmetric. Both orders train; this is a
    matter of style, so the rule is off unless it is selected.

    ## What to do
    Use the order convolution, BN, activation where you want to fold.

    ## When it is quiet
    Unless it is selected. U-Nets often put BN behind the activation on purpose.

    ## References
    - Ioffe & Szegedy 2015, section 3.2, <https://arxiv.org/abs/1502.03167>
    """

    code = "BN107"
    name = "bn-after-activation"
    severity = Severity.OFF
    advice = "Put BN between the layer and its activation."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for call in context.batch_norm_calls:
            producer = context.graph.producer(call.inputs[0]) if call.inputs else None
            if producer is not None and _is_active(producer):
                yield Problem(
                    call.layer.path,
                    f"stands behind the activation of {kinds.describe(producer)}.",
                    related=(producer.layer.path,),
                )

    @staticmethod
    def bad_behind_relu(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3, activation="relu"),
                keras.layers.BatchNormalization(),
                keras.layers.Conv2D(2, 3),
            ]
        )

    @staticmethod
    def good_before_relu(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )


def _is_active(call: Call) -> bool:
    own = call.kind in kinds.LINEAR | {"Activation"}
    return call.kind in _ACTIVATIONS or (
        own and not kinds.is_linear_activation(call.config)
    )
