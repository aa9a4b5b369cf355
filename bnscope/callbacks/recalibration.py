"""BatchNormRecalibrate: population statistics while a model trains. It writes to the model."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras  # noqa: TID253  a Keras callback is a Keras class
import numpy as np

from bnscope.calibration import Recalibration, recalibration
from bnscope.calibration.data import default_limit, read_batches
from bnscope.calibration.engine import check_arguments
from bnscope.callbacks.board import Board, board_for
from bnscope.callbacks.messages import say
from bnscope.callbacks.state import assigning
from bnscope.errors import BnscopeError, first_line
from bnscope.graph import live
from bnscope.rules.base import plural
from bnscope.watching.marks import Act, Mark

BEFORE_VALIDATION = "before_validation"
TRAIN_END = "train_end"


class BatchNormRecalibrate(keras.callbacks.Callback):  # type: ignore[misc]
    """Replaces the moving statistics by population statistics before each validation.

    What `bnscope.recalibrate(model, data, inplace=True)` does, within `fit`: validation then
    measures the weights and not the lag of the moving averages. Training goes on with the new
    values, which it does not use itself; optimizer, metrics, train function and random states
    are left alone. Frozen layers keep their statistics. Data that cannot be used are said in one
    line, and training goes on.

    Args:
        data: what `fit` takes as `x`; it should be the training data, prepared as for
            inference. It is read anew each time; a generator is read once, the first time, and
            what it gave is kept.
        when: `"before_validation"`: before each validation that `fit` runs; `"train_end"`: once,
            when `fit` ends.
        method: `"exact"` or `"batch"`, as of `bnscope.recalibrate`.
        batch_size: samples in a batch, where `data` is arrays; 32 by default.
        steps: how many batches to use; None for all. A generator without an end needs it.
        memory_limit: bytes of activations that may be held, as of `bnscope.recalibrate`.

    Attributes:
        last: the last recalibration: how many `samples`, and of each of its `layers` the old and
            the new statistics, `shift` and `ratio`. None before the first.

    Raises:
        BnscopeError: if an argument has no meaning.

    Example:
        ```python
        recalibrate = BatchNormRecalibrate(x_train, steps=100)
        model.fit(x_train, y_train, validation_data=held_out, callbacks=[recalibrate])
        ```
    """

    def __init__(  # noqa: PLR0913  those of `bnscope.recalibrate`, and when
        self,
        data: Any,
        when: str = BEFORE_VALIDATION,
        method: str = "exact",
        *,
        batch_size: int | None = None,
        steps: int | None = None,
        memory_limit: int | None = None,
    ) -> None:
        super().__init__()
        _check(data, when)
        check_arguments(method, batch_size, steps, memory_limit)
        self.data = data
        self.when = when
        self.method = method
        self.batch_size = batch_size
        self.steps = steps
        self.memory_limit = memory_limit
        self.last: Recalibration | None = None
        self._training = False
        self._done = 0
        self._failed = 0
        self._said: set[str] = set()
        self._batches: list[Any] | None = None
        self._board = Board()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Lets the other callbacks know."""
        del logs
        self._training = True
        self._done = self._failed = 0
        self._said = set()
        self._board = board_for(self._model, self.params)
        self._board.recalibrates |= self.when == BEFORE_VALIDATION

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Recalibrates, if `fit` starts a validation."""
        del logs
        if self._training and self.when == BEFORE_VALIDATION:
            self._try_to_recalibrate()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Recalibrates, if it is to be done now; says what went wrong."""
        del logs
        self._training = False
        if self.when == TRAIN_END:
            self._try_to_recalibrate()
        elif not self._done + self._failed:
            say(
                "BN was not recalibrated, since fit ran no validation: give it validation data, "
                f'or use BatchNormRecalibrate(data, when="{TRAIN_END}")'
            )
        if self._failed > 1:
            say(f"BN could not be recalibrated at {self._failed} validations")

    def _try_to_recalibrate(self) -> None:
        if self._failed and _passes_once(self.data):
            self._failed += 1
            return
        try:
            self._recalibrate()
        except Exception as error:  # noqa: BLE001  whatever the data raise, training goes on
            self._failed += 1
            self._board.recalibrates = False
            known = isinstance(error, BnscopeError)
            reason = f"{error}" if known else f"{first_line(error)}; training goes on"
            self._say_once(f"BN keeps its moving statistics: {reason}")

    def _recalibrate(self) -> None:
        norms = live.batch_norms(self.model)
        frozen = self._board.frozen | {p for p, norm in norms.items() if not norm.trainable}
        if frozen >= norms.keys():
            self._done += 1
            self._say_once(
                "there is no BN layer to recalibrate: the model has none that is not frozen"
            )
            return
        with random_states_kept(), assigning(self.model):
            self.last = recalibration(
                self.model,
                self._samples(),
                method=self.method,
                batch_size=self.batch_size,
                steps=self.steps,
                inplace=True,
                memory_limit=self.memory_limit,
                keep=frozen,
                tell=self._say_once,
            )
        self._done += 1
        self._tell(self.last)

    def _samples(self) -> Any:
        """The data; those that can be read only once as they were then."""
        if not _passes_once(self.data):
            return self.data
        if self._batches is None:
            limit = default_limit() if self.memory_limit is None else self.memory_limit
            self._batches = read_batches(self.data, self.batch_size, self.steps, limit)
        return ((batch,) for batch in self._batches)

    def _tell(self, done: Recalibration) -> None:
        layers = tuple(row.layer for row in done.layers if not row.is_kept)
        text = f"{plural(len(layers), 'BN layer')} recalibrated on {done.samples} samples"
        often = ", as before each validation" if self.when == BEFORE_VALIDATION else ""
        if self._done == 1:
            say(text + often)
        for note in done.notes:
            self._say_once(note)
        self._board.marks.tell(Mark(Act.RECALIBRATE, layers, text))
        self._board.recalibrates = False  # from here on the mark says which layers are warm

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            say(text)


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Reading data may draw random numbers; training goes on with those it would have drawn."""
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002  the global one
        torch = sys.modules.get("torch")
        if torch is not None:
            stack.callback(torch.set_rng_state, torch.get_rng_state())
        yield


def _passes_once(data: Any) -> bool:
    """Whether data, such as a generator, are gone once they are read."""
    return hasattr(data, "__next__")


def _check(data: Any, when: Any) -> None:
    if when not in {BEFORE_VALIDATION, TRAIN_END}:
        raise BnscopeError(
            f"There is no time {when!r}.", f'Use "{BEFORE_VALIDATION}" or "{TRAIN_END}".'
        )
    if data is None or isinstance(data, str):
        raise BnscopeError(
            f"data must be samples, got {data!r}.",
            "Pass what `fit` takes as x: arrays, a tf.data.Dataset, a PyDataset, a generator.",
        )
