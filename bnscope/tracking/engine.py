"""Reads checkpoints one after another and records them as the monitor records steps."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from bnscope.bn import Array
from bnscope.errors import BnscopeError
from bnscope.events.run import Run
from bnscope.events.writer import DIRECTORY
from bnscope.rules.base import plural
from bnscope.statistics.layout import Layout
from bnscope.tracking import steps, target
from bnscope.tracking.checkpoint import Opened
from bnscope.tracking.result import Checkpoint, TrackResult, troubles
from bnscope.watching import start
from bnscope.watching.alerts import Watch
from bnscope.watching.recorder import Recorder

# Is told how many checkpoints are done, and of how many.
Progress = Callable[[int, int], None]
PathLike = str | os.PathLike[str]


def track(  # noqa: PLR0913  keywords
    paths: PathLike | Iterable[PathLike],
    log_dir: PathLike | None = None,
    *,
    step_regex: str | None = None,
    layers: Sequence[str] | None = None,
    config: PathLike | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TrackResult:
    """Follows BN through a series of saved checkpoints, as `BatchNormMonitor` does in training.

    No file is run and no backend is loaded. A checkpoint that cannot be read, or that is of
    another architecture than the first one, is left out and told in `.errors`.

    Args:
        paths: checkpoints (`.keras`, `.h5`, weights files), directories of them or patterns
            (`"ckpt/*.keras"`).
        log_dir: where TensorBoard reads; the events go to `bnscope/` in it. None writes none.
        step_regex: a regular expression whose first group, or whole match, in a name is the
            step; by default the first whole number that differs between the names.
        layers: globs of layer paths to track; None tracks all. Chosen layers get scalars and
            histograms of their own in TensorBoard.
        config: the JSON of `model.to_json()`, which completes files with only weights.
        overwrite: whether the events of an older run in `log_dir` are replaced.
        progress: is called after each checkpoint with how many are done, and of how many.

    Returns:
        What was found: print it, or take `.layers`, `.alerts`, `.run` or `.to_json()`.

    Raises:
        OutputExistsError: if `log_dir` has events and `overwrite` is not set.
        BnscopeError: if no checkpoint can be read, their steps cannot be told, or `log_dir`
            cannot be written.
    """
    named = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    checkpoints = steps.find([os.fspath(path) for path in named], step_regex)
    return follow(
        checkpoints,
        None if log_dir is None else Path(log_dir),
        layers=[layers] if isinstance(layers, str) else layers,
        config=None if config is None else os.fspath(config),
        overwrite=overwrite,
        progress=progress,
    )


def follow(  # noqa: PLR0913  keywords
    checkpoints: Sequence[Checkpoint],
    log_dir: Path | None,
    *,
    layers: Sequence[str] | None = None,
    config: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TrackResult:
    """The same for checkpoints whose steps are known; see `track`."""
    tracker = _Tracker(layers, config)
    if log_dir is None:
        tracker.follow(checkpoints, None, progress)
    else:
        target.check(log_dir, overwrite=overwrite)
        with target.beside(log_dir) as folder:
            tracker.follow(checkpoints, folder, progress)
    return tracker.result(None if log_dir is None else log_dir / DIRECTORY)


class _Tracker:
    """Follows one series.

    Args:
        layers: globs of layer paths; None for all.
        config: the model's configuration, for files with only weights.
    """

    def __init__(self, layers: Sequence[str] | None, config: str | None) -> None:
        self._globs = layers
        self._config = config
        self._recorder: Recorder | None = None
        self._watch: Watch | None = None
        self._done: list[Checkpoint] = []
        self._steps: list[int] = []
        self._last_seen: dict[tuple[str, str], int] = {}
        self._notes: list[str] = []
        self._others: frozenset[str] = frozenset()

    def follow(
        self,
        checkpoints: Sequence[Checkpoint],
        folder: Path | None,
        progress: Progress | None,
    ) -> None:
        """Reads all checkpoints and records them, in memory and in a folder."""
        try:
            for count, checkpoint in enumerate(checkpoints, 1):
                self._done.append(self._try(checkpoint, folder))
                if progress is not None:
                    progress(count, len(checkpoints))
            if self._recorder is None:
                raise self._nothing()
            self._recorder.close()
        except BaseException:
            if self._recorder is not None:
                with contextlib.suppress(Exception):  # the first fault is what is told
                    self._recorder.close()
            raise

    def result(self, log_dir: Path | None) -> TrackResult:
        """What was found."""
        if self._recorder is None or self._watch is None:
            return TrackResult(tuple(self._done), Run())
        layout = self._recorder.layout
        widths = dict(zip(layout.paths, layout.widths, strict=True))
        alerts = tuple(self._watch.alerts)
        return TrackResult(
            checkpoints=tuple(self._done),
            run=self._recorder.run,
            alerts=alerts,
            layers=troubles(alerts, self._last_seen, self._steps, widths),
            log_dir=log_dir,
            notes=tuple(self._notes),
        )

    def _try(self, checkpoint: Checkpoint, folder: Path | None) -> Checkpoint:
        """Records one checkpoint; returns it, with an error if it was left out."""
        if checkpoint.error is not None or checkpoint.step is None:
            return checkpoint
        try:
            opened = Opened(checkpoint.path, self._config)
            if self._recorder is None:
                layout = opened.layout(self._globs)
                values = opened.values(layout)
            else:
                layout = self._recorder.layout
                values = opened.values(layout)
        except BnscopeError as error:
            return replace(checkpoint, error=error)
        if self._recorder is None:
            self._begin(checkpoint.step, opened, layout, folder)
        self._record(checkpoint.step, values, opened.graph.training.optimizer_steps)
        self._compare(opened, checkpoint.step)
        return checkpoint

    def _begin(
        self, step: int, opened: Opened, layout: Layout, folder: Path | None
    ) -> None:
        """Writes what the first checkpoint tells of the model."""
        recorder = Recorder(
            layout, folder, details=self._globs is not None, failed=_not_written
        )
        recorder.open()
        self._recorder = recorder
        self._watch = Watch(layout, every_channel=True, counted=False)
        self._others = frozenset(layer.path for layer in opened.layers)
        report = start.start_report(opened.graph)
        record = start.start_record(opened.graph, report, {"counting": "names"})
        recorder.start(step, record, start.start_text(record, report))

    def _record(self, step: int, values: Array, trained: int | None) -> None:
        if self._recorder is None or self._watch is None:
            raise RuntimeError("nothing is recorded before the layers are known")
        counts = [alert.count for alert in self._watch.alerts]
        for alert in self._watch.reading(step, values, trained=trained or None):
            self._recorder.alert(alert)
        for index, alert in enumerate(self._watch.alerts):
            if index >= len(counts) or alert.count > counts[index]:
                self._last_seen[alert.code, alert.layer] = step
        # How many updates lie between two checkpoints is not known, nor whether the
        # statistics were cold before the first.
        warm = frozenset(self._recorder.layout.paths)
        self._recorder.step(step, values, None, warm=warm)
        self._recorder.channels(step, values)
        self._steps.append(step)

    def _compare(self, opened: Opened, step: int) -> None:
        """Notes layers that the first checkpoint does not have."""
        fresh = [each.path for each in opened.layers if each.path not in self._others]
        if fresh:
            self._others |= frozenset(fresh)
            more = plural(len(fresh), "BN layer")
            self._notes.append(
                f"{more} appear{'s' if len(fresh) == 1 else ''} at step {step} and "
                f"cannot be tracked from there on: {', '.join(fresh[:3])}"
                f"{', ...' if len(fresh) > 3 else ''}."  # noqa: PLR2004
            )

    def _nothing(self) -> BnscopeError:
        """The error where no checkpoint can be tracked: the first one's."""
        errors = [each.error for each in self._done if each.error is not None]
        if len(errors) == 1:
            return errors[0]
        return BnscopeError(
            f"None of {plural(len(errors), 'checkpoint')} can be tracked. {errors[0].message}",
            errors[0].hint,
        )


def _not_written(reason: str) -> None:
    raise BnscopeError(f"No events are written: {reason}.", "Choose another --logdir.")
