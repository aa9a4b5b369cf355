"""How the channels of one layer are distributed at one step."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from bnscope.bn import Array
from bnscope.events.run import Run
from bnscope.figures import labels, theme
from bnscope.figures.quantities import QUANTITIES, position
from bnscope.figures.scales import positive
from bnscope.figures.sheet import Sheet, Trace
from bnscope.statistics.layout import VARIABLES

_MOST_BINS = 40


def histograms(run: Run, layer: str, step: int | None = None) -> Any:
    """Histograms of gamma, beta, moving mean and moving variance over a layer's channels.

    Args:
        run: the run.
        layer: path of the layer.
        step: the step; the nearest one with values of every channel is taken. None for the
            last one.

    Returns:
        A plotly figure.

    Raises:
        ValueError: if there is no such layer.
    """
    position(run, layer)
    steps = run.channel_steps
    if not len(steps):
        sheet = Sheet(labels.text(layer))
        return sheet.empty("values of every channel are recorded at the end of epochs")
    index = len(steps) - 1 if step is None else int(np.argmin(np.abs(steps - step)))
    values = {name: run.channels(layer, name)[index] for name in VARIABLES}
    titles = [_title(QUANTITIES[name].title, values[name]) for name in VARIABLES]
    sheet = Sheet(
        f"{labels.text(layer)}: channels at step {steps[index]}", titles, len(titles)
    )
    for place, name in enumerate(VARIABLES):
        log = QUANTITIES[name].log
        finite = values[name][np.isfinite(values[name])]
        if finite.size:
            sheet.draw([_steps(finite, log=log)], place)
        else:
            sheet.say_empty("no finite value", place)
        sheet.axis("x", place, matches=None, **_axis(finite, log=log))
    sheet.axis("y", title={"text": "channels"})
    return sheet.figure()


def _title(title: str, values: Array) -> str:
    bad = int((~np.isfinite(values)).sum())
    return f"{title} ({bad} not finite)" if bad else title


def _steps(values: Array, *, log: bool) -> Trace:
    """A histogram as an outline: bars have no width on a logarithmic axis."""
    places = np.log10(positive(values)) if log else values
    edges = _edges(places)
    counts, _ = np.histogram(places, edges)
    shown = 10.0**edges if log else edges
    # What has no logarithm stands in the lowest one, which says where it really is.
    ends = np.append(min(shown[0], values.min()), shown[1:])
    ranges = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(ends)]
    return {
        "type": "scatter",
        "x": np.concatenate([shown[:1], shown]),
        "y": np.concatenate([[0], counts, [0]]),
        "mode": "lines",
        "line": {"shape": "hv", "color": theme.MOVING, "width": 1.5},
        "fill": "tozeroy",
        "fillcolor": theme.faded(theme.MOVING, 0.35),
        "text": ["", *ranges, ""],
        "hovertemplate": "%{text}: %{y:d} channels<extra></extra>",
        "showlegend": False,
    }


def _axis(values: Array, *, log: bool) -> dict[str, Any]:
    """A few ticks; on a logarithmic axis at whole powers of ten if there are several."""
    if not log:
        return {"nticks": 5}
    span = np.ptp(np.log10(positive(values))) if values.size else 0.0
    ticks = {"dtick": int(np.ceil(span / 4))} if span >= 1 else {"nticks": 3}
    return {"type": "log", "exponentformat": "power", **ticks}


def _edges(values: Array) -> Array:
    low, high = float(values.min()), float(values.max())
    if high <= low:
        room = max(abs(low), 1.0) * 0.05
        return np.array([low - room, low + room])
    count = int(np.clip(np.sqrt(values.size) * 2, 4, _MOST_BINS))
    return np.linspace(low, high, count + 1)
