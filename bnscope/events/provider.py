"""Reads runs through TensorBoard's data provider, which is all that a plugin of it may use."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnscope.errors import BnscopeError
from bnscope.events import schema
from bnscope.events.reader import describe, readable
from bnscope.events.records import loads, parse
from bnscope.events.run import Record, Run

# Several times what one process writes, so that the server never drops records at random.
SAMPLES = 4 * schema.MAX_RECORDS
# The data server's answers are refused beyond 256 MiB.
_LARGEST_ANSWER = 240 << 20
# Which summaries a run has, and how far each of them is.
State = frozenset[tuple[str, int, float]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where TensorBoard's runs are read, for one request: what there is is asked for once.

    Args:
        provider: its `DataProvider`.
        context: its `RequestContext`.
        experiment: its identifier of the log directory.
    """

    provider: Any
    context: Any
    experiment: str
    # Each of the data server's answers may take 40 ms, however short it is.
    _known: dict[str | None, dict[str, Any]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def names(self) -> list[str]:
        """The runs that hold events of bnscope, in order."""
        return sorted(self._listed(None))

    def state(self, name: str) -> State:
        """The state of a run, which changes as it grows.

        Args:
            name: its name in TensorBoard.

        Raises:
            BnscopeError: if there is no such run.
        """
        tags = self._tags(name).items()
        return frozenset((tag, each.max_step, each.max_wall_time) for tag, each in tags)

    def read(self, name: str) -> Run:
        """Reads one run, but of the values of every channel only the newest.

        Args:
            name: its name in TensorBoard.

        Raises:
            BnscopeError: if there is no such run, or its events cannot be read.
        """
        tags = self._tags(name)
        with readable(name):
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
        with readable(name):
            _, alive = self._starts(name)
            self._add_channels(whole, name, alive, SAMPLES)
        return whole

    def _tags(self, name: str) -> Mapping[str, Any]:
        """The tags of one run."""
        tags: Mapping[str, Any] = self._listed(name).get(name) or {}
        if not tags:
            raise BnscopeError(f"There is no run {name!r} any more.", "Choose another one.")
        return tags

    def _listed(self, only: str | None) -> dict[str, dict[str, Any]]:
        """The tags of one run at least, or of all, by run."""
        from tensorboard.data.provider import RunTagFilter

        if only is not None and None in self._known:
            only = None
        if only not in self._known:
            self._known[only] = self.provider.list_tensors(
                self.context,
                experiment_id=self.experiment,
                plugin_name=schema.PLUGIN,
                run_tag_filter=RunTagFilter(runs=None if only is None else [only]),
            )
        return self._known[only]

    def _read(self, name: str, tags: Mapping[str, Any]) -> Run:
        run = Run()
        contents = (each.plugin_content for each in tags.values() if each.plugin_content)
        content = next(contents, None)
        if content is None:
            raise BnscopeError(
                f"The events of {name} do not say what they hold.",
                "Another program may have written them.",
            )
        axes = loads(content)
        starts, alive = self._starts(name)
        if starts:  # what stands beside the tags is what the directory's first model said
            axes = starts[-1].get("axes") or axes
        describe(run, axes)
        run.starts.extend(starts)
        self._add_records(run, name, alive)
        self._add_channels(run, name, alive, 1)
        run.alerts.extend(self._messages(name, tags, schema.ALERT, alive))
        run.marks.extend(self._messages(name, tags, schema.MARK, alive))
        return run

    def _starts(self, name: str) -> tuple[list[Mapping[str, Any]], _Alive]:
        """The starts that count, and what leaves out all that they took the place of."""
        data = self._data(name, schema.START, schema.MAX_RECORDS)
        data.sort(key=lambda each: each.wall_time)
        alive = _Alive()
        starts: list[Mapping[str, Any]] = []
        for each in data:
            start = parse(schema.START, each.numpy.item())
            other = bool(starts) and _layers(start) != _layers(starts[-1])
            alive.begin(-1 if other else each.step, each.wall_time)
            starts = [start] if other else [*starts, start]
        return starts, alive

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
        return [parse(kind, each.numpy.item()) for each in found]

    def _add_records(self, run: Run, name: str, alive: _Alive) -> None:
        shapes = schema.shapes(run.widths)
        most = _most(shapes[schema.STATISTICS_TAG], SAMPLES)
        fields = {
            each.step: each.numpy for each in alive(self._data(name, schema.LAYERS, most))
        }
        data = [
            each
            for each in alive(self._data(name, schema.STATISTICS_TAG, most))
            if each.step in fields
        ]
        kept = [
            (each.step, each.numpy, fields[each.step])
            for each in data
            if each.numpy.shape == shapes[schema.STATISTICS_TAG]
            and fields[each.step].shape == shapes[schema.LAYERS]
        ]
        if not kept:
            return
        # In one block: thousands of small ones leave holes that are never given back.
        summaries = np.stack([summary for _, summary, _ in kept])
        beside = np.stack([values for _, _, values in kept])
        for index, (step, _, _) in enumerate(kept):
            run.add(Record(step, summaries[index], beside[index]))

    def _add_channels(self, run: Run, name: str, alive: _Alive, most: int) -> None:
        shape = schema.shapes(run.widths)[schema.CHANNELS]
        kept = [
            each
            for each in alive(self._data(name, schema.CHANNELS, _most(shape, most)))
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


def _layers(start: Mapping[str, Any]) -> tuple[Any, Any]:
    """The layers that a start is of, and their channels."""
    axes = start.get("axes") or {}
    return axes.get("layers"), axes.get("widths")


def _most(shape: tuple[int, ...], wanted: int) -> int:
    """How many tensors of float32 may be asked for at once."""
    return min(wanted, _LARGEST_ANSWER // max(4 * math.prod(shape), 1))


class _Alive:
    """Leaves out what lies behind a later start: a run begun anew takes its place."""

    def __init__(self) -> None:
        self._starts: list[tuple[int, float]] = []

    def begin(self, step: int, wall_time: float) -> None:
        """What was written earlier and lies behind the step counts no more."""
        self._starts.append((step, wall_time))

    def __call__(self, data: Sequence[Any]) -> Iterator[Any]:
        for each in data:
            if not any(
                each.step > step and each.wall_time < begun for step, begun in self._starts
            ):
                yield each
