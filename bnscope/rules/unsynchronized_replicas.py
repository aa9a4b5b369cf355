"""BN408: replicas that each normalize with their own few values."""

from __future__ import annotations

from collections.abc import Iterator

from bnscope.graph.batchnorm import is_frozen, values_a_sample
from bnscope.rules.base import Context, RunRule, Severity, StateProblem, plural


class UnsynchronizedReplicas(RunRule):
    """A batch is split over replicas, and each normalizes with the statistics of its own part.

    ## What it does
    Under a `tf.distribute` strategy with several replicas, counts the values of which each
    replica makes a mean and a variance: its part of the batch times the size of the map.
    Reports layers without `synchronized=True` that have fewer than 32.

    ## Why is this bad
    The statistics are those of a batch as small as the part of one replica, however large the
    whole batch is, and the replicas' moving statistics go apart; what is saved is the first
    one's.

    ## What to do
    `BatchNormalization(synchronized=True)`, or larger batches.

    ## When it is quiet
    32 values and more a replica, frozen layers, synchronized ones, and layers whose map or
    batch size is not known. `keras.distribution.DataParallel` on JAX computes the statistics of
    the whole batch.

    ## References
    - <https://github.com/keras-team/keras/issues/18671>
    """

    code = "BN408"
    name = "unsynchronized-replicas"
    severity = Severity.WARNING
    advice = "Set synchronized=True, or use larger batches."

    FEWEST_VALUES = 32

    def check_replicas(
        self, context: Context, batch_size: int, replicas: int
    ) -> Iterator[tuple[str, StateProblem]]:
        """The layers of which each replica sees too few values.

        Args:
            context: the model that trains.
            batch_size: samples in a batch, over all replicas.
            replicas: among how many a batch is split.

        Yields:
            Path of the layer, and the problem; `value` is the number of values a channel.
        """
        part = batch_size // replicas
        for call in context.batch_norm_calls:
            each = values_a_sample(call)
            synchronized = call.layer.config.get("synchronized") is True
            if each is None or synchronized or is_frozen(call.layer):
                continue
            if replicas > 1 and each * part < self.FEWEST_VALUES:
                yield call.layer.path, self._problem(batch_size, replicas, each * part)

    def _problem(self, batch_size: int, replicas: int, values: int) -> StateProblem:
        return StateProblem(
            f"batches of {batch_size} are split over {plural(replicas, 'replica')}, and each "
            f"normalizes with the statistics of its own {plural(values, 'value')} a channel; "
            f"fewer than {self.FEWEST_VALUES} are mostly noise.",
            "values",
            (),
            values,
            self.FEWEST_VALUES,
            self.severity,
        )
