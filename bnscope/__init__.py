"""bnscope: see, lint, fix and fold Batch Normalization in Keras models.

The public names are loaded when they are first used, so that `import bnscope` loads neither
Keras, nor a backend, nor TensorBoard.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnscope.calibration import recalibrate
    from bnscope.diagnosis import Diagnosis, diagnose
    from bnscope.errors import BnscopeError
    from bnscope.fixing import FixResult, fix
    from bnscope.folding import FoldResult, fold
    from bnscope.inspection import Inspection, inspect
    from bnscope.linting import Finding, Report, Settings, lint
    from bnscope.tracking import TrackResult, track

__version__ = "0.1.0"

_PUBLIC = {
    "BnscopeError": "errors",
    "Diagnosis": "diagnosis",
    "Finding": "linting",
    "FixResult": "fixing",
    "FoldResult": "folding",
    "Inspection": "inspection",
    "Report": "linting",
    "Settings": "linting",
    "TrackResult": "tracking",
    "diagnose": "diagnosis",
    "fix": "fixing",
    "fold": "folding",
    "inspect": "inspection",
    "lint": "linting",
    "recalibrate": "calibration",
    "track": "tracking",
}

# Public modules.
_MODULES = ("callbacks", "plots", "testing")

__all__ = [
    "BnscopeError",
    "Diagnosis",
    "Finding",
    "FixResult",
    "FoldResult",
    "Inspection",
    "Report",
    "Settings",
    "TrackResult",
    "diagnose",
    "fix",
    "fold",
    "inspect",
    "lint",
    "recalibrate",
    "track",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"bnscope.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'bnscope' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"bnscope.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_MODULES])
