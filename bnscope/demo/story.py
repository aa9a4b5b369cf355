"""Tells the demonstration on the terminal: lint, watch, remedy, fold, look."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft

from bnscope.demo import tables
from bnscope.demo.network import DEFAULT_MOMENTUM, alexnet
from bnscope.demo.requirements import import_keras_quietly
from bnscope.demo.settings import Settings
from bnscope.demo.timing import inference_times
from bnscope.demo.training import Data, Trained, load_data, train
from bnscope.errors import BnscopeError

REMEDY_MOMENTUM = 0.9
BATCHES_TIMED = (1, 32)


def tell(settings: Settings, log_dir: Path) -> None:
    """Runs the demonstration and prints it.

    Args:
        settings: how many crops and epochs.
        log_dir: where the TensorBoard events go.

    Raises:
        BnscopeError: if `log_dir` cannot be written.
    """
    # The width of a pipe is not known; a long line is better left to the reader's screen.
    console = Console(highlight=False, soft_wrap=False)
    cold_dir, warm_dir = (_run_dir(log_dir, m) for m in (DEFAULT_MOMENTUM, REMEDY_MOMENTUM))
    import_keras_quietly()
    data = load_data(settings)
    _introduce(console, settings)
    _lint(console)
    _heading(console, "2. Watch it train", "BatchNormMonitor in model.fit(callbacks=[...])")
    with _training_bar(settings) as step:
        cold = train(DEFAULT_MOMENTUM, data, settings, cold_dir, step)
    tables.print_alerts(console, cold)
    _heading(console, "3. The remedy", f"BatchNormalization(momentum={REMEDY_MOMENTUM})")
    with _training_bar(settings) as step:
        warm = train(REMEDY_MOMENTUM, data, settings, warm_dir, step)
    tables.print_comparison(console, cold, warm, settings)
    _fold(console, warm, data)
    _heading(console, "5. See it in TensorBoard")
    console.print(f"  tensorboard --logdir {shlex.quote(str(log_dir))}", soft_wrap=True)
    console.print("\nYour own model: bnscope lint MODEL.keras", soft_wrap=True)


def _introduce(console: Console, settings: Settings) -> None:
    console.print(
        "[bold]AlexNet on two photographs[/bold]: is a 100x100 crop from china.jpg or from "
        f"flower.jpg?\n{settings.training_crops} crops to train on, "
        f"{settings.validation_crops} from other parts of the photographs to validate on; "
        f"{settings.epochs} epochs of {settings.steps_per_epoch} steps, twice. "
        "By default this takes about two minutes on two cores."
    )


def _lint(console: Console) -> None:
    import bnscope

    _heading(console, "1. Lint the network", "bnscope.lint(model)")
    console.print(bnscope.lint(alexnet()))


def _fold(console: Console, trained: Trained, data: Data) -> None:
    import bnscope

    _heading(console, "4. Fold the trained model", "bnscope.fold(model)")
    result = bnscope.fold(trained.model, verify_data=data.validation.images[:32])
    tables.print_folds(console, result)
    pair = (trained.model, result.model)
    times = {
        batch: inference_times(pair, data.validation.images[:batch])
        for batch in BATCHES_TIMED
    }
    tables.print_times(console, times)


def _heading(console: Console, title: str, code: str = "") -> None:
    console.print(
        f"\n[bold]{title}[/bold]" + (f"  [dim]{code}[/dim]" if code else "") + "\n"
    )


@contextmanager
def _training_bar(settings: Settings) -> Iterator[Any]:
    """A progress bar on stderr, if that is a terminal; gives the function to call each step."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeLeft(),
        console=Console(stderr=True),
        transient=True,
        disable=not Console(stderr=True).is_terminal,
    )
    with progress:
        task = progress.add_task(
            "training", total=settings.epochs * settings.steps_per_epoch
        )
        yield lambda: progress.advance(task)


def _run_dir(log_dir: Path, momentum: float) -> Path:
    """A directory of its own for a run, never one that holds an earlier run."""
    name = f"momentum-{momentum}"
    path, number = log_dir / name, 1
    while path.exists():
        number += 1
        path = log_dir / f"{name}-{number}"
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise BnscopeError(
            f"Cannot write the events of the demo to {log_dir}: {error.strerror}.",
            "Name a directory that can be written with --log-dir.",
        ) from error
    return path
