"""BN405 and BN406: statistics of too few values, for a small batch or one in parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph.batchnorm import is_frozen, values_a_sample
from bnscope.graph.model import Call
from bnscope.rules.base import Context, Problem, Rule, Severity, StateProblem, plural


class SmallBatch(Rule):
    """Batches so small that their statistics are mostly noise.

    ## What it does
    Counts the values of which each mean and variance is made: batch size times the size of
    the map. Linting knows the batch size of a model whose input fixes it, and reports BN layers
    with fewer than 32 values. `BatchNormMonitor` knows that of the running `fit`, from the count
    of its loss; it may be that of a short trial, so only fewer than 8 are reported.

    ## Why is this bad
    In training each batch is normalized with its own statistics. From few values these are
    noise: the error rises steeply below 8 samples, and with a single value a channel the output
    is beta whatever the input.

    ## What to do
    Use larger batches, freeze the BN layers of a pretrained model, or use
    `GroupNormalization`. None of these can be written into the model without training it
    again, so there is no automatic fix.

    ## When it is quiet
    Frozen layers and large maps. When linting, inputs that leave the batch size open; in a model
    that is not compiled it is only a note, since many models are given a fixed batch for
    deployment. While training, layers whose map is not known, as in a subclassed model, and a
    `train_step` of one's own that does not count in the model's loss.

    ## References
    - Wu & He 2018, <https://arxiv.org/abs/1803.08494>
    """

    code = "BN405"
    name = "small-batch"
    severity = Severity.WARNING
    advice = "Use larger batches, freeze the layer, or use GroupNormalization."
    also_while_training = True

    FEWEST_VALUES = 32
    FEWEST_VALUES_IN_TRAINING = 8

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        compiled = context.graph.training.compiled is True
        for call in context.batch_norm_calls:
            shape = call.inputs[0].shape if call.inputs else None
            batch = shape[0] if shape else None
            if batch is None:
                continue
            problem = self._problem(call, batch, "is fixed at", self.FEWEST_VALUES)
            if problem is not None:
                yield Problem(
                    call.layer.path,
                    problem.message,
                    severity=None if compiled else Severity.INFO,
                    data={"batch_size": batch, "values": int(problem.value)},
                )

    def check_batch(
        self, context: Context, batch_size: int
    ) -> Iterator[tuple[str, StateProblem]]:
        """The layers for which the batches of a running `fit` are too small.

        Args:
            context: the model that trains.
            batch_size: samples in a batch.

        Yields:
            Path of the layer, and the problem; `value` is the number of values a channel.
        """
        for call in context.batch_norm_calls:
            fewest = self.FEWEST_VALUES_IN_TRAINING
            problem = self._problem(call, batch_size, "is", fewest)
            if problem is not None:
                yield call.layer.path, problem

    def _problem(
        self, call: Call, batch: int, word: str, fewest: int
    ) -> StateProblem | None:
        size = values_a_sample(call)
        if size is None or size * batch >= fewest or is_frozen(call.layer):
            return None
        return StateProblem(
            f"the batch size {word} {batch}, so each mean and variance is made of "
            f"{plural(size * batch, 'value')}; fewer than {fewest} are mostly noise.",
            "values",
            (),
            size * batch,
            fewest,
            self.severity,
        )

    @staticmethod
    def bad_two_samples(keras: Any) -> Any:  # noqa: D102
        model = keras.Sequential(
            [
                keras.Input((8,), batch_size=2),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )
        model.compile("sgd", "mse")
        return model

    @staticmethod
    def good_large_maps(keras: Any) -> Any:  # noqa: D102
        model = keras.Sequential(
            [
                keras.Input((16, 16, 3), batch_size=2),
                keras.layers.Conv2D(4, 3, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )
        model.compile("sgd", "mse")
        return model


class GradientAccumulation(Rule):
    """Gradients are accumulated over several batches, but the statistics are of one alone.

    ## What it does
    Finds trainable BN layers in a model whose optimizer has `gradient_accumulation_steps`
    above 1.

    ## Why is this bad
    Accumulation makes a small batch act like a large one for the gradient, but not for BN: each
    micro-batch is normalized with its own statistics, and the moving statistics are updated
    once a micro-batch, so that they forget faster than the optimizer steps.

    ## What to do
    Freeze the BN layers, use `GroupNormalization`, or make the micro-batches large.

    ## When it is quiet
    Frozen layers, and micro-batches of 32 samples or more where the input fixes the batch size.

    ## References
    - <https://github.com/keras-team/keras/issues/16633>
    """

    code = "BN406"
    name = "gradient-accumulation"
    severity = Severity.WARNING
    advice = "Freeze the BN layer, use GroupNormalization, or make each micro-batch large."

    LARGE_MICRO_BATCH = 32

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        optimizer = context.graph.training.optimizer
        steps = 1 if optimizer is None else optimizer.accumulation_steps
        if steps <= 1 or _fixed_batch(context) >= self.LARGE_MICRO_BATCH:
            return
        for layer in context.batch_norms:
            if not is_frozen(layer):
                yield Problem(
                    layer.path,
                    f"gradients are accumulated over {steps} batches, but each of them is "
                    "normalized with its own statistics.",
                    data={"gradient_accumulation_steps": steps},
                )

    @staticmethod
    def bad_four_micro_batches(keras: Any) -> Any:  # noqa: D102
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )
        model.compile(keras.optimizers.Adam(gradient_accumulation_steps=4), "mse")
        return model

    @staticmethod
    def good_large_micro_batches(keras: Any) -> Any:  # noqa: D102
        model = keras.Sequential(
            [
                keras.Input((8,), batch_size=64),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )
        model.compile(keras.optimizers.Adam(gradient_accumulation_steps=4), "mse")
        return model


def _fixed_batch(context: Context) -> int:
    """The batch size that the inputs fix; 0 where they leave it open."""
    sizes = [tensor.shape[0] if tensor.shape else None for tensor in context.graph.inputs]
    return min((size or 0 for size in sizes), default=0)
