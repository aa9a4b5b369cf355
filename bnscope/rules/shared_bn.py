"""BN109: one Batch Normalization layer that is called several times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph import kinds
from bnscope.graph.batchnorm import is_batch_norm
from bnscope.graph.model import Call, Graph, Layer
from bnscope.rules.base import Context, Problem, Rule, Severity


class SharedBn(Rule):
    """One Batch Normalization layer is called on several tensors.

    ## What it does
    Finds BN layers that the model calls more than once, counting the calls of the models and
    wrappers they are nested in.

    ## Why is this bad
    Each call normalizes with the statistics of its own input in training, and all of them
    write to the same moving mean and variance. At inference every call gets the mixture,
    which fits none of them if the inputs differ. The moving average is also updated several
    times a step.

    ## What to do
    Give each place a BN layer of its own; the other layers may stay shared.

    ## When it is quiet
    Frozen layers. Info in a siamese tower, where everything before is shared in the same way:
    then the inputs are usually alike. A head that is shared by different towers is none, nor a
    block that is called on its own output.

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
            around = tuple(context.graph.around(layer))
            calls = _calls(context.graph, (layer, *around))
            if len(calls) > 1 and all(each.trainable for each in (layer, *around)):
                siamese = _is_siamese(context.graph, calls)
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


def _calls(graph: Graph, layers: tuple[Layer, ...]) -> tuple[Call, ...]:
    """The calls of the first of these layers that the graph calls itself."""
    return next((calls for layer in layers if (calls := graph.calls_of(layer))), ())


def _is_siamese(graph: Graph, calls: tuple[Call, ...]) -> bool:
    """Whether all that comes before is shared too, each call having an input of its own."""
    sources = [call.inputs[0] for call in calls if call.inputs]
    producers = {
        None if producer is None else producer.layer.path
        for producer in map(graph.producer, sources)
    }
    if len(producers) != 1 or len({source.index for source in sources}) != len(calls):
        return False
    first = _learned_before(graph, calls[0])
    return all(_learned_before(graph, call) == first for call in calls[1:])


def _learned_before(graph: Graph, call: Call) -> frozenset[str]:
    """The layers with weights that a call depends on."""
    found = set()
    stack, seen = [call], {call.index}
    while stack:
        for before in graph.predecessors(stack.pop()):
            if before.index in seen:
                continue
            seen.add(before.index)
            stack.append(before)
            if _has_weights(before.layer):
                found.add(before.layer.path)
    return frozenset(found)


def _has_weights(layer: Layer) -> bool:
    # Not by the variables: of other layers than BN no file is asked for them.
    return (
        layer.kind in kinds.LINEAR | kinds.RECURRENT | {"Embedding"}
        or is_batch_norm(layer)
        or bool(layer.children)
        or layer.is_custom
    )
