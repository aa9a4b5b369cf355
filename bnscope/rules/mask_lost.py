"""BN112: a mask that does not reach Batch Normalization."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph import kinds
from bnscope.graph.batchnorm import is_frozen
from bnscope.graph.model import Call, Tensor
from bnscope.rules.base import Context, Problem, Rule, Severity

# Of Keras's layers that take sequences, those that do not hand a mask on.
_DROPPERS = (
    kinds.CONVOLUTIONS
    | kinds.POOLING
    | kinds.UPSAMPLING
    | kinds.CROPPING
    | kinds.ZERO_PADDING
    | {"Reshape", "Permute", "EinsumDense", "RMSNormalization"}
)
_LEAST_RANK = 3


class MaskLost(Rule):
    """A mask is lost on the way to Batch Normalization, so padding enters its statistics.

    ## What it does
    Finds BN layers on sequences that come from `Masking` or `Embedding(mask_zero=True)`
    through a layer that does not hand the mask on: convolutions, pooling, `Reshape`, plain
    operations.

    ## Why is this bad
    In Keras 3 BN leaves masked steps out of its mean and variance, but only if the mask
    reaches it. Otherwise padded steps count like data: the statistics depend on how long the
    longest sequence of a batch is, and differ between training and serving.

    ## What to do
    Put BN before the layer that drops the mask, pass `mask=` to BN by hand, or use
    `LayerNormalization`.

    ## When it is quiet
    A mask that reaches BN; a mask that a recurrent or pooling layer has used up; a frozen BN.

    ## References
    - <https://github.com/tensorflow/tensorflow/issues/30161>
    """

    code = "BN112"
    name = "mask-lost"
    severity = Severity.WARNING
    advice = "Put BN before the layer that drops the mask, or pass mask= to it."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for call in context.batch_norm_calls:
            if is_frozen(call.layer) or not call.inputs or len(call.inputs) > 1:
                continue
            dropper, source = _lost(context, call)
            if dropper is not None and source is not None:
                yield Problem(
                    call.layer.path,
                    f"the mask of {kinds.describe(source)} ends at {kinds.describe(dropper)}, "
                    "so that padded steps count in the mean and variance.",
                    related=(dropper.layer.path, source.layer.path),
                )

    @staticmethod
    def bad_behind_a_convolution(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((20,), dtype="int32"),
                keras.layers.Embedding(50, 8, mask_zero=True),
                keras.layers.Conv1D(4, 3, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def good_mask_arrives(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((20, 3)),
                keras.layers.Masking(),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.LSTM(4),
            ]
        )

    @staticmethod
    def good_mask_used_up(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((20,), dtype="int32"),
                keras.layers.Embedding(50, 8, mask_zero=True),
                keras.layers.LSTM(4),
                keras.layers.BatchNormalization(),
                keras.layers.Dense(2),
            ]
        )


def _lost(context: Context, call: Call) -> tuple[Call | None, Call | None]:
    """The call at which a mask ends, and where it came from; None where none is lost."""
    dropper = None
    current: Call | None = call
    while current is not None and (tensor := _sequence(current)) is not None:
        if (tensor.rank or _LEAST_RANK) < _LEAST_RANK and not _makes(current):
            return None, None
        current = context.graph.producer(tensor)
        if current is None or _uses_up(current):
            return None, None
        if _makes(current):
            return dropper, current
        if _drops(current):
            dropper = current
    return None, None


def _sequence(call: Call) -> Tensor | None:
    """The one tensor that a call works on, masks and states not counted."""
    given = [value for value in call.args if isinstance(value, Tensor)]
    return given[0] if len(call.args) == len(given) == 1 else None


def _makes(call: Call) -> bool:
    return call.kind == "Masking" or (
        call.kind == "Embedding" and bool(call.config.get("mask_zero"))
    )


def _drops(call: Call) -> bool:
    operation = call.kind.startswith("ops.") and call.kind not in kinds.IDENTITY
    return operation or call.kind in _DROPPERS


def _uses_up(call: Call) -> bool:
    recurrent = call.kind in kinds.RECURRENT and not call.config.get("return_sequences")
    return recurrent or call.layer.is_custom
