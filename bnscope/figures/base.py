"""What all figures share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnscope.bn import Array
from bnscope.errors import BnscopeError
from bnscope.events.run import Run
from bnscope.figures import theme
from bnscope.figures.quantities import QUANTITIES, Quantity

_MARGIN = {"l": 60, "r": 24, "b": 48}
# Height of the line with the legend.
_LEGEND = 28
# Between the middles of two rows of panels.
PANEL = 210
# So far below the middle of the values does a logarithmic axis reach.
_DECADES = 8.0
LEGEND = {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}


def figure(title: str, height: int) -> Any:
    """An empty figure.

    Raises:
        BnscopeError: if plotly is not installed.
    """
    return _styled(graph_objects().Figure(), title, height)


def panels(titles: Sequence[str], title: str, columns: int = 2) -> Any:
    """Panels side by side, whose steps are those of each other.

    Args:
        titles: title of each panel, in rows from the left.
        title: of the whole figure.
        columns: panels in a row.
    """
    graph_objects()
    from plotly.subplots import make_subplots

    rows = -(-len(titles) // columns)
    height = PANEL * rows + 90 + _LEGEND
    made = make_subplots(
        rows=rows,
        cols=columns,
        shared_xaxes="all",
        subplot_titles=titles,
        horizontal_spacing=0.09,
        vertical_spacing=0.3 * PANEL / height if rows > 1 else 0,
    )
    made.update_annotations(font_size=13)
    made.update_xaxes(showticklabels=True)
    made = _styled(made, title, height, top=76)
    return made.update_layout(legend=LEGEND, margin_b=_MARGIN["b"] + _LEGEND)


def draw(made: Any, traces: Sequence[Any], index: int, columns: int = 2) -> None:
    """Draws into a panel, whose title each trace carries: tables of the values need it."""
    title = made.layout.annotations[index].text
    for trace in traces:
        trace.meta = {**(trace.meta or {}), "panel": title}
    where = place(index, columns)
    made.add_traces(traces, rows=where["row"], cols=where["col"])


def place(index: int, columns: int = 2) -> dict[str, int]:
    """Row and column of a panel."""
    return {"row": index // columns + 1, "col": index % columns + 1}


def log_axis(made: Any, shown: Sequence[Array], where: dict[str, int]) -> None:
    """A logarithmic axis of a panel, which ends far below most values: zooming shows the rest.

    Args:
        made: the figure.
        shown: the values that are drawn.
        where: the panel.
    """
    made.update_yaxes(type="log", exponentformat="power", **where)
    values = np.concatenate([np.ravel(each) for each in shown]) if shown else np.zeros(0)
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size:
        return
    low, middle, high = np.log10([values.min(), np.median(values), values.max()])
    if low < middle - _DECADES:
        made.update_yaxes(range=[middle - _DECADES, high + 0.3], **where)


def say_in_panel(made: Any, reason: str, index: int, columns: int = 2) -> None:
    """Says in an empty panel why it is empty; without a trace plotly leaves it out."""
    where = place(index, columns)
    made.add_trace(graph_objects().Scatter(x=[None], y=[None], showlegend=False), **where)
    made.update_yaxes(showticklabels=False, type="linear", **where)
    made.add_annotation(
        text=reason,
        showarrow=False,
        x=0.5,
        y=0.5,
        xref="x domain",
        yref="y domain",
        exclude_empty_subplots=False,
        **where,
    )


def empty(made: Any, reason: str) -> Any:
    """The figure with the reason why there is nothing in it."""
    made.update_xaxes(visible=False)
    made.update_yaxes(visible=False)
    made.add_annotation(
        text=reason, showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5
    )
    return made.update_layout(height=160)


def quantity(name: str) -> Quantity:
    """A quantity by its name.

    Raises:
        ValueError: if there is none.
    """
    if name not in QUANTITIES:
        raise ValueError(
            f"There is no statistic {name!r}; there are {', '.join(QUANTITIES)}."
        )
    return QUANTITIES[name]


def check_layer(run: Run, layer: str) -> int:
    """Position of a layer in a run.

    Raises:
        ValueError: if there is none of that path.
    """
    if layer not in run.layers:
        raise ValueError(f"There is no layer {layer!r} in this run.")
    return run.layers.index(layer)


def graph_objects() -> Any:
    """`plotly.graph_objects`.

    Raises:
        BnscopeError: if plotly is not installed.
    """
    try:
        from plotly import graph_objects as go
    except ImportError as error:
        raise BnscopeError(
            "plotly is not installed.",
            "Install it with: pip install 'bnscope[tensorboard]'",
        ) from error
    return go


def _styled(made: Any, title: str, height: int, top: int = 56) -> Any:
    return made.update_layout(
        template=theme.template(),
        title={
            "text": title,
            "x": 0,
            "xref": "paper",
            "yref": "container",
            "y": 1,
            "yanchor": "top",
            "pad": {"t": 14},
            "font": {"size": 15},
        },
        height=height,
        margin={**_MARGIN, "t": top},
        hovermode="closest",
    )
