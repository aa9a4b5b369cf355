"""Marks: where a callback wrote into the model, so that nobody takes the jump for a batch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Act(StrEnum):
    """What was done."""

    RECALIBRATE = "recalibrate"  # the statistics were replaced by the population's
    RESTORE = "restore"  # values that were not finite were replaced by earlier ones
    FREEZE = "freeze"  # from here on the layers normalize with their moving values


@dataclass(frozen=True, slots=True)
class Mark:
    """One thing that a callback did to BN layers.

    Args:
        act: what was done.
        layers: paths of the layers.
        message: the same for people.
    """

    act: Act
    layers: tuple[str, ...]
    message: str

    def to_dict(self, step: int) -> dict[str, Any]:
        """The mark for JSON, at a step."""
        return {
            "act": str(self.act),
            "step": step,
            "layers": list(self.layers),
            "message": self.message,
        }
