"""What alerts need to know of a running `fit` beside the variables of BN."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bnscope.bn import Array
from bnscope.statistics import channels
from bnscope.watching.alerts import Alert, Watch


class Observer:
    """Watches what a `fit` does around BN: batch sizes, flags, exchanged weights.

    One for each `fit`, called from the hooks of a callback. What it reads costs about 0.1 ms
    and is read three times in a `fit`; weights are read at validations and epochs only where the
    optimizer averages them.

    Args:
        model: the model.
        layers: the Keras layers of the layout of `watch`, in its order.
        watch: what raises the alerts.
        read: reads the variables anew, shape `(4, channels)`.
        batches: batches in an epoch; None where that is not known.
        flags: the flags of `trainable`, kept over several `fit`s.
    """

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        model: Any,
        layers: Sequence[Any],
        watch: Watch,
        read: Callable[[], Array],
        batches: int | None,
        flags: CompiledFlags,
    ) -> None:
        self._model = model
        self._layers = layers
        self._watch = watch
        self._read = read
        self._sizes = BatchSizes(model, batches)
        self._flags = flags
        self._averages = _uses_average(model)
        self._held: Array | None = None
        self._first: Array | None = None  # as a layer was first seen frozen

    def batches(self, step: int, count: int) -> Iterator[Alert]:
        """So many more batches were trained on: BN405, BN408 of the first ones."""
        size = self._sizes.add(count)
        if size is not None:
            yield from self._watch.batch_size(step, size)

    def logged(self, step: int) -> Iterator[Alert]:
        """A step is logged: BN409."""
        now = [bool(layer.trainable) for layer in self._layers]
        compiled = self._flags.of(self._model, self._layers)
        if now != compiled and self._flags.guessed:
            compiled = self._shown(compiled, now)
        # Keras collects the weights of all layers anew, which takes longer than the rest.
        if now == compiled or self._model.trainable_weights:
            yield from self._watch.flags(step, now, compiled)

    def _shown(self, compiled: Sequence[bool], now: Sequence[bool]) -> list[bool]:
        """The flags, where a layer that is frozen now counts as trained once it has moved."""
        values = self._read()
        first = self._first = values if self._first is None else self._first
        moved = channels.moved(
            self._watch.layout, channels.Window(first[2:4], values[2:4], 1)
        )
        flags = zip(compiled, now, moved, strict=True)
        return [
            flag and (is_trained or bool(has_moved))
            for flag, is_trained, has_moved in flags
        ]

    def batches_end(self, step: int) -> Iterator[Alert]:
        """The last batch of an epoch is done: BN504."""
        last = self._sizes.end()
        if last is not None:
            yield from self._watch.last_batch(step, *last)

    def hold(self) -> None:
        """A validation begins, or an epoch has ended: nothing trains now."""
        if self._averages:
            self._held = self._read()

    def compare(self, step: int, when: str) -> Iterator[Alert]:
        """The validation has ended, or the next epoch begins: BN407 if weights changed."""
        if self._averages and self._held is not None:
            changed = not np.array_equal(self._held[:2], self._read()[:2], equal_nan=True)
            self._held = None
            if changed:
                yield from self._watch.averaged(step, when)

    def fit_end(self, step: int) -> Iterator[Alert]:
        """`fit` ends: BN407 unless the statistics are new."""
        if self._averages and self._held is not None:
            moving = self._held[2:], self._read()[2:]
            if np.array_equal(*moving, equal_nan=True):
                yield from self._watch.averaged(step, "at the end of fit")


class BatchSizes:
    """The sizes of the batches, from the count of the model's own loss.

    Its sum of weights is the number of samples of the epoch so far; a `train_step` that does
    not use it leaves it at 0, which ends the matter. Data may come in batches of any size, so
    the last one is told exactly or not at all: from two readings, before and after it.

    Args:
        model: the model.
        batches: batches in an epoch; None where that is not known.
    """

    def __init__(self, model: Any, batches: int | None) -> None:
        self._model = model
        self._total = batches
        self._done = 0
        self._first: int | None = None
        self._before: int | None = None
        self._open = True

    def add(self, count: int) -> int | None:
        """So many more batches are done; the size of the first ones, once."""
        self._done += count
        if not self._open:
            return None
        if self._total is not None and self._done == self._total - 1:
            self._before = self._samples()
        if self._first is not None or not self._done:
            return None
        self._first = (self._before or self._samples()) // self._done
        self._open = self._first > 0
        return self._first or None

    def end(self) -> tuple[int, float, int] | None:
        """The epoch is done: size of the last batch, of the others, and how many, once."""
        batches, self._done = self._done, 0
        before, self._before = self._before, None
        if not self._open or not batches:
            return None
        if before is None or batches != self._total:
            self._total = batches  # in the next epoch, if it is as long
            return None
        self._open = False
        return self._samples() - before, before / (batches - 1), batches

    def _samples(self) -> int:
        import keras

        synchronize = getattr(self._model, "jax_state_sync", None)
        if synchronize is not None:
            synchronize()
        count = getattr(getattr(self._model, "_loss_tracker", None), "count", None)
        return 0 if count is None else int(keras.ops.convert_to_numpy(count))


class CompiledFlags:
    """The flags of `trainable` with which the running training was made.

    Keras takes them up when it first runs the train function, which `compile` throws away. JAX
    and torch also need them to be those with which the optimizer was built. Kept over several
    `fit`s.

    Attributes:
        guessed: whether they are those of the optimizer where the training need not have them:
            on TensorFlow, where a model out of a file has an optimizer before its first `fit`.
    """

    def __init__(self) -> None:
        self.guessed = False
        self._function: Any = None
        self._is_new = True
        self._flags: list[bool] = []

    def fit_follows(self, model: Any) -> None:
        """Looks whether `fit` will make its train function or has one; call in `set_model`."""
        self._is_new = getattr(model, "train_function", None) is None

    def of(self, model: Any, layers: Sequence[Any]) -> list[bool]:
        """The flag of each layer as the training was made."""
        import keras

        name = keras.backend.backend()
        function = getattr(model, "train_function", None)
        if function is not self._function or len(layers) != len(self._flags):
            self._function = function
            takes_up = self._is_new and name == "tensorflow"
            self.guessed = not takes_up and name == "tensorflow"
            known = set() if takes_up else _optimized(model)
            self._flags = [_flag(layer, known) for layer in layers]
        if name != "torch":
            return self._flags
        # What is frozen there is frozen at once.
        pairs = zip(self._flags, layers, strict=True)
        return [flag and bool(layer.trainable) for flag, layer in pairs]


def _flag(layer: Any, optimized: set[int]) -> bool:
    """The flag that a layer had when the optimizer was built; its present one if unknown."""
    own = {id(getattr(layer, name, None)) for name in ("gamma", "beta")} - {id(None)}
    return bool(own & optimized) if own and optimized else bool(layer.trainable)


def _optimized(model: Any) -> set[int]:
    """The variables that the model's optimizer was built for; none if it is not built."""
    return {
        id(variable)
        for optimizer in _optimizers(model)
        for variable in getattr(optimizer, "_trainable_variables", ())
    }


def _uses_average(model: Any) -> bool:
    return any(getattr(optimizer, "use_ema", False) for optimizer in _optimizers(model))


def _optimizers(model: Any) -> list[Any]:
    """The optimizers of a model, out of the wrappers for loss scaling and for several."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return list(getattr(optimizer, "optimizers", None) or [optimizer])
