"""BatchNormGuard: acts on alerts while a model trains. With `"restore"` it writes to the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras  # noqa: TID253  a Keras callback is a Keras class

from bnscope.bn import Array
from bnscope.callbacks.arguments import check_update_freq
from bnscope.callbacks.board import Board, board_for
from bnscope.callbacks.messages import ends_nothing, say
from bnscope.callbacks.reader import Reader, is_built, reader_for
from bnscope.callbacks.restoring import Restorer, not_finite, variables_of
from bnscope.callbacks.state import assigning
from bnscope.callbacks.updates import UpdateCounter
from bnscope.errors import BnscopeError, first_line
from bnscope.rules.base import plural
from bnscope.rules.nan_statistics import NanStatistics
from bnscope.watching.alerts import Alert, Watch
from bnscope.watching.choice import Choice
from bnscope.watching.layers import warm
from bnscope.watching.marks import Act, Mark

ACTIONS = ("warn", "stop", "restore")


class BatchNormGuard(keras.callbacks.Callback):  # type: ignore[misc]
    """Acts on alerts: says so, stops the training, or restores statistics that are no numbers.

    Every `update_freq` training steps, before each validation and at the end of each epoch the
    variables of all BN layers are read in one transfer, which a `BatchNormMonitor` in the same
    `fit` shares. It needs no monitor; beside one it acts on the monitor's alerts too, and each
    alert is printed once.

    With `"restore"` channels whose moving mean, moving variance, gamma or beta became NaN,
    infinite or negative get the values of the last reading at which they were fine: under
    `mixed_float16` one overflowing batch spoils the moving statistics for good while the weights
    stay fine. Where other weights, or states of the optimizer, are not finite either, that would
    help nothing: it is said, and nothing is restored.

    Args:
        on: the alerts to act on: `"error"`, `"warning"` or `"info"` for alerts at least as bad;
            a code, a prefix of codes or a name of a rule; or a list of such.
        action: `"warn"`, `"stop"` or `"restore"`.
        update_freq: a look every so many training steps.

    Attributes:
        alerts: the alerts it acted on, a list of `bnscope.callbacks.Alert`.
        restored: the steps at which values were restored.

    Raises:
        BnscopeError: if an argument has no meaning.

    Example:
        ```python
        model.fit(x, y, callbacks=[BatchNormGuard(on="BN501", action="stop")])
        ```
    """

    # What it looks at must be the values right after a step, and what it writes must be there
    # before the next one. Keras runs the callbacks that are safe for it in a thread.
    async_safe = False

    def __init__(
        self, on: str | Sequence[str] = "error", action: str = "warn", update_freq: int = 10
    ) -> None:
        super().__init__()
        self.on = on
        self.action = action
        self.update_freq = update_freq
        self._choice = Choice(on)
        _check_arguments(self._choice, on, action, update_freq)
        self.alerts: list[Alert] = []
        self.restored: list[int] = []
        self._updates = UpdateCounter()
        self._training = False
        self._begun = False
        self._looked: int | None = None
        self._earlier = 0  # how often values were restored before this `fit`
        self._paths: tuple[str, ...] = ()
        self._warm: frozenset[str] = frozenset()
        self._board = Board()
        self._reader: Reader | None = None
        self._watch: Watch | None = None
        self._restorer: Restorer | None = None

    @property
    def _step(self) -> int:
        """Updates of BN since the first `fit`."""
        return self._updates.total

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets the last `fit`."""
        del logs
        self._training = True
        self._reader = self._watch = self._restorer = None
        self._begun = False
        self._looked = None
        self._earlier = len(self.restored)

    @ends_nothing
    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Finds the BN layers; by now other callbacks have restored their checkpoints."""
        del epoch, logs
        if not self._begun:
            if self._updates.begin(self._model):
                self._paths = ()
            self._begin()

    @ends_nothing
    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks, if it is time."""
        del batch, logs
        before = self._step
        self._updates.advance()
        if self._step // self.update_freq > before // self.update_freq:
            self._look()

    @ends_nothing
    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Looks before a validation of `fit`."""
        del logs
        if self._training:
            self._look()
            self._look_at_validation()

    @ends_nothing
    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks before callbacks that stand behind it save the model."""
        del epoch, logs
        self._look()
        if self._reader is not None and self._watch is not None:
            values = self._reader.read(self._updates.in_fit)
            self._announce(self._watch.epoch_end(self._step, values))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Says what went on."""
        del logs
        self._training = False
        restored = self.restored[self._earlier :]
        if len(restored) > 1:
            say(
                f"BN was restored at {len(restored)} readings, the last at step {restored[-1]}"
            )

    def _give_up(self, error: Exception) -> None:
        self._reader = self._watch = None
        say(f"the model cannot be guarded ({first_line(error)}); training goes on")

    def _begin(self) -> None:
        """Finds the BN layers, as soon as the model is built."""
        if not is_built(self.model):
            return
        self._begun = True
        reader = reader_for(self.model, self.params)
        layout = reader.layout
        if not layout.paths:
            say("the model has no BN layer; there is nothing to guard")
            return
        self._reader = reader
        self._watch = Watch(layout)
        values = reader.read(self._updates.in_fit)
        if self.action == "restore":
            self._restorer = Restorer(layout, variables_of(reader.layers))
            self._restorer.look(values)
        if self._paths != layout.paths:
            self._paths = layout.paths
            self._warm = frozenset() if self._updates.in_fit else warm(layout, values)
        self._watch.begin(layout, self._step, values, graph=reader.graph, warm=self._warm)
        self._board = board_for(self._model, self.params)
        self._board.alerts.connect(self._heard)
        self._board.marks.connect(self._marked)

    def _look(self) -> None:
        """Reads, once a step, and acts."""
        if not self._begun:
            self._begin()
        if self._reader is None or self._watch is None:
            return
        if self._looked != self._updates.in_fit:
            self._looked = self._updates.in_fit
            values = self._reader.read(self._looked)
            trained = self._updates.of_model
            self._announce(self._watch.reading(self._step, values, trained=trained))
            if self._restorer is not None and self._restorer.look(values).any():
                self._restore(self._restorer, values)

    def _look_at_validation(self) -> None:
        """Tells of cold statistics, unless they are recalibrated first."""
        if self._watch is not None and not self._board.recalibrates:
            trained = self._updates.of_model
            self._announce(self._watch.validation(self._step, trained, self._warm))

    def _announce(self, alerts: Iterable[Alert]) -> None:
        for alert in alerts:
            if alert in self._choice:
                self._board.announce(alert)

    def _heard(self, alert: Alert) -> None:
        """Acts on an alert, its own or another callback's."""
        if alert not in self._choice:
            return
        self.alerts.append(alert)
        if self.action == "stop":
            self._model.stop_training = True
            say(
                f"training stops here, as BatchNormGuard is to on {alert.code} {alert.name}"
            )

    def _marked(self, mark: Mark) -> None:
        """What was read before is out of date."""
        if self._reader is None or self._watch is None:
            return
        self._reader.forget()
        layout = self._watch.layout
        if mark.act is Act.RECALIBRATE:
            self._warm |= frozenset(mark.layers)
        if mark.act is Act.FREEZE:
            layout = layout.frozen(mark.layers)
        self._watch.written(layout, self._warm)

    def _restore(self, restorer: Restorer, values: Array) -> None:
        """Puts values back, where that helps."""
        if self._reader is None:
            return
        with assigning(self.model):
            elsewhere = not_finite(self.model, self._reader.layers)
            layers = () if elsewhere else restorer.restore(values)
        if elsewhere:
            self._restorer = None  # nothing more can be done
            say(_hopeless(elsewhere))
        elif layers:
            first = f"{layers[0]} and {len(layers) - 1} more" if layers[1:] else layers[0]
            text = f"{first} restored to the last finite values, at step {self._step}"
            if len(self.restored) == self._earlier:
                say(f"{text}; training goes on")
            self.restored.append(self._step)
            self._board.marks.tell(Mark(Act.RESTORE, layers, text))


def _hopeless(elsewhere: Sequence[str]) -> str:
    return (
        f"BN is not restored: NaN or infinity stands in {plural(len(elsewhere), 'variable')} "
        f"beside it too, of the model or its optimizer ({elsewhere[0]} first), and would spoil "
        "it again. Go on from a checkpoint, with a smaller learning rate or clipped gradients; "
        'action="stop" ends such a training'
    )


def _check_arguments(choice: Choice, on: Any, action: Any, update_freq: Any) -> None:
    if action not in ACTIONS:
        raise BnscopeError(
            f"There is no action {action!r}.", 'Use "warn", "stop" or "restore".'
        )
    check_update_freq(update_freq)
    rule = NanStatistics
    if action == "restore" and not choice.holds(rule.code, rule.severity):
        raise BnscopeError(
            f'action="restore" mends values that are no numbers, which {rule.code} tells of; '
            f"on={on!r} leaves that out.",
            f'Use on="error" or on="{rule.code}".',
        )
