"""The whole model over steps, in a handful of numbers: the worst layer's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnscope.bn import Array
from bnscope.events.run import Run
from bnscope.figures import curves, labels, theme
from bnscope.figures.quantities import missing, step_title
from bnscope.figures.scales import positive
from bnscope.figures.sheet import Sheet, Trace
from bnscope.figures.thinning import Bins
from bnscope.statistics.layout import VARIABLES

_COLUMNS = 3


@dataclass(frozen=True, slots=True)
class _Trend:
    """One number of the whole model.

    Args:
        title: what it is.
        values: the number of each layer, shape `(records, layers)`.
        log: whether it spans powers of ten.
        smallest: whether the worst layer is that with the smallest one.
        of_batches: whether it needs mini-batch statistics.
    """

    title: str
    values: Callable[[Run], Array]
    log: bool = False
    smallest: bool = False
    of_batches: bool = False


def trends(runs: Mapping[str, Run | None]) -> Any:
    """Model-level trends of one or more runs; hovering names the layer that a value is of.

    Args:
        runs: the runs by name; None keeps the colour of one that cannot be read.

    Returns:
        A plotly figure.
    """
    titles = [trend.title for trend in _TRENDS]
    sheet = Sheet("The model over steps", titles, _COLUMNS)
    shown = [
        (number, name, run)  # a run has its colour in every figure
        for number, (name, run) in enumerate(runs.items())
        if run is not None and len(run.steps)
    ]
    if not shown:
        return sheet.empty("nothing is recorded yet")
    for index, trend in enumerate(_TRENDS):
        legend = index == 0 and len(shown) > 1
        drawn = [
            _trace(run, trend, number, name) | {"showlegend": legend}
            for number, name, run in shown
        ]
        sheet.draw(drawn, index)
        if trend.log:
            sheet.log_axis(index, [trace["y"] for trace in drawn])
        elif trend.values in {_dead, _not_finite}:
            sheet.axis("y", index, rangemode="tozero")
        if not any(np.isfinite(trace["y"]).any() for trace in drawn):
            sheet.say_empty(missing(of_batches=trend.of_batches), index)
    known = [run for _, _, run in shown]
    sheet.label_steps(step_title(*known), *(run.steps for run in known))
    return sheet.figure()


def _trace(run: Run, trend: _Trend, number: int, name: str) -> Trace:
    """The worst layer's value at each step."""
    bins = Bins(run.steps)
    layers = bins(trend.values(run), "min" if trend.smallest else "max")
    badness = np.nan_to_num(-layers if trend.smallest else layers, nan=-np.inf)
    worst = badness.argmax(1)
    values = np.take_along_axis(layers, worst[:, None], 1)[:, 0]
    names = np.array([labels.text(layer) for layer in run.layers])
    return curves.line(
        bins.steps,
        positive(values) if trend.log else values,
        color=theme.RUNS[number % len(theme.RUNS)],
        name=labels.text(name),
        told={"y": values},
        hover=names[worst],
    )


def _largest_gamma(run: Run) -> Array:
    low, high = run.across("gamma", "since_min"), run.across("gamma", "since_max")
    return np.fmax(np.abs(low), np.abs(high))


def _dead(run: Run) -> Array:
    return 100.0 * run.field("dead_share")


def _not_finite(run: Run) -> Array:
    counts = [run.across(name, "since_nonfinite") for name in VARIABLES]
    return np.asarray(np.stack(counts).sum(0))


_TRENDS = (
    _Trend(
        "smallest moving variance",
        lambda run: run.across("moving_variance", "since_min"),
        log=True,
        smallest=True,
    ),
    _Trend(
        "largest moving variance",
        lambda run: run.across("moving_variance", "since_max"),
        log=True,
    ),
    _Trend("largest |gamma|", _largest_gamma),
    _Trend(
        "largest batch-moving distance (sigma)",
        lambda run: run.across("distance", "q50"),
        log=True,
        of_batches=True,
    ),
    _Trend("dead channels of the worst layer (%)", _dead),
    _Trend("values not finite in the worst layer", _not_finite),
)
