"""BN301: statistics that training never touched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.bn import BatchNormState
from bnscope.graph.batchnorm import AFFINE, is_frozen
from bnscope.graph.model import Layer
from bnscope.rules.base import Context, Problem, Rule, Severity, plural

_MAYBE_FROZEN = " Whether the layer is frozen on purpose is not known."


class StatsNeverUpdated(Rule):
    """The model was trained, but the moving statistics of a BN layer are still the initial ones.

    ## What it does
    Finds BN layers whose moving mean is exactly 0 and whose moving variance is exactly 1 in a
    model that was trained: its optimizer has counted steps, or some BN layer has left its
    initial values. In a model that was not trained it says so once, as info.

    ## Why is this bad
    In training BN normalizes with the batch; at inference with mean 0 and variance 1, which is
    to say not at all. The model that is validated and deployed is another one than was trained.
    It happens where a custom training loop calls the model without `training=True`.

    ## What to do
    Call the model with `training=True` in the training step, or recompute the statistics on
    training data.

    ## When it is quiet
    Frozen layers, and layers that no output of the model depends on.

    ## References
    - <https://github.com/keras-team/keras/issues/10666>
    """

    code = "BN301"
    name = "stats-never-updated"
    severity = Severity.ERROR
    advice = "Train with training=True (model.fit does), or recompute the statistics on training data."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        states = [(layer, context.state(layer)) for layer in context.batch_norms]
        known = [(layer, state) for layer, state in states if state is not None]
        initial = [layer for layer, state in known if state.has_initial_statistics]
        if not initial:
            return
        steps = context.graph.training.optimizer_steps or 0
        if not steps and all(_is_initial(layer, state) for layer, state in known):
            yield _untrained(initial)
            return
        counted = f" for {plural(steps, 'step')}" if steps else ""
        for layer in initial:
            if not is_frozen(layer) and _is_used(context, layer):
                yield Problem(
                    layer.path,
                    "moving_mean is exactly 0 and moving_variance exactly 1 in all "
                    f"{plural(_channels(context, layer), 'channel')}, though the model was "
                    f"trained{counted}: inference does not normalize."
                    + ("" if layer.config_known else _MAYBE_FROZEN),
                    data={"optimizer_steps": steps},
                )

    @staticmethod
    def bad_one_layer_left_behind(keras: Any) -> Any:  # noqa: D102
        trained = keras.layers.BatchNormalization()
        forgotten = keras.layers.BatchNormalization()
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(2, use_bias=False),
                trained,
                keras.layers.ReLU(),
                keras.layers.Dense(2, use_bias=False),
                forgotten,
                keras.layers.ReLU(),
            ]
        )
        trained.moving_mean.assign([0.3, -0.2])
        trained.moving_variance.assign([0.7, 2.5])
        return model

    @staticmethod
    def bad_untrained(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(2, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def good_trained(keras: Any) -> Any:  # noqa: D102
        bn = keras.layers.BatchNormalization()
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


def _is_initial(layer: Layer, state: BatchNormState) -> bool:
    # A vector that is gamma or beta would bear its name if it had its initial values.
    return AFFINE not in layer.variables and state.is_initial


def _channels(context: Context, layer: Layer) -> int:
    state = context.state(layer)
    return state.channels if state else 0


def _is_used(context: Context, layer: Layer) -> bool:
    """Whether the layer is called at all, as far as that is known."""
    return (
        bool(context.graph.not_analysed)
        or bool(context.graph.calls_of(layer))
        or context.graph.has_layer(layer.path.rpartition("/")[0])
    )


def _untrained(layers: list[Layer]) -> Problem:
    return Problem(
        layers[0].path,
        f"the model is untrained: {plural(len(layers), 'BN layer')} "
        f"{'has' if len(layers) == 1 else 'have'} moving mean 0 and variance 1.",
        severity=Severity.INFO,
        related=tuple(layer.path for layer in layers[1:]),
        data={"layers": len(layers)},
    )
