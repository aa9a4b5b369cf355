"""One row for each BN layer: what it is, what surrounds it, what it holds, whether it folds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bnscope.bn import AnyArray, BatchNormState, dead_channels
from bnscope.folding.plan import Verdict, make_plan
from bnscope.graph import batchnorm, kinds, read
from bnscope.graph.model import Graph, Layer, NotAnalysed

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class BatchNormRow:
    """One BN layer.

    Args:
        layer: path of the layer.
        fed_by: what its input comes from, one entry a call.
        feeds: what takes its output.
        channels: number of channels; None where it is not known.
        axis: the channel axis as written.
        momentum: momentum of the moving averages; None where it is not known.
        epsilon: added to the variance; None where it is not known.
        trainable: False for a frozen layer; None where it is not known.
        calls: how often the model calls it; 0 inside a wrapper or where not known.
        gamma: smallest and largest value; None without gamma, or where values are not known.
        beta: likewise.
        moving_mean: likewise.
        moving_variance: likewise.
        dead_channels: channels with a constant input or a gamma near 0; None where not known.
        folds_into: path of the layer that can take it; None if none can.
        reason: reason code if it cannot be folded.
        detail: the reason in words, or what it is folded through.
    """

    layer: str
    fed_by: tuple[str, ...]
    feeds: tuple[str, ...]
    channels: int | None
    axis: int | None
    momentum: float | None
    epsilon: float | None
    trainable: bool | None
    calls: int
    gamma: Range | None
    beta: Range | None
    moving_mean: Range | None
    moving_variance: Range | None
    dead_channels: int | None
    folds_into: str | None
    reason: str | None
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """The row for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Inspection:
    """The BN layers of one model; iterate over it to get the rows, in forward order.

    Args:
        path: the file, or the name of a live model.
        rows: one row a BN layer.
        not_analysed: what could not be analysed, and why.
    """

    path: str
    rows: tuple[BatchNormRow, ...]
    not_analysed: tuple[NotAnalysed, ...] = ()

    def __iter__(self) -> Iterator[BatchNormRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The inspection for JSON."""
        return {
            "path": self.path,
            "not_analysed": [asdict(part) for part in self.not_analysed],
            "layers": [row.to_dict() for row in self.rows],
        }

    def to_html(self) -> str:
        """A page for browsers; no script in it."""
        from bnscope.tables import inspection_page

        return inspection_page(self)

    def __str__(self) -> str:
        from bnscope.tables import as_text, inspection_table

        return as_text(inspection_table(self))


def inspect(
    model_or_path: Any, *, config: str | os.PathLike[str] | None = None
) -> Inspection:
    """Looks at every BN layer of a saved or live model. A file is never run.

    Args:
        model_or_path: a path (`.keras`, `.h5`, `.json`) or a `keras.Model`.
        config: the JSON of `model.to_json()`, which completes a file with only weights.

    Returns:
        One row a BN layer, in forward order.

    Raises:
        UnreadableModelError: if the file is missing, damaged or no Keras model.
        UnsupportedModelError: if a live object is no Keras 3 model.
    """
    is_file = isinstance(model_or_path, (str, os.PathLike))
    return inspect_graph(
        read(model_or_path, config), path=os.fspath(model_or_path) if is_file else None
    )


def inspect_graph(graph: Graph, *, path: str | None = None) -> Inspection:
    """Looks at every BN layer of a graph."""
    verdicts = {verdict.layer: verdict for verdict in make_plan(graph).verdicts}
    rows = tuple(
        _row(graph, layer, verdicts.get(layer.path))
        for layer in batchnorm.batch_norms(graph)
    )
    return Inspection(path or graph.name, rows, graph.not_analysed)


def _row(graph: Graph, layer: Layer, verdict: Verdict | None) -> BatchNormRow:
    calls = graph.calls_of(layer)
    state = batchnorm.state(layer)
    return BatchNormRow(
        layer=layer.path,
        fed_by=tuple(_fed_by(graph, layer)),
        feeds=tuple(_feeds(graph, layer)),
        channels=batchnorm.channels(layer),
        axis=batchnorm.axis(layer) if layer.config_known else None,
        momentum=batchnorm.known_momentum(layer),
        epsilon=batchnorm.known_epsilon(layer),
        trainable=layer.trainable if layer.config_known else None,
        calls=len(calls),
        gamma=_range(state.gamma if state else None),
        beta=_range(state.beta if state else None),
        moving_mean=_range(state.moving_mean if state else None),
        moving_variance=_range(state.moving_variance if state else None),
        dead_channels=_dead(state),
        folds_into=verdict.into if verdict else None,
        reason=verdict.reason if verdict else None,
        detail=verdict.detail if verdict else "",
    )


def _fed_by(graph: Graph, layer: Layer) -> Iterator[str]:
    calls = graph.calls_of(layer)
    for call in calls:
        if call.inputs:
            yield kinds.describe(graph.producer(call.inputs[0]))
    if not calls:
        outer = graph.holder(layer)
        if outer is not None:
            yield f'inside {outer.kind.removeprefix("custom.")} "{outer.path}"'


def _feeds(graph: Graph, layer: Layer) -> Iterator[str]:
    for call in graph.calls_of(layer):
        for output in call.outputs:
            yield from (kinds.describe(consumer) for consumer in graph.consumers(output))
            if graph.is_output(output):
                yield "the output"


def _range(values: AnyArray | None) -> Range | None:
    if values is None or values.size == 0:
        return None
    wide = np.asarray(values, np.float64)
    return float(wide.min()), float(wide.max())


def _dead(state: BatchNormState | None) -> int | None:
    if state is None or not state.config_known:
        return None
    return int(dead_channels(state).sum())
