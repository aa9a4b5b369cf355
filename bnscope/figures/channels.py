"""The channels of one layer: all of them through time, or one of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.bn import Array
from bnscope.events.run import Run
from bnscope.figures import curves, labels, scales, theme
from bnscope.figures.quantities import QUANTITIES, missing, position, step_title
from bnscope.figures.sheet import Sheet, Trace
from bnscope.statistics.layout import VARIABLES

SORTS = ("worst", "change", "number")
_ROW = 14
_LEAST_HEIGHT, _MOST_HEIGHT = 220, 700
_ENDS = (0.05, 0.95)
_NONE_YET = "values of every channel are recorded at the end of epochs"


def channel_map(
    run: Run, layer: str, variable: str = "moving_variance", sort: str = "worst"
) -> Any:
    """One variable of every channel of a layer, at the recorded epochs.

    Args:
        run: the run.
        layer: path of the layer.
        variable: `gamma`, `beta`, `moving_mean` or `moving_variance`.
        sort: which channels stand at the top: `"worst"` (not finite, then the smallest
            variance or |gamma|, the largest |mean| or |beta|), `"change"` (those that changed
            most), or `"number"`.

    Returns:
        A plotly figure.

    Raises:
        ValueError: if there is no such layer, variable or order.
    """
    position(run, layer)
    if sort not in SORTS:
        raise ValueError(f"There is no order {sort!r}; there are {', '.join(SORTS)}.")
    values = run.channels(layer, variable)
    quantity = QUANTITIES[variable]
    height = int(np.clip(_ROW * values.shape[1], _LEAST_HEIGHT, _MOST_HEIGHT))
    title = f"{labels.text(layer)}: {quantity.title} of every channel"
    sheet = Sheet(title, height=height)
    if not values.size:
        return sheet.empty(_NONE_YET)
    order = _order(values, variable, sort)
    shown = values[:, order].T
    scale = (
        scales.log_colors(shown)
        if quantity.log
        else scales.colors(shown, signed=quantity.signed)
    )
    rows = [f"channel {channel}" for channel in order]
    cells = scales.cells(run.channel_steps, rows, shown, scale, name=variable)
    sheet.make_room(rows)
    crosses = _not_finite(run, rows, shown)
    sheet.draw([cells | {"showscale": bool(np.isfinite(shown).any())}, crosses])
    sheet.label_steps(step_title(run), run.channel_steps)
    sheet.axis("x", showgrid=False, zeroline=False)
    sheet.axis("y", autorange="reversed", type="category", showgrid=False)
    return sheet.figure()


def _not_finite(run: Run, rows: list[str], values: Array) -> Trace:
    """A cross in each row where it was first not finite."""
    broken = ~np.isfinite(values)
    places = np.flatnonzero(broken.any(1))
    since = run.channel_steps[broken[places].argmax(1)]
    return scales.crosses(
        since, [rows[place] for place in places], "not finite from step %{x} on"
    )


def channel(run: Run, layer: str, number: int | None = None) -> Any:
    """One channel followed through time, over the middle 90 % of its layer's channels.

    Args:
        run: the run.
        layer: path of the layer.
        number: the channel, counted from 0; None for the one with the smallest variance at the
            end.

    Returns:
        A plotly figure.

    Raises:
        ValueError: if there is no such layer or channel.
    """
    width = run.widths[position(run, layer)]
    if number is None:
        variances = run.channels(layer, "moving_variance")
        number = (
            int(_order(variances, "moving_variance", "worst")[0]) if len(variances) else 0
        )
    if not 0 <= number < width:
        raise ValueError(
            f"There is no channel {number}; {layer} has channels 0 to {width - 1}."
        )
    titles = [QUANTITIES[name].title for name in VARIABLES]
    sheet = Sheet(f"{labels.text(layer)}: channel {number}", titles, columns=2)
    sheet.layout["meta"] = {"channel": number}
    if not len(run.channel_steps):
        return sheet.empty(_NONE_YET)
    for index, name in enumerate(VARIABLES):
        log = QUANTITIES[name].log
        values = run.channels(layer, name)
        shown = scales.positive(values) if log else values
        ends = dict(zip(("q05", "q95"), _middle(values), strict=True))
        group = {"name": "5 to 95 % of the channels", "legendgroup": "others"}
        others = curves.area(
            run.channel_steps, *_middle(shown), theme.faded(theme.MOVING, 0.2), group
        )
        one = curves.line(
            run.channel_steps,
            shown[:, number],
            color=theme.BATCH,
            name=f"channel {number}",
            told={"y": values[:, number], **ends},
            legend=index == 0,
        )
        sheet.draw([others | {"showlegend": index == 0}, one], index)
        if not np.isfinite(shown).any():
            sheet.say_empty(missing(of_batches=False), index)
        if log:
            sheet.log_axis(index, [shown])
    sheet.label_steps(step_title(run), run.channel_steps)
    return sheet.figure()


def _order(values: Array, variable: str, sort: str) -> npt.NDArray[np.int64]:
    """The channels, those at the top first."""
    if sort == "number":
        return np.arange(values.shape[1])
    last = values[-1]
    if sort == "change":
        shown = np.log10(scales.positive(values)) if QUANTITIES[variable].log else values
        with np.errstate(invalid="ignore"):  # what is not finite comes first anyway
            badness = np.abs(shown[-1] - shown[0])
    elif variable == "moving_variance":
        badness = -last
    elif variable == "gamma":
        badness = -np.abs(last)
    else:
        badness = np.abs(last)
    broken = ~np.isfinite(values).all(0)
    return np.argsort(-np.where(broken, np.inf, badness), kind="stable")


def _middle(values: Array) -> tuple[Array, Array]:
    """5 and 95 % quantile of the channels at each step."""
    finite = np.isfinite(values)
    whole = finite.all(1)
    ends = np.full((len(values), 2), np.nan)
    ends[whole] = np.quantile(values[whole], _ENDS, axis=1).T  # many times as fast
    for step in np.flatnonzero(finite.any(1) & ~whole):
        ends[step] = np.quantile(values[step, finite[step]], _ENDS)
    return ends[:, 0], ends[:, 1]
