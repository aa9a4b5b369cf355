"""BatchNormMonitor: watches every BN layer while a model trains. It only reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras  # noqa: TID253  a Keras callback is a Keras class

from bnscope.backend import is_chief
from bnscope.bn import Array
from bnscope.callbacks.arguments import (
    check_channel_freq,
    check_layers,
    check_log_dir,
    check_update_freq,
)
from bnscope.callbacks.board import Board, board_for
from bnscope.callbacks.building import before_next_step, build, can_be_built
from bnscope.callbacks.cadence import Cadence
from bnscope.callbacks.messages import ends_nothing, say, what_changed
from bnscope.callbacks.observing import CompiledFlags, Observer
from bnscope.callbacks.reader import Reader, is_built, reader_for
from bnscope.callbacks.updates import UpdateCounter
from bnscope.errors import first_line
from bnscope.events import last_step
from bnscope.events.background import Background
from bnscope.events.run import Run
from bnscope.statistics.channels import Window
from bnscope.statistics.layout import Layout
from bnscope.watching import start
from bnscope.watching.alerts import Alert, Watch
from bnscope.watching.layers import select, warm
from bnscope.watching.marks import Act, Mark
from bnscope.watching.recorder import Recorder

# So many pieces of work may wait for the thread before training waits too.
_MOST_WAITING = 16
# Alerts, and what ended the search for more.
_Found = tuple[list[Alert], Exception | None]
# A step, the variables after it, and what was averaged up to it, if that was read.
_Reading = tuple[int, Array, Window | None]


class BatchNormMonitor(keras.callbacks.Callback):  # type: ignore[misc]
    """Tracks gamma, beta, moving and mini-batch statistics of every BN layer.

    Every `update_freq` training steps, and at the last one of a `fit`, the variables of all BN
    layers are read before and after one step, in one transfer each, so that the mini-batch mean
    and variance of that step follow exactly from the moving values. Alerts are printed when they
    are first seen. Nothing in the model is changed, and no fault of the log directory ends the
    training.

    Args:
        log_dir: where TensorBoard reads; the events go to `bnscope/` in it. None writes none.
        update_freq: a record every so many training steps; the last step has one too.
        layers: globs of layer paths (`["block1/*"]`) to track; None tracks all. Chosen layers
            get scalars and histograms of their own in TensorBoard.
        channel_freq: when the values of every channel are recorded: `"epoch"` for the end of
            each epoch, a number for every so many logged steps and the last, None for never.
        alerts: whether alerts are raised.

    Attributes:
        history: a `bnscope.events.Run`: the recorded series, for notebooks.
        alerts: the alerts so far, a list of `bnscope.callbacks.Alert`.

    Raises:
        BnscopeError: if an argument has no meaning.

    Example:
        ```python
        monitor = BatchNormMonitor("logs/run1")
        model.fit(x, y, validation_split=0.2, callbacks=[monitor])
        monitor.history.statistic("block1/bn", "batch_mean")
        ```
    """

    # A reading must hold the values right after its step. Keras runs the callbacks that are
    # safe for it in a thread, by which time later steps have moved the variables on.
    async_safe = False

    def __init__(
        self,
        log_dir: str | Path | None = None,
        update_freq: int = 10,
        layers: Sequence[str] | None = None,
        channel_freq: str | int | None = "epoch",
        alerts: bool = True,  # noqa: FBT001, FBT002  as in Keras
    ) -> None:
        super().__init__()
        check_log_dir(log_dir)
        check_update_freq(update_freq)
        check_channel_freq(channel_freq)
        check_layers(layers)
        self.log_dir = None if log_dir is None else Path(log_dir)
        self.update_freq = update_freq
        self.layers = None if layers is None else list(layers)
        self.channel_freq = channel_freq
        self.raise_alerts = alerts
        self._alerts: list[Alert] = []
        self._updates = UpdateCounter()
        self._cadence = Cadence(update_freq)
        self._training = False
        self._waiting = False
        self._board = Board()
        self._reader: Reader | None = None
        self._recorder: Recorder | None = None
        # Statistics are computed and written while the next steps run.
        self._background = Background("bnscope-monitor", _MOST_WAITING)
        self._watch: Watch | None = None
        self._observer: Observer | None = None
        self._flags = CompiledFlags()
        self._columns: Any = slice(None)  # which channels of the reader's are tracked
        self._warm: frozenset[str] = frozenset()
        self._is_new_model = True  # and not that of the last `fit`
        self._before: tuple[int, Array] | None = None  # a step, and the averages after it
        # The newest reading: logged, or kept in case that `fit` ends with it.
        self._newest: _Reading | None = None
        # The last steps of which there are records.
        self._logged = self._logged_channels = -1
        # What the last reading shows, which is looked at while the next step runs.
        self._found: Future[_Found] | None = None

    @property
    def _step(self) -> int:
        """Updates of BN since the first `fit`."""
        return self._updates.total

    @property
    def alerts(self) -> list[Alert]:
        """The alerts so far."""
        found = self._found
        if found is not None:
            wait([found])
        return self._alerts

    @property
    def history(self) -> Run:
        """The recorded series."""
        self._background.wait()
        return self._recorder.run if self._recorder is not None else Run()

    def set_model(self, model: Any) -> None:
        """Keras calls it before `fit` makes the function that trains."""
        super().set_model(model)
        self._flags.fit_follows(model)

    def plot(self, layer: str | None = None) -> Any:
        """Draws what was recorded so far; `bnscope.plots` has more figures.

        Args:
            layer: path of a layer, for the quantiles of its statistics; None for the trends of
                the whole model.

        Returns:
            A `plotly.graph_objects.Figure`.

        Raises:
            BnscopeError: if plotly is not installed.
            ValueError: if there is no such layer.
        """
        from bnscope import plots

        return plots.trends(self) if layer is None else plots.layer(self, layer)

    @ends_nothing
    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Waits for the first epoch: other callbacks may restore a checkpoint yet."""
        del logs
        self._board = Board()  # what is told now stops no new training
        self._hear()  # if an error ended the `fit` before
        self._training = self._waiting = True
        self._reader = None
        self._observer = None
        self._before = self._newest = None

    @ends_nothing
    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Reads the model and writes what is known of it before the first step."""
        del logs
        self._cadence.epoch_begins((self.params or {}).get("steps"))
        if self._waiting:
            self._is_new_model = self._updates.begin(self._model)
            if self._recorder is None:
                self._resume(epoch)
            if is_built(self.model):
                self._begin()
            elif can_be_built(self._model):
                before_next_step(self._model, self._build_and_begin)
            return
        if self._reader is not None and self._before is None:
            self._read_ahead()  # a callback has written since the last step
        if self._observer is not None:  # weights may have been exchanged since
            self._tell(self._observer.compare(self._step, "between two epochs"))

    @ends_nothing
    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Reads, if this step or the next one is to be logged."""
        del logs
        self._hear()
        self._cadence.batch_ends(batch)
        updates = self._updates.advance()
        if self._waiting:  # the first step has built it
            self._begin()
        if self._observer is not None:
            self._tell(self._observer.batches(self._step, updates))
        if self._reader is not None:
            if self._cadence.is_logged(self._step - updates, self._step):
                self._log(self._reading())
            elif self._cadence.is_last:
                self._newest = self._reading()
            self._read_ahead()

    @ends_nothing
    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks back on the epoch; records each channel, and how far replicas are apart."""
        del epoch, logs
        if self._recorder is None or self._reader is None:
            return
        self._hear()
        if self._observer is not None and self._watch is not None:
            self._tell(self._observer.batches_end(self._step))
            self._observer.hold()
            if self._watch.wants_epoch_end:
                self._tell(self._watch.epoch_end(self._step, self._read()))
        if self.channel_freq == "epoch":
            self._log_channels(self._step, self._read())
        if self._newest is None or self._newest[0] != self._step:
            self._newest = self._reading()
        replicas = self._reader.read_replicas()
        if replicas is not None:
            apart = replicas[..., self._columns]
            self._background.add(self._recorder.divergence, self._step, apart)

    @ends_nothing
    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Looks whether the statistics are warm, if `fit` starts a validation."""
        del logs
        if self._training:
            self._hear()
        if self._training and self._observer is not None and self._watch is not None:
            if not self._board.recalibrates:
                trained = self._updates.of_model
                self._tell(self._watch.validation(self._step, trained, self._warm))
            self._tell(self._observer.batches_end(self._step))  # its count is reset next
            self._observer.hold()

    @ends_nothing
    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Looks whether weights were exchanged for the validation."""
        del logs
        if self._training and self._observer is not None:
            self._tell(self._observer.compare(self._step, "at a validation"))

    @ends_nothing
    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Logs the last step, closes the event file, and says what is missing and what went on."""
        del logs
        self._hear()
        self._log_last()
        self._hear()
        if self._observer is not None:
            self._tell(self._observer.fit_end(self._step))
        self._training = False
        if self._recorder is not None:
            try:
                self._background.add(self._recorder.close)
            finally:
                self._background.close()
            if self._recorder.failure is not None:
                if self._recorder.begun:
                    say(f"the events are incomplete: {self._recorder.failure}")
                self._recorder.failure = None
        repeated = [f"{a.code} {a.layer} x{a.count}" for a in self._alerts if a.count > 1]
        if repeated:
            say(f"alerts, and at how many readings: {', '.join(repeated)}")

    def _resume(self, epoch: int) -> None:
        """Goes on with the steps of a run that another process or monitor began."""
        last = None if self.log_dir is None else last_step(self.log_dir)
        if epoch or last is not None:
            self._updates.resume(epoch, (self.params or {}).get("steps"), last or 0)

    @ends_nothing
    def _build_and_begin(self, iterator: Any) -> None:
        with suppress(Exception):  # the step itself tells what is wrong, or builds it
            build(self._model, iterator)
        if self._waiting and is_built(self._model):
            self._begin()

    def _begin(self) -> None:
        """Finds the BN layers."""
        self._waiting = False
        reader = reader_for(self.model, self.params)
        reader.forget()  # a checkpoint may have been restored since
        chosen = select(reader.layout.paths, self.layers)
        if not chosen:
            which = "" if self.layers is None else f" whose path matches {self.layers}"
            say(f"the model has no BN layer{which}; there is nothing to watch")
            return
        self._board = board_for(self._model, self.params)
        layout = reader.layout.narrowed(chosen)
        everything = len(chosen) == len(reader.layout)
        self._columns = slice(None) if everything else reader.layout.columns(chosen)
        self._reader = reader
        earlier = self._recorder
        self._record(layout)
        if self._is_new_model or self._recorder is not earlier:
            self._warm = frozenset() if self._updates.in_fit else warm(layout, self._read())
        if self.raise_alerts:
            if self._watch is None:
                self._watch = Watch(layout, self._alerts)
            self._observe(self._watch, reader, layout)
        self._report(reader)
        if self._observer is not None:  # JAX may not get as far as a step
            self._tell(self._observer.logged(self._step))
        self._board.marks.connect(self._marked)
        self._read_ahead()

    def _record(self, layout: Layout) -> None:
        """Makes the recorder, or goes on with the one of an earlier `fit`."""
        self._background.wait()  # what an interrupted `fit` left
        earlier = self._recorder
        if earlier is not None:
            changes = what_changed(earlier.layout, layout)
            if changes:
                say(changes)
            if earlier.layout.has_axes_of(layout):
                earlier.layout = layout
                return
        self._recorder = Recorder(
            layout,
            self.log_dir if is_chief() else None,
            details=self.layers is not None,
            failed=self._failed,
        )

    def _observe(self, watch: Watch, reader: Reader, layout: Layout) -> None:
        """Makes ready to raise alerts in this `fit`."""
        watch.begin(
            layout,
            self._step,
            self._read(),
            graph=reader.graph,
            warm=self._warm,
            replicas=reader.replicas,
        )
        self._observer = Observer(
            self._model,
            [reader.layers[path] for path in layout.paths],
            watch,
            self._read_anew,
            (self.params or {}).get("steps"),
            self._flags,
        )

    def _read_anew(self) -> Array:
        """The variables, which another callback may have changed since the last step."""
        if self._reader is not None:
            self._reader.forget()
        return self._read()

    def _report(self, reader: Reader) -> None:
        """Lints once, and writes what is known of the model."""
        recorder = self._recorder
        if recorder is None:
            return
        recorder.open()
        steps = self._updates.in_fit  # those that it took to build the model
        report = start.start_report(reader.graph, trained=steps > 0)
        line = start.summary_line(report, steps)
        if line and not recorder.run.starts:
            say(line)
        fit = {**(self.params or {}), "counting": self._updates.counting}
        record = start.start_record(reader.graph, report, fit)
        recorder.start(self._step, record, start.start_text(record, report))

    def _reading(self) -> _Reading:
        """What is read now, with what was averaged if the reading before is one call old."""
        values, window = self._read(), None
        if self._before is not None:
            updates = self._step - self._before[0]
            if 0 < updates <= self._updates.steps_per_call:
                window = Window(self._before[1], self._averages(), updates)
        return self._step, values, window

    def _log(self, reading: _Reading) -> None:
        if self._recorder is None:
            return
        self._newest = reading
        step, values, window = reading
        self._logged = step
        if self._observer is not None:
            self._tell(self._observer.logged(step))
        if self._watch is not None:
            self._found = self._background.add(
                _look,
                self._watch,
                self._recorder,
                step,
                values,
                window,
                self._updates.of_model,
            )
        record = self._recorder.step
        self._background.add(record, step, values, window, warm=self._warm)
        if isinstance(self.channel_freq, int):
            logged = step // self.update_freq
            if logged % self.channel_freq == 0:
                self._log_channels(step, values)

    def _log_last(self) -> None:
        """Logs the step with which `fit` ends, if it was not."""
        if self._reader is None or not self._updates.in_fit:
            return
        last = self._newest
        if last is None or last[0] != self._step:
            last = self._reading()
        if self._logged != self._step:
            self._log(last)
        if isinstance(self.channel_freq, int) and self._logged_channels != self._step:
            self._log_channels(*last[:2])

    def _log_channels(self, step: int, values: Array) -> None:
        if self._recorder is not None:
            self._logged_channels = step
            self._background.add(self._recorder.channels, step, values)

    def _read_ahead(self) -> None:
        """Reads now, if the next call is to be logged, or ends the epoch."""
        if self._cadence.is_read_ahead(self._step, self._updates.steps_per_call):
            self._before = (self._step, self._averages())

    def _read(self) -> Array:
        """The variables of the tracked layers now, shape `(4, channels)`."""
        if self._reader is None:
            raise RuntimeError("nothing is read before the layers are known")
        return self._reader.read(self._updates.in_fit)[:, self._columns]

    def _averages(self) -> Array:
        """What the tracked layers average now, shape `(2, channels)`."""
        if self._reader is None:
            raise RuntimeError("nothing is read before the layers are known")
        return self._reader.averages(self._updates.in_fit)[:, self._columns]

    def _hear(self) -> None:
        """Tells what the last reading shows; from here on its alerts are up to date."""
        future, self._found = self._found, None
        if future is None:
            return
        alerts, error = future.result()
        for alert in alerts:
            self._board.announce(alert)
        if error is not None:
            self._raise_no_more(error)

    def _tell(self, alerts: Iterable[Alert]) -> None:
        """Tells alerts, which are looked for now; whatever is met there, training goes on."""
        try:
            for alert in alerts:
                self._board.announce(alert)
                if self._recorder is not None:
                    self._background.add(self._recorder.alert, replace(alert))
        except Exception as error:  # noqa: BLE001
            self._raise_no_more(error)

    def _raise_no_more(self, error: Exception) -> None:
        self._watch = self._observer = None
        say(f"no alerts are raised any more ({first_line(error)}); training goes on")

    @ends_nothing
    def _marked(self, mark: Mark) -> None:
        """Records what a callback did to the model; the last reading is out of date."""
        if self._reader is None or self._recorder is None:
            return
        self._hear()
        self._reader.forget()
        self._before = self._newest = None
        layers = [path for path in mark.layers if path in self._recorder.layout.paths]
        if mark.act is Act.FREEZE:
            self._background.wait()  # what waits has the layout of before
            self._recorder.layout = self._recorder.layout.frozen(layers)
        if mark.act is Act.RECALIBRATE:
            self._warm |= frozenset(layers)
        if self._watch is not None:
            self._watch.written(self._recorder.layout, self._warm)
        told = replace(mark, layers=tuple(layers))
        self._background.add(self._recorder.mark, self._step, told)
        if not self._training:
            self._background.close()

    def _failed(self, reason: str) -> None:
        begun = self._recorder is not None and self._recorder.begun
        say(f"no {'more ' if begun else ''}events are written: {reason}; training goes on")

    def _give_up(self, error: Exception) -> None:
        self._waiting = False
        self._reader = self._observer = self._found = None
        say(f"the model cannot be watched ({first_line(error)}); training goes on")


def _look(  # noqa: PLR0913, PLR0917
    watch: Watch,
    recorder: Recorder,
    step: int,
    values: Array,
    window: Window | None,
    trained: int,
) -> _Found:
    """The alerts that a reading raises, which are recorded; and what ended the search."""
    found: list[Alert] = []
    try:
        for alert in watch.reading(step, values, window, trained=trained):
            found.append(alert)
            recorder.alert(replace(alert))  # a copy: its count goes on
    except Exception as error:  # noqa: BLE001
        return found, error
    return found, None
