"""Lines and bands over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.bn import Array
from bnscope.events.run import Run
from bnscope.figures import labels, theme
from bnscope.figures.scales import positive
from bnscope.figures.sheet import Trace
from bnscope.figures.thinning import Bins
from bnscope.statistics.quantiles import COLUMNS

_SHOWN = ("min", "q05", "q25", "q50", "q75", "q95", "max")
_ENDS = (("min", "since_min"), ("max", "since_max"))
_TOLD = (*_SHOWN, "nonfinite", *(since for _, since in _ENDS))
# A line of so few values has markers.
_FEW = 40
_HOVER = (
    "step %{x}<br>median %{customdata[3]:.4g}"
    "<br>25 to 75 %: %{customdata[2]:.4g} to %{customdata[4]:.4g}"
    "<br>5 to 95 %: %{customdata[1]:.4g} to %{customdata[5]:.4g}"
    "<br>all: %{customdata[0]:.4g} to %{customdata[6]:.4g}"
    "<br>not finite: %{customdata[7]:d}"
)


def quantile_band(  # noqa: PLR0913
    run: Run,
    layer: str,
    statistic: str,
    *,
    color: str,
    name: str,
    log: bool,
    extremes: bool = True,
    legend: bool = True,
) -> list[Trace]:
    """The quantiles of one statistic of one layer: bands, the median, dotted extremes.

    Returns:
        Traces; none if the statistic could not be told at any step.
    """
    bins = Bins(run.steps)
    values = run.quantiles(layer, statistic)
    if not np.isfinite(values[:, COLUMNS.index("q50")]).any():
        return []
    told = {column: bins(values[:, COLUMNS.index(column)], column) for column in _TOLD}
    for column, since in _ENDS:
        told[since] = np.where(np.isfinite(told[since]), told[since], told[column])
    drawn = told
    if log:  # all at once, or each line would have a floor of its own
        lines = [column for column in told if column != "nonfinite"]
        heights = positive(np.stack([told[column] for column in lines]))
        drawn = dict(zip(lines, heights, strict=True))
    group = {"legendgroup": name, "name": name}
    made = [
        area(bins.steps, drawn["q05"], drawn["q95"], theme.faded(color, 0.16), group),
        area(bins.steps, drawn["q25"], drawn["q75"], theme.faded(color, 0.28), group),
    ]
    if extremes:
        made += [
            _line(bins.steps, drawn[since], color, group, dash="dot", width=1)
            for _, since in _ENDS
        ]
    median = _line(bins.steps, drawn["q50"], color, group, width=2, points=True) | {
        **_columns(told),
        "hovertemplate": _HOVER + _extra(name),
        "hoverinfo": None,
        "showlegend": legend,
    }
    return [*made, median]


def line(  # noqa: PLR0913
    steps: Sequence[float] | npt.NDArray[Any],
    values: Array,
    *,
    color: str,
    name: str,
    told: Mapping[str, Array],
    hover: npt.NDArray[np.str_] | None = None,
    legend: bool = False,
) -> Trace:
    """One line; short ones have markers, so that single values are seen.

    Args:
        steps: of each value.
        values: what is drawn.
        color: of the line.
        name: what it is of.
        told: what tables say of each value, by column; the first is what hovering says: on a
            logarithmic axis not every value stands where it is drawn.
        hover: a text for each value.
        legend: whether the legend has it.
    """
    group = {"name": name, "legendgroup": name}
    return _line(steps, values, color, group, width=2, points=True) | {
        **_columns(told),
        "showlegend": legend,
        "hoverinfo": None,
        "hovertemplate": f"step %{{x}}: %{{customdata[0]:.4g}}{'' if hover is None else '<br>%{text}'}"
        + _extra(name),
        "text": hover,
    }


def _extra(name: str) -> str:
    """What stands beside a hovering's text."""
    return f"<extra>{labels.in_template(name)}</extra>"


def _columns(told: Mapping[str, Array]) -> Trace:
    """What hovering and tables say of each point, by column."""
    values = np.stack(list(told.values()), -1)
    return {"customdata": values.astype(np.float32), "meta": {"columns": list(told)}}


def _line(  # noqa: PLR0913
    steps: Any,
    values: Array,
    color: str,
    group: dict[str, Any],
    *,
    width: float,
    dash: str | None = None,
    points: bool = False,
) -> Trace:
    """A line; one of a single value, and a short one with `points`, has markers."""
    few = np.isfinite(values).sum() <= (_FEW if points else 1)
    return {
        "type": "scatter",
        "x": steps,
        "y": values.astype(np.float32),
        "mode": "lines+markers" if few else "lines",
        "marker": {"size": 5, "color": color} if few else None,
        "line": {"color": color, "width": width, "dash": dash},
        "hoverinfo": "skip",
        "showlegend": False,
        **group,
    }


def area(
    steps: npt.NDArray[Any], low: Array, high: Array, color: str, group: dict[str, Any]
) -> Trace:
    """The area between two lines, in one piece for each stretch without a gap."""
    xs: list[npt.NDArray[Any]] = []
    ys: list[npt.NDArray[Any]] = []
    for part in _stretches(np.isfinite(low) & np.isfinite(high)):
        gap = [np.array([np.nan])] if xs else []
        xs += [*gap, steps[part], steps[part][::-1]]
        ys += [*gap, low[part], high[part][::-1]]
    empty = np.zeros(0)
    return {
        "type": "scatter",
        "x": np.concatenate([empty, *xs]).astype(np.float64),
        "y": np.concatenate([empty, *ys]).astype(np.float32),
        "mode": "lines",
        "fill": "toself",
        "fillcolor": color,
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        **group,
    }


def _stretches(there: npt.NDArray[np.bool_]) -> list[slice]:
    """Where values are there without a gap."""
    edges = np.flatnonzero(
        np.diff(np.concatenate([[False], there, [False]]).astype(np.int8))
    )
    return [slice(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
