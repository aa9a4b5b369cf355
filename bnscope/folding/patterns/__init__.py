"""The patterns: which layers can take up a Batch Normalization, and how. One file a family."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from bnscope.folding.patterns.base import Pattern
from bnscope.graph.model import Call


@cache
def all_patterns() -> tuple[Pattern, ...]:
    """One instance of each pattern in this package, by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    classes = sorted(Pattern.__subclasses__(), key=lambda cls: cls.__name__)
    return tuple(cls() for cls in classes)


def pattern_for(call: Call) -> Pattern | None:
    """The pattern whose family a call's layer belongs to; None if there is none."""
    return next((pattern for pattern in all_patterns() if pattern.match(call)), None)
