"""What is the identity at inference: dropout, noise, linear activations, augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnscope.folding.affine import Affine
from bnscope.folding.patterns.base import Demand, Passing
from bnscope.folding.reasons import Reason, Refusal
from bnscope.graph import kinds
from bnscope.graph.model import Call

# `ops.Cast` and conversions may change the dtype.
_KINDS = kinds.DROPOUT | (kinds.IDENTITY - {"ops.Cast", "ops.ConvertToTensor"})


class IdentityFamily(Passing):
    """Through layers that return their input at inference."""

    kinds = _KINDS | kinds.AUGMENTATION | {"Activation"}

    def match(self, call: Call) -> bool:
        """Whether a call returns its input at inference."""
        if call.kind not in self.kinds or len(call.inputs) != 1:
            return False
        return call.kind in kinds.AUGMENTATION or kinds.is_identity_at_inference(call)

    def back(self, call: Call, affine: Affine) -> tuple[Demand, ...] | Refusal:
        """The same for the input."""
        return refuse_noise(call) or (Demand(call.inputs[0], affine),)

    def ahead(self, call: Call, given: Mapping[int, Affine]) -> Affine | Refusal:
        """The same for the output."""
        return refuse_noise(call) or given[call.inputs[0].index]

    @staticmethod
    def folds_through_dropout(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6, 6, 3)),
                keras.layers.Conv2D(4, 3),
                keras.layers.Activation("linear"),
                keras.layers.SpatialDropout2D(0.3),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def refuses_baked_training(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((7,))
        x = keras.layers.Dense(5)(inputs)
        x = keras.layers.Dropout(0.5)(x, training=True)
        return keras.Model(inputs, keras.layers.BatchNormalization()(x))


def refuse_noise(call: Call) -> Refusal | None:
    """Refuses dropout or noise that is active at inference.

    Augmentation does not count: Keras writes its default, `training=True`, into every call of
    it, and `predict` overrules that.
    """
    if call.kind in kinds.DROPOUT and is_in_training_mode(call):
        return Refusal(
            Reason.BAKED_TRAINING,
            f"{kinds.describe(call)} before it is called with training=True.",
        )
    return None


def is_in_training_mode(call: Call) -> bool:
    """Whether `training=True`, or something that is no constant, is written into a call."""
    written = (call.training, call.kwargs.get("training"))
    return any(value is not None and value is not False for value in written)
