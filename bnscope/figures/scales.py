"""Colours and axes of values that span powers of ten, or lie around 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.bn import Array
from bnscope.figures import theme
from bnscope.figures.sheet import Trace

# Beyond it float32 has no smaller numbers, and what is 0 or less has no logarithm.
_SMALLEST = 1e-45
# Below the smallest positive value, what is 0 or less is drawn by so much of a power of ten.
_BELOW = 1.0
_LONGEST_LOG_BAR = 7
# A few extremes must not hide what the others do: colours end so far from the middle.
_SHARE = 0.99
_DECADES = 5.0


@dataclass(frozen=True, slots=True)
class Colors:
    """How values are coloured.

    Args:
        shown: the values on the scale of colours.
        low: where the colours begin.
        high: where they end.
        bar: plotly's colour bar.
        middle: whether 0 has a colour of its own, in the middle.
    """

    shown: Array
    low: float
    high: float
    bar: dict[str, Any]
    middle: bool = False


def cells(
    steps: npt.NDArray[Any],
    rows: list[str],
    values: Array,
    scale: Colors,
    *,
    name: str,
) -> Trace:
    """A heat map whose hovering shows the values themselves.

    Args:
        steps: of each column.
        rows: name of each row, none twice.
        values: shape `(rows, columns)`.
        scale: how they are coloured.
        name: what they are.
    """
    return {
        "type": "heatmap",
        "x": steps,
        "y": rows,
        "z": scale.shown.astype(np.float32),
        "customdata": values.astype(np.float32),
        "colorscale": theme.DIVERGING if scale.middle else theme.SEQUENTIAL,
        "zmin": scale.low,
        "zmax": scale.high,
        "colorbar": scale.bar,
        "hovertemplate": "%{y}<br>step %{x}: %{customdata:.4g}<extra></extra>",
        "hoverongaps": False,
        "name": name,
    }


def crosses(steps: npt.NDArray[Any], rows: list[str], told: str) -> Trace:
    """Crosses in a heat map, where values are not finite.

    Args:
        steps: of each cross.
        rows: name of the row of each cross.
        told: what hovering says, as plotly's template.
    """
    return {
        "type": "scatter",
        "x": steps,
        "y": rows,
        "mode": "markers",
        "marker": {"symbol": "x", "size": 7, "color": theme.ALARM},
        "hovertemplate": f"%{{y}}<br>{told}<extra></extra>",
        "name": "not finite",
        "showlegend": False,
    }


def positive(values: Array) -> Array:
    """Values for a logarithmic axis: what is 0 or less stands a power of ten below the rest."""
    above = values[np.isfinite(values) & (values > 0)]
    floor = max(above.min() * 10.0**-_BELOW, _SMALLEST) if above.size else _SMALLEST
    return np.where(values <= 0, floor, values)


def log_colors(values: Array) -> Colors:
    """Colours over the powers of ten."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shown = np.log10(positive(values))
    low, high = _span(shown)
    finite = shown[np.isfinite(shown)]
    if finite.size:
        middle = float(np.median(finite))
        ends = max(low, middle - _DECADES), min(high, middle + _DECADES)
    else:
        ends = low, high
    return Colors(shown, *ends, _log_bar(*ends, below=ends[0] > low, above=ends[1] < high))


def _log_bar(low: float, high: float, *, below: bool, above: bool) -> dict[str, Any]:
    """A bar whose ends say where colours stop."""
    step = max(1, int(np.ceil((high - low) / _LONGEST_LOG_BAR)))
    ticks = np.arange(np.ceil(low), np.floor(high) + 1, step)
    if len(ticks) < 2:  # noqa: PLR2004  less than two powers of ten
        ticks = np.linspace(low, high, 4)
    texts = [f"{10.0**tick:.2g}" for tick in ticks]
    if below:
        ticks, texts = ticks[ticks > low + step / 2], texts[-sum(ticks > low + step / 2) :]
        ticks, texts = np.append(low, ticks), [f"≤ {10.0**low:.1g}", *texts]
    if above:
        kept = ticks < high - step / 2
        ticks, texts = (
            np.append(ticks[kept], high),
            [*texts[: sum(kept)], f"≥ {10.0**high:.1g}"],
        )
    return _bar(tickvals=ticks.tolist(), ticktext=texts)


def colors(values: Array, *, signed: bool) -> Colors:
    """Colours over the values themselves.

    Args:
        values: what is coloured.
        signed: whether the colours have a middle at 0, where there are values on both sides.
    """
    low, high = _span(values)
    finite = values[np.isfinite(values)]
    if finite.size and signed:
        ends = np.quantile(finite, [1 - _SHARE, _SHARE])
        if ends[0] < 0 < ends[1]:
            high = float(np.abs(ends).max())
            return Colors(values, -high, high, _bar(), middle=True)
    return Colors(values, low, high, _bar())


def _span(values: Array) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low, low + 1.0)  # all in the lowest colour


def _bar(**ticks: Any) -> dict[str, Any]:
    return {"thickness": 12, "outlinewidth": 0, "len": 1, **ticks}
