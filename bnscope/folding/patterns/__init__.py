"""The families of layers: who takes up a Batch Normalization, and who hands it on. A file each."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from typing import TypeVar

from bnscope.folding.patterns.base import Family, Passing, Pattern
from bnscope.graph.model import Call

T = TypeVar("T", bound=Family)


@cache
def all_patterns() -> tuple[Passing | Pattern, ...]:
    """One instance of each family in this package, by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    classes: list[type[Passing | Pattern]] = [*_families(Pattern), *_families(Passing)]
    classes.sort(key=lambda cls: cls.__name__)
    return tuple(cls() for cls in classes)


def family_for(call: Call) -> Passing | Pattern | None:
    """The family that a call's layer belongs to; None if there is none.

    One without an input, which only damaged files have, belongs to none.
    """
    if not call.inputs:
        return None
    return next((family for family in all_patterns() if family.match(call)), None)


def _families(cls: type[T]) -> Iterator[type[T]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _families(sub)
