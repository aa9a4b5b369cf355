"""BN601: Batch Normalization that cannot be folded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.rules.base import Context, Problem, Rule, Severity


class UnfoldableBn(Rule):
    """The layer cannot be folded into a neighbour for deployment.

    ## What it does
    Reports each BN layer that `bnscope fold` would keep, with its reason code.

    ## Why is this bad
    It is not wrong. A BN layer that stays costs time and memory at inference, which a
    convolution or dense layer next to it could have taken over.

    ## What to do
    Where speed matters, put BN directly behind a linear layer without an activation of its own.

    ## When it is quiet
    Unless it is selected: `--select BN601`.

    ## References
    - Jacob et al. 2018, section 3.2, <https://arxiv.org/abs/1712.05877>
    """

    code = "BN601"
    name = "unfoldable-bn"
    severity = Severity.OFF
    advice = (
        "Where speed matters, put BN directly behind a linear layer without an activation."
    )

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for verdict in context.fold_plan.verdicts:
            if not verdict.folded:
                yield Problem(
                    verdict.layer,
                    f"cannot be folded ({verdict.reason}): {verdict.detail}",
                    data={"reason": str(verdict.reason)},
                )

    @staticmethod
    def bad_behind_activation(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, activation="relu"),
                keras.layers.BatchNormalization(),
                keras.layers.Activation("tanh"),
            ]
        )

    @staticmethod
    def good_behind_dense(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )
