"""The layer x step heat map of any statistic."""

from __future__ import annotations

from typing import Any

import numpy as np

from bnscope.events.run import Run
from bnscope.figures import labels, scales
from bnscope.figures.quantities import COLUMN_TITLES, COUNTS, across, quantity, step_title
from bnscope.figures.sheet import Sheet, Trace
from bnscope.figures.thinning import Bins
from bnscope.statistics.layout import VARIABLES

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
    what = quantity(statistic)
    column = column or what.column
    bins = Bins(run.steps)
    values = bins(across(run, statistic, column), column).T
    names, paths = labels.short(run.layers), labels.texts(run.layers)
    title = (
        f"{what.title}, {COLUMN_TITLES.get(column, column)}" if what.column else what.title
    )
    height = int(np.clip(_ROW * len(names), _LEAST_HEIGHT, _MOST_HEIGHT))
    sheet = Sheet(title[:1].upper() + title[1:], height=height)
    if not values.size:
        return sheet.empty("nothing is recorded yet")
    crosses = _not_finite(run, bins, statistic, paths)
    bare = bool(np.isnan(values).all())
    if bare and not len(crosses["x"]):
        return sheet.empty(f"the {what.title} could not be told in this run")
    log = what.log and column not in COUNTS
    signed = what.signed and column not in COUNTS
    scale = scales.log_colors(values) if log else scales.colors(values, signed=signed)
    cells = scales.cells(bins.steps, paths, values, scale, name=statistic)
    told = {"meta": {"layers": list(run.layers)}}  # what a click on a row is about
    sheet.draw([cells | {"showscale": not bare} | told, crosses | told])
    sheet.make_room(labels.shortened(run.layers))
    sheet.label_steps(step_title(run), bins.steps)
    sheet.axis("x", showgrid=False, zeroline=False)
    # Hovering shows the full path, which is the category; the axis has the short names.
    axis: dict[str, Any] = {"autorange": "reversed", "showgrid": False, "type": "category"}
    aliases = dict(zip(paths, names, strict=True))
    sheet.axis("y", **axis, showticklabels=False)
    sheet.axis("y", 1, **axis, overlaying="y", matches="y", side="left", labelalias=aliases)
    return sheet.figure()


def _not_finite(run: Run, bins: Bins, statistic: str, paths: list[str]) -> Trace:
    """Crosses where channels were not finite."""
    counts = bins(run.across(_read_of(statistic), "since_nonfinite"), "since_nonfinite")
    places, layers = np.nonzero(np.nan_to_num(counts) > 0)
    made = scales.crosses(
        bins.steps[places],
        [paths[layer] for layer in layers],
        "step %{x}: %{customdata[0]:d} channels not finite",
    )
    return made | {
        "yaxis": "y2",
        "customdata": np.stack([counts[places, layers], layers], -1),
    }


def _read_of(statistic: str) -> str:
    """The variable a statistic is told from; mini-batch values are NaN for other reasons too."""
    if statistic in VARIABLES:
        return statistic
    return "moving_mean" if statistic == "batch_mean" else "moving_variance"
