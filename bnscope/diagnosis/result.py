"""What a diagnosis found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from bnscope.bn import Array
from bnscope.strict_json import dumps


class Verdict(StrEnum):
    """Why inference is worse than training.

    - `cold_statistics`: the moving statistics were updated too few times;
    - `momentum`: too high, so that they lag behind, or too low, so that they swing;
    - `small_batch`: the batches are too small to tell what a batch statistic is;
    - `data_shift`: the validation data differ from the training data;
    - `frozen_untrained`: layers are frozen that have never seen data;
    - `shared_across_domains`: one layer normalizes what should have statistics of its own;
    - `baked_training`: a `training=` value is written into the graph;
    - `dropout_before_bn`: dropout before a BN layer makes variances larger in training;
    - `not_batch_norm`: something else, or nothing.
    """

    COLD_STATISTICS = "cold_statistics"
    MOMENTUM = "momentum"
    SMALL_BATCH = "small_batch"
    DATA_SHIFT = "data_shift"
    FROZEN_UNTRAINED = "frozen_untrained"
    SHARED_ACROSS_DOMAINS = "shared_across_domains"
    BAKED_TRAINING = "baked_training"
    DROPOUT_BEFORE = "dropout_before_bn"
    NOT_BATCH_NORM = "not_batch_norm"


@dataclass(frozen=True, slots=True, eq=False)
class LayerDiagnosis:
    """One BN layer: its moving statistics, those of the data, and what it does to the gap.

    Args:
        layer: its path.
        momentum: its momentum.
        epsilon: its epsilon.
        frozen: whether it is not trainable.
        mean: mean of the data that go into it once all layers before are recalibrated, shape
            `(channels,)`.
        variance: their biased variance.
        moving_mean: its moving mean.
        moving_variance: its moving variance.
        shifts: how far the moving mean is from the mean, in sigma of the data, a channel.
        divergences: KL(data || moving) of normal distributions in nats, a channel.
        calls: how often a batch calls it; 0 if it was not seen.
        values: values a channel in a batch; None if it was not seen.
        initial: the share of the moving values that is still initial, as fits best.
        noise: how far the moving mean swings with the batches, in sigma; None of few batches.
        unlike: variance of the batches' means over that of independent samples (at most 1);
            None of few batches.
        calls_apart: how far the means of its calls are apart, in sigma.
        validation_kl: KL(validation data || `x`), both with batch statistics, in nats, of the
            median channel; None without.
        causes: the share of the gap that there is if only this layer uses its moving statistics;
            None if there is no gap.
        repairs: the share of the gap that goes if only this layer does not use them.
        reason: why the statistics of the data are not exact; None if they are.
    """

    layer: str
    momentum: float
    epsilon: float
    frozen: bool
    mean: Array
    variance: Array
    moving_mean: Array
    moving_variance: Array
    shifts: Array
    divergences: Array
    calls: int
    values: int | None
    initial: float
    noise: float | None
    unlike: float | None
    calls_apart: float
    validation_kl: float | None = None
    causes: float | None = None
    repairs: float | None = None
    reason: str | None = None

    @property
    def channels(self) -> int:
        """How many channels it has."""
        return len(self.mean)

    @property
    def shift(self) -> float:
        """How far the means are apart in sigma, of the median channel."""
        return float(_median(self.shifts))

    @property
    def worst_shift(self) -> float:
        """How far the means are apart in sigma, of the worst channel."""
        return float(self.shifts.max())

    @property
    def ratio(self) -> float:
        """Moving variance over variance, epsilon added to both, of the median channel."""
        return float(_median(self.ratios))

    @property
    def ratios(self) -> Array:
        """Moving variance over variance, epsilon added to both, a channel."""
        return (self.moving_variance + self.epsilon) / (self.variance + self.epsilon)

    @property
    def kl(self) -> float:
        """KL(data || moving) in nats, of the median channel."""
        return float(_median(self.divergences))

    @property
    def worst_kl(self) -> float:
        """KL(data || moving) in nats, of the worst channel."""
        return float(self.divergences.max())

    def to_dict(self) -> dict[str, Any]:
        """The layer for JSON."""
        return {
            "layer": self.layer,
            "channels": self.channels,
            "momentum": self.momentum,
            "frozen": self.frozen,
            "calls": self.calls,
            "values": self.values,
            "shift": self.shift,
            "worst_shift": self.worst_shift,
            "kl": self.kl,
            "worst_kl": self.worst_kl,
            "variance_ratio": self.ratio,
            "initial": self.initial,
            "noise": self.noise,
            "unlike": self.unlike,
            "calls_apart": self.calls_apart,
            "validation_kl": self.validation_kl,
            "causes": self.causes,
            "repairs": self.repairs,
            "exact": self.reason is None,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a model is worse at inference than in training, with what was measured.

    Args:
        model: the name of the model.
        verdict: the cause.
        sentences: why, with the figures that the verdict rests on.
        advice: what to do, in a sentence.
        losses: loss and metrics by data (`"training"`, `"validation"`), mode (`"inference"`,
            `"batch"`, `"recalibrated"`) and name; empty without targets or a loss.
        apart: by data and by two modes (`"inference_batch"`, `"inference_recalibrated"`,
            `"batch_recalibrated"`), how far the outputs of the first lie from those of the
            second, in standard deviations of the latter.
        layers: the BN layers in forward order.
        samples: how many samples were used, by data.
        batch_size: samples in a batch, of the training data.
        swap_samples: with how many of them single layers were swapped; 0 if there was no gap.
        notes: what else is to be known, in sentences.
    """

    model: str
    verdict: Verdict
    sentences: tuple[str, ...]
    advice: str
    losses: Mapping[str, Mapping[str, Mapping[str, float]]]
    apart: Mapping[str, Mapping[str, float]]
    layers: tuple[LayerDiagnosis, ...]
    samples: Mapping[str, int]
    batch_size: int
    swap_samples: int = 0
    notes: tuple[str, ...] = ()

    @property
    def explanation(self) -> str:
        """The verdict in words, with the figures that it rests on."""
        return " ".join(self.sentences)

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis for JSON."""
        return {
            "model": self.model,
            "verdict": str(self.verdict),
            "explanation": self.explanation,
            "advice": self.advice,
            "samples": dict(self.samples),
            "batch_size": self.batch_size,
            "swap_samples": self.swap_samples,
            "losses": {
                data: {mode: dict(values) for mode, values in modes.items()}
                for data, modes in self.losses.items()
            },
            "apart": {data: dict(modes) for data, modes in self.apart.items()},
            "layers": [layer.to_dict() for layer in self.layers],
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """The diagnosis as JSON."""
        return dumps(self.to_dict(), indent=2)

    def plot(self) -> Any:
        """The diagnosis as a plotly figure: the losses, and how far each layer is apart.

        Raises:
            BnscopeError: if plotly is not installed.
        """
        from bnscope.diagnosis.figure import figure

        return figure(self)

    def __str__(self) -> str:
        from bnscope.diagnosis.report import sections
        from bnscope.sections import as_text

        return as_text(sections(self))

    def _repr_html_(self) -> str:
        from bnscope.diagnosis.report import sections
        from bnscope.sections import as_html

        return as_html("", sections(self))


def _median(values: Array) -> float:
    return float(np.median(values)) if len(values) else 0.0
