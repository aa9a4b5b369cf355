"""A progress bar on stderr: only on a terminal, and only for what takes longer than a second."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE = 1.0


class Bar:
    """Call it with how many are done, and of how many."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._begin = time.monotonic()
        self._shown: tuple[Progress, TaskID] | None = None

    def __call__(self, done: int, total: int) -> None:
        """Tells how far the work is."""
        if self._shown is None:
            late = time.monotonic() - self._begin > _PATIENCE
            if not late or done >= total or not sys.stderr.isatty():
                return
            self._shown = self._start(total)
        progress, task = self._shown
        progress.update(task, completed=done)

    def close(self) -> None:
        """Takes the bar away."""
        if self._shown is not None:
            self._shown[0].stop()
            self._shown = None

    def _start(self, total: int) -> tuple[Progress, TaskID]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        progress.start()
        return progress, progress.add_task(self._label, total=total)


@contextlib.contextmanager
def bar(label: str) -> Iterator[Bar]:
    """A bar that is taken away at the end, however that comes."""
    shown = Bar(label)
    try:
        yield shown
    finally:
        shown.close()
