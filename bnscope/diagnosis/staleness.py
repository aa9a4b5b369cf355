"""Why moving statistics are not those of the data, where recalibration repairs the gap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bnscope.bn import LARGEST_INITIAL_SHARE, initial_share, is_cold, updates_until
from bnscope.diagnosis import wording
from bnscope.diagnosis.cause import Cause, small_batches
from bnscope.diagnosis.evidence import OTHER_OUTPUTS, TRAINING, VALIDATION, Evidence
from bnscope.diagnosis.measuring import INFERENCE, RECALIBRATED
from bnscope.diagnosis.result import LayerDiagnosis, Verdict
from bnscope.graph.batchnorm import DEFAULT_MOMENTUM

# Moving means are off by noise if noise makes up this share of how far they are off.
NOISE_SHARE = 0.5
# Below this momentum it is that, not the batch, which makes moving statistics swing.
LOW_MOMENTUM = 0.9
# Dropout makes variances larger, by this much where it matters.
LARGE_RATIO = 1.1
# Data so many times as large, or as small, were scaled otherwise.
OTHER_SCALE = 4.0


def stale(evidence: Evidence) -> Cause | None:
    """Recalibration helps: the moving statistics are not those of the data."""
    if not (evidence.has_gap and _repairs(evidence)):
        return None
    found = evidence.stale or sorted(evidence.layers, key=lambda layer: -layer.kl)
    if evidence.fits_validation:
        return _other_preparation(evidence, found[0])
    # Frozen layers are not updated, so only others can be cold or lag behind.
    moving = [layer for layer in found if not layer.frozen]
    if not moving:
        return _other_data(evidence, found)
    for check in (_momentum_setting, _cold, _swinging, _dropout):
        cause = check(evidence, moving)
        if cause is not None:
            return cause
    return _lagging(evidence, moving)


def _momentum_setting(evidence: Evidence, found: Sequence[LayerDiagnosis]) -> Cause | None:
    """A momentum that averages nothing."""
    wrong = [layer for layer in found if not 0.0 <= layer.momentum < 1.0]
    if not wrong:
        return None
    return Cause(
        Verdict.MOMENTUM,
        [
            (
                f"{wording.layers(wrong)} at momentum {wrong[0].momentum:g}, with which the moving "
                "statistics do not average what the layer sees."
            ),
            wording.distance(wrong[0]),
        ],
        f"Use a momentum from 0.9 to 0.99; {wording.recalibration(evidence)}.",
    )


def _cold(evidence: Evidence, found: Sequence[LayerDiagnosis]) -> Cause | None:
    cold = [layer for layer in found if evidence.is_cold(layer)]
    if 2 * len(cold) < len(found):
        return None
    worst = cold[0]
    share = evidence.share_left(worst)
    if worst.initial == 1.0:
        text = (
            "they are still exactly the initial mean 0 and variance 1: nothing updated them"
        )
    elif share is None:
        text = f"what fits them best is {worst.initial:.0%} of the initial mean 0 and variance 1"
    else:
        text = (
            f"{evidence.steps} steps at momentum {worst.momentum:g} leave {share:.0%} of the "
            f"initial mean 0 and variance 1 ({worst.initial:.0%} fits their values best)"
        )
    needed = updates_until(worst.momentum, LARGEST_INITIAL_SHARE)
    if worst.initial < 1.0 and _default_would_do(evidence, worst):
        return Cause(
            Verdict.MOMENTUM,
            [
                (
                    f'The momentum is too high: at "{worst.layer}" {text}; at Keras\'s default of '
                    f"{DEFAULT_MOMENTUM:g} as many would do."
                ),
                wording.distance(worst),
            ],
            f"Lower the momentum ({worst.momentum:g} needs {needed:,} updates); "
            f"{wording.recalibration(evidence)}.",
        )
    return Cause(
        Verdict.COLD_STATISTICS,
        [
            f'The moving statistics are cold: at "{worst.layer}" {text}.',
            wording.distance(worst),
        ],
        wording.recalibration_or(
            evidence,
            f"train longer ({needed:,} updates at momentum {worst.momentum:g}), or lower the "
            "momentum",
        ),
    )


def _default_would_do(evidence: Evidence, layer: LayerDiagnosis) -> bool:
    """Whether at Keras's default momentum the statistics would not be cold."""
    steps = evidence.steps
    if not steps:  # from how much is initial to how many updates that takes
        steps = updates_until(layer.momentum, max(layer.initial, 1e-6))
    return layer.momentum > DEFAULT_MOMENTUM and not is_cold(
        initial_share(DEFAULT_MOMENTUM, steps * max(layer.calls, 1))
    )


