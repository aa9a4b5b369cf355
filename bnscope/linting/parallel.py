"""Files read by several processes.

The processes start afresh instead of as copies of this one: a copy of a process with threads
(those of a backend, or of a progress bar) may hang. They import what linting needs and no
Keras, take small groups of files, and send back reports, which are a few kilobytes each.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from bnscope.errors import UnreadableModelError
from bnscope.linting.batch import is_parallel, lint_source
from bnscope.linting.discovery import Source
from bnscope.linting.engine import Linted, Linter
from bnscope.linting.findings import Report
from bnscope.linting.settings import Settings

_LARGEST_GROUP = 16
_GROUPS_A_PROCESS = 8
# Groups that wait in line: a process that is done has its next one at hand.
_AHEAD = 2

Group = tuple[int, ...]
Results = list[Linted | None]

_linter: Linter


def lint_sources(
    sources: Sequence[Source],
    settings: Settings,
    processes: int,
    progress: Callable[[int, int], None],
) -> Results:
    """Lints sources in several processes; the results are in the order of the sources.

    Args:
        sources: what to lint.
        settings: the settings.
        processes: how many processes to start.
        progress: is told how many are done, and of how many.
    """
    return _Run(sources, settings, processes, progress).results()


class _Run:
    """One run: what is done, and what is left."""

    def __init__(
        self,
        sources: Sequence[Source],
        settings: Settings,
        processes: int,
        progress: Callable[[int, int], None],
    ) -> None:
        self._sources = sources
        self._settings = settings
        self._processes = processes
        self._progress = progress
        self._done: dict[int, Linted | None] = {}

    def results(self) -> Results:
        shared = [i for i, source in enumerate(self._sources) if is_parallel(source)]
        left = deque(_groups(shared, self._processes))
        while left:
            lost = self._until_broken(left, self._processes)
            for index in sorted(lost):
                self._alone(index)
        linter = Linter(self._settings)
        for index, source in enumerate(self._sources):
            if index not in self._done:
                self._take((index,), [lint_source(linter, source)])
        return [self._done[index] for index in range(len(self._sources))]

    def _alone(self, index: int) -> None:
        """One file in a process of its own: is it the one that ended a process?"""
        if self._until_broken(deque([(index,)]), 1):
            source = self._sources[index]
            error = UnreadableModelError(
                f"{source.path} ended the process that read it.",
                "It is damaged, or too large for the memory; save the model again.",
            )
            self._take((index,), [Linted(Report(source.path, error=error))])

    def _until_broken(self, left: deque[Group], processes: int) -> set[int]:
        """Works on groups until none is left or a process dies; the files then in work."""
        waiting: dict[Future[Results], Group] = {}
        with _pool(processes, self._settings) as pool:
            try:
                while left or waiting:
                    while left and len(waiting) < _AHEAD * processes:
                        group = left[0]
                        with _interrupts_later():
                            future = pool.submit(
                                _lint_group, [self._sources[i] for i in group]
                            )
                        waiting[future] = left.popleft()
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        self._take(waiting[future], future.result())
                        del waiting[future]
            except BrokenProcessPool:
                lost = {index for group in waiting.values() for index in group}
                return lost - self._done.keys()
        return set()

    def _take(self, group: Group, results: Results) -> None:
        self._done.update(zip(group, results, strict=True))
        self._progress(len(self._done), len(self._sources))


def _groups(indices: Sequence[int], processes: int) -> Iterator[Group]:
    fair = len(indices) // (processes * _GROUPS_A_PROCESS)
    size = max(1, min(_LARGEST_GROUP, fair))
    for begin in range(0, len(indices), size):
        yield tuple(indices[begin : begin + size])


@contextlib.contextmanager
def _pool(processes: int, settings: Settings) -> Iterator[ProcessPoolExecutor]:
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(settings, gc.get_threshold()[0]),
    )
    try:
        yield pool
    except BaseException:  # Ctrl-C: nobody waits for what is in work
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Ctrl-C waits: a process that starts meanwhile never sees it, and ends with this one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(settings: Settings, threshold: int) -> None:
    """Makes a process ready."""
    global _linter  # noqa: PLW0603  what a process of the pool keeps between groups
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.set_threshold(threshold)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _linter = Linter(settings)


def _leave_with_parent() -> None:
    """Ends this process when the one that started it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _lint_group(sources: Sequence[Source]) -> Results:
    return [lint_source(_linter, source) for source in sources]
