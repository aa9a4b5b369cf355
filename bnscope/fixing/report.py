"""What was repaired and what was not, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bnscope.fixing.changes import Change
from bnscope.rewriting.routes import TITLES


@dataclass(frozen=True, slots=True)
class Fix:
    """One repair that was made.

    Args:
        code: the rule's code.
        name: the rule's name.
        layer: path of the layer that the finding named.
        fix: "safe" or "unsafe".
        changes: what changed, layer by layer.
        effect: of an unsafe repair, how far the repairs of this rule in the same pass moved
            the outputs, as a share of their scale, by route (`call`, `bare`); 0 for
            differences within rounding. Empty for safe repairs.
    """

    code: str
    name: str
    layer: str
    fix: str
    changes: tuple[Change, ...] = ()
    effect: Mapping[str, float] = field(default_factory=dict)

    @property
    def behaviour(self) -> str:
        """What changes in what the model computes, in a sentence."""
        if self.fix == "safe":
            return "The outputs stay as they are."
        if not self.effect:
            return "What it changes in the outputs was not measured."
        moved = {TITLES[route]: value for route, value in self.effect.items() if value}
        if not moved:
            return "The outputs at inference stay as they are; training changes."
        parts = [
            f"{title} by {value:.2g} of the outputs' scale"
            for title, value in moved.items()
        ]
        same = [TITLES[route] for route, value in self.effect.items() if not value]
        rest = f"; {' and '.join(same)} stay as they are" if same else ""
        return f"It changes {' and '.join(parts)}{rest}."

    def to_dict(self) -> dict[str, Any]:
        """The repair for JSON."""
        return {
            "code": self.code,
            "name": self.name,
            "layer": self.layer,
            "fix": self.fix,
            "changes": [change.to_dict() for change in self.changes],
            "effect": dict(self.effect),
            "behaviour": self.behaviour,
        }


@dataclass(frozen=True, slots=True)
class Skipped:
    """A finding that has a repair which could not be made.

    Args:
        code: the rule's code.
        name: the rule's name.
        layer: path of the layer.
        fix: "safe" or "unsafe".
        reason: why, in a sentence.
    """

    code: str
    name: str
    layer: str
    fix: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """The finding for JSON."""
        return {
            "code": self.code,
            "name": self.name,
            "layer": self.layer,
            "fix": self.fix,
            "reason": self.reason,
        }
