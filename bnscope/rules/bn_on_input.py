"""BN103: Batch Normalization on the input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph import kinds
from bnscope.graph.batchnorm import is_frozen
from bnscope.graph.model import Call
from bnscope.graph.paths import ends_before
from bnscope.rules.base import Context, Problem, Rule, Severity

_NOT_LEARNING = (
    kinds.RESHAPING
    | kinds.AUGMENTATION
    | kinds.ZERO_PADDING
    | kinds.CROPPING
    | kinds.INPUT_SCALING
    | {"Resizing"}
)


class BnOnInput(Rule):
    """Batch Normalization normalizes the data themselves.

    ## What it does
    Finds BN layers whose input comes from the model's inputs, directly or through layers that
    learn nothing: reshaping, dropout, augmentation, padding, rescaling, concatenation.

    ## Why is this bad
    The statistics of the data set are known before training; BN replaces them by those of each
    batch in training and by a moving average at inference. Small or ordered batches make the
    input itself noisy, and a moving average that is still cold, or data that shift, change what
    the whole network sees.

    ## What to do
    Normalize the data: `keras.layers.Normalization` with `adapt`, or `Rescaling`.

    ## When it is quiet
    A frozen BN layer. Some tabular networks (TabNet, Wide & Deep) do this on purpose; ignore
    the rule for them with `--ignore BN103`.

    ## References
    - Arik & Pfister 2019, <https://arxiv.org/abs/1908.07442> (a network that does it on purpose)
    - <https://keras.io/api/layers/preprocessing_layers/numerical/normalization/>
    """

    code = "BN103"
    name = "bn-on-input"
    severity = Severity.WARNING
    advice = (
        "Normalize the data with keras.layers.Normalization; if the network means it (TabNet, "
        "Wide & Deep), ignore BN103."
    )

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for call in context.batch_norm_calls:
            if is_frozen(call.layer) or not call.inputs:
                continue
            ends = list(ends_before(context.graph, call.inputs[0], _learns_nothing))
            if ends and all(end.call is None for end in ends):
                names = ", ".join(f'"{end.tensor.name}"' for end in ends)
                between = sorted({passed.kind for end in ends for passed in end.through})
                through = f" through {', '.join(between)}" if between else ""
                yield Problem(
                    call.layer.path,
                    f"normalizes the model's input {names}{through} by the statistics of each "
                    "batch, not of the data set.",
                    related=tuple(passed.layer.path for passed in ends[0].through),
                )

    @staticmethod
    def bad_first_layer(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((30,)),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(4, activation="relu"),
            ]
        )

    @staticmethod
    def bad_behind_reshape(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((64,)),
                keras.layers.Reshape((8, 8, 1)),
                keras.layers.BatchNormalization(),
                keras.layers.Conv2D(4, 3, activation="relu"),
            ]
        )

    @staticmethod
    def good_normalized_data(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((30,)),
                keras.layers.Normalization(mean=0.0, variance=1.0),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )


def _learns_nothing(call: Call) -> bool:
    return (
        kinds.is_identity_at_inference(call)
        or call.kind in _NOT_LEARNING
        or call.kind.endswith("Concatenate")
    )
