"""The layer x step heat map of any statistic."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnscope.bn import Array
from bnscope.events.run import Run
from bnscope.figures import base, labels, scales, theme
from bnscope.figures.quantities import COLUMN_TITLES, COUNTS, QUANTITIES, across, step_title
from bnscope.figures.thinning import Bins

_ROW = 16
_LEAST_HEIGHT, _MOST_HEIGHT = 300, 1100


def layer_map(
    run: Run, statistic: str = "moving_variance", column: str | None = None
) -> Any:
    """One statistic of all layers over the logged steps.

    Crosses mark where values were not finite. Where there are more records than columns on a
    screen, a column stands for several and keeps their extreme.

    Args:
        run: the run.
        statistic: `gamma`, `beta`, `moving_mean`, `moving_variance`, `batch_mean`,
            `batch_variance`, `distance`, `scale` or `dead_share`.
        column: which number of a layer's channels, as in `Run.statistic`; by default the one
            that tells most.

    Returns:
        A plotly figure.

    Raises:
        ValueError: if there is no such statistic or column.
    """
    quantity = base.quantity(statistic)
    column = column or quantity.column
    bins = Bins(run.steps)
    values = bins(across(run, statistic, column), column).T
    names, paths = labels.short(run.layers), [labels.text(path) for path in run.layers]
    title = quantity.title
    if quantity.column:
        title = f"{title}, {COLUMN_TITLES.get(column, column)}"
    figure = base.figure(
        title=title[:1].upper() + title[1:],
        height=int(np.clip(_ROW * len(names), _LEAST_HEIGHT, _MOST_HEIGHT)) + 110,
    )
    if not values.size:
        return base.empty(figure, "nothing is recorded yet")
    if np.isnan(values).all():
        return base.empty(figure, f"the {quantity.title} could not be told in this run")
    log = quantity.log and column not in COUNTS
    figure.add_trace(_cells(bins, values, paths, statistic, log=log))
    figure.add_trace(_not_finite(run, bins, statistic, paths))
    figure.update_xaxes(title_text=step_title(run), showgrid=False, zeroline=False)
    # Hovering shows the full path, which is the category; the axis has the short names.
    axis = {"autorange": "reversed", "showgrid": False, "type": "category"}
    figure.update_layout(
        yaxis={**axis, "showticklabels": False},
        yaxis2={
            **axis,
            "overlaying": "y",
            "matches": "y",
            "side": "left",
            "labelalias": dict(zip(paths, names, strict=True)),
        },
    )
    return figure


def _cells(
    bins: Bins, values: Array, paths: list[str], statistic: str, *, log: bool
) -> Any:
    signed = QUANTITIES[statistic].signed and not log
    scale = scales.log_colors(values) if log else scales.colors(values, signed=signed)
    return base.graph_objects().Heatmap(
        x=bins.steps,
        y=paths,
        z=scale.shown.astype(np.float32),
        customdata=values.astype(np.float32),
        colorscale=theme.DIVERGING if signed else theme.SEQUENTIAL,
        zmin=scale.low,
        zmax=scale.high,
        colorbar=scale.bar,
        hovertemplate="%{y}<br>step %{x}: %{customdata:.4g}<extra></extra>",
        hoverongaps=False,
        name=statistic,
    )


def _not_finite(run: Run, bins: Bins, statistic: str, paths: list[str]) -> Any:
    """Crosses where channels were not finite."""
    counts = bins(run.across(_read_of(statistic), "since_nonfinite"), "since_nonfinite")
    places, layers = np.nonzero(np.nan_to_num(counts) > 0)
    return base.graph_objects().Scatter(
        x=bins.steps[places],
        y=[paths[layer] for layer in layers],
        yaxis="y2",
        mode="markers",
        marker={"symbol": "x", "size": 7, "color": theme.ALARM},
        customdata=counts[places, layers],
        hovertemplate="%{y}<br>step %{x}: %{customdata:d} channels not finite<extra></extra>",
        name="not finite",
        showlegend=False,
    )


def _read_of(statistic: str) -> str:
    """The variable a statistic is told from; mini-batch values are NaN for other reasons too."""
    return {"batch_mean": "moving_mean", "gamma": "gamma", "beta": "beta"}.get(
        statistic, "moving_variance"
    )
