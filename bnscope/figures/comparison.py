"""The same layer in several runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnscope.events.run import Run
from bnscope.figures import curves, labels, theme
from bnscope.figures.quantities import OF_BATCHES, QUANTITIES, missing, step_title
from bnscope.figures.sheet import Sheet, Trace
from bnscope.statistics.layout import STATISTICS


def comparison(runs: Mapping[str, Run | None], layer: str) -> Any:
    """The quantiles of every statistic of one layer, each run in a colour.

    Args:
        runs: the runs by name; those that do not have the layer are left out, and None keeps
            the colour of one that cannot be read.
        layer: path of the layer.

    Returns:
        A plotly figure.

    Raises:
        ValueError: if no run has the layer.
    """
    shown = [
        (number, name, run)  # a run has its colour in every figure
        for number, (name, run) in enumerate(runs.items())
        if run is not None and layer in run.layers
    ]
    if not shown:
        raise ValueError(f"There is no layer {layer!r} in these runs.")
    titles = [QUANTITIES[name].title.split(" = ")[0] for name in STATISTICS]
    sheet = Sheet(labels.text(layer), titles, columns=2)
    if not any(len(run.steps) for _, _, run in shown):
        return sheet.empty("nothing is recorded yet")
    for index, statistic in enumerate(STATISTICS):
        log = QUANTITIES[statistic].log
        drawn: list[Trace] = []
        for number, name, run in shown:
            drawn += curves.quantile_band(
                run,
                layer,
                statistic,
                color=theme.RUNS[number % len(theme.RUNS)],
                name=labels.text(name),
                log=log,
                extremes=False,
                legend=index == 0,
            )
        sheet.draw(drawn, index)
        if log:
            sheet.log_axis(index, [trace["y"] for trace in drawn])
        if not drawn:
            sheet.say_empty(missing(of_batches=statistic in OF_BATCHES), index)
    known = [run for _, _, run in shown]
    sheet.label_steps(step_title(*known), *(run.steps for run in known))
    return sheet.figure()
