"""Fixing: what the rules found and can repair, repaired and proved."""

from __future__ import annotations

from bnscope.fixing.report import Fix, Skipped
from bnscope.fixing.result import FixResult, fix

__all__ = ["Fix", "FixResult", "Skipped", "fix"]
