"""A figure in the making: traces, axes and notes, in one panel or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.bn import Array
from bnscope.figures import theme
from bnscope.figures.loading import plotly

# A trace as plotly has it, with a type.
Trace = dict[str, Any]

# In pixels.
_LEFT, _RIGHT, _TOP, _BOTTOM, _LEGEND = 60, 24, 56, 48, 28
_PANEL, _GAP = 150, 60
_LETTER, _BAR = 7, 90
# Between panels side by side, as a share of the width.
_ASIDE = 0.09
# So far below the middle of the values does a logarithmic axis reach.
_DECADES = 8.0
_FEW_STEPS = 8
# Over fewer, one label for each power of ten would be too few.
_FEW_DECADES = 1.8


class Sheet:
    """A figure in the making.

    Plotly checks it once, when it is whole: checking part by part takes ten times as long.

    Args:
        title: of the figure, escaped.
        panels: the title of each panel, in rows from the left; one without a title by default.
        columns: panels in a row.
        height: of the drawing in pixels; None for that of the panels.
    """

    def __init__(
        self,
        title: str,
        panels: Sequence[str] = ("",),
        columns: int = 1,
        height: int | None = None,
    ) -> None:
        self._panels = list(panels)
        self._columns = columns
        rows = -(-len(self._panels) // columns)
        several = len(self._panels) > 1
        inner = (_PANEL * rows + _GAP * (rows - 1)) if height is None else height
        top, bottom = _TOP + 20 * several, _BOTTOM + _LEGEND * several
        self.data: list[Trace] = []
        self.layout: dict[str, Any] = {
            "template": theme.template(),
            "title": {
                "text": title,
                "x": 0,
                "xref": "paper",
                "yref": "container",
                "y": 1,
                "yanchor": "top",
                "pad": {"t": 14},
                "font": {"size": 15},
            },
            "height": top + inner + bottom,
            # Where plotly finds the margins itself it draws everything twice.
            "margin": {"l": _LEFT, "r": _RIGHT, "t": top, "b": bottom, "autoexpand": False},
            "hovermode": "closest",
            "legend": {
                "orientation": "h",
                "x": 0,
                "y": 0,
                "yref": "container",
                "yanchor": "bottom",
            },
            "annotations": [],
            "shapes": [],
        }
        self._place(rows, _GAP / inner)

    def draw(self, traces: Sequence[Trace], index: int = 0) -> None:
        """Draws into a panel, whose title each trace carries: tables of the values need it."""
        title = self._panels[index]
        for trace in traces:
            meta = {**trace.get("meta", {}), "panel": title}
            place = {"xaxis": self._name("x", index), "yaxis": self._name("y", index)}
            self.data.append({**place, **trace, "meta": meta})

    def axis(self, letter: str, index: int = 0, **settings: Any) -> None:
        """Changes the `x` or `y` axis of a panel."""
        name = f"{letter}axis{index + 1 if index else ''}"
        self.layout.setdefault(name, {}).update(settings)

    def make_room(self, rows: Sequence[str]) -> None:
        """Makes room for the names of a map's rows, and for its colour bar."""
        longest = max(map(len, rows), default=0)
        self.layout["margin"] |= {"l": _LETTER * longest + 16, "r": _BAR}

    def label_steps(self, title: str, *steps: npt.NDArray[Any]) -> None:
        """Titles the steps of the lowest row; of few steps, none stands between two.

        Args:
            title: what they count.
            steps: those that are drawn.
        """
        count = len(self._panels)
        drawn = np.concatenate([np.zeros(0), *steps])
        if drawn.size and np.ptp(drawn) <= _FEW_STEPS:
            for index in range(count):
                self.axis("x", index, dtick=1)
        for index in range(max(count - self._columns, 0), count):
            self.axis("x", index, title={"text": title})

    def log_axis(self, index: int, shown: Sequence[Array]) -> None:
        """A logarithmic axis of a panel, if the values span more than a power of ten.

        It ends far below most values, where a dead channel would stretch it; zooming shows the
        rest.

        Args:
            index: the panel.
            shown: the values that are drawn.
        """
        values = np.concatenate([np.zeros(0), *(np.ravel(each) for each in shown)])
        values = values[np.isfinite(values) & (values > 0)]
        if not values.size:
            return
        low, middle, high = np.log10([values.min(), np.median(values), values.max()])
        if high - low < 1:
            return
        axis: dict[str, Any] = {"type": "log", "exponentformat": "power"}
        if low < middle - _DECADES:
            low = middle - _DECADES
            axis["range"] = [float(low), float(high) + 0.3]
        span = high - low
        axis["dtick"] = max(1, round(span / 4)) if span > _FEW_DECADES else "D2"
        self.axis("y", index, **axis)

    def note(self, text: str, index: int = 0, **place: Any) -> None:
        """A text in a panel, in its middle unless told otherwise."""
        middle = {"x": 0.5, "xref": f"{self._name('x', index)} domain"}
        middle |= {"y": 0.5, "yref": f"{self._name('y', index)} domain"}
        self.layout["annotations"].append(
            {"text": text, "showarrow": False, **middle, **place}
        )

    def line(
        self, index: int, *, x: float | None = None, y: float | None = None, **style: Any
    ) -> None:
        """A vertical or horizontal line through a panel."""
        ends: dict[str, Any] = {
            "xref": self._name("x", index)
            if x is not None
            else f"{self._name('x', index)} domain",
            "yref": self._name("y", index)
            if y is not None
            else f"{self._name('y', index)} domain",
        }
        ends |= {"x0": 0, "x1": 1} if x is None else {"x0": x, "x1": x}
        ends |= {"y0": 0, "y1": 1} if y is None else {"y0": y, "y1": y}
        self.layout["shapes"].append({"type": "line", **ends, "line": style})

    def say_empty(self, reason: str, index: int) -> None:
        """Says in an empty panel why it is empty; plotly draws none without a trace."""
        self.draw(
            [{"type": "scatter", "x": [None], "y": [None], "showlegend": False}], index
        )
        self.axis("y", index, showticklabels=False)
        self.note(reason, index)

    def empty(self, reason: str) -> Any:
        """A figure with nothing but its title, and the reason."""
        title = self.layout["title"]["text"]
        bare = Sheet(title, height=60)
        bare.axis("x", visible=False)
        bare.axis("y", visible=False)
        bare.note(reason, xref="paper", yref="paper")
        return bare.figure()

    def figure(self) -> Any:
        """The `plotly.graph_objects.Figure`.

        Raises:
            BnscopeError: if plotly is not installed.
        """
        go = plotly("plotly.graph_objects")
        return go.Figure({"data": self.data, "layout": self.layout})

    def _place(self, rows: int, gap: float) -> None:
        """Where the panels are, each under its title, with the same steps."""
        width = (1 - _ASIDE * (self._columns - 1)) / self._columns
        height = (1 - gap * (rows - 1)) / rows
        for index, title in enumerate(self._panels):
            row, column = divmod(index, self._columns)
            left, top = column * (width + _ASIDE), 1 - row * (height + gap)
            self.axis(
                "x",
                index,
                domain=[left, min(left + width, 1.0)],
                anchor=self._name("y", index),
            )
            self.axis(
                "y",
                index,
                domain=[max(top - height, 0.0), top],
                anchor=self._name("x", index),
            )
            if index:
                self.axis("x", index, matches="x")
            if title:
                font = {"size": 13}
                self.note(title, index, y=1, yanchor="bottom", font=font)

    @staticmethod
    def _name(letter: str, index: int) -> str:
        return f"{letter}{index + 1 if index else ''}"
