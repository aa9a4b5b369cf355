"""Which steps of a `fit` are logged, and which are read in case that it ends with them."""

from __future__ import annotations


class Cadence:
    """Tells of each step whether it is logged, and whether the next one takes a reading before.

    The last step of an epoch takes them too, since `fit` may end with any epoch.

    Args:
        update_freq: a record every so many steps.
    """

    def __init__(self, update_freq: int) -> None:
        self.update_freq = update_freq
        self._steps: int | None = None
        self._left: int | None = None  # steps of the epoch that are still to come

    def epoch_begins(self, steps: int | None) -> None:
        """An epoch of so many steps begins; None if their number is not known."""
        self._steps = self._left = steps

    def batch_ends(self, batch: int) -> None:
        """The call of the train function that ends with this batch, counted from 0, is done."""
        if self._steps is not None:
            self._left = max(self._steps - 1 - batch, 0)

    @property
    def is_last(self) -> bool:
        """Whether the epoch ends with the step that was done last, as far as is known."""
        return self._left == 0

    def is_logged(self, earlier: int, later: int) -> bool:
        """Whether a step to be logged lies behind `earlier` and not behind `later`."""
        return later // self.update_freq > earlier // self.update_freq

    def is_read_ahead(self, step: int, steps_per_call: int) -> bool:
        """Whether the next call of the train function takes a reading before it."""
        left = self._left or self._steps  # a new epoch, where none is left
        ends_epoch = left is not None and left <= steps_per_call
        return ends_epoch or self.is_logged(step, step + steps_per_call)
