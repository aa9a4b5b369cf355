"""Counts the updates of BN while a model trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

from bnscope.backend import running_values


class UpdateCounter:
    """Counts the updates of BN over all `fit` calls of one callback.

    Attributes:
        total: updates so far.
        began: how many they were when the training of this model began.
        in_fit: updates since this `fit` began.
        steps_per_call: updates between two calls of the batch callbacks, at most.
        counting: whether the number of updates is "exact" or "approximate".
    """

    def __init__(self) -> None:
        self.total = 0
        self.began = 0
        self.in_fit = 0
        self.steps_per_call = 1
        self.counting = "exact"
        self._model: ref[Any] | None = None
        self._count = 0
        self._scaled = False
        self._read: Callable[[], int] = lambda: 0

    @property
    def of_model(self) -> int:
        """Updates since the training of this model began."""
        return self.total - self.began

    def begin(self, model: Any) -> bool:
        """Looks at the model as `fit` begins.

        Args:
            model: the model, not synchronized (a callback's `_model`).

        Returns:
            Whether it is another one than in the last `fit`, or this is the first.
        """
        is_new = self._model is None or self._model() is not model
        if is_new:
            self._model, self.began = ref(model), self.total
        self.steps_per_call = int(getattr(model, "steps_per_execution", 1) or 1)
        self._scaled = hasattr(getattr(model, "optimizer", None), "inner_optimizer")
        several = self.steps_per_call != 1
        self.counting = "approximate" if several and self._scaled else "exact"
        self._read = _optimizer_counter(model)
        self._count = self._read()
        self.in_fit = 0
        return is_new

    def resume(self, epoch: int, steps: int | None, last: int) -> None:
        """Goes on where another process, or another callback, left off.

        Args:
            epoch: the epoch with which `fit` begins.
            steps: steps of an epoch, if they are known.
            last: the last step of which there are records.
        """
        by_epochs = epoch * (steps or 0)
        # Under loss scaling the optimizer leaves out the batches that overflowed.
        guesses = [self._count, by_epochs][:: -1 if self._scaled else 1]
        self.total = guesses[0] or guesses[1] or (last if epoch else 0)

    def advance(self) -> int:
        """The updates since the last call; call once in `on_train_batch_end`.

        Without `steps_per_execution` each call is one, whatever the optimizer counts: with
        gradient accumulation and with loss scaling it counts fewer.
        """
        if self.steps_per_call == 1:
            updates = 1
        else:
            previous, self._count = self._count, self._read()
            # Whatever sets the counter anew, as a restored checkpoint does, is no update.
            updates = min(max(self._count - previous, 0), self.steps_per_call)
        self.total += updates
        self.in_fit += updates
        return updates


def _optimizer_counter(model: Any) -> Callable[[], int]:
    """A function that reads how many batches the optimizer was given."""
    import keras

    optimizer = getattr(model, "optimizer", None)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    # The public `iterations` counts updates of the weights, not of BN.
    counter = getattr(inner, "_iterations", getattr(inner, "iterations", None))
    if counter is None:
        return lambda: 0
    read = running_values([counter], model)
    return lambda: int(keras.ops.convert_to_numpy(read()[0]))
