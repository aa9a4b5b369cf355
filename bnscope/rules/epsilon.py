"""BN204: an epsilon that is tiny, or another one than in the rest of the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from bnscope.graph.batchnorm import epsilon
from bnscope.graph.model import Layer
from bnscope.rules.base import Context, Problem, Rule, Severity


class Epsilon(Rule):
    """Epsilon is very small, or the layers of one model have different ones.

    ## What it does
    Finds BN layers whose `epsilon` is below 1e-6, and those whose epsilon is neither one of
    the usual values nor the one that most layers of the model have.

    ## Why is this bad
    A tiny epsilon lets a channel that hardly varies be multiplied by a thousand and more, and
    in half precision it rounds to 0. Different values in one model usually come from porting:
    PyTorch's default is 1e-5, Keras's 1e-3, and weights that were trained with one give other
    outputs with the other.

    ## What to do
    Use the epsilon with which the weights were trained, the same in all layers.

    ## When it is quiet
    Keras's default 1e-3, and the 1.001e-5 of `keras.applications`, also side by side.

    ## References
    - <https://github.com/gzuidhof/nn-transfer/pull/3>
    """

    code = "BN204"
    name = "epsilon"
    severity = Severity.INFO
    advice = "Use the epsilon with which the weights were trained, the same in all layers."

    SMALLEST_EPSILON = 1e-6
    KERAS_EPSILON = 1e-3
    APPLICATIONS_EPSILON = 1.001e-5

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        known = [layer for layer in context.batch_norms if "epsilon" in layer.config]
        if not known:
            return
        counts = Counter(epsilon(layer) for layer in known)
        # Where two are as frequent the default is the usual one, whatever comes first.
        usual, count = max(
            counts.items(), key=lambda item: (item[1], self._is_known(item[0]))
        )
        for layer in known:
            yield from self._judge(layer, usual, count)

    def _is_known(self, value: float) -> bool:
        return value in {self.KERAS_EPSILON, self.APPLICATIONS_EPSILON}

    def _judge(self, layer: Layer, usual: float, count: int) -> Iterator[Problem]:
        value = epsilon(layer)
        data = {"epsilon": value}
        if value < self.SMALLEST_EPSILON:
            yield Problem(
                layer.path,
                f"epsilon={value:g}: a channel that hardly varies is multiplied by up to "
                f"{value**-0.5:.2g}."
                if value > 0
                else f"epsilon={value:g} protects nothing.",
                data=data,
            )
        elif value != usual and not self._is_known(value):
            yield Problem(
                layer.path,
                f"epsilon={value:g}, while {count} other BN "
                f"{'layer has' if count == 1 else 'layers have'} {usual:g}.",
                data={**data, "usual": usual},
            )

    @staticmethod
    def bad_tiny(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(epsilon=1e-8),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def bad_different(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(epsilon=1e-5),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def good_default(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(epsilon=1e-3),
                keras.layers.ReLU(),
            ]
        )
