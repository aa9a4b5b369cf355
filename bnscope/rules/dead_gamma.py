"""BN305: channels whose gamma has gone to zero."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bnscope.bn import DEAD_GAMMA, BatchNormState
from bnscope.rules.base import (
    Context,
    Problem,
    Severity,
    StateProblem,
    StateRule,
    channel_list,
)
from bnscope.rules.regularized_affine import l1_factor


class DeadGamma(StateRule):
    """Gamma is nearly zero in many channels.

    ## What it does
    Finds BN layers in which gamma is nearly zero in more than a tenth of the channels.

    ## Why is this bad
    Such a channel puts out its beta whatever it is given. The filters before it get almost no
    gradient, and the computation is wasted.

    ## What to do
    Prune these channels, or look for what drove gamma to zero: weight decay or an L2 penalty
    on gamma, a learning rate that was too high, a gamma that was initialized with zeros.

    ## When it is quiet
    All gammas zero while the statistics are the initial ones: a zero initializer that has not
    been trained yet (BN201 looks at that). An L1 penalty on gamma, which prunes on purpose.

    ## References
    - Liu et al. 2017, <https://arxiv.org/abs/1708.06519>
    """

    code = "BN305"
    name = "dead-gamma"
    severity = Severity.WARNING
    advice = "Prune these channels, or look for what drove gamma to zero."

    LARGEST_DEAD_GAMMA = DEAD_GAMMA
    LARGEST_SHARE = 0.1

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in layers that are not pruned on purpose."""
        for found in super().check(context):
            config = context.graph.layer(found.layer).config
            if not l1_factor(config.get("gamma_regularizer")):
                yield found

    def check_state(self, state: BatchNormState) -> tuple[StateProblem, ...]:
        """The channels whose gamma is nearly zero, if they are many."""
        if state.gamma is None or _is_untrained(state):
            return ()
        size = np.abs(np.asarray(state.gamma, np.float64))
        dead = np.flatnonzero(size < self.LARGEST_DEAD_GAMMA)
        if dead.size <= self.LARGEST_SHARE * size.size:
            return ()
        channels = tuple(int(i) for i in dead[np.argsort(size[dead], kind="stable")])
        return (
            StateProblem(
                f"gamma is nearly zero in {channel_list(channels)} of {size.size}: they put "
                "out beta whatever they are given.",
                "gamma",
                channels,
                float(state.gamma[channels[0]]),
                self.LARGEST_DEAD_GAMMA,
                self.severity,
            ),
        )

    @staticmethod
    def bad_half_of_them(keras: Any) -> Any:  # noqa: D102
        bn = keras.layers.BatchNormalization()
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                bn,
                keras.layers.ReLU(),
            ]
        )
        bn.gamma.assign([0.8, 1e-7, 0.0, -1.2])
        bn.moving_mean.assign([0.3, 0.1, -0.2, 0.0])
        return model

    @staticmethod
    def good_alive(keras: Any) -> Any:  # noqa: D102
        bn = keras.layers.BatchNormalization()
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                bn,
                keras.layers.ReLU(),
            ]
        )
        bn.gamma.assign([0.8, 1e-3, 0.2, -1.2])
        bn.moving_mean.assign([0.3, 0.1, -0.2, 0.0])
        return model

    @staticmethod
    def good_pruned_on_purpose(keras: Any) -> Any:  # noqa: D102
        bn = keras.layers.BatchNormalization(gamma_regularizer="l1")
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                bn,
                keras.layers.ReLU(),
            ]
        )
        bn.gamma.assign([0.8, 1e-7, 0.0, -1.2])
        bn.moving_mean.assign([0.3, 0.1, -0.2, 0.0])
        return model

    @staticmethod
    def good_not_trained_yet(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((4,))
        x = keras.layers.Dense(4, use_bias=False)(inputs)
        x = keras.layers.BatchNormalization(gamma_initializer="zeros")(x)
        return keras.Model(inputs, keras.layers.Add()([inputs, x]))


def _is_untrained(state: BatchNormState) -> bool:
    return state.has_initial_statistics and not np.any(state.gamma)
