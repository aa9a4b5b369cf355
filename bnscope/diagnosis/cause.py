"""A verdict with its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bnscope.diagnosis.result import Verdict


@dataclass(frozen=True)
class Cause:
    """A verdict with its reasons.

    Args:
        verdict: the verdict.
        sentences: the reasons, with figures.
        advice: what to do.
    """

    verdict: Verdict
    sentences: Sequence[str]
    advice: str


def small_batches(text: str) -> Cause:
    """The verdict that the batches are too small, for this reason."""
    return Cause(
        Verdict.SMALL_BATCH,
        [text],
        "Use larger batches, freeze the BN layers of a pretrained model, or use "
        "GroupNormalization.",
    )
