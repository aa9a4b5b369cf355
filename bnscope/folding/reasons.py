"""Why a BN layer is kept."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """The reason codes, with what each of them means."""

    meaning: str

    def __new__(cls, code: str, meaning: str) -> Self:
        """A code that carries its meaning."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    NO_LINEAR_NEIGHBOUR = (
        "no-linear-neighbour",
        (
            "What feeds the layer is not a layer that can take it up: an activation, a merge, "
            "pooling, an input of the model."
        ),
    )
    NONLINEAR_PRODUCER = (
        "nonlinear-producer",
        "The layer before has an activation of its own, so BN does not follow its kernel.",
    )
    MULTIPLE_CONSUMERS = (
        "multiple-consumers",
        "The output that BN normalizes is also used elsewhere, or is an output of the model.",
    )
    SHARED_LAYER = (
        "shared-layer",
        "A layer is called several times, and the calls do not agree.",
    )
    AXIS_MISMATCH = (
        "axis-mismatch",
        "BN normalizes another axis than the one along which the layer before has its filters.",
    )
    PADDING = (
        "padding",
        "Zeros are padded between the two, which the shift of BN would have to pass too.",
    )
    NEGATIVE_SCALE = (
        "negative-scale",
        "Max pooling lies between, and a channel with a negative scale would turn into min.",
    )
    BAKED_TRAINING = (
        "baked-training",
        "`training=True` is written into the call, so it uses the statistics of each batch.",
    )
    INVALID_STATISTICS = (
        "invalid-statistics",
        "Gamma, beta or a moving statistic is NaN or infinite, or a variance is negative.",
    )
    CUSTOM_LAYER = (
        "custom-layer",
        "A class that is not Keras's own is involved, so its formula is not known.",
    )
    QUANTIZED_LAYER = (
        "quantized-layer",
        "The kernel of the layer before is quantized; scaling it would round it again.",
    )
    LORA = ("lora", "The layer before has LoRA weights that are not merged yet.")
    OPAQUE_GRAPH = (
        "opaque-graph",
        "Which layer feeds which is not known: a subclassed model, or a file with weights only.",
    )
    BACKEND_BIAS = (
        "backend-bias",
        (
            "With `channels_first`, Keras on TensorFlow adds the bias along the last axis where "
            "that is as long as the channel axis."
        ),
    )


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason, with what was found in this model."""

    reason: Reason
    detail: str
