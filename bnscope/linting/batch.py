"""Many files at once, in this process or in several."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from bnscope.errors import BnscopeError
from bnscope.linting import discovery
from bnscope.linting.discovery import Source
from bnscope.linting.engine import Linted, Linter
from bnscope.linting.findings import Report
from bnscope.linting.settings import LayerIgnore, Settings

# With fewer files than this for each, processes take longer to start than they save.
_WORTH_A_PROCESS = 32

# Is told how many files are done, and of how many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Batch:
    """What linting many files gave.

    Args:
        reports: one a file, in the order of the arguments, then of the names.
        skipped: files found by searching that are no Keras models.
        unused: entries of `per_layer_ignore` whose rules ran and found nothing there.
        quiet: how many findings the other entries kept quiet.
        processes: how many processes read the files.
    """

    reports: tuple[Report, ...]
    skipped: tuple[str, ...]
    unused: tuple[LayerIgnore, ...]
    quiet: int
    processes: int


def lint_files(
    paths: Iterable[str],
    settings: Settings,
    *,
    config: str | None = None,
    jobs: int = 0,
    progress: Progress | None = None,
) -> Batch:
    """Lints files, directories, patterns and URLs.

    Args:
        paths: what to lint; see `discovery.discover`.
        settings: the settings.
        config: the model's configuration, for files with only weights.
        jobs: how many processes to use; 0 for as many as there are cores and work for.
        progress: is called after each file or group of files.

    Returns:
        The reports; a file that cannot be read has one with an error.
    """
    sources = discovery.discover(paths)
    if config is not None:
        sources = [replace(source, config=config) for source in sources]
    linter = Linter(settings)
    processes = _processes(jobs, sources)
    tell = progress or (lambda _done, _total: None)
    if processes > 1:
        from bnscope.linting import parallel

        results = parallel.lint_sources(sources, settings, processes, tell)
    else:
        results = []
        for source in sources:
            results.append(lint_source(linter, source))
            tell(len(results), len(sources))
    return _batch(sources, results, linter, settings, processes)


def _processes(jobs: int, sources: Sequence[Source]) -> int:
    local = sum(is_parallel(source) for source in sources)
    if jobs:
        return min(jobs, max(local, 1))
    return max(1, min(cores(), local // _WORTH_A_PROCESS))


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_parallel(source: Source) -> bool:
    """Whether another process may read it; connections to remote places stay in this one."""
    return source.error is None and not discovery.is_remote(source.path)


def lint_source(linter: Linter, source: Source) -> Linted | None:
    """Lints one file; None if it was found by searching and is no Keras model."""
    if source.error is not None:
        return Linted(Report(source.path, error=source.error))
    if source.found and discovery.is_foreign(source.path, failed=False):
        return None
    try:
        return linter.lint(source.path, source.config)
    except BnscopeError as error:
        if source.found and discovery.is_foreign(source.path, failed=True):
            return None
        return Linted(Report(source.path, error=error))
    except Exception as error:
        if os.environ.get("BNSCOPE_DEBUG"):
            raise
        what = " ".join(str(error).split()) or "no message"
        internal = BnscopeError(
            f"{source.path}: internal error: {type(error).__name__}: {what}.",
            "Set BNSCOPE_DEBUG=1 to see where, and report it.",
        )
        return Linted(Report(source.path, error=internal))


def _batch(
    sources: Sequence[Source],
    results: Sequence[Linted | None],
    linter: Linter,
    settings: Settings,
    processes: int,
) -> Batch:
    linted = [result for result in results if result is not None]
    used = frozenset().union(*(result.used for result in linted))
    running = {rule.code for rule in linter.rules}
    return Batch(
        reports=(
            *(result.report for result in linted),
            *_without_model(sources, results),
        ),
        skipped=tuple(
            source.path
            for source, result in zip(sources, results, strict=True)
            if result is None
        ),
        unused=tuple(
            entry
            for index, entry in enumerate(settings.per_layer_ignore)
            if index not in used and entry.codes() & running
        ),
        quiet=sum(result.quiet for result in linted),
        processes=processes,
    )


def _without_model(
    sources: Sequence[Source], results: Sequence[Linted | None]
) -> Iterable[Report]:
    """An error for each argument of whose files none is a Keras model."""
    some = {
        origin
        for source, result in zip(sources, results, strict=True)
        for origin in source.origins
        if result is not None
    }
    for origin in dict.fromkeys(origin for source in sources for origin in source.origins):
        if origin not in some:
            nothing = discovery.nothing_in(origin)
            yield Report(nothing.path, error=nothing.error)
