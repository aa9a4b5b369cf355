"""The looks of all figures, for a light and for a dark page."""

from __future__ import annotations

from typing import Any

# They stand out from white and from black, and from each other for the colour-blind
# (after Okabe & Ito 2008).
MOVING = "#2f7fc1"
BATCH = "#e07b00"
RUNS = (
    "#2f7fc1",
    "#e07b00",
    "#1a9e77",
    "#c2569a",
    "#8a6fd1",
    "#b0891a",
    "#5aa9d6",
    "#d1495b",
)
ALARM = "#e5383b"
SEQUENTIAL = "Viridis"
# Grey in the middle, which neither page swallows.
DIVERGING = (
    (0.0, "#2166ac"),
    (0.25, "#7fb2d9"),
    (0.5, "#c9c9c9"),
    (0.75, "#f0a868"),
    (1.0, "#b35806"),
)
FONT = "Roboto, 'Helvetica Neue', Arial, sans-serif"


def template(*, dark: bool = False) -> dict[str, Any]:
    """The template of all figures, as plotly's `layout.template`.

    Args:
        dark: for a dark page.
    """
    ink, faint, page = (
        ("#e3e3e3", "#4a4a4a", "#303030") if dark else ("#212121", "#dcdcdc", "#ffffff")
    )
    axis = {
        "gridcolor": faint,
        "zerolinecolor": faint,
        "linecolor": faint,
        "tickcolor": faint,
        "title": {"standoff": 8},
    }
    layout = {
        "paper_bgcolor": page,
        "plot_bgcolor": page,
        "font": {"family": FONT, "size": 12, "color": ink},
        "xaxis": axis,
        "yaxis": axis,
        "colorway": list(RUNS),
        "hoverlabel": {
            "bgcolor": page,
            "bordercolor": faint,
            "font": {"color": ink, "size": 12},
            "align": "left",
            "namelength": -1,
        },
        "legend": {"bgcolor": "rgba(0,0,0,0)"},
        "annotationdefaults": {"font": {"color": ink, "size": 12}},
    }
    return {"layout": layout}


def faded(color: str, opacity: float) -> str:
    """A colour `#rrggbb` with an opacity."""
    red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
