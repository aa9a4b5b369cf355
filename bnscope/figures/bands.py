"""One layer over steps: quantiles of every statistic, mini-batch values over moving ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnscope.events.run import Run
from bnscope.figures import base, curves, labels, theme
from bnscope.figures.quantities import QUANTITIES, step_title

# Title of each panel, and what is drawn in it: the later over the earlier.
_PANELS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "mean": (("moving_mean", theme.MOVING), ("batch_mean", theme.BATCH)),
    "variance": (("moving_variance", theme.MOVING), ("batch_variance", theme.BATCH)),
    "gamma": (("gamma", theme.MOVING),),
    "beta": (("beta", theme.MOVING),),
    "scale a = gamma / sqrt(moving variance + epsilon)": (("scale", theme.MOVING),),
    "|batch - moving mean| in sigma": (("distance", theme.BATCH),),
}

_GREY = "#8a8a8a"
_SECOND = base.place(1)
# More alerts than this would cover the curves.
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
    base.check_layer(run, layer)
    figure = base.panels(list(_PANELS), labels.text(layer))
    if not len(run.steps):
        return base.empty(figure, "nothing is recorded yet")
    for index, statistics in enumerate(_PANELS.values()):
        place = base.place(index)
        log = QUANTITIES[statistics[0][0]].log
        drawn = [
            trace
            for pair in statistics
            for trace in _traces(run, layer, pair, index, log=log)
        ]
        base.draw(figure, drawn, index)
        if log:
            base.log_axis(figure, [trace.y for trace in drawn], place)
        if not drawn:
            base.say_in_panel(figure, "mini-batch values could not be told", index)
    _mark_epsilon(figure, run, layer)
    _mark_alerts(figure, run, layer)
    figure.update_xaxes(title_text=step_title(run), row=3)
    return figure


def _traces(
    run: Run, layer: str, pair: tuple[str, str], index: int, *, log: bool
) -> list[Any]:
    statistic, color = pair
    name = "mini-batch" if color == theme.BATCH else "moving, and variables"
    return curves.quantile_band(
        run, layer, statistic, color=color, name=name, log=log, legend=index == 0
    )


def _mark_epsilon(figure: Any, run: Run, layer: str) -> None:
    """A line at epsilon: a variance far below it belongs to a dead channel."""
    rows = run.starts[-1].get("layers", []) if run.starts else []
    epsilon = next((row.get("epsilon") for row in rows if row.get("layer") == layer), None)
    if isinstance(epsilon, (int, float)) and epsilon > 0:
        figure.add_hline(
            y=epsilon, line={"dash": "dash", "width": 1, "color": _GREY}, **_SECOND
        )
        figure.add_annotation(
            text=f"epsilon {epsilon:g}",
            x=0,
            xref="x domain",
            xanchor="left",
            y=float(np.log10(epsilon)),  # a logarithmic axis takes shapes by their values
            yanchor="bottom",
            showarrow=False,
            font={"color": _GREY, "size": 11},
            **_SECOND,
        )


def _mark_alerts(figure: Any, run: Run, layer: str) -> None:
    """A vertical line at each step with an alert of this layer."""
    marks: dict[int, set[str]] = {}
    for alert in run.alerts:
        if alert.get("layer") == layer:
            marks.setdefault(int(alert.get("step", 0)), set()).add(str(alert.get("code")))
    for step, codes in list(marks.items())[:_MOST_MARKS]:
        figure.add_vline(x=step, line={"color": theme.ALARM, "dash": "dot", "width": 1})
        figure.add_annotation(
            text=labels.text(", ".join(sorted(codes))),
            x=step,
            y=1,
            yref="y domain",
            xanchor="left",
            yanchor="top",
            showarrow=False,
            font={"color": theme.ALARM, "size": 11},
        )
