"""BN303: values that are no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.bn import AnyArray, Array, BatchNormState
from bnscope.rules.base import ChannelRule, Severity, StateProblem, channel_list


class InvalidStatistics(ChannelRule):
    """Gamma, beta or the moving statistics are NaN or infinite, or the variance is negative.

    ## What it does
    Looks at the four vectors of every BN layer.

    ## Why is this bad
    One bad channel makes every later output NaN. The moving statistics stay NaN for good:
    `NaN * momentum + ...` is NaN, even when later batches are fine, so validation fails while
    training goes on. Under `mixed_float16` a single overflowing batch is enough.

    ## What to do
    Find the first layer that went bad (`BatchNormMonitor` names it), reduce the learning rate
    or clip gradients, and restore or recompute the statistics.

    ## When it is quiet
    Never: there is no good reason for such a value.

    ## References
    - <https://github.com/tensorflow/tensorflow/issues/34062>
    - <https://github.com/keras-team/keras/issues/9646>
    """

    code = "BN303"
    name = "invalid-statistics"
    severity = Severity.ERROR
    advice = (
        "Find what overflowed (learning rate, float16, the data), then restore or recompute the "
        "statistics."
    )

    def flagged_channels(
        self, values: Array, epsilon: npt.ArrayLike
    ) -> npt.NDArray[np.bool_]:
        """Those with a value that is not finite, or a negative variance."""
        del epsilon
        return np.asarray(~np.isfinite(values).all(0) | (values[3] < 0))

    def check_state(self, state: BatchNormState) -> tuple[StateProblem, ...]:
        """The variables with values that are not finite, and negative variances."""
        return tuple(_problems(state))

    @staticmethod
    def bad_nan_mean(keras: Any) -> Any:  # noqa: D102
        bn = keras.layers.BatchNormalization()
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(2, use_bias=False),
                bn,
                keras.layers.ReLU(),
            ]
        )
        bn.moving_mean.assign([float("nan"), 0.0])
        return model

    @staticmethod
    def bad_negative_variance(keras: Any) -> Any:  # noqa: D102
        bn = keras.layers.BatchNormalization()
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(2, use_bias=False),
                bn,
                keras.layers.ReLU(),
            ]
        )
        bn.moving_variance.assign([0.5, -0.1])
        return model

    @staticmethod
    def good_finite(keras: Any) -> Any:  # noqa: D102
        bn = keras.layers.BatchNormalization()
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(2, use_bias=False),
                bn,
                keras.layers.ReLU(),
            ]
        )
        bn.gamma.assign([-1.5, 0.5])
        bn.moving_mean.assign([0.3, -2.0])
        bn.moving_variance.assign([0.5, 4.0])
        return model


def _problems(state: BatchNormState) -> Iterator[StateProblem]:
    vectors: dict[str, AnyArray | None] = {
        "moving_mean": state.moving_mean,
        "moving_variance": state.moving_variance,
        "gamma": state.gamma,
        "beta": state.beta,
    }
    for name, values in vectors.items():
        if values is not None and not np.isfinite(values).all():
            channels = tuple(int(i) for i in np.flatnonzero(~np.isfinite(values)))
            value = float(values[channels[0]])
            yield StateProblem(
                f"{name} is {value} in {channel_list(channels)} of {values.size}.",
                name,
                channels,
                value,
                None,
                Severity.ERROR,
            )
    variance = np.asarray(state.moving_variance, np.float64)
    negative = np.flatnonzero(variance < 0)
    if negative.size:
        order = tuple(int(i) for i in negative[np.argsort(variance[negative])])
        yield StateProblem(
            f"moving_variance is negative, {variance[order[0]]:.3g} at worst, in "
            f"{channel_list(order)} of {variance.size}.",
            "moving_variance",
            order,
            float(variance[order[0]]),
            0.0,
            Severity.ERROR,
        )