def _swinging(evidence: Evidence, found: Sequence[LayerDiagnosis]) -> Cause | None:
    """Moving statistics that follow the last few batches."""
    noisy = [x for x in found if (x.noise or 0.0) >= NOISE_SHARE * x.shift and x.noise]
    if 2 * len(noisy) < len(found):
        return None
    worst = noisy[0]
    text = (
        f'The moving statistics swing: at "{worst.layer}" momentum {worst.momentum:g} with '
        f"batches of {evidence.batch_size} makes a moving mean swing by {worst.noise:.2g} sigma, "
        f"and it is {worst.shift:.2g} sigma off in the median channel."
    )
    if worst.momentum >= LOW_MOMENTUM:
        return small_batches(text)
    return Cause(
        Verdict.MOMENTUM,
        [text],
        "Raise the momentum (Keras's 0.9 is PyTorch's 0.1); "
        f"{wording.recalibration(evidence)}.",
    )


def _dropout(evidence: Evidence, found: Sequence[LayerDiagnosis]) -> Cause | None:
    """Variances that are larger than at inference, as dropout makes them in training."""
    known = evidence.behind_dropout
    behind = [x for x in found if x.layer in known and x.ratio >= LARGE_RATIO]
    if 2 * len(behind) < len(found):
        return None
    worst = max(behind, key=lambda layer: layer.kl)
    return Cause(
        Verdict.DROPOUT_BEFORE,
        [
            (
                f"Dropout stands before {wording.names(behind)}: it makes variances larger in "
                "training than they are at inference, where it is off."
            ),
            wording.distance(worst),
        ],
        f"Move dropout behind the last BN layer; {wording.recalibration(evidence)}.",
    )


def _lagging(evidence: Evidence, found: Sequence[LayerDiagnosis]) -> Cause:
    worst = found[0]
    span = round(1.0 / (1.0 - worst.momentum))
    others = "scaled" if _scale(worst) >= OTHER_SCALE else "augmented"
    return Cause(
        Verdict.MOMENTUM,
        [
            (
                f"The moving statistics lag behind the weights: at momentum {worst.momentum:g} "
                f'"{worst.layer}" averages over about the last {span:,} updates, and what it sees has '
                f"changed since (or training sees other samples than these, {others} ones for "
                "instance)."
            ),
            wording.distance(worst),
        ],
        wording.recalibration_or(
            evidence,
            "lower the momentum, or let the learning rate fall before training ends",
        ),
    )


def _other_preparation(evidence: Evidence, worst: LayerDiagnosis) -> Cause:
    """The moving statistics fit the validation data, and not `x`."""
    sentences = [
        (
            "x looks prepared differently from what the model was trained on: the moving "
            "statistics do not fit it, but they fit the validation data."
            f"{wording.with_own_statistics(evidence)}"
        ),
        wording.distance(worst),
    ]
    if _scale(worst) >= OTHER_SCALE:
        larger = "large" if worst.ratio < 1.0 else "small"
        sentences.append(
            f"The values of x there are about {_scale(worst):,.3g} times as {larger}, as on another "
            "scale (0 to 255 instead of 0 to 1, for instance)."
        )
    advice = "Prepare x as for the training, and diagnose again"
    if evidence.recalibrating_harms:
        advice += f"; {wording.recalibration(evidence)}"
    return Cause(Verdict.DATA_SHIFT, sentences, f"{advice}.")


def _scale(layer: LayerDiagnosis) -> float:
    """How many times as large, or as small, the data are as the moving variance says."""
    ratio = layer.ratio
    return float(np.sqrt(max(ratio, 1.0 / ratio))) if ratio > 0.0 else 1.0


def _other_data(evidence: Evidence, found: Sequence[LayerDiagnosis]) -> Cause:
    return Cause(
        Verdict.DATA_SHIFT,
        [
            f"{wording.layers(found)} frozen, with the statistics of other data than these.",
            wording.distance(found[0]),
        ],
        "If these are not the data to work on, leave these layers as they are; else "
        f"{wording.recalibration(evidence)}.",
    )


def _repairs(evidence: Evidence) -> bool:
    """Whether recalibration closes a good part of the gap."""
    if evidence.loss(INFERENCE) is None:
        return evidence.distance(INFERENCE, RECALIBRATED) >= OTHER_OUTPUTS
    return any(evidence.is_gap(RECALIBRATED, data) for data in (TRAINING, VALIDATION))
