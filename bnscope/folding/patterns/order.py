"""Where the largest value is taken: max pooling, `Maximum`, `ops.max`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnscope.folding.affine import Affine
from bnscope.folding.patterns.averaging import mixed, mixed_axes, unmixed
from bnscope.folding.patterns.base import Demand, Passing, not_passed
from bnscope.folding.reasons import Reason, Refusal
from bnscope.graph import kinds
from bnscope.graph.model import Call


class MaxFamily(Passing):
    """Through a maximum over places: exact where no scale is negative."""

    kinds = kinds.MAX_POOLING | {"ops.Max", "ops.MaxPool"}

    def match(self, call: Call) -> bool:
        """Whether a call takes the largest of its own values."""
        return (
            call.kind in self.kinds
            and len(call.inputs) == 1
            and call.config.get("initial") is None
        )

    def back(self, call: Call, affine: Affine) -> tuple[Demand, ...] | Refusal:
        """The same for each channel of the input."""
        axes, keeps = mixed_axes(call)
        found = unmixed(affine, axes, keeps=keeps) if axes else None
        if found is None:
            return not_passed(call)
        return refuse_negative(call, affine) or (Demand(call.inputs[0], found),)

    def ahead(self, call: Call, given: Mapping[int, Affine]) -> Affine | Refusal:
        """The same for each channel of the output."""
        affine = given[call.inputs[0].index]
        axes, keeps = mixed_axes(call)
        found = mixed(affine, axes, keeps=keeps) if axes else None
        if found is None:
            return not_passed(call)
        return refuse_negative(call, affine) or found

    @staticmethod
    def folds_max_pooling(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((7, 7, 3)),
                keras.layers.Conv2D(4, 3),
                keras.layers.MaxPooling2D(2, padding="same"),
                keras.layers.BatchNormalization(scale=False),
            ]
        )

    @staticmethod
    def refuses_negative_scale(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((7, 7, 3)),
                keras.layers.Conv2D(4, 3),
                keras.layers.GlobalMaxPooling2D(),
                keras.layers.BatchNormalization(
                    gamma_initializer=keras.initializers.Constant(-1.0)
                ),
            ]
        )


def refuse_negative(call: Call, affine: Affine) -> Refusal | None:
    """Refuses a scale that turns the largest value into the smallest."""
    if affine.is_order_preserving:
        return None
    count = int((affine.scale < 0).sum())
    return Refusal(
        Reason.NEGATIVE_SCALE,
        f"{kinds.describe(call)} takes the largest value, and {count} of "
        f"{affine.scale.size} channels have a negative scale.",
    )
