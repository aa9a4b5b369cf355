"""What callbacks tell people while `fit` prints its progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from functools import wraps
from typing import Any

from bnscope.backend import is_chief
from bnscope.printing import printable
from bnscope.statistics.layout import Layout, Status


def ends_nothing(hook: Callable[..., None]) -> Callable[..., None]:
    """Whatever a callback's hook raises goes to its `_give_up`, and training goes on."""

    @wraps(hook)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            hook(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001
            self._give_up(error)

    return guarded


def say(text: str) -> None:
    """A line of its own in the progress output, whose last line may be open.

    Of several processes only the chief says it.
    """
    if is_chief():
        sys.stdout.write(f"\nbnscope: {printable(text)}\n")
        sys.stdout.flush()


def what_changed(before: Layout, now: Layout) -> str | None:
    """How the BN layers of a model differ from those of the `fit` before; None if not."""
    parts = [
        _counted([path for path in now.paths if path not in before.paths], "added"),
        _counted([path for path in before.paths if path not in now.paths], "gone"),
        _counted((_frozen(before) - _frozen(now)) & set(now.paths), "no longer frozen"),
        _counted((_frozen(now) - _frozen(before)) & set(before.paths), "frozen"),
    ]
    found = "; ".join(part for part in parts if part)
    if not before.has_axes_of(now):
        found = (
            f"{found or 'other widths'}. A new series of records takes the place of the old"
        )
    return f"BN layers since the last fit: {found}" if found else None


def _frozen(layout: Layout) -> set[str]:
    pairs = zip(layout.paths, layout.statuses, strict=True)
    return {path for path, status in pairs if status is Status.FROZEN}


def _counted(paths: Collection[str], what: str) -> str:
    if not paths:
        return ""
    first, *others = sorted(paths)
    return f"{first} and {len(others)} more {what}" if others else f"{first} {what}"
