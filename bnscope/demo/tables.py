"""The tables of the demonstration. Every figure in them comes from the run itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bnscope.bn import initial_share
from bnscope.demo.settings import Settings
from bnscope.demo.training import Trained


def print_alerts(console: Console, trained: Trained) -> None:
    """Prints what the monitor raised."""
    for alert in trained.monitor.alerts:
        console.print(alert)


def print_comparison(
    console: Console, cold: Trained, warm: Trained, settings: Settings
) -> None:
    """Prints the validation accuracy of two trainings, epoch by epoch.

    Args:
        console: where to.
        cold: the training with the larger momentum.
        warm: the training with the remedy.
        settings: of both.
    """
    table = _table(console, "epoch", "steps")
    for run in (cold, warm):
        table.add_column(f"momentum {run.momentum}:\ninitial share", justify="right")
        table.add_column("validation\naccuracy", justify="right")
    for epoch in range(settings.epochs):
        steps = (epoch + 1) * settings.steps_per_epoch
        cells = [
            cell
            for run in (cold, warm)
            for cell in (
                f"{initial_share(run.momentum, steps):.0%}",
                f"{run.history['val_accuracy'][epoch]:.1%}",
            )
        ]
        table.add_row(str(epoch + 1), str(steps), *cells)
    console.print(table)
    console.print(
        f"\nValidation accuracy: {_last(cold, 'val_accuracy'):.1%} with momentum "
        f"{cold.momentum}, [bold]{_last(warm, 'val_accuracy'):.1%}[/bold] with momentum "
        f"{warm.momentum}.\nTraining accuracy: {_last(cold, 'accuracy'):.1%} and "
        f"{_last(warm, 'accuracy'):.1%}: training uses the statistics of the batch, validation "
        "the moving ones."
    )


def print_folds(console: Console, result: Any) -> None:
    """Prints where each BN went, and the error of the whole."""
    table = _table(console, "BN layer", "verdict", "into")
    for verdict in result.verdicts:
        fate = "folded" if verdict.folded else f"kept ({verdict.reason})"
        table.add_row(verdict.layer, fate, verdict.into or "-")
    console.print(table)
    folded = sum(verdict.folded for verdict in result.verdicts)
    console.print(
        f"\n{folded} of {len(result.verdicts)} folded. Verified on validation crops: the "
        f"outputs differ by {result.max_error:.1e} at most."
    )


def print_times(console: Console, times: Mapping[int, tuple[float, ...]]) -> None:
    """Prints the time of a prediction, original and folded, by batch size.

    Args:
        console: where to.
        times: batch size -> seconds of the original and of the folded model.
    """
    table = _table(console, "images", "original", "folded", "speed-up")
    for batch, (original, folded) in times.items():
        table.add_row(
            str(batch),
            f"{1000 * original:.1f} ms",
            f"{1000 * folded:.1f} ms",
            f"{original / folded:.2f}x",
        )
    console.print("\nTime of a prediction, median, the two models taking turns:")
    console.print(table)


def _last(trained: Trained, metric: str) -> float:
    return trained.history[metric][-1]


def _table(console: Console, *columns: str) -> Table:
    """A table with lines on a terminal and without in a pipe; numbers to the right."""
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in _TEXT_COLUMNS else "right")
    return table


_TEXT_COLUMNS = frozenset({"BN layer", "verdict", "into"})
