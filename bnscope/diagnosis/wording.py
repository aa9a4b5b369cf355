"""Parts of sentences about evidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bnscope.diagnosis.evidence import (
    AS_GOOD,
    LEAST_SHARE,
    SAME_OUTPUTS,
    VALIDATION,
    WORSE,
    Evidence,
    is_worse,
)
from bnscope.diagnosis.measuring import BATCH, INFERENCE, RECALIBRATED
from bnscope.diagnosis.result import LayerDiagnosis
from bnscope.rules.base import plural

_MOST_NAMES = 3


def number(value: float) -> str:
    """A loss or a metric."""
    return f"{value:z.3g}"


def names(found: Sequence[LayerDiagnosis]) -> str:
    """`"bn1"`, `"bn1", "bn2" and 3 more layers`."""
    shown = ", ".join(f'"{layer.layer}"' for layer in found[:_MOST_NAMES])
    more = len(found) - _MOST_NAMES
    return f"{shown} and {plural(more, 'more layer')}" if more > 0 else shown


def layers(found: Sequence[LayerDiagnosis]) -> str:
    """`2 BN layers ("bn1", "bn2") are`."""
    return f"{plural(len(found), 'BN layer')} ({names(found)}) {'is' if len(found) == 1 else 'are'}"


def distance(layer: LayerDiagnosis) -> str:
    """How far moving statistics are from the data."""
    return (
        f'At "{layer.layer}" the moving mean is {layer.shift:.2g} sigma off in the median channel '
        f"({layer.worst_shift:.2g} in the worst), and the moving variance {layer.ratio:.2g} times "
        f"that of the data: {layer.kl:.2g} nats apart."
    )


def losses(evidence: Evidence) -> str:
    """The losses of all modes in one sentence; the distances of outputs without any."""
    count = evidence.samples["training"]
    start = f"On the same {count:,} samples with dropout off"
    if not evidence.losses:
        apart = (
            evidence.distance(INFERENCE, BATCH),
            evidence.distance(INFERENCE, RECALIBRATED),
        )
        return (
            f"{start}, the outputs at inference are {apart[0]:.2g} standard deviations from those "
            f"with batch statistics, and {apart[1]:.2g} from those after recalibration."
        )
    parts = [_modes(evidence, "training", f"{start}, the loss is ")]
    if VALIDATION in evidence.losses:
        parts.append(_modes(evidence, VALIDATION, "On the validation data it is "))
    return " ".join(parts)


def _modes(evidence: Evidence, data: str, start: str) -> str:
    values = {
        mode: evidence.losses[data][mode]["loss"]
        for mode in (INFERENCE, BATCH, RECALIBRATED)
    }
    return (
        f"{start}{number(values[INFERENCE])} at inference, {number(values[BATCH])} with batch "
        f"statistics, and {number(values[RECALIBRATED])} after recalibration."
    )


def recalibration(evidence: Evidence) -> str:
    """What recalibration gives, as a part of an advice; that it does not help, if so."""
    if evidence.loss(RECALIBRATED) is None:
        return "recalibrate (bnscope.recalibrate)"
    of = "validation " if evidence.judge == VALIDATION else ""
    before, after = (
        number(evidence.loss(mode, evidence.judge) or 0.0)
        for mode in (INFERENCE, RECALIBRATED)
    )
    if evidence.recalibrating_harms:
        return (
            f"recalibrating on these samples would not help: the {of}loss would go from {before} "
            f"to {after}"
        )
    return f"recalibrate (bnscope.recalibrate): the {of}loss goes from {before} to {after}"


def recalibration_or(evidence: Evidence, otherwise: str) -> str:
    """An advice: recalibration, if it helps, or something else."""
    text = recalibration(evidence)
    harms = evidence.recalibrating_harms
    whole = f"{otherwise}; {text}." if harms else f"{text}; or {otherwise}."
    return whole[0].upper() + whole[1:]


def no_gap(evidence: Evidence) -> str:
    """How inference does, where it is not so much worse than another mode that it counts."""
    inference, best = (evidence.loss(x) or 0.0 for x in (INFERENCE, evidence.better))
    if not np.isfinite(best) or inference - best <= AS_GOOD * abs(best):
        batch = evidence.loss(BATCH)
        noisy = batch is not None and is_worse(batch, inference)
        text = "BN is not to blame: inference is as good as training on the same samples"
        return text + (
            ", even better, as the statistics of a batch are noisy." if noisy else "."
        )
    how = {BATCH: "with batch statistics", RECALIBRATED: "after recalibration"}
    apart = evidence.distance(INFERENCE, evidence.better)
    if not is_worse(inference, best):
        why = (
            f"{(inference - best) / abs(best):.0%} more is less than the {WORSE:.0%} that "
            "count as a gap"
        )
    elif apart < SAME_OUTPUTS:
        why = f"the outputs are only {apart:.2g} standard deviations apart"
    else:
        why = f"that is less than {LEAST_SHARE:.0%} of what validation is worse"
    return (
        f"BN is hardly to blame: on the same samples the loss is {number(inference)} at "
        f"inference and {number(best)} {how[evidence.better]}, and {why}."
    )


def with_own_statistics(evidence: Evidence) -> str:
    """What batch statistics of the validation data do."""
    before, own = evidence.loss(INFERENCE, VALIDATION), evidence.loss(BATCH, VALIDATION)
    if before is None or own is None:
        return ""
    return f" With their own batch statistics their loss is {number(own)} instead of {number(before)}."


def main_layer(evidence: Evidence) -> str:
    """Which layer alone explains most of the gap."""
    known = [layer for layer in evidence.layers if layer.repairs is not None]
    if len(known) < 2:  # noqa: PLR2004  one layer explains all
        return ""
    best = max(known, key=lambda layer: layer.repairs or 0.0)
    share = best.repairs or 0.0
    if share <= 0.0:
        return "No layer explains the gap alone."
    return f'"{best.layer}" alone explains {min(share, 1.0):.0%} of the gap.'
