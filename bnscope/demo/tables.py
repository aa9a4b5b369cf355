"""The tables of the demonstration. Every figure in them comes from the run itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from bnscope.bn import initial_share
from bnscope.demo.settings import Settings
from bnscope.demo.training import Trained
from bnscope.diagnosis.report import sections
from bnscope.folding.text import verdict_sections
from bnscope.printing import Line, console, emit, line
from bnscope.sections import print_sections
from bnscope.tables import as_text, table

if TYPE_CHECKING:
    from rich.table import Table

    from bnscope.diagnosis import Diagnosis


def print_comparison(
    stream: TextIO, cold: Trained, warm: Trained, settings: Settings
) -> None:
    """Prints the validation accuracy of two trainings, epoch by epoch.

    Args:
        stream: where to.
        cold: the training with the larger momentum.
        warm: the training with the remedy.
        settings: of both.
    """
    columns = [("after", "left")]
    for run in (cold, warm):
        columns.append((f"momentum {run.momentum}:\nstill initial", "right"))
        columns.append(("validation\naccuracy", "right"))
    steps = [(epoch + 1) * settings.steps_per_epoch for epoch in range(settings.epochs)]
    rows = (
        [f"{step} steps", *_state(cold, epoch, step), *_state(warm, epoch, step)]
        for epoch, step in enumerate(steps)
    )
    emit([line("")], stream)
    _print(stream, table(columns, rows))
    emit(_comparison_lines(cold, warm), stream)


def _state(trained: Trained, epoch: int, steps: int) -> list[str]:
    share = initial_share(trained.momentum, steps)
    return [f"{share:.0%}", f"{trained.history['val_accuracy'][epoch]:.1%}"]


def _comparison_lines(cold: Trained, warm: Trained) -> Iterator[Line]:
    before, after = (f"{run.history['val_accuracy'][-1]:.1%}" for run in (cold, warm))
    fitted = [f"{run.history['accuracy'][-1]:.1%}" for run in (cold, warm)]
    yield line("")
    yield line(
        *("Validation accuracy ", (before, "bold"), f" with momentum {cold.momentum}, "),
        *((after, "bold"), f" with momentum {warm.momentum}: same data, seed and epochs."),
    )
    yield line(
        f"Training accuracy {fitted[0]} and {fitted[1]}: training normalizes with the "
        "statistics of the batch, validation with the moving ones."
    )


def print_diagnosis(stream: TextIO, diagnosis: Diagnosis) -> None:
    """Prints the verdict and the losses of a diagnosis.

    Args:
        stream: where to.
        diagnosis: what `bnscope.diagnose` returned.
    """
    print_sections(sections(diagnosis)[:2], stream)


def print_rescue(stream: TextIO, cold: Trained, accuracy: float) -> None:
    """Prints the validation accuracy before and after recalibration.

    Args:
        stream: where to.
        cold: the training whose model was recalibrated.
        accuracy: the validation accuracy after.
    """
    before = f"{cold.history['val_accuracy'][-1]:.1%}"
    text = line(
        *("Validation accuracy ", (before, "bold"), " as trained, "),
        *((f"{accuracy:.1%}", "bold"), " after bnscope.recalibrate: same weights."),
    )
    emit([line(""), text], stream)


def print_folds(stream: TextIO, result: Any) -> None:
    """Prints where each BN went, and the error of the whole.

    Args:
        stream: where to.
        result: what `bnscope.fold` returned.
    """
    print_sections(verdict_sections(result.plan), stream)
    folded = sum(verdict.folded for verdict in result.verdicts)
    error = (f"{result.max_error:.1e}", "bold")
    summary = line(
        f"{folded} of {len(result.verdicts)} BN layers folded. Verified on validation crops: ",
        *("the outputs differ by at most ", error, " of their scale."),
    )
    emit([line(""), summary], stream)


def print_times(stream: TextIO, times: Mapping[int, tuple[float, ...]]) -> None:
    """Prints the time of a prediction, original and folded, by batch size.

    Args:
        stream: where to.
        times: batch size -> seconds of the original and of the folded model.
    """
    columns = [
        (title, "right") for title in ("images a call", "original", "folded", "speed-up")
    ]
    rows = (
        [str(batch), _milliseconds(before), _milliseconds(after), f"{before / after:.2f}x"]
        for batch, (before, after) in times.items()
    )
    title = "Time of a prediction, medians, the two models taking turns:"
    emit([line(""), line(title), line("")], stream)
    _print(stream, table(columns, rows))


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def _print(stream: TextIO, made: Table) -> None:
    if stream.isatty():
        console(stream).print(made)
    else:
        stream.write(as_text(made) + "\n")
