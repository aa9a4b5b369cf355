"""Tells the demonstration on the terminal: lint, watch, rescue, remedy, fold, look."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from bnscope.backend import import_keras_quietly
from bnscope.demo import tables
from bnscope.demo.network import DEFAULT_MOMENTUM, alexnet
from bnscope.demo.settings import Settings
from bnscope.demo.timing import inference_times
from bnscope.demo.training import Data, Trained, load_data, train
from bnscope.errors import BnscopeError
from bnscope.printing import Line, emit, line
from bnscope.rules.base import plural

REMEDY_MOMENTUM = 0.9
TIMED_BATCH = 32  # and single images
DIAGNOSED = 128  # crops; the verdict needs no more


def tell(settings: Settings, log_dir: Path) -> None:
    """Runs the demonstration and prints it on stdout.

    Args:
        settings: how many crops and epochs.
        log_dir: where the TensorBoard events go.

    Raises:
        BnscopeError: if `log_dir` cannot be written.
    """
    cold_dir, warm_dir = (_run_dir(log_dir, m) for m in (DEFAULT_MOMENTUM, REMEDY_MOMENTUM))
    _introduce(settings)
    import_keras_quietly()
    data = load_data(settings)
    _lint()
    _heading("2. Watch it train", "model.fit(..., callbacks=[BatchNormMonitor(log_dir)])")
    cold = _train(DEFAULT_MOMENTUM, data, settings, cold_dir)
    _rescue(cold, data, settings)
    _heading("4. The remedy", f"BatchNormalization(momentum={REMEDY_MOMENTUM})")
    warm = _train(REMEDY_MOMENTUM, data, settings, warm_dir)
    tables.print_comparison(sys.stdout, cold, warm, settings)
    _fold(warm, data, settings)
    _heading("6. See it in TensorBoard")
    _say(
        line(f"  {_tensorboard()} --logdir {shlex.quote(str(log_dir))}"),
        line(""),
        line(
            "The tab BN Scope shows both runs. Scalars has batch_norm/initial_share, Text the lint report and alerts."
        ),
    )


def _introduce(settings: Settings) -> None:
    _say(
        line(
            ("AlexNet on two photographs", "bold"),
            ": is a crop of 100x100 pixels from china.jpg or from flower.jpg?",
        ),
        line(
            f"{settings.training_crops} crops to train on, {settings.validation_crops} from "
            "other parts of the photographs to validate on; "
            f"{plural(settings.epochs, 'epoch')} of {settings.steps_per_epoch} steps, twice."
        ),
    )


def _lint() -> None:
    import bnscope
    from bnscope.linting.formats.full import lines

    _heading("1. Lint the network", "bnscope.lint(model)")
    _say(*lines([bnscope.lint(alexnet())]))


def _train(momentum: float, data: Data, settings: Settings, log_dir: Path) -> Trained:
    with _progress(settings, momentum) as step:
        return train(momentum, data, settings, log_dir, step)


def _rescue(cold: Trained, data: Data, settings: Settings) -> None:
    """Finds out why validation is worse than training, and repairs it without training."""
    import bnscope

    _heading(
        "3. Diagnose and recalibrate", "bnscope.diagnose(...), bnscope.recalibrate(...)"
    )
    images = data.training.images
    diagnosis = bnscope.diagnose(
        cold.model,
        images,
        data.training.labels,
        validation_data=(data.validation.images, data.validation.labels),
        batch_size=settings.batch_size,
        max_samples=DIAGNOSED,
    )
    tables.print_diagnosis(sys.stdout, diagnosis)
    better = bnscope.recalibrate(cold.model, images, batch_size=settings.batch_size)
    measured = better.evaluate(
        data.validation.images, data.validation.labels, verbose=0, return_dict=True
    )
    tables.print_rescue(sys.stdout, cold, float(measured["accuracy"]))


def _fold(trained: Trained, data: Data, settings: Settings) -> None:
    import bnscope

    _heading("5. Fold the trained model", "bnscope.fold(model)")
    images = data.validation.images[:TIMED_BATCH]
    result = bnscope.fold(trained.model, verify_data=images)
    tables.print_folds(sys.stdout, result)
    pair = (trained.model, result.model)
    batches = sorted({1, len(images)})
    repeats = settings.timed_calls
    times = {batch: inference_times(pair, images[:batch], repeats) for batch in batches}
    tables.print_times(sys.stdout, times)


def _heading(title: str, code: str = "") -> None:
    parts: list[str | tuple[str, str]] = ["   ", (code, "dim")] if code else []
    _say(line(""), line((title, "bold"), *parts), line(""))


def _say(*lines: Line) -> None:
    emit(lines, sys.stdout)
    sys.stdout.flush()


def _tensorboard() -> str:
    """How to call TensorBoard here: a virtual environment need not be activated."""
    if shutil.which("tensorboard") is not None:
        return "tensorboard"
    # Not resolved: the interpreter of a virtual environment is a link to another folder.
    script = Path(sys.executable).with_name("tensorboard")
    inside = script.is_relative_to(Path.cwd())
    return shlex.quote(str(script.relative_to(Path.cwd()) if inside else script))


@contextmanager
def _progress(settings: Settings, momentum: float) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr if that is a terminal; gives what to call after each step."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # what the monitor says goes above the bar
        redirect_stderr=False,
        disable=not Console(stderr=True).is_terminal,
    )
    with progress:
        task = progress.add_task(
            f"Training, momentum {momentum}",
            total=settings.epochs * settings.steps_per_epoch,
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
