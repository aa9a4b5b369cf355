"""JSON for machines, version 1."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from bnscope.linting.findings import Report

VERSION = 1


def render(reports: Iterable[Report]) -> str:
    """The reports as one JSON document.

    Returns:
        `{"version": 1, "files": [{"path", "status", "error", "not_analysed", "findings"}]}`.
        Numbers that JSON cannot write stand as `"NaN"`, `"Infinity"` or `"-Infinity"`.
    """
    return dumps({"version": VERSION, "files": [report.to_dict() for report in reports]})


def dumps(value: Any) -> str:
    """A value as JSON that every reader takes: no bare NaN or Infinity."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    """The value with strings in the place of numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
