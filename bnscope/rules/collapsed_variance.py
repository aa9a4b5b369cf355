"""BN304: a channel that has stopped to vary, or varies beyond measure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.bn import DEAD_SHARE_OF_EPSILON, Array, BatchNormState
from bnscope.rules.base import ChannelRule, Severity, StateProblem, channel_list


class CollapsedVariance(ChannelRule):
    """The moving variance of a channel has collapsed, or exploded.

    ## What it does
    Finds channels whose moving variance is far below epsilon, or above 1e6.

    ## Why is this bad
    Where the variance is far below epsilon the channel's input is constant: it carries nothing
    (a dead filter), and BN multiplies what is left of it, rounding noise included, by up to
    `gamma / sqrt(epsilon)`. A variance above 1e6 means activations that grow without bound.

    ## What to do
    Look at the layer that feeds BN: dead filters come from strong weight decay, a learning
    rate that was too high, or an input that never changes. Prune them, or train again.

    ## When it is quiet
    Variances around epsilon: small, but alive. While training, layers that get a single value a
    channel, whose variance is 0 for that reason: BN405 and BN408 say so.

    ## References
    - <https://github.com/tensorflow/tensorflow/issues/18334>
    """

    code = "BN304"
    name = "collapsed-variance"
    severity = Severity.WARNING
    advice = (
        "Look at the layer that feeds this one: its filter is dead, or its scale runs away."
    )

    also_while_training = True

    # A real run showed epsilon/60 in a dead channel and 2.6 epsilon in the living ones.
    SHARE_OF_EPSILON = DEAD_SHARE_OF_EPSILON
    LARGEST_VARIANCE = 1e6

    def flagged_channels(
        self, values: Array, epsilon: npt.ArrayLike
    ) -> npt.NDArray[np.bool_]:
        """Those whose variance has collapsed or exploded; invalid ones are BN303's."""
        return self._collapsed(values[3], epsilon) | self._exploded(values[3])

    def check_state(self, state: BatchNormState) -> tuple[StateProblem, ...]:
        """The channels whose variance has collapsed, and those whose variance exploded."""
        return tuple(self._problems(state))

    def _collapsed(self, variance: Array, epsilon: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        smallest = self.SHARE_OF_EPSILON * np.asarray(epsilon)
        return np.asarray((variance >= 0) & (variance < smallest))

    def _exploded(self, variance: Array) -> npt.NDArray[np.bool_]:
        return np.asarray(np.isfinite(variance) & (variance > self.LARGEST_VARIANCE))

    def _problems(self, state: BatchNormState) -> Iterator[StateProblem]:
        variance = np.asarray(state.moving_variance, np.float64)
        smallest = state.epsilon * self.SHARE_OF_EPSILON
        for bad, order, threshold, word in (
            (self._collapsed(variance, state.epsilon), 1, smallest, "collapsed to"),
            (self._exploded(variance), -1, self.LARGEST_VARIANCE, "grown to"),
        ):
            found = np.flatnonzero(bad)
            if not found.size:
                continue
            channels = tuple(int(i) for i in found[np.argsort(order * variance[found])])
            value = float(variance[channels[0]])
            yield StateProblem(
                f"moving_variance has {word} {value:.3g} in {channel_list(channels)} of "
                f"{variance.size} ({_epsilon(state)}, the limit {threshold:.3g}).",
                "moving_variance",
                channels,
                value,
                threshold,
                self.severity,
            )

    @staticmethod
    def bad_dead_channel(keras: Any) -> Any:  # noqa: D102
        bn = keras.layers.BatchNormalization()
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(2, use_bias=False),
                bn,
                keras.layers.ReLU(),
            ]
        )
        bn.moving_mean.assign([0.3, 0.0])
        bn.moving_variance.assign([0.7, 1e-12])
        return model

    @staticmethod
    def bad_exploded(keras: Any) -> Any:  # noqa: D102
        bn = keras.layers.BatchNormalization()
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(2, use_bias=False),
                bn,
                keras.layers.ReLU(),
            ]
        )
        bn.moving_mean.assign([0.3, 0.0])
        bn.moving_variance.assign([0.7, 1e9])
        return model

    @staticmethod
    def good_small_but_alive(keras: Any) -> Any:  # noqa: D102
        bn = keras.layers.BatchNormalization()
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(2, use_bias=False),
                bn,
                keras.layers.ReLU(),
            ]
        )
        bn.moving_mean.assign([0.3, 0.0])
        bn.moving_variance.assign([0.7, 2e-3])
        return model


def _epsilon(state: BatchNormState) -> str:
    if state.config_known:
        return f"epsilon is {state.epsilon:g}"
    return f"epsilon is not known and taken to be {state.epsilon:g}, Keras's default"
