"""A watched run: in memory while it lasts, or read back from its events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.bn import Array
from bnscope.events.schema import MAX_CHANNEL_RECORDS, MAX_RECORDS
from bnscope.statistics.channels import FIELDS, STATUSES
from bnscope.statistics.layout import STATISTICS, VARIABLES
from bnscope.statistics.quantiles import COLUMNS
from bnscope.statistics.replicas import DIVERGENCE


@dataclass(slots=True)
class Record:
    """One logged step: shapes `(layers, statistics, columns)` and `(layers, fields)`."""

    step: int
    summary: npt.NDArray[Any]
    fields: npt.NDArray[Any]


@dataclass(eq=False)
class Run:
    """The series of a run. However long it gets, its size stays bounded.

    Args:
        layers: paths of the layers, in forward order.
        widths: channels of each layer.
        starts: the records written as training began, one for each `fit`.
        alerts: the alerts as they are written to JSON.
        marks: what callbacks did to the layers: `act` (`recalibrate`, `restore`, `freeze`),
            `step`, `layers`, `message`.
        statuses: what the numbers of the field `status` stand for.
    """

    layers: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()
    starts: list[Mapping[str, Any]] = field(default_factory=list)
    alerts: list[Mapping[str, Any]] = field(default_factory=list)
    marks: list[Mapping[str, Any]] = field(default_factory=list)
    statuses: tuple[str, ...] = tuple(map(str, STATUSES))
    _records: list[Record] = field(default_factory=list, repr=False)
    _channels: list[tuple[int, npt.NDArray[Any]]] = field(default_factory=list, repr=False)
    _divergence: list[tuple[int, npt.NDArray[Any]]] = field(
        default_factory=list, repr=False
    )

    @property
    def start(self) -> Mapping[str, Any]:
        """What was known of the model as training began last; empty if nothing was written."""
        return self.starts[-1] if self.starts else {}

    def row(self, layer: str) -> Mapping[str, Any]:
        """What `bnscope.inspect` said of a layer then; empty if it said nothing."""
        rows = self.start.get("layers") or ()
        found: Mapping[str, Any] = next((r for r in rows if r.get("layer") == layer), {})
        return found

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """The logged steps: updates since training began."""
        return np.array([record.step for record in self._records], np.int64)

    @property
    def statistics(self) -> Array:
        """All records, shape `(records, layers, statistics, columns)`."""
        shape = (0, len(self.layers), len(STATISTICS), len(COLUMNS))
        parts = [record.summary for record in self._records]
        return np.stack(parts).astype(np.float64) if parts else np.zeros(shape)

    @property
    def fields(self) -> Array:
        """What is kept of each layer beside, shape `(records, layers, fields)`."""
        parts = [record.fields for record in self._records]
        shape = (0, len(self.layers), len(FIELDS))
        return np.stack(parts).astype(np.float64) if parts else np.zeros(shape)

    @property
    def channel_steps(self) -> npt.NDArray[np.int64]:
        """The steps of the per-channel records."""
        return np.array([step for step, _ in self._channels], np.int64)

    @property
    def divergence_steps(self) -> npt.NDArray[np.int64]:
        """The steps at which replicas were compared; empty where there was one only."""
        return np.array([step for step, _ in self._divergence], np.int64)

    def divergence(self, layer: str, name: str = "mean") -> Array:
        """How far the replicas of the first process were apart, at `divergence_steps`.

        Args:
            layer: path of the layer.
            name: `mean`: the largest difference of a moving mean, in sigma; or `variance`: that
                of a moving variance, as a share of the largest.

        Returns:
            Float64 of shape `(records,)`.

        Raises:
            ValueError: if there is no such layer or name.
        """
        index = _index(layer, self.layers, "layer")
        column = _index(name, DIVERGENCE, "divergence")
        return np.array(
            [values[index, column] for _, values in self._divergence], np.float64
        )

    def statistic(self, layer: str, name: str, column: str = "q50") -> Array:
        """One statistic of one layer over the logged steps.

        Args:
            layer: path of the layer.
            name: `gamma`, `beta`, `moving_mean`, `moving_variance`, `batch_mean`,
                `batch_variance`, `scale` or `distance`.
            column: which number of its channels: `min`, `q05`, `q25`, `q50`, `q75`, `q95`,
                `max`, `mean`, `nonfinite`, `since_min`, `since_max`, `since_nonfinite`.

        Returns:
            Float64 of shape `(records,)`, NaN where it could not be told.

        Raises:
            ValueError: if there is no such layer, statistic or column.
        """
        return self.across(name, column)[:, _index(layer, self.layers, "layer")]

    def across(self, name: str, column: str = "q50") -> Array:
        """One statistic of every layer over the logged steps.

        Args:
            name: the statistic, as in `statistic`.
            column: which number of its channels, as in `statistic`.

        Returns:
            Float64 of shape `(records, layers)`, NaN where it could not be told.

        Raises:
            ValueError: if there is no such statistic or column.
        """
        row = _index(name, STATISTICS, "statistic")
        place = _index(column, COLUMNS, "column")
        return self._gathered([record.summary[:, row, place] for record in self._records])

    def quantiles(self, layer: str, name: str) -> Array:
        """One statistic of one layer over the logged steps, with all its columns.

        Args:
            layer: path of the layer.
            name: the statistic, as in `statistic`.

        Returns:
            Float64 of shape `(records, columns)`.

        Raises:
            ValueError: if there is no such layer or statistic.
        """
        index = _index(layer, self.layers, "layer")
        row = _index(name, STATISTICS, "statistic")
        parts = [record.summary[index, row] for record in self._records]
        return self._gathered(parts, len(COLUMNS))

    def field(self, name: str) -> Array:
        """One field of every layer over the logged steps.

        Args:
            name: `updates`, `mean_error`, `variance_error`, `dead_share` or `status`.

        Returns:
            Float64 of shape `(records, layers)`.

        Raises:
            ValueError: if there is no such field.
        """
        place = _index(name, FIELDS, "field")
        return self._gathered([record.fields[:, place] for record in self._records])

    @property
    def nbytes(self) -> int:
        """What the values take in memory, in bytes."""
        records = sum(each.summary.nbytes + each.fields.nbytes for each in self._records)
        return records + sum(values.nbytes for _, values in self._channels)

    def _gathered(self, parts: list[npt.NDArray[Any]], width: int | None = None) -> Array:
        """One part of each record, stacked; all records as a whole take much more memory."""
        empty = np.zeros((0, len(self.layers) if width is None else width))
        return np.stack(parts).astype(np.float64) if parts else empty

    def channels(self, layer: str, name: str) -> Array:
        """One variable of every channel of a layer, at `channel_steps`.

        Args:
            layer: path of the layer.
            name: `gamma`, `beta`, `moving_mean` or `moving_variance`.

        Returns:
            Float64 of shape `(records, channels of the layer)`.

        Raises:
            ValueError: if there is no such layer or variable.
        """
        index = _index(layer, self.layers, "layer")
        row = _index(name, VARIABLES, "variable")
        start = sum(self.widths[:index])
        part = slice(start, start + self.widths[index])
        rows = [values[row, part] for _, values in self._channels]
        return (
            np.stack(rows).astype(np.float64) if rows else np.zeros((0, self.widths[index]))
        )

    def add(self, record: Record) -> None:
        """Adds a record; when there are too many, every second goes into the one behind it."""
        self._records.append(record)
        if len(self._records) > MAX_RECORDS:
            first, *rest = self._records
            pairs = (rest[i : i + 2] for i in range(0, len(rest), 2))
            self._records = [first, *(_joined(*pair) for pair in pairs)]

    def forget_after(self, step: int) -> None:
        """Drops what lies behind a step, and all of it if the step is negative."""
        self._records = [record for record in self._records if record.step <= step]
        self._channels = [pair for pair in self._channels if pair[0] <= step]
        self._divergence = [pair for pair in self._divergence if pair[0] <= step]
        self.alerts = [alert for alert in self.alerts if alert.get("step", 0) <= step]
        self.marks = [mark for mark in self.marks if mark.get("step", 0) <= step]

    def without_channels(self) -> Run:
        """A run of the same records that has the variables of no channel yet."""
        return replace(self, _channels=[])

    def add_channels(self, step: int, variables: npt.NDArray[Any]) -> None:
        """Adds the variables of every channel; when there are too many, every second goes."""
        self._channels.append((step, variables))
        if len(self._channels) > MAX_CHANNEL_RECORDS:
            self._channels = self._channels[::2]

    def add_divergence(self, step: int, values: npt.NDArray[Any]) -> None:
        """Adds how far replicas are apart; when there are too many, every second goes."""
        self._divergence.append((step, values))
        if len(self._divergence) > MAX_RECORDS:
            self._divergence = self._divergence[::2]

    def __repr__(self) -> str:
        count = len(self._records)
        span = (
            f", steps {self._records[0].step} to {self._records[-1].step}" if count else ""
        )
        return (
            f"<Run of {len(self.layers)} BN layers: {count} records{span}, "
            f"{len(self._channels)} per-channel records, {len(self.alerts)} alerts>"
        )


def _joined(first: Record, second: Record | None = None) -> Record:
    """The second of two records, with the extremes of both."""
    if second is None:
        return first
    from bnscope.statistics.quantiles import merge_since

    summary = np.array(second.summary)
    summary[..., 9:12] = merge_since(merge_since(None, first.summary), second.summary)
    return Record(second.step, summary, second.fields)


def _index(value: str, values: tuple[str, ...], kind: str) -> int:
    if value not in values:
        shown = ", ".join(values[:12]) + (", ..." if len(values) > 12 else "")  # noqa: PLR2004
        raise ValueError(f"There is no {kind} {value!r}; there are {shown}.")
    return values.index(value)
