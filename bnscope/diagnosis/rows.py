"""The rows of the layers: what was measured of each, and what swapping it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bnscope.calibration.result import LayerStatistics
from bnscope.diagnosis.measuring import Measured, Swap
from bnscope.diagnosis.result import LayerDiagnosis
from bnscope.diagnosis.statistics import (
    Flow,
    divergences,
    noise,
    remainder,
    shifts,
    unlikeness,
)


def layer(norm: Any, found: LayerStatistics, flow: Flow, samples: float) -> LayerDiagnosis:
    """What is known of one layer before layers are swapped."""
    moving = found.old_mean, found.old_variance
    epsilon, seen = found.epsilon, flow.calls > 0
    return LayerDiagnosis(
        layer=found.layer,
        momentum=float(norm.momentum),
        epsilon=epsilon,
        frozen=not norm.trainable,
        mean=found.mean,
        variance=found.variance,
        moving_mean=found.old_mean,
        moving_variance=found.old_variance,
        shifts=shifts(found.mean, found.variance, found.old_mean, epsilon),
        divergences=divergences((found.mean, found.variance), moving, epsilon),
        calls=flow.calls,
        values=int(np.median(flow.values)) if seen else None,
        initial=remainder(flow.all, moving) if seen else 0.0,
        noise=noise(flow, float(norm.momentum), epsilon) if seen else None,
        unlike=unlikeness(flow, samples, epsilon) if seen else None,
        calls_apart=flow.calls_apart(epsilon) if seen else 0.0,
        reason=found.reason,
    )


def shifted(
    layers: Sequence[LayerDiagnosis], training: Measured, validation: Measured
) -> list[LayerDiagnosis]:
    """The layers with the shift between training and validation data."""
    return [
        replace(layer, validation_kl=_between(one, other, layer.epsilon))
        for layer, one, other in zip(layers, training.flows, validation.flows, strict=True)
    ]


def _between(one: Flow, other: Flow, epsilon: float) -> float | None:
    if not one.calls or not other.calls:
        return None
    known, new = ((flow.all.mean, flow.all.variance) for flow in (one, other))
    return float(np.median(divergences(new, known, epsilon)))


def swapped(
    layers: Sequence[LayerDiagnosis], found: Sequence[Swap] | None
) -> list[LayerDiagnosis]:
    """The layers with what swapping each of them did; None if nothing was swapped."""
    if found is None:
        return list(layers)
    return [
        replace(layer, causes=swap.causes, repairs=swap.repairs)
        for layer, swap in zip(layers, found, strict=True)
    ]
