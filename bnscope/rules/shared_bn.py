"""BN109: one Batch Normalization layer that is called several times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph.batchnorm import is_frozen
from bnscope.graph.model import Call
from bnscope.rules.base import Context, Problem, Rule, Severity


class SharedBn(Rule):
    """One Batch Normalization layer is called on several tensors.

    ## What it does
    Finds BN layers that the model calls more than once, counting the calls of the models
    they are nested in.

    ## Why is this bad
    Each call normalizes with the statistics of its own input in training, and all of them
    write to the same moving mean and variance. At inference every call gets the mixture,
    which fits none of them if the inputs differ. The moving average is also updated several
    times a step.

    ## What to do
    Give each place a BN layer of its own; the other layers may stay shared.

    ## When it is quiet
    Frozen layers. Info where the layer before is shared in the same way (a siamese tower):
    then the inputs are usually alike.

    ## References
    - <https://github.com/keras-team/keras/issues/11927>
    """

    code = "BN109"
    name = "shared-bn"
    severity = Severity.WARNING
    advice = "Give each place a BN layer of its own."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for layer in context.batch_norms:
            calls = context.graph.calls_of(layer)
            if len(calls) > 1 and not is_frozen(layer):
                siamese = _has_shared_producer(context, calls)
                yield Problem(
                    layer.path,
                    f"is called {len(calls)} times: in training each call has statistics of "
                    "its own, at inference all share one moving mean and variance.",
                    severity=Severity.INFO if siamese else None,
                    data={"calls": len(calls), "siamese": siamese},
                )

    @staticmethod
    def bad_on_two_branches(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((8,))
        bn = keras.layers.BatchNormalization()
        left = bn(keras.layers.Dense(4, use_bias=False)(inputs))
        right = bn(keras.layers.Dense(4, use_bias=False)(inputs))
        return keras.Model(inputs, keras.layers.Multiply()([left, right]))

    @staticmethod
    def bad_siamese_tower(keras: Any) -> Any:  # noqa: D102
        tower = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )
        left, right = keras.Input((8,)), keras.Input((8,))
        together = keras.layers.Concatenate()([tower(left), tower(right)])
        return keras.Model([left, right], keras.layers.Dense(1)(together))

    @staticmethod
    def good_one_each(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((8,))
        parts = [
            keras.layers.BatchNormalization()(keras.layers.Dense(4, use_bias=False)(inputs))
            for _ in range(2)
        ]
        return keras.Model(inputs, keras.layers.Multiply()(parts))


def _has_shared_producer(context: Context, calls: tuple[Call, ...]) -> bool:
    """Whether one layer feeds all calls, each by a call of its own."""
    producers = [context.graph.producer(call.inputs[0]) for call in calls if call.inputs]
    layers = {None if producer is None else producer.layer.path for producer in producers}
    return len(layers) == 1 and None not in layers and len(set(producers)) == len(calls)
