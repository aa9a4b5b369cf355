"""BN403 and BN404: freezing that fits neither the statistics nor the layer before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph import kinds
from bnscope.graph.batchnorm import is_batch_norm, is_frozen
from bnscope.graph.model import Call
from bnscope.graph.paths import ends_before
from bnscope.rewriting.edits import Edit, SetTrainable
from bnscope.rules.base import Context, Problem, Rule, Severity, plural


class FrozenUntrained(Rule):
    """A BN layer is frozen before it has seen any data.

    ## What it does
    Finds BN layers with `trainable=False` whose moving mean is exactly 0 and moving variance
    exactly 1, and whose gamma and beta are at their initial values.

    ## Why is this bad
    A frozen layer normalizes with its moving statistics and never updates them: this one
    returns its input, in training as at inference. The network trains without normalization.
    Often the pretrained weights were not loaded.

    ## What to do
    Load the weights before freezing, or leave the layer trainable.

    ## When it is quiet
    Gamma or beta away from their initial values: an affine layer that was put there on purpose,
    such as one whose statistics were folded into it. Files without weights.

    ## References
    - <https://keras.io/guides/transfer_learning/>
    """

    code = "BN403"
    name = "frozen-untrained"
    severity = Severity.ERROR
    advice = "Load the pretrained weights before freezing, or leave the layer trainable."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for layer in context.batch_norms:
            state = context.state(layer)
            if is_frozen(layer) and state is not None and state.is_initial:
                yield Problem(
                    layer.path,
                    "is frozen with moving mean 0 and variance 1 in all "
                    f"{plural(state.channels, 'channel')}: it never normalizes anything.",
                    data={"channels": state.channels},
                )

    @staticmethod
    def bad_frozen_at_birth(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(2, use_bias=False),
                keras.layers.BatchNormalization(trainable=False),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def good_frozen_with_statistics(keras: Any) -> Any:  # noqa: D102
        bn = keras.layers.BatchNormalization(trainable=False)
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(2, use_bias=False),
                bn,
                keras.layers.ReLU(),
            ]
        )
        bn.moving_mean.assign([0.3, -0.2])
        bn.moving_variance.assign([0.7, 2.5])
        return model

    @staticmethod
    def good_folded_affine(keras: Any) -> Any:  # noqa: D102
        bn = keras.layers.BatchNormalization(trainable=False)
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(2, use_bias=False),
                bn,
                keras.layers.ReLU(),
            ]
        )
        bn.gamma.assign([0.5, -2.0])
        return model


class PartialFreeze(Rule):
    """A convolution is frozen, but the Batch Normalization behind it is not.

    ## What it does
    Finds trainable BN layers directly behind a frozen convolution, in a model that trains other
    convolutions or has other BN layers that are frozen.

    ## Why is this bad
    Freezing should keep what the pretrained layers compute. The convolution stays, but BN
    normalizes its output with each batch and moves its statistics to the new data, gamma and
    beta train too: the features change all the same, and most with small batches.

    ## What to do
    Freeze the BN layer with its convolution, before `compile`.

    ## When it is quiet
    A trainable convolution with a frozen BN layer, which is Keras's own recipe for fine-tuning.
    Models in which every convolution before a BN layer is frozen and no BN layer is: training
    nothing but BN, or adapting its statistics to a new domain, is a method of its own.

    ## References
    - <https://github.com/keras-team/keras/issues/9965>
    - Li et al. 2016 (adapting the statistics), <https://arxiv.org/abs/1603.04779>
    - Frankle et al. 2020 (training only BN), <https://arxiv.org/abs/2003.00152>
    """

    code = "BN404"
    name = "partial-freeze"
    severity = Severity.WARNING
    fix = "unsafe"
    advice = "Set trainable=False on the BN layer too, before compile."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        pairs = list(_pairs(context))
        suspects = [
            (convolution, call)
            for convolution, call in pairs
            if not convolution.layer.trainable and not is_frozen(call.layer)
        ]
        no_bn_frozen = not any(is_frozen(layer) for layer in context.batch_norms)
        if no_bn_frozen and len(suspects) == len(pairs):
            return
        for convolution, call in suspects:
            yield Problem(
                call.layer.path,
                f"is trainable, but {kinds.describe(convolution)} before it is frozen: its "
                "statistics, gamma and beta move away from what the convolution was trained "
                "with.",
                related=(convolution.layer.path,),
            )

    def repair(self, context: Context, layer: str) -> tuple[Edit, ...]:  # noqa: ARG002
        """Freezes the BN layer too."""
        return (SetTrainable(layer, value=False),)

    @staticmethod
    def bad_bn_left_trainable(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3, use_bias=False, trainable=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.Conv2D(4, 3, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def good_fine_tuning(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3, use_bias=False, trainable=False),
                keras.layers.BatchNormalization(trainable=False),
                keras.layers.ReLU(),
                keras.layers.Conv2D(4, 3, use_bias=False),
                keras.layers.BatchNormalization(trainable=False),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def good_only_bn_trains(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3, use_bias=False, trainable=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.Flatten(),
                keras.layers.Dense(2),
            ]
        )


def _pairs(context: Context) -> Iterator[tuple[Call, Call]]:
    """Each convolution with the BN call directly behind it."""
    for call in context.graph.calls:
        if is_batch_norm(call.layer) and call.inputs:
            for end in ends_before(
                context.graph, call.inputs[0], kinds.is_noise_free_identity
            ):
                if end.call is not None and end.call.kind in kinds.CONVOLUTIONS:
                    yield end.call, call
