"""BN504: a last batch of a few samples, whose statistics weigh as much as any."""

from __future__ import annotations

from collections.abc import Iterator

from bnscope.graph.batchnorm import is_frozen, momentum, values_a_sample
from bnscope.rules.base import Context, RunRule, Severity, StateProblem, plural


class RaggedLastBatch(RunRule):
    """The last batch of an epoch is so small that it spoils the moving statistics.

    ## What it does
    Finds the sizes of the batches of a running `fit` and how many there are, and computes which
    share of the moving variance the last one takes away. The last of S batches has the weight
    `w = (1 - m) / (1 - m**S)` in the moving average as the epoch ends, and of n values a
    channel the variance comes out too small by 1/n. Reports layers where `w / n` exceeds 5 %,
    or where n is 1, if the last batch is at most a quarter of the others.

    ## Why is this bad
    Every batch moves the average by the same amount, however small it is, and the last one just
    before validation. With 65 samples in batches of 64 the last sample alone moved a moving
    variance of 9 to 4.9. With one value a channel the output of BN in training is beta
    whatever the input, and the step that the optimizer takes is arbitrary.

    ## What to do
    Drop the remainder (`dataset.batch(size, drop_remainder=True)`), or choose a batch size that
    leaves none, or a larger one.

    ## When it is quiet
    Frozen layers, large maps, long epochs. Where the sizes are not known: a `train_step` of
    one's own that does not count in the model's loss, the first epoch of data without a
    length, several steps in one execution; where the map is not known: subclassed models.

    ## References
    - <https://github.com/keras-team/keras/issues/11858>
    """

    code = "BN504"
    name = "ragged-last-batch"
    severity = Severity.WARNING
    advice = (
        "Drop the remainder (drop_remainder=True), or choose a batch size that leaves none."
    )

    LARGEST_SHARE_OF_OTHERS = 0.25
    LARGEST_LOSS = 0.05

    def check_last_batch(
        self, context: Context, size: int, usual: float, batches: int
    ) -> Iterator[tuple[str, StateProblem]]:
        """The layers whose statistics the last batch of an epoch spoils.

        Args:
            context: the model that trains.
            size: samples in the last batch.
            usual: samples in each of the others.
            batches: batches in an epoch.

        Yields:
            Path of the layer, and the problem; `value` is the share of the variance that is
            lost.
        """
        if batches < 2 or not 0 < size <= self.LARGEST_SHARE_OF_OTHERS * usual:  # noqa: PLR2004
            return
        for call in context.batch_norm_calls:
            each = values_a_sample(call)
            kept = momentum(call.layer)
            if each is None or is_frozen(call.layer) or not 0.0 <= kept < 1.0:
                continue
            values = each * size
            lost = (1.0 - kept) / (1.0 - kept**batches) / values
            if values == 1 or lost > self.LARGEST_LOSS:
                yield call.layer.path, self._problem(size, usual, values, lost)

    def _problem(self, size: int, usual: float, values: int, lost: float) -> StateProblem:
        return StateProblem(
            f"the last batch of an epoch has {plural(size, 'sample')}, the others have "
            f"{usual:.0f}: {plural(values, 'value')} a channel, which take {lost:.0%} off the "
            "moving variance each time.",
            "moving_variance",
            (),
            lost,
            self.LARGEST_LOSS,
            self.severity,
        )
