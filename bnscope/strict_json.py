"""JSON that every reader takes: no bare NaN or Infinity."""

from __future__ import annotations

import json
import math
from typing import Any


def dumps(value: Any, *, indent: int | None = None) -> str:
    """A value as JSON; numbers JSON cannot write stand as "NaN", "Infinity", "-Infinity"."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:  # there is one; looking through everything takes longer
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
