"""BN302: statistics that were updated too rarely to have left their initial values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bnscope.bn import LARGEST_INITIAL_SHARE, initial_share, is_cold, updates_until
from bnscope.graph.batchnorm import is_frozen, momentum
from bnscope.graph.model import Layer
from bnscope.rules.base import Context, Problem, Rule, Severity, plural

# A variance that contradicts training from scratch must do so by more than rounding.
_ROUNDING = 1e-3


class ColdStats(Rule):
    """The moving statistics were updated too few times to have forgotten their initial values.

    ## What it does
    Takes the number of steps from the saved optimizer and computes `momentum ** updates`, the
    share of the moving values that is still the initial mean 0 and variance 1. A layer that is
    called several times a step is updated as often, one inside `TimeDistributed` once a time
    step. A moving variance that began at 1 is never below that share, so the smallest one
    bounds it too: the smaller of both bounds is reported if it is at least 5 %.

    ## Why is this bad
    Inference normalizes with values that are partly invented. The model is worse than what was
    trained, and looks overfitted. With Keras's momentum of 0.99 it takes 299 steps to get below
    5 %.

    ## What to do
    Train longer, lower the momentum (0.9 needs 29 updates), or recompute the statistics on
    training data.

    ## When it is quiet
    Frozen layers; files that do not hold the momentum; statistics that are proved warm by their smallest variance; statistics that
    were never updated at all (BN301). `compile` sets the count back to 0, so a model that was
    fine-tuned looks colder than it is: it is only a note where a layer is frozen, or where some
    variance is smaller than training from scratch could have made it. It is also only a note at
    a momentum of 0.9997 or more (NASNet), which is meant for very long training.

    ## References
    - <https://github.com/keras-team/keras/issues/10666>
    - <https://github.com/tensorflow/tensorflow/issues/36446>
    """

    code = "BN302"
    name = "cold-stats"
    severity = Severity.WARNING
    advice = (
        "Train longer, lower the momentum, or recompute the statistics on training data."
    )

    LARGEST_INITIAL_SHARE = LARGEST_INITIAL_SHARE
    LONG_TRAINING_MOMENTUM = 0.9997

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        steps = context.graph.training.optimizer_steps
        if not steps or steps < 0:
            return
        times = _updates_a_step(context)
        fine_tuned = _is_fine_tuned(context, steps, times)
        for layer in context.batch_norms:
            count = times.get(layer.path, 1)
            if count is not None and _is_candidate(context, layer):
                yield from self._check_layer(
                    context, layer, steps, steps * count, fine_tuned=fine_tuned
                )

    def _check_layer(
        self, context: Context, layer: Layer, steps: int, updates: int, *, fine_tuned: bool
    ) -> Iterator[Problem]:
        value = momentum(layer)
        bound = min(initial_share(value, updates), _smallest_variance(context, layer))
        if not is_cold(bound):
            return
        needed = updates_until(value, self.LARGEST_INITIAL_SHARE)
        lenient = fine_tuned or value >= self.LONG_TRAINING_MOMENTUM
        before = " The model seems to have been trained before its last compile."
        yield Problem(
            layer.path,
            f"at most {bound:.0%} of these statistics may still be the initial mean 0 and "
            f"variance 1, if this optimizer ({plural(steps, 'step')}, "
            f"{plural(updates, 'update')} at momentum {value:g}) trained this layer from "
            f"scratch; {needed} updates bring that below "
            f"{self.LARGEST_INITIAL_SHARE:.0%}.{before if fine_tuned else ''}",
            severity=Severity.INFO if lenient else None,
            data={
                "initial_share": bound,
                "updates": updates,
                "momentum": value,
                "needed_updates": needed,
            },
        )

    @staticmethod
    def bad_twenty_steps(keras: Any) -> Any:  # noqa: D102
        bn = keras.layers.BatchNormalization(momentum=0.99)
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(2, use_bias=False),
                bn,
                keras.layers.ReLU(),
            ]
        )
        model.compile("sgd", "mse")
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(20)
        bn.moving_mean.assign([0.1, -0.2])
        bn.moving_variance.assign([0.9, 1.3])
        return model

    @staticmethod
    def good_lower_momentum(keras: Any) -> Any:  # noqa: D102
        bn = keras.layers.BatchNormalization(momentum=0.8)
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(2, use_bias=False),
                bn,
                keras.layers.ReLU(),
            ]
        )
        model.compile("sgd", "mse")
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(20)
        bn.moving_mean.assign([0.5, -1.2])
        bn.moving_variance.assign([0.4, 3.3])
        return model


def _is_candidate(context: Context, layer: Layer) -> bool:
    """Whether the layer is updated, and was."""
    state = context.state(layer)
    return (
        state is not None
        and layer.config_known
        and not state.has_initial_statistics
        and not is_frozen(layer)
        and 0.0 < momentum(layer) < 1.0
    )


def _updates_a_step(context: Context) -> dict[str, int | None]:
    """How often a step updates each layer; None where that is not known."""
    counts: dict[str, int | None] = {}
    for call in context.graph.calls:
        counts[call.layer.path] = (counts.get(call.layer.path) or 0) + 1
        for child in call.layer.children if call.kind == "TimeDistributed" else ():
            shape = call.inputs[0].shape if call.inputs else None
            length = shape[1] if shape is not None and len(shape) > 1 else None
            before = counts.get(child.path, 0)
            known = length is not None and before is not None
            counts[child.path] = (before or 0) + (length or 0) if known else None
    return counts


def _smallest_variance(context: Context, layer: Layer) -> float:
    """The smallest moving variance if all began at 1; else infinity, which bounds nothing."""
    state = context.state(layer)
    initializer = layer.config.get("moving_variance_initializer", "ones")
    if isinstance(initializer, Mapping):
        initializer = initializer.get("class_name")
    if state is None or str(initializer).lower() != "ones" or not state.channels:
        return float("inf")
    smallest = float(np.min(state.moving_variance))
    return float("inf") if np.isnan(smallest) else max(smallest, 0.0)


def _is_fine_tuned(context: Context, steps: int, times: Mapping[str, int | None]) -> bool:
    """Whether something shows that the model was trained before its last compile."""
    if any(not layer.trainable for layer in context.graph.layers):
        return True
    for layer in context.batch_norms:
        count = times.get(layer.path, 1)
        if count is not None and _is_candidate(context, layer):
            least = initial_share(momentum(layer), steps * count)
            if _smallest_variance(context, layer) < least * (1.0 - _ROUNDING):
                return True
    return False
