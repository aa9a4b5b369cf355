"""Reads runs through TensorBoard's data provider, which is all that a plugin of it may use."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from bnscope.errors import BnscopeError
from bnscope.events import schema
from bnscope.events.reader import describe
from bnscope.events.run import Record, Run
from bnscope.statistics.channels import FIELDS
from bnscope.statistics.layout import STATISTICS, VARIABLES
from bnscope.statistics.quantiles import COLUMNS

# Several times what one process writes, so that the server never drops records at random.
SAMPLES = 4 * schema.MAX_RECORDS
# The data server's answers are refused beyond 256 MiB.
_LARGEST_ANSWER = 240 << 20
# Which summaries a run has, and how far each of them is.
State = frozenset[tuple[str, int, float]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where TensorBoard's runs are read.

    Args:
        provider: its `DataProvider`.
        context: its `RequestContext`.
        experiment: its identifier of the log directory.
    """

    provider: Any
    context: Any
    experiment: str

    def states(self, names: Sequence[str] | None = None) -> dict[str, State]:
        """The runs that hold events of bnscope, each with a state that changes as it grows.

        Args:
            names: which runs to look at; None for all.
        """
        listed = self._listed(names)
        return {
            name: frozenset((tag, each.max_step, each.max_wall_time) for tag, each in tags)
            for name, tags in ((name, series.items()) for name, series in listed.items())
        }

    def read(self, name: str) -> Run:
        """Reads one run, but of the values of every channel only the newest.

        Args:
            name: its name in TensorBoard.

        Raises:
            BnscopeError: if there is no such run, or its events cannot be read.
        """
        tags = self._listed([name]).get(name)
        if not tags:
            raise gone(name)
        with _readable(name):
            return self._read(name, tags)

    def read_channels(self, run: Run, name: str) -> Run:
        """Reads the values of every channel, which are several times all others.

        Args:
            run: the run as `read` gave it.
            name: its name in TensorBoard.

        Returns:
            A run of the same records, with all channels.

        Raises:
            BnscopeError: if its events cannot be read.
        """
        whole = run.without_channels()
        with _readable(name):
            starts = self._data(name, schema.START, schema.MAX_RECORDS)
            self._add_channels(whole, name, _Alive.after(starts), SAMPLES)
        return whole

    def _listed(self, names: Sequence[str] | None) -> dict[str, dict[str, Any]]:
        from tensorboard.data.provider import RunTagFilter

        found: dict[str, dict[str, Any]] = self.provider.list_tensors(
            self.context,
            experiment_id=self.experiment,
            plugin_name=schema.PLUGIN,
            run_tag_filter=RunTagFilter(runs=names),
        )
        return found

    def _read(self, name: str, tags: Mapping[str, Any]) -> Run:
        run = Run()
        contents = (each.plugin_content for each in tags.values() if each.plugin_content)
        content = next(contents, None)
        if content is None:
            raise BnscopeError(
                f"The events of {name} do not say what they hold.",
                "Another program may have written them.",
            )
        describe(run, json.loads(content))
        starts = self._data(name, schema.START, schema.MAX_RECORDS)
        run.starts.extend(json.loads(each.numpy.item()) for each in starts)
        alive = _Alive.after(starts)
        self._add_records(run, name, alive)
        self._add_channels(run, name, alive, 1)
        run.alerts.extend(self._messages(name, tags, schema.ALERT, alive))
        run.marks.extend(self._messages(name, tags, schema.MARK, alive))
        return run

    def _messages(
        self, name: str, tags: Mapping[str, Any], kind: str, alive: _Alive
    ) -> list[Mapping[str, Any]]:
        """The alerts or marks of a run, in the order in which they were written."""
        found = [
            each
            for tag in tags
            if schema.is_of(tag, kind)
            for each in alive(self._data(name, tag, schema.MAX_RECORDS))
        ]
        found.sort(key=lambda each: (each.step, each.wall_time))
        return [json.loads(each.numpy.item()) for each in found]

    def _add_records(self, run: Run, name: str, alive: _Alive) -> None:
        size = 4 * len(run.layers) * len(STATISTICS) * len(COLUMNS)
        most = min(SAMPLES, _LARGEST_ANSWER // max(size, 1))
        fields = {
            each.step: each.numpy for each in alive(self._data(name, schema.LAYERS, most))
        }
        data = [
            each
            for each in alive(self._data(name, schema.STATISTICS_TAG, most))
            if each.step in fields
        ]
        if data and len(data[-1].numpy) != len(run.layers):
            _take_layers_of_start(run, name, len(data[-1].numpy))
        shapes = (
            (len(run.layers), len(STATISTICS), len(COLUMNS)),
            (len(run.layers), len(FIELDS)),
        )
        kept = [
            (each.step, each.numpy, fields[each.step])
            for each in data
            if (each.numpy.shape, fields[each.step].shape) == shapes
        ]
        if not kept:
            return
        # In one block: thousands of small ones leave holes that are never given back.
        summaries = np.stack([summary for _, summary, _ in kept])
        beside = np.stack([values for _, _, values in kept])
        for index, (step, _, _) in enumerate(kept):
            run.add(Record(step, summaries[index], beside[index]))

    def _add_channels(self, run: Run, name: str, alive: _Alive, most: int) -> None:
        shape = (len(VARIABLES), sum(run.widths))
        most = min(most, _LARGEST_ANSWER // max(4 * shape[0] * shape[1], 1))
        kept = [
            each
            for each in alive(self._data(name, schema.CHANNELS, most))
            if each.numpy.shape == shape
        ]
        for each in kept:
            run.add_channels(each.step, each.numpy)

    def _data(self, name: str, tag: str, most: int) -> list[Any]:
        """The values of a tag by step; of several at a step, the last one written."""
        from tensorboard.data.provider import RunTagFilter

        found = self.provider.read_tensors(
            self.context,
            experiment_id=self.experiment,
            plugin_name=schema.PLUGIN,
            run_tag_filter=RunTagFilter(runs=[name], tags=[tag]),
            downsample=max(most, 1),
        )
        data = found.get(name, {}).get(tag, [])
        latest = {each.step: each for each in sorted(data, key=lambda each: each.wall_time)}
        return [latest[step] for step in sorted(latest)]


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """What others wrote under our name is told as such.

    Raises:
        BnscopeError: if the events cannot be read.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BnscopeError(
            f"The events of {name} cannot be read ({type(error).__name__}: {error}).",
            "Another program may have written them.",
        ) from error


def gone(name: str) -> BnscopeError:
    """The error of a run that is not there."""
    return BnscopeError(f"There is no run {name!r} any more.", "Choose another one.")


class _Alive:
    """Leaves out what lies behind a later start: a run begun anew takes its place.

    Args:
        starts: step and time of each start.
    """

    def __init__(self, starts: Sequence[tuple[int, float]]) -> None:
        self._starts = starts

    @classmethod
    def after(cls, starts: Sequence[Any]) -> Self:
        """For starts as the server has them."""
        return cls([(each.step, each.wall_time) for each in starts])

    def __call__(self, data: Sequence[Any]) -> Iterator[Any]:
        for each in data:
            if not any(
                each.step > step and each.wall_time < begun for step, begun in self._starts
            ):
                yield each


def _take_layers_of_start(run: Run, name: str, count: int) -> None:
    """The layers of the newest start, where the directory held another model before.

    The server keeps what the axes of the first model mean, and nothing of the second.
    """
    rows = run.starts[-1].get("layers", []) if run.starts else []
    if len(rows) != count or not all(row.get("channels") for row in rows):
        raise BnscopeError(
            f"{name} holds the events of several models.",
            "Give each run a directory of its own.",
        )
    run.layers = tuple(row["layer"] for row in rows)
    run.widths = tuple(row["channels"] for row in rows)
