"""BN407: averaged weights with statistics that belong to other weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph.batchnorm import is_frozen
from bnscope.rules.base import Context, Problem, Rule, Severity, StateProblem


class EmaWithoutRecalibration(Rule):
    """The optimizer averages the weights, but not the moving statistics.

    ## What it does
    Finds trainable BN layers in a model compiled with `use_ema=True`. While training,
    `BatchNormMonitor` tells it where it happens: at a validation, or between two epochs, for
    which a callback such as `SwapEMAWeights` puts the averaged weights in place (gamma and beta
    change, although nothing trains), and at the end of `fit`, where Keras does.

    ## Why is this bad
    At the end of `fit` Keras replaces the weights, gamma and beta included, by their moving
    average. The moving statistics are not variables that the optimizer knows: they stay those
    of the last weights, and the averaged network produces others.

    ## What to do
    Recompute the statistics on training data once the averaged weights are in place.

    ## When it is quiet
    Frozen layers. At the end of `fit`, statistics that were recomputed before the monitor looks
    (a `BatchNormRecalibrate` that stands before it in the list). Whether they were is not
    visible in a file; if so, ignore the rule with `--ignore BN407`. An exchange of weights
    is not seen where no layer has a gamma or beta.

    ## References
    - Izmailov et al. 2018, section 3.2, <https://arxiv.org/abs/1803.05407>
    """

    code = "BN407"
    name = "ema-without-recalibration"
    severity = Severity.WARNING
    advice = "Recompute the statistics on training data after the averaged weights are set."
    also_while_training = True

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        optimizer = context.graph.training.optimizer
        if optimizer is None or not optimizer.use_ema:
            return
        for layer in context.batch_norms:
            if not is_frozen(layer):
                yield Problem(
                    layer.path,
                    f"{optimizer.kind} with use_ema=True averages the weights, but not the "
                    "moving mean and variance, which stay those of the last weights.",
                )

    def check_exchange(
        self, context: Context, when: str
    ) -> Iterator[tuple[str, StateProblem]]:
        """The layers whose weights were exchanged for their average.

        Args:
            context: the model that trains.
            when: where that was seen ("at a validation").

        Yields:
            Path of the layer, and the problem.
        """
        for layer in context.batch_norms:
            if not is_frozen(layer):
                yield (
                    layer.path,
                    StateProblem(
                        f"{when} the model holds averaged weights, with a moving mean and "
                        "variance that are those of the last weights.",
                        "moving_mean",
                        (),
                        1.0,
                        None,
                        self.severity,
                    ),
                )

    @staticmethod
    def bad_averaged_weights(keras: Any) -> Any:  # noqa: D102
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )
        model.compile(keras.optimizers.Adam(use_ema=True), "mse")
        return model

    @staticmethod
    def good_without_average(keras: Any) -> Any:  # noqa: D102
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )
        model.compile(keras.optimizers.Adam(), "mse")
        return model
