"""From evidence to a verdict: the causes in the order in which they are looked for.

Each cause is a function that says what speaks for it in sentences with figures, or None. Those
that a measurement alone cannot tell (frozen layers, a `training=` value in the graph) come first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bnscope.diagnosis import wording
from bnscope.diagnosis.cause import Cause, small_batches
from bnscope.diagnosis.evidence import (
    OTHER_OUTPUTS,
    SAME_OUTPUTS,
    STALE_KL,
    TRAINING,
    VALIDATION,
    Evidence,
    is_worse,
)
from bnscope.diagnosis.measuring import BATCH, INFERENCE, RECALIBRATED
from bnscope.diagnosis.result import LayerDiagnosis, Verdict
from bnscope.diagnosis.staleness import stale
from bnscope.rules.small_batch import SmallBatch

# The calls of one layer see different things if their means are this far apart, in sigma.
CALLS_APART = 0.5
# Batches are not alike if their means vary so many times as much as those of random ones.
UNLIKE_BATCHES = 4.0
# Outputs with batch statistics this far from those with all samples' are mostly noise.
NOISY_OUTPUTS = 0.5
# Batches of k samples make moving variances (k - 1) / k of the data's: below this ratio, in this
# share of the channels, while the means fit, they were small.
SMALL_RATIO, SMALL_RATIO_CHANNELS, FITTING_SHIFT = 0.9, 0.9, 0.2
# Validation data differ from training data in a layer from so many nats on, if their own
# statistics help by this share of the loss; from so many nats on in any case.
SHIFT_KL, SHIFT_REPAIRED, LARGE_SHIFT_KL = 0.05, 0.25, 0.5

Check = Callable[[Evidence], Cause | None]


def find_cause(evidence: Evidence) -> Cause:
    """The first cause for which there is enough evidence."""
    causes = (check(evidence) for check in CHECKS)
    return next(cause for cause in causes if cause is not None)


def frozen_untrained(evidence: Evidence) -> Cause | None:
    """BN403, where the initial statistics do not happen to fit."""
    found = [layer for layer in evidence.found("BN403") if layer.kl >= STALE_KL]
    if not found:
        return None
    worst = max(found, key=lambda layer: layer.kl)
    return Cause(
        Verdict.FROZEN_UNTRAINED,
        [
            (
                f"{wording.layers(found)} frozen with moving mean 0 and variance 1, gamma and beta "
                "at their initial values: nothing is normalized there, in training neither."
            ),
            wording.distance(worst),
        ],
        "Load the pretrained weights before freezing, or leave these layers trainable.",
    )


def baked_training(evidence: Evidence) -> Cause | None:
    """BN401 or BN402, where the modes give different losses."""
    false, true = evidence.found("BN402"), evidence.found("BN401")
    if evidence.has_gap and false:
        return Cause(
            Verdict.BAKED_TRAINING,
            [
                (
                    f"training=False is written into the call of {wording.names(false)}, but fit "
                    "ignores it: it normalizes with each batch and changes the moving statistics."
                ),
                wording.distance(max(false, key=lambda layer: layer.kl)),
            ],
            "Set trainable=False on these layers before compile and train again; "
            f"{wording.recalibration(evidence)}.",
        )
    if true and (evidence.has_gap or _answers_differ(evidence)):
        apart = evidence.distance(INFERENCE, BATCH)
        return Cause(
            Verdict.BAKED_TRAINING,
            [
                (
                    f"training=True is written into the call of {wording.names(true)}: model(x) and "
                    "exports normalize with the batch they are given, predict and evaluate with the "
                    f"moving statistics. The two answers are {apart:.2g} standard deviations apart."
                ),
                wording.distance(max(true, key=lambda layer: layer.kl)),
            ],
            f"Leave training=True out when the model is built; {wording.recalibration(evidence)}.",
        )
    return None


def shared(evidence: Evidence) -> Cause | None:
    """Statistics of all samples are worse than those of a batch, and each batch is of one kind."""
    if not evidence.has_remainder:
        return None
    called = [x for x in evidence.layers if x.calls > 1 and x.calls_apart >= CALLS_APART]
    if called:
        worst = max(called, key=lambda layer: layer.calls_apart)
        return Cause(
            Verdict.SHARED_ACROSS_DOMAINS,
            [
                (
                    f'"{worst.layer}" is called {worst.calls} times on inputs whose means are '
                    f"{worst.calls_apart:.2g} sigma apart: in training each call has statistics of "
                    "its own, at inference all share one moving mean and variance."
                )
            ],
            "Give each place a BN layer of its own; the other layers may stay shared. "
            "Recalibrating cannot help.",
        )
    unlike = [x for x in evidence.layers if (x.unlike or 0.0) >= UNLIKE_BATCHES]
    if not unlike:
        return None
    worst = max(unlike, key=lambda layer: layer.unlike or 0.0)
    return Cause(
        Verdict.SHARED_ACROSS_DOMAINS,
        [
            (
                f'The batches are not alike: at "{worst.layer}" their means vary '
                f"{worst.unlike:.3g} times as much as those of random batches of the same size. Each "
                "batch is normalized with the statistics of its own kind in training, all with the "
                "mixture at inference."
            )
        ],
        "Mix the kinds in each batch and train again, or give each domain BN layers of its own. "
        "Recalibrating cannot help.",
    )


def small_batch(evidence: Evidence) -> Cause | None:
    """The batches are so small that their statistics are mostly noise."""
    apart = evidence.distance(BATCH, RECALIBRATED)
    few = [x for x in evidence.layers if x.values and x.values < SmallBatch.FEWEST_VALUES]
    if few and apart >= NOISY_OUTPUTS:
        least = min(few, key=lambda layer: layer.values or 0)
        return small_batches(
            f'In batches of {evidence.batch_size} samples a mean at "{least.layer}" is made of '
            f"{least.values} values, mostly noise: outputs with batch statistics lie {apart:.2g} "
            "standard deviations from those with the statistics of all samples."
        )
    small = [layer for layer in evidence.layers if _has_small_variances(layer)]
    if not small or evidence.distance(INFERENCE, RECALIBRATED) < OTHER_OUTPUTS:
        return None
    first = small[0]
    return small_batches(
        f'At "{first.layer}" the moving means fit, but the moving variances are '
        f"{first.ratio:.2g} of those of the data, as batches of about "
        f"{round(1.0 / (1.0 - first.ratio))} values make them."
    )


def remaining(evidence: Evidence) -> Cause | None:
    """Batch statistics are better than all others, for no reason found above."""
    if not (evidence.has_gap and evidence.has_remainder):
        return None
    return small_batches(
        "The moving statistics fit the data, and still the statistics of a batch are better: the "
        "network has come to depend on what else is in its batch."
    )


def data_shift(evidence: Evidence) -> Cause | None:
    """The validation data have other statistics than the training data."""
    shifted = [x for x in evidence.layers if (x.validation_kl or 0.0) >= SHIFT_KL]
    if not shifted or not _validation_is_worse(evidence):
        return None
    worst = max(shifted, key=lambda layer: layer.validation_kl or 0.0)
    if (worst.validation_kl or 0.0) < LARGE_SHIFT_KL and not _own_statistics_help(evidence):
        return None
    advice = "Check that the validation data are prepared as the training data are."
    if _own_statistics_help(evidence):
        advice += (
            " If they are meant to differ, recalibrate on unlabelled data of the new kind."
        )
    return Cause(
        Verdict.DATA_SHIFT,
        [
            (
                "The statistics fit the training data, but the validation data are others: at "
                f'"{worst.layer}" they lie {worst.validation_kl:.2g} nats apart in the median '
                f"channel.{wording.with_own_statistics(evidence)}"
            )
        ],
        advice,
    )


def not_batch_norm(evidence: Evidence) -> Cause:
    """Nothing of all that."""
    inference, validation = evidence.loss(INFERENCE), evidence.loss(INFERENCE, VALIDATION)
    if inference is None:
        apart = evidence.distance(INFERENCE, RECALIBRATED)
        reason = (
            f"With the moving statistics the outputs are {apart:.2g} standard deviations from "
            f"those with the exact ones, less than the {OTHER_OUTPUTS:g} that count as a gap."
        )
        return Cause(Verdict.NOT_BATCH_NORM, [reason], "Look elsewhere.")
    text = wording.no_gap(evidence)
    if validation is not None and is_worse(validation, inference):
        return _worse_on_other_samples(evidence, text)
    if not evidence.stale:
        return Cause(Verdict.NOT_BATCH_NORM, [text], "Nothing is wrong with BN here.")
    return Cause(
        Verdict.NOT_BATCH_NORM,
        [
            text,
            f"Stale statistics do little harm here. {wording.distance(evidence.stale[0])}",
        ],
        wording.recalibration_or(evidence, "leave it as it is"),
    )


CHECKS: Sequence[Check] = (
    frozen_untrained,
    baked_training,
    shared,
    stale,
    small_batch,
    remaining,
    data_shift,
    not_batch_norm,
)


def _worse_on_other_samples(evidence: Evidence, text: str) -> Cause:
    """Validation is worse, and that is not BN."""
    known = [x for x in evidence.layers if x.validation_kl is not None]
    worst = max(known, key=lambda layer: layer.validation_kl or 0.0, default=None)
    remedies = "more data, augmentation, regularization or a smaller model"
    if worst is None or (worst.validation_kl or 0.0) < SHIFT_KL:
        alike = "The statistics of the validation data are alike. " if known else ""
        overfits = (
            "The model does worse on samples that it was not trained on: it overfits."
        )
        advice = f"{remedies.capitalize()}; not BN."
        return Cause(Verdict.NOT_BATCH_NORM, [text, alike + overfits], advice)
    return Cause(
        Verdict.NOT_BATCH_NORM,
        [
            text,
            (
                f'The validation data differ from the training data: at "{worst.layer}" they '
                f"lie {worst.validation_kl:.2g} nats apart in the median channel. Their "
                "statistics alone do not explain why the model does worse on them."
                f"{wording.with_own_statistics(evidence)}"
            ),
        ],
        "Check that the validation data are prepared as the training data are. If they are, "
        f"the model overfits: {remedies}.",
    )


def _has_small_variances(layer: LayerDiagnosis) -> bool:
    ratios = layer.ratios
    below = float((ratios < 1.0).mean())
    fits = layer.shift <= FITTING_SHIFT
    return fits and 0.0 < layer.ratio <= SMALL_RATIO and below >= SMALL_RATIO_CHANNELS


def _answers_differ(evidence: Evidence) -> bool:
    """Whether batch statistics give other outputs, and nothing else is wrong with validation."""
    return evidence.distance(INFERENCE, BATCH) >= SAME_OUTPUTS and not _validation_is_worse(
        evidence
    )


def _validation_is_worse(evidence: Evidence) -> bool:
    if VALIDATION not in evidence.apart:
        return False
    inference, validation = evidence.loss(INFERENCE), evidence.loss(INFERENCE, VALIDATION)
    if inference is None or validation is None:
        ours, theirs = (
            evidence.distance(INFERENCE, BATCH, x) for x in (TRAINING, VALIDATION)
        )
        return theirs >= NOISY_OUTPUTS and theirs > 2.0 * ours
    return is_worse(validation, inference)


def _own_statistics_help(evidence: Evidence) -> bool:
    ours, theirs = evidence.loss(INFERENCE), evidence.loss(INFERENCE, VALIDATION)
    own = evidence.loss(BATCH, VALIDATION)
    if ours is None or theirs is None or own is None:
        return True  # the outputs were compared with those of their own statistics
    return theirs - own >= SHIFT_REPAIRED * (theirs - ours)
