"""One layer over steps: quantiles of every statistic, mini-batch values over moving ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnscope.events.run import Run
from bnscope.figures import curves, labels, theme
from bnscope.figures.quantities import (
    OF_BATCHES,
    QUANTITIES,
    missing,
    position,
    step_title,
)
from bnscope.figures.sheet import Sheet

# Title of each panel, and what is drawn in it: the later over the earlier.
_PANELS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "mean": (("moving_mean", theme.MOVING), ("batch_mean", theme.BATCH)),
    "variance": (("moving_variance", theme.MOVING), ("batch_variance", theme.BATCH)),
    "gamma": (("gamma", theme.MOVING),),
    "beta": (("beta", theme.MOVING),),
    "scale a = gamma / sqrt(moving variance + epsilon)": (("scale", theme.MOVING),),
    "|batch - moving mean| in sigma": (("distance", theme.BATCH),),
}
_VARIANCE = 1
_GREY = "#8a8a8a"
# More alerts, or marks, than this would cover the curves.
_MOST_MARKS = 8


def bands(run: Run, layer: str) -> Any:
    """Quantile bands of one layer's channels over the logged steps.

    The inner band holds half of the channels, the outer one 90 %; dotted lines are the
    extremes of everything read. Mini-batch values (orange) lie over the moving ones (blue).

    Args:
        run: the run.
        layer: path of the layer.

    Returns:
        A plotly figure.

    Raises:
        ValueError: if there is no such layer.
    """
    position(run, layer)
    sheet = Sheet(labels.text(layer), list(_PANELS), columns=2)
    if not len(run.steps):
        return sheet.empty("nothing is recorded yet")
    for index, statistics in enumerate(_PANELS.values()):
        log = QUANTITIES[statistics[0][0]].log
        drawn = [
            trace
            for pair in statistics
            for trace in _traces(run, layer, pair, index, log=log)
        ]
        sheet.draw(drawn, index)
        if log:
            sheet.log_axis(index, [trace["y"] for trace in drawn])
        if not drawn:
            names = {name for name, _ in statistics}
            sheet.say_empty(missing(of_batches=names <= OF_BATCHES), index)
    _mark_epsilon(sheet, run, layer)
    _mark_steps(sheet, run, layer)
    sheet.label_steps(step_title(run), run.steps)
    return sheet.figure()


def _traces(
    run: Run, layer: str, pair: tuple[str, str], index: int, *, log: bool
) -> list[Any]:
    statistic, color = pair
    name = "mini-batch" if color == theme.BATCH else "moving values, gamma, beta, scale"
    return curves.quantile_band(
        run, layer, statistic, color=color, name=name, log=log, legend=index == 0
    )


def _mark_epsilon(sheet: Sheet, run: Run, layer: str) -> None:
    """A line at epsilon: a variance far below it belongs to a dead channel."""
    epsilon = run.row(layer).get("epsilon")
    if not isinstance(epsilon, (int, float)) or epsilon <= 0:
        return
    epsilon = float(epsilon)
    sheet.line(_VARIANCE, y=epsilon, dash="dash", width=1, color=_GREY)
    log = sheet.layout["yaxis2"].get("type") == "log"
    sheet.note(
        f"epsilon {epsilon:g}",
        _VARIANCE,
        x=0,
        xanchor="left",
        y=float(np.log10(epsilon)) if log else epsilon,
        yref="y2",
        yanchor="top",
        font={"color": _GREY, "size": 11},
    )


def _mark_steps(sheet: Sheet, run: Run, layer: str) -> None:
    """Vertical lines at the steps with an alert of this layer, and at what callbacks did to it."""
    alerts = [(each, each.get("code")) for each in run.alerts if each.get("layer") == layer]
    marks = [
        (each, each.get("act")) for each in run.marks if layer in (each.get("layers") or ())
    ]
    for told, color, side in ((alerts, theme.ALARM, "top"), (marks, _GREY, "bottom")):
        steps: dict[int, set[str]] = {}
        for each, name in told:
            steps.setdefault(int(each.get("step") or 0), set()).add(str(name))
        for step, names in list(steps.items())[:_MOST_MARKS]:
            for index in range(len(_PANELS)):
                sheet.line(index, x=step, color=color, dash="dot", width=1)
            sheet.note(
                labels.text(", ".join(sorted(names))),
                x=step,
                xref="x",
                xanchor="left",
                y=1 if side == "top" else 0,
                yanchor=side,
                font={"color": color, "size": 11},
            )
