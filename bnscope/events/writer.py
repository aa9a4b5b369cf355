"""Writes a run, version 1 of the schema, and what the standard dashboards show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.events import protos, schema
from bnscope.events.file import EventFile
from bnscope.statistics.layout import Layout
from bnscope.strict_json import dumps

# The directory under the user's: a second event file in Keras's own `train/` would stop the
# older one from being read.
DIRECTORY = "bnscope"


class RunWriter:
    """Writes one run.

    Args:
        log_dir: the user's log directory; the events go to `bnscope/` in it.
        layout: the layers that are tracked.

    Raises:
        OSError: if the directory or the file cannot be made.
        ImportError: if TensorBoard is not installed.
    """

    def __init__(self, log_dir: Path, layout: Layout) -> None:
        self._file = EventFile(Path(log_dir) / DIRECTORY)
        self._axes = schema.describe(layout)
        self._content = dumps(self._axes).encode()
        self._described: set[str] = set()
        self._messages: dict[
            str, tuple[int, int]
        ] = {}  # by tag: a step, and how many it has

    def start(self, step: int, record: Mapping[str, Any], text: str) -> None:
        """What is known of the model as training begins, for machines and for people.

        The axes stand in it too: of a tag that another model wrote to before, the data servers
        keep what the first one said.
        """
        whole = {**record, "axes": self._axes}
        self._write(
            step,
            lambda: [self._json(schema.START, whole), _text("bnscope/start_text", text)],
        )

    def record(
        self,
        step: int,
        summary: npt.NDArray[Any],
        fields: npt.NDArray[Any],
        scalars: Mapping[str, float],
    ) -> None:
        """The statistics of one logged step, and scalars for the standard dashboard."""
        self._write(
            step,
            lambda: [
                self._tensor(schema.STATISTICS_TAG, summary),
                self._tensor(schema.LAYERS, fields),
                *(protos.scalar(tag, value) for tag, value in scalars.items()),
            ],
        )

    def channels(self, step: int, variables: npt.NDArray[Any]) -> None:
        """The variables of every channel, shape `(4, channels)`."""
        self._write(step, lambda: [self._tensor(schema.CHANNELS, variables)])

    def divergence(
        self, step: int, values: npt.NDArray[Any], scalars: Mapping[str, float]
    ) -> None:
        """How far the replicas are apart, shape `(layers, 2)`."""
        self._write(
            step,
            lambda: [
                self._tensor(schema.DIVERGENCE_TAG, values),
                *(protos.scalar(tag, value) for tag, value in scalars.items()),
            ],
        )

    def alert(self, step: int, record: Mapping[str, Any], text: str) -> None:
        """One alert, for machines and for people."""
        self._message(step, schema.ALERT, record, schema.ALERT_TEXT, text)

    def mark(self, step: int, record: Mapping[str, Any], text: str) -> None:
        """What a callback did to the layers, for machines and for people."""
        self._message(step, schema.MARK, record, schema.MARK_TEXT, text)

    def histograms(self, step: int, values: Mapping[str, npt.NDArray[Any]]) -> None:
        """Histograms for the standard dashboard; values that are not finite are left out."""
        from tensorboard.plugins.histogram.summary_v2 import histogram_pb

        finite = {tag: data[np.isfinite(data)] for tag, data in values.items()}
        self._write(
            step,
            lambda: [histogram_pb(tag, data) for tag, data in finite.items() if data.size],
        )

    def close(self) -> None:
        """Writes what is left.

        Raises:
            OSError: if something could not be written.
        """
        self._file.close()

    def _message(
        self, step: int, tag: str, record: Mapping[str, Any], text_tag: str, text: str
    ) -> None:
        """One of possibly several messages at a step."""
        at, count = self._messages.get(tag, (step, 0))
        number = count if at == step else 0
        self._messages[tag] = (step, number + 1)
        ours, readable = schema.numbered(tag, number), schema.numbered(text_tag, number)
        self._write(step, lambda: [self._json(ours, record), _text(readable, text)])

    def _write(self, step: int, make: Callable[[], list[Any]]) -> None:
        """Adds one event; what is in it is made in the background."""
        self._file.summary(step, lambda: _joined(make()))

    def _tensor(self, tag: str, values: npt.NDArray[Any]) -> Any:
        return protos.tensor(tag, values, self._content_for(tag))

    def _json(self, tag: str, record: Mapping[str, Any]) -> Any:
        return protos.text(tag, dumps(dict(record)), self._content_for(tag))

    def _content_for(self, tag: str) -> bytes:
        """What the axes mean; told once, in the tag's first record."""
        content = b"" if tag in self._described else self._content
        self._described.add(tag)
        return content


def _joined(summaries: list[Any]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[value for summary in summaries for value in summary.value])


def _text(tag: str, text: str) -> Any:
    from tensorboard.plugins.text.summary_v2 import text_pb

    return text_pb(tag, text)
