"""Zero padding: a scale passes, a shift does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnscope.folding.affine import Affine
from bnscope.folding.patterns.base import Demand, Passing, not_passed
from bnscope.folding.reasons import Reason, Refusal
from bnscope.graph import kinds
from bnscope.graph.model import Call


class PaddingFamily(Passing):
    """Through zero padding, where BN has no shift."""

    kinds = kinds.ZERO_PADDING

    def back(self, call: Call, affine: Affine) -> tuple[Demand, ...] | Refusal:
        """The same for the input."""
        return _refuse(call, affine) or (Demand(call.inputs[0], affine),)

    def ahead(self, call: Call, given: Mapping[int, Affine]) -> Affine | Refusal:
        """The same for the output."""
        affine = given[call.inputs[0].index]
        return _refuse(call, affine) or affine

    @staticmethod
    def refuses_padding(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6, 6, 3)),
                keras.layers.Conv2D(4, 3),
                keras.layers.ZeroPadding2D(1),
                keras.layers.BatchNormalization(
                    beta_initializer=keras.initializers.Constant(0.5)
                ),
            ]
        )


def _refuse(call: Call, affine: Affine) -> Refusal | None:
    if not affine.is_shift_free:
        return Refusal(
            Reason.PADDING,
            f"{kinds.describe(call)} puts zeros around, which the shift would have to pass.",
        )
    rank = (kinds.spatial_rank(call.kind) or 1) + 1
    channels = -rank if kinds.is_channels_first(call.config) else -1
    return not_passed(call) if set(affine.varies_along) - {channels} else None
