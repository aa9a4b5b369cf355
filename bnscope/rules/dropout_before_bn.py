"""BN106: dropout before Batch Normalization."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph import kinds
from bnscope.graph.batchnorm import is_frozen
from bnscope.graph.model import Call
from bnscope.graph.paths import ends_before
from bnscope.rules.base import Context, Problem, Rule, Severity


class DropoutBeforeBn(Rule):
    """Dropout stands before Batch Normalization, whose statistics then fit training only.

    ## What it does
    Finds BN layers whose input comes from a dropout layer with a rate above 0 (`Dropout`,
    `SpatialDropout`, `GaussianDropout`, `AlphaDropout`), directly or through layers that
    change nothing about its variance; as info also through one convolution or dense layer.

    ## Why is this bad
    Dropout multiplies its input by random numbers of mean 1 in training and does nothing at
    inference, so the variance that BN averages in training is larger than the one it meets
    at inference: 2.5 times in a measured case with a rate of 0.5 (1.95 times for
    `AlphaDropout`), with a dense or convolution layer between or not. Every channel then comes
    out too small.

    ## What to do
    Put dropout behind the last BN layer, or lower its rate.

    ## When it is quiet
    A rate of 0; stochastic depth (`noise_shape=(None, 1, 1, 1)`), which drops whole samples; a
    frozen BN; an `Add` or an activation between.

    ## References
    - Li et al. 2018, <https://arxiv.org/abs/1801.05134>
    """

    code = "BN106"
    name = "dropout-before-bn"
    severity = Severity.WARNING
    advice = "Put dropout behind the last BN layer."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for call in context.batch_norm_calls:
            if is_frozen(call.layer) or not call.inputs:
                continue
            dropout, weighted = _dropout_before(context, call)
            if dropout is None:
                continue
            through = f", through {kinds.describe(weighted)}" if weighted else ""
            yield Problem(
                call.layer.path,
                f"{kinds.describe(dropout)} (rate {kinds.noise_rate(dropout.config):g}) feeds "
                f"it{through}: the variance it averages in training is larger than the one "
                "at inference.",
                severity=Severity.INFO if weighted else None,
                related=(dropout.layer.path,),
                data={"rate": kinds.noise_rate(dropout.config)},
            )

    @staticmethod
    def bad_directly_before(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, activation="relu"),
                keras.layers.Dropout(0.5),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(2),
            ]
        )

    @staticmethod
    def bad_through_a_convolution(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.SpatialDropout2D(0.2),
                keras.layers.Conv2D(4, 3, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def good_dropout_behind(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.Dropout(0.5),
            ]
        )

    @staticmethod
    def good_stochastic_depth(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.Dropout(0.5, noise_shape=(None, 1, 1, 1))(inputs)
        x = keras.layers.Conv2D(3, 3, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization()(x)
        return keras.Model(inputs, keras.layers.Add()([inputs, x]))


def _dropout_before(context: Context, call: Call) -> tuple[Call | None, Call | None]:
    """The dropout that feeds a call, and the layer with weights between, if there is one."""
    for end in ends_before(context.graph, call.inputs[0], _keeps_noise):
        if end.call is None:
            continue
        if _is_noise(end.call):
            return end.call, None
        if kinds.is_linear(end.call.layer) and end.call.inputs:
            for other in ends_before(context.graph, end.call.inputs[0], _keeps_noise):
                if other.call is not None and _is_noise(other.call):
                    return other.call, end.call
    return None, None


def _keeps_noise(call: Call) -> bool:
    """Whether a call hands the noise of its one input on as it is."""
    passes = kinds.is_noise_free_identity(call) or call.kind in kinds.RESHAPING
    return passes and len(call.inputs) == 1


def _is_noise(call: Call) -> bool:
    if call.kind not in kinds.MULTIPLICATIVE_NOISE or not kinds.noise_rate(call.config):
        return False
    shape = call.config.get("noise_shape")
    per_sample = isinstance(shape, (list, tuple)) and all(size == 1 for size in shape[1:])
    return not per_sample
