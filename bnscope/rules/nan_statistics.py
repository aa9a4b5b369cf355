"""BN501: statistics that become invalid while the model trains."""

from __future__ import annotations

from collections.abc import Iterator

from bnscope.rules.base import Context, Problem, Severity
from bnscope.rules.invalid_statistics import InvalidStatistics


class NanStatistics(InvalidStatistics):
    """The values of a BN layer became NaN, infinite or negative during training.

    ## What it does
    `BatchNormMonitor` looks at every BN layer at each logged step with the test of BN303 and
    names the first layer, in the order of the forward pass, that went bad, with the channel
    and the step.

    ## Why is this bad
    The moving statistics do not recover: once NaN they stay NaN. Every validation from here on
    is NaN too.

    ## What to do
    Stop and look at the step that is named: the learning rate, the batch, float16 overflow.
    Go on from a checkpoint before it.

    ## When it is quiet
    Never.

    ## References
    - <https://github.com/tensorflow/tensorflow/issues/34062>
    - <https://github.com/keras-team/keras/issues/9646>
    """

    code = "BN501"
    name = "nan-statistics"
    severity = Severity.ERROR
    advice = "Stop, look at the step that is named, and go on from a checkpoint before it."
    while_training = True

    def check(self, context: Context) -> Iterator[Problem]:  # noqa: ARG002
        """Finds nothing in a saved model; BN303 does."""
        return iter(())
