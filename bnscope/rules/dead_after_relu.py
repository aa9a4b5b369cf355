"""BN306: channels that the ReLU behind never lets through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bnscope.bn import BatchNormState
from bnscope.graph import kinds
from bnscope.graph.model import Layer
from bnscope.rules.base import (
    Context,
    Problem,
    Severity,
    StateProblem,
    StateRule,
    channel_list,
)


class DeadAfterRelu(StateRule):
    """A channel is so far below zero that the ReLU behind it never passes it.

    ## What it does
    Finds channels with `beta + 3 * abs(gamma) < 0` in BN layers that feed nothing but ReLU.

    ## Why is this bad
    BN's output has mean beta and standard deviation abs(gamma) in each channel, so a value
    above zero would be more than three standard deviations out. The channel is constantly
    zero, gets no gradient and does not come back.

    ## What to do
    Prune these channels, or train with a lower learning rate.

    ## When it is quiet
    Anything but ReLU behind BN, or something else beside it.

    ## References
    - Mehta et al. 2019, <https://arxiv.org/abs/1811.00866>
    """

    code = "BN306"
    name = "dead-after-relu"
    severity = Severity.INFO
    advice = "Prune these channels, or train with a lower learning rate."

    STANDARD_DEVIATIONS = 3.0

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in layers before a ReLU."""
        feeds_relu = {
            layer.path for layer in context.batch_norms if _feeds_only_relu(context, layer)
        }
        yield from (found for found in super().check(context) if found.layer in feeds_relu)

    def check_state(self, state: BatchNormState) -> tuple[StateProblem, ...]:
        """The channels that no ReLU would let through."""
        if state.beta is None:
            return ()
        beta = np.asarray(state.beta, np.float64)
        gamma = 1.0 if state.gamma is None else np.asarray(state.gamma, np.float64)
        highest = beta + self.STANDARD_DEVIATIONS * np.abs(gamma)
        dead = np.flatnonzero(highest < 0)
        if not dead.size:
            return ()
        channels = tuple(int(i) for i in dead[np.argsort(highest[dead], kind="stable")])
        return (
            StateProblem(
                f"beta is more than {self.STANDARD_DEVIATIONS:g} abs(gamma) below zero in "
                f"{channel_list(channels)} of {beta.size}: the ReLU behind never passes them.",
                "beta",
                channels,
                float(beta[channels[0]]),
                0.0,
                self.severity,
            ),
        )

    @staticmethod
    def bad_far_below_zero(keras: Any) -> Any:  # noqa: D102
        bn = keras.layers.BatchNormalization()
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(3, use_bias=False),
                bn,
                keras.layers.ReLU(),
            ]
        )
        bn.gamma.assign([0.8, -0.1, 1.0])
        bn.beta.assign([0.2, -0.5, -1.0])
        return model

    @staticmethod
    def good_within_reach(keras: Any) -> Any:  # noqa: D102
        bn = keras.layers.BatchNormalization()
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(3, use_bias=False),
                bn,
                keras.layers.ReLU(),
            ]
        )
        bn.gamma.assign([0.8, -0.2, 1.0])
        bn.beta.assign([0.2, -0.5, -1.0])
        return model


def _feeds_only_relu(context: Context, layer: Layer) -> bool:
    outputs = [output for call in context.graph.calls_of(layer) for output in call.outputs]
    if any(context.graph.is_output(output) for output in outputs):
        return False
    users = [user for output in outputs for user in context.graph.consumers(output)]
    return bool(users) and all(kinds.is_relu(user) for user in users)
