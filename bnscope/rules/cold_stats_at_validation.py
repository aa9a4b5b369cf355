"""BN503: validation with statistics that are still the initial ones."""

from __future__ import annotations

from bnscope.bn import LARGEST_INITIAL_SHARE, initial_share, is_cold, updates_until
from bnscope.rules.base import RunRule, Severity, StateProblem


class ColdStatsAtValidation(RunRule):
    """Validation starts while the moving statistics still hold much of their initial values.

    ## What it does
    When `fit` starts a validation, `BatchNormMonitor` compares `momentum ** updates`, the share
    of the moving values that is still the initial mean 0 and variance 1, with 5 %.

    ## Why is this bad
    Training normalizes with the batch, validation with the moving values. While these are cold
    the validation loss is that of another network: it looks like overfitting and is none. With
    Keras's momentum of 0.99 it takes 299 updates to get below 5 %, which a small data set
    reaches only after many epochs.

    ## What to do
    Lower the momentum (0.9 needs 29 updates), train longer before believing the validation
    loss, or recompute the statistics before validating.

    ## When it is quiet
    Frozen layers, and layers with more updates than that.

    ## References
    - <https://github.com/keras-team/keras/issues/10666>
    - <https://github.com/tensorflow/tensorflow/issues/36446>
    """

    code = "BN503"
    name = "cold-stats-at-validation"
    severity = Severity.WARNING
    advice = "Lower the momentum (0.9 needs 29 updates), or train longer before validating."

    LARGEST_INITIAL_SHARE = LARGEST_INITIAL_SHARE

    def check_updates(self, momentum: float, updates: int) -> StateProblem | None:
        """What is left of the initial statistics after so many updates.

        Args:
            momentum: momentum of the moving average, in [0, 1).
            updates: how often the layer was updated.

        Returns:
            The problem, or None if the statistics are warm.
        """
        share = initial_share(momentum, updates)
        if not is_cold(share) or not 0.0 < momentum < 1.0:
            return None
        needed = updates_until(momentum, self.LARGEST_INITIAL_SHARE)
        return StateProblem(
            f"validation starts after {updates} updates at momentum {momentum:g}: "
            f"{share:.0%} of the moving statistics are still the initial mean 0 and variance 1; "
            f"{needed} updates bring that below {self.LARGEST_INITIAL_SHARE:.0%}.",
            "moving_variance",
            (),
            share,
            self.LARGEST_INITIAL_SHARE,
            self.severity,
        )
