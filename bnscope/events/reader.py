"""Reads a run back from its events. A truncated file gives what it still holds."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bnscope.errors import BnscopeError
from bnscope.events import schema
from bnscope.events.records import AXES, check, loads, parse
from bnscope.events.run import Record, Run
from bnscope.events.writer import DIRECTORY

_WIDEST = 2**31


def read(log_dir: str | Path, *, exact: bool = False) -> Run:
    """Reads what `BatchNormMonitor(log_dir)` wrote.

    Of a directory that several runs wrote to, the last one counts: its start takes the place of
    what stands behind that step, and another model takes the place of everything.

    Args:
        log_dir: the directory given to the monitor, or `bnscope/` in it.
        exact: whether the events are in that very directory, as `find` tells it.

    Returns:
        The run.

    Raises:
        BnscopeError: if there are no events of bnscope, a later version or another program
            wrote them, or TensorBoard is not installed.
    """
    _check_tensorboard()
    run = Run()
    pending: dict[int, Any] = {}
    directory = Path(log_dir)
    if not exact and (directory / DIRECTORY).is_dir():
        directory = directory / DIRECTORY
    with readable(log_dir):
        for path in sorted(directory.glob("events.out.tfevents.*")):
            for step, value in _values(path):
                _add(run, step, value, pending)
    if not run.layers:
        raise BnscopeError(
            f"{log_dir} holds no events of bnscope.",
            "Give the log_dir of a BatchNormMonitor.",
        )
    return run


def last_step(log_dir: str | Path) -> int | None:
    """The last step of which a log directory holds a record; None if it holds no run."""
    try:
        steps = read(log_dir).steps
    except (BnscopeError, ImportError, OSError):
        return None
    return int(steps[-1]) if len(steps) else None


def _check_tensorboard() -> None:
    try:
        importlib.import_module("tensorboard.util.tensor_util")
    except ImportError as error:
        raise BnscopeError(
            "Events are read by TensorBoard, which is not installed.",
            "Install it with: pip install 'bnscope[tensorboard]'",
        ) from error


def find(log_dir: str | Path) -> dict[str, Path]:
    """The runs below a log directory, as TensorBoard finds them.

    Args:
        log_dir: a log directory of one run or of several.

    Returns:
        The directories that hold events of bnscope, by the run's name, in the order of names.
    """
    root = Path(log_dir)
    found = {path.parent for path in root.rglob("events.out.tfevents.*.bnscope")}
    paths = {path.relative_to(root).as_posix(): path for path in sorted(found)}
    return {name: paths[each] for each, name in run_names(paths).items()}


def run_names(directories: Collection[str]) -> dict[str, str]:
    """What people call runs: the directory without the `bnscope/` that its events are in.

    TensorBoard names runs by directories as the system writes them.

    Args:
        directories: of all runs; one that another is called by keeps its `bnscope/`.

    Returns:
        The names, none twice, by the directory.
    """
    ends = f"/{DIRECTORY}", f"\\{DIRECTORY}"
    short = {
        each: each[: -len(ends[0])] if each.endswith(ends) else each for each in directories
    }
    return {each: each if name in short else name for each, name in short.items()}


@contextmanager
def readable(name: str | Path) -> Iterator[None]:
    """What others wrote under our name is told as such.

    Raises:
        BnscopeError: if the events cannot be read.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BnscopeError(
            f"The events of {name} cannot be read ({type(error).__name__}: {error}).",
            "Another program may have written them.",
        ) from error


def _values(path: Path) -> Iterator[tuple[int, Any]]:
    """The values of an event file with their steps, as far as it can be read."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    try:
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == schema.PLUGIN:
                    yield event.step, value
    except Exception:  # noqa: BLE001  whatever a damaged file makes the loader raise
        return


def _add(run: Run, step: int, value: Any, pending: dict[int, Any]) -> None:
    from tensorboard.util.tensor_util import make_ndarray

    content = value.metadata.plugin_data.content
    if content:
        describe(run, loads(content))
    data = make_ndarray(value.tensor)
    tag = value.tag
    if data.shape != schema.shapes(run.widths).get(tag, data.shape):
        return  # another program's, or of a model that is not described
    if tag == schema.START:
        run.forget_after(step)
        run.starts.append(parse(tag, data.item()))
    elif schema.is_of(tag, schema.ALERT):
        run.alerts.append(parse(schema.ALERT, data.item()))
    elif schema.is_of(tag, schema.MARK):
        run.marks.append(parse(schema.MARK, data.item()))
    elif tag == schema.CHANNELS:
        run.add_channels(step, data)
    elif tag == schema.DIVERGENCE_TAG:
        run.add_divergence(step, data)
    elif tag == schema.STATISTICS_TAG:
        pending[step] = data
    elif tag == schema.LAYERS and step in pending:
        run.add(Record(step, pending.pop(step), np.asarray(data)))


def describe(run: Run, content: Any) -> None:
    """Tells a run what the axes of its tensors mean, as the `plugin_content` has it.

    Raises:
        BnscopeError: if a later version wrote it.
        ValueError: if the axes are those of no model.
    """
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, int) or version > schema.VERSION:
        raise BnscopeError(
            f"The events have version {version}, and this bnscope reads up to {schema.VERSION}.",
            "Update bnscope.",
        )
    check(AXES, content)
    layers, widths = tuple(content["layers"]), tuple(content["widths"])
    if not layers or len({*layers}) < len(layers) or len(widths) != len(layers):
        raise ValueError("the layers have no names of their own, or not one width each")
    if not all(0 < width <= _WIDEST for width in widths):
        raise ValueError("a layer has no channels, or too many")
    if (layers, widths) != (run.layers, run.widths):
        run.forget_after(-1)  # another model; what it has cannot stand in one series
        run.starts.clear()
        run.layers, run.widths = layers, widths
    run.statuses = tuple(content.get("statuses") or run.statuses)
