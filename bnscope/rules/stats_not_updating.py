"""BN506: a trainable layer whose statistics stand still."""

from __future__ import annotations

import numpy as np

from bnscope.bn import BatchNormState
from bnscope.rules.base import RunRule, Severity, StateProblem, plural


class StatsNotUpdating(RunRule):
    """The moving statistics of a trainable layer did not change in an epoch of training.

    ## What it does
    Compares the moving mean and variance of each BN layer at the end of an epoch with those at
    which `fit` began. Reports trainable layers in which not one value changed.

    ## Why is this bad
    The layer runs in inference mode while its network trains: it normalizes with statistics of
    another network, by default mean 0 and variance 1, which is no normalization at all. The
    usual causes are `training=False` in a `call`, which in Keras 3 also holds for the layers
    called after it; a `train_step` of one's own that does not pass `training=True`, or on JAX
    drops the new non-trainable variables; a flag changed without `compile` (BN409).

    ## What to do
    Pass `training` on in every `call`. If the layer is meant to stand still, set
    `trainable=False`, which also says so to whoever reads the model.

    ## When it is quiet
    Frozen layers, momentum 1, and layers that moved once since `fit` began: whatever stops them
    later (`BatchNormFreeze`, one batch over and over) is meant. For statistics of an earlier
    training it is a warning: fine-tuning with `training=False` does that on purpose. Beside
    `BatchNormRecalibrate`, whose new statistics count as a change.

    ## References
    - <https://github.com/keras-team/keras/issues/20285>
    """

    code = "BN506"
    name = "stats-not-updating"
    severity = Severity.ERROR
    advice = "Pass training on in every call; to keep the statistics, set trainable=False."

    def check_states(
        self, before: BatchNormState, after: BatchNormState, updates: int
    ) -> StateProblem | None:
        """Whether nothing moved between two states of a trainable layer.

        Args:
            before: the state as `fit` began.
            after: the state after an epoch or more.
            updates: steps between them.
        """
        same = np.array_equal(before.moving_mean, after.moving_mean)
        same &= np.array_equal(before.moving_variance, after.moving_variance)
        if not same or updates < 1 or after.momentum == 1.0:
            return None
        initial = after.has_initial_statistics
        which = "the initial mean 0 and variance 1" if initial else "those of before"
        return StateProblem(
            f"trainable, but moving_mean and moving_variance did not change in "
            f"{plural(updates, 'step')} of training: they are still {which}.",
            "moving_variance",
            (),
            0.0,
            None,
            self.severity if initial else Severity.WARNING,
        )
