"""Records a run: in memory, and as events. What a fault of the disk ends, the caller says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.bn import Array, initial_share
from bnscope.events.run import Record, Run
from bnscope.events.schema import MAX_CHANNEL_RECORDS, MAX_RECORDS, Thinning
from bnscope.events.writer import RunWriter
from bnscope.statistics.channels import Window, channel_statistics, layer_fields
from bnscope.statistics.layout import VARIABLES, Layout
from bnscope.statistics.quantiles import merge_since, summarize
from bnscope.statistics.replicas import divergence
from bnscope.watching.alerts import Alert
from bnscope.watching.marks import Mark


class Recorder:
    """Records what is read of some layers.

    Args:
        layout: the layers.
        log_dir: where the events go; None for memory only.
        details: whether each layer gets scalars and histograms of its own.
        failed: is told why no events are written any more; it may raise.

    Attributes:
        run: the series in memory.
        failure: why events are missing; None if none are.
        begun: whether some events were written, in this `fit` or before.
    """

    def __init__(
        self,
        layout: Layout,
        log_dir: Path | None,
        *,
        details: bool,
        failed: Callable[[str], None],
    ) -> None:
        self.layout = layout
        self.log_dir = log_dir
        self.details = details
        self.run = Run(layout.paths, layout.widths)
        self.failure: str | None = None
        self.begun = False
        self._tell_failure = failed
        self._writer: RunWriter | None = None
        self._since: Array | None = None
        # The newest reading and channel values, while thinning holds them back.
        self._left: tuple[int, Array, Array, Array, frozenset[str]] | None = None
        self._left_channels: tuple[int, npt.NDArray[Any]] | None = None
        self._thinning = Thinning(MAX_RECORDS)
        self._channel_thinning = Thinning(MAX_CHANNEL_RECORDS)
        self._divergence_thinning = Thinning(MAX_RECORDS)

    def open(self) -> None:
        """Opens the event file, if there is to be one."""
        if self.log_dir is None or self._writer is not None:
            return
        try:
            self._writer = RunWriter(self.log_dir, self.layout)
            self.begun = True
        except ImportError:
            self._fail("TensorBoard is not installed (pip install 'bnscope[tensorboard]')")
        except Exception as error:  # noqa: BLE001  a path without meaning, a protobuf too old
            reason = getattr(error, "strerror", None) or error
            self._fail(f"{self.log_dir} cannot be written ({reason})")

    def close(self) -> None:
        """Records what thinning held back, and closes the file."""
        if self._left is not None:
            self._keep(*self._left)
        if self._left_channels is not None:
            self._keep_channels(*self._left_channels)
        self._guarded(lambda writer: writer.close())
        self._writer = None

    def start(self, step: int, record: Mapping[str, Any], text: str) -> None:
        """Records what is known of the model as training begins."""
        self.run.starts.append(record)
        self._guarded(lambda writer: writer.start(step, record, text))

    def alert(self, alert: Alert) -> None:
        """Records an alert."""
        record = alert.to_dict()
        self.run.alerts.append(record)
        self._guarded(lambda writer: writer.alert(alert.step, record, str(alert)))

    def mark(self, step: int, mark: Mark) -> None:
        """Records what a callback did to the layers; behind the end of a `fit`, too."""
        record = mark.to_dict(step)
        self.run.marks.append(record)
        ended = self.log_dir is not None and self._writer is None and self.failure is None
        if ended:
            self.open()
        self._guarded(lambda writer: writer.mark(step, record, mark.message))
        if ended:
            self.close()

    def step(
        self,
        step: int,
        values: Array,
        window: Window | None,
        *,
        warm: frozenset[str],
    ) -> None:
        """Records a logged step, or merges it into the next record.

        Args:
            step: updates since training began.
            values: the variables, shape `(4, channels)`.
            window: what was averaged up to this step; None if it was not read.
            warm: layers whose statistics were not the initial ones when training began.
        """
        fields = layer_fields(self.layout, values, window)
        values = channel_statistics(self.layout, values, window)
        summary = summarize(self.layout, values)
        self._since = merge_since(self._since, summary)
        summary[..., 9:12] = self._since
        reading = (step, values, summary, fields, warm)
        if self._thinning.keep():
            self._keep(*reading)
        else:
            self._left = reading

    def channels(self, step: int, values: Array) -> None:
        """Records the variables of every channel, shape `(4, channels)`."""
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float32)
        if self._channel_thinning.keep():
            self._keep_channels(step, narrow)
        else:
            self._left_channels = (step, narrow)

    def divergence(self, step: int, replicas: Array) -> None:
        """Records how far replicas are apart.

        Args:
            step: updates since training began.
            replicas: what each of them averages, shape `(replicas, 2, channels)`.
        """
        if self._divergence_thinning.keep():
            apart = divergence(self.layout, replicas)
            narrow = apart.astype(np.float32)
            self.run.add_divergence(step, narrow)
            scalars = {"batch_norm/largest_replica_divergence": _extreme(np.fmax, apart)}
            self._guarded(lambda writer: writer.divergence(step, narrow, scalars))

    def _keep(
        self, step: int, values: Array, summary: Array, fields: Array, warm: frozenset[str]
    ) -> None:
        self._since = self._left = None
        with np.errstate(over="ignore"):  # beyond float32 is infinite
            narrow = summary.astype(np.float32), fields.astype(np.float32)
        self.run.add(Record(step, *narrow))
        if self._writer is not None:
            scalars = self._scalars(step, values, summary, fields, warm)
            self._guarded(lambda writer: writer.record(step, *narrow, scalars))

    def _keep_channels(self, step: int, narrow: npt.NDArray[Any]) -> None:
        self._left_channels = None
        self.run.add_channels(step, narrow)
        self._guarded(lambda writer: writer.channels(step, narrow))
        self._guarded(lambda writer: writer.histograms(step, self._histograms(narrow)))

    def _scalars(
        self, step: int, values: Array, summary: Array, fields: Array, warm: frozenset[str]
    ) -> dict[str, float]:
        """A handful of numbers of the whole model: the worst layer's."""
        layout = self.layout
        distance = summary[:, 7, 3]  # each layer's median
        scalars = {
            "batch_norm/smallest_moving_variance": _extreme(np.fmin, values[3]),
            "batch_norm/largest_moving_variance": _extreme(np.fmax, values[3]),
            "batch_norm/largest_abs_gamma": _extreme(np.fmax, np.abs(values[0])),
            "batch_norm/dead_channel_share": float(fields[:, 3] @ layout.widths)
            / layout.channels,
            "batch_norm/nonfinite_values": float(summary[:, :4, 8].sum()),
        }
        if np.isfinite(distance).any():
            scalars["batch_norm/largest_moving_batch_distance"] = _extreme(
                np.fmax, distance
            )
        cold = [
            initial_share(momentum, step)
            for path, momentum in zip(layout.paths, layout.momentum, strict=True)
            if path not in warm and 0.0 <= momentum <= 1.0
        ]
        if cold:
            scalars["batch_norm/initial_share"] = max(cold)
        if self.details:
            for index, path in enumerate(layout.paths):
                scalars[f"batch_norm_layers/{path}/distance"] = float(distance[index])
        return scalars

    def _histograms(self, values: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        found = {f"batch_norm/{name}": values[row] for row, name in enumerate(VARIABLES)}
        if self.details:
            for index, path in enumerate(self.layout.paths):
                for row, name in enumerate(VARIABLES):
                    tag = f"batch_norm_layers/{path}/{name}"
                    found[tag] = values[row, self.layout.part(index)]
        return found

    def _guarded(self, action: Callable[[RunWriter], None]) -> None:
        """Writes, or stops writing for good."""
        if self._writer is None:
            return
        writer = self._writer
        try:
            action(writer)
        except Exception as error:  # noqa: BLE001  whatever it is, training goes on
            self._writer = None
            with contextlib.suppress(Exception):
                writer.close()
            reason = getattr(error, "strerror", None) or error
            self._fail(f"{self.log_dir} cannot be written any more ({reason})")

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self._tell_failure(reason)


def _extreme(function: Any, values: Array) -> float:
    """The smallest or largest finite value; NaN if there is none."""
    finite = np.where(np.isfinite(values), values, np.nan)
    return float(function.reduce(finite.ravel())) if finite.size else float("nan")
