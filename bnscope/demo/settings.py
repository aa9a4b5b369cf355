"""How much the demonstration trains."""

from __future__ import annotations

from dataclasses import dataclass, fields

from bnscope.errors import BnscopeError


@dataclass(frozen=True)
class Settings:
    """How much the demonstration trains. The defaults take about two minutes on two cores.

    Args:
        epochs: epochs of each training.
        training_crops: how many crops it trains on.
        validation_crops: how many crops, of other parts of the photographs, it validates on.
        batch_size: crops in a batch.
        timed_calls: how often each prediction is timed.
        seed: seed of the crops, of the initial weights and of the order of the batches.

    Raises:
        BnscopeError: if a number is too small to train with.
    """

    epochs: int = 6
    training_crops: int = 256
    validation_crops: int = 128
    batch_size: int = 16
    timed_calls: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "seed" else 1
            if value < least:
                raise BnscopeError(
                    f"The demo cannot run with {field.name} = {value}.",
                    f"Give a whole number of at least {least}.",
                )

    @property
    def steps_per_epoch(self) -> int:
        """Training steps in an epoch, a smaller last batch included."""
        return -(-self.training_crops // self.batch_size)
