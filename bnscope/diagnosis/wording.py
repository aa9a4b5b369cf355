"""Parts of sentences about evidence."""

from __future__ import annotations

from collections.abc import Sequence

from bnscope.diagnosis.evidence import VALIDATION, Evidence
from bnscope.diagnosis.measuring import BATCH, INFERENCE, RECALIBRATED
from bnscope.diagnosis.result import LayerDiagnosis
from bnscope.rules.base import plural

_MOST_NAMES = 3


def number(value: float) -> str:
    """A loss or a metric."""
    return f"{value:.3g}"


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
    """What recalibration gives, as a part of an advice."""
    recalibrated = evidence.loss(RECALIBRATED, VALIDATION) or evidence.loss(RECALIBRATED)
    if recalibrated is None:
        return "recalibrate (bnscope.recalibrate)"
    before = evidence.loss(INFERENCE, VALIDATION) or evidence.loss(INFERENCE)
    of = "validation " if VALIDATION in evidence.losses else ""
    return (
        f"recalibrate (bnscope.recalibrate): the {of}loss goes from {number(before or 0.0)} to "
        f"{number(recalibrated)}"
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
