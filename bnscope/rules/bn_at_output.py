"""BN104: Batch Normalization at the output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph import kinds
from bnscope.graph.model import Call
from bnscope.graph.paths import End, ends_after
from bnscope.rules.base import Context, Problem, Rule, Severity


class BnAtOutput(Rule):
    """Batch Normalization is the last layer before the model's output.

    ## What it does
    Finds BN layers whose output reaches the model's output through softmax or sigmoid only
    (warning), or through nothing at all (info).

    ## Why is this bad
    BN gives each class score the same spread over a batch, whatever the network found: the
    confidence of a prediction depends on the other samples of its batch in training, and on a
    moving average at inference. The loss then sees another function than the one that is
    deployed.

    ## What to do
    End with a dense layer that has a bias and no BN behind it.

    ## When it is quiet
    Any layer with weights, or another activation, between BN and the output.
    """

    code = "BN104"
    name = "bn-at-output"
    severity = Severity.WARNING
    advice = "Drop this BN layer and give the layer before it a bias."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for call in context.batch_norm_calls:
            ends = [
                end
                for output in call.outputs
                for end in ends_after(context.graph, output, _is_output_part)
                if end.call is None
            ]
            if ends:
                yield _problem(call, ends[0])

    @staticmethod
    def bad_before_softmax(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(3, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.Softmax(),
            ]
        )

    @staticmethod
    def bad_before_sigmoid(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(1, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.Activation("sigmoid"),
            ]
        )

    @staticmethod
    def good_dense_at_the_end(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.Dense(3, activation="softmax"),
            ]
        )


def _is_output_activation(call: Call) -> bool:
    return call.kind in kinds.OUTPUT_ACTIVATIONS or (
        call.kind == "Activation"
        and kinds.activation_name(call.config) in {"softmax", "sigmoid"}
    )


def _is_output_part(call: Call) -> bool:
    return (
        _is_output_activation(call)
        or kinds.is_identity_at_inference(call)
        or call.kind in {"Flatten", "Reshape"}
    )


def _problem(call: Call, end: End) -> Problem:
    activation = next(
        (passed for passed in end.through if _is_output_activation(passed)), None
    )
    if activation is None:
        return Problem(
            call.layer.path,
            "is the last layer of the model: its output is scaled by batch statistics in "
            "training and by moving ones at inference.",
            severity=Severity.INFO,
        )
    return Problem(
        call.layer.path,
        f"stands before {kinds.describe(activation)} at the output: every channel of it gets the "
        "same spread over a batch, whatever the network found.",
        related=(activation.layer.path,),
    )
