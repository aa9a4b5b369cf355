"""A diagnosis as a plotly figure."""

from __future__ import annotations

from typing import Any

from bnscope.diagnosis.report import words
from bnscope.diagnosis.result import Diagnosis
from bnscope.errors import BnscopeError

# Colours that differ for colour-blind eyes, too (Okabe & Ito).
_COLORS = {"inference": "#d55e00", "batch": "#0072b2", "recalibrated": "#009e73"}
_NAMES = {
    "inference": "moving statistics",
    "batch": "batch statistics",
    "recalibrated": "recalibrated",
}
_HEIGHT = 310
_CAUSES, _REPAIRS = "#cc79a7", "#56b4e9"
# Below this a layer's statistics are those of the data, whatever its logarithm.
_LEAST_KL = 1e-4
# More layers are named only where the mouse is.
_MOST_NAMES = 30


def figure(diagnosis: Diagnosis) -> Any:
    """The losses by mode, how far each layer is from the data, and what it does to the gap.

    Raises:
        BnscopeError: if plotly is not installed.
    """
    try:
        from plotly.subplots import make_subplots
    except ModuleNotFoundError as error:
        raise BnscopeError(
            "Plots need plotly, which is not installed.",
            'Run: pip install "bnscope[tensorboard]"',
        ) from error
    titles = [
        "Loss on the same samples"
        if diagnosis.losses
        else "Distance of outputs from inference",
        "Moving statistics against the data",
    ]
    if diagnosis.swap_samples:
        titles.append("Share of the gap, one layer at a time")
    made = make_subplots(
        rows=len(titles), cols=1, subplot_titles=titles, vertical_spacing=0.16
    )
    _add_losses(made, diagnosis)
    _add_layers(made, diagnosis)
    if diagnosis.swap_samples:
        _add_shares(made, diagnosis)
    for row in range(1, len(titles) + 1):
        axis = "" if row == 1 else str(row)
        top = made.layout[f"yaxis{axis}"].domain[1]
        made.update_layout({f"legend{axis}": {"y": top, "yanchor": "top"}})
    made.update_layout(
        title=f"{diagnosis.model}: {words(diagnosis)}",
        height=_HEIGHT * len(titles) + 80,
        template="plotly_white",
        barmode="group",
    )
    return made


def _add_losses(made: Any, diagnosis: Diagnosis) -> None:
    import plotly.graph_objects as go

    for mode, name in _NAMES.items():
        if diagnosis.losses:
            values = {data: modes[mode]["loss"] for data, modes in diagnosis.losses.items()}
        elif mode == "inference":
            continue
        else:
            values = {d: pairs[f"inference_{mode}"] for d, pairs in diagnosis.apart.items()}
        made.add_trace(
            go.Bar(
                x=list(values),
                y=list(values.values()),
                name=name,
                marker_color=_COLORS[mode],
                text=[f"{value:.3g}" for value in values.values()],
                textposition="outside",
                cliponaxis=False,
                legend="legend",
            ),
            row=1,
            col=1,
        )
    made.update_yaxes(
        title="loss" if diagnosis.losses else "standard deviations", row=1, col=1
    )


def _add_layers(made: Any, diagnosis: Diagnosis) -> None:
    import plotly.graph_objects as go

    names = [layer.layer for layer in diagnosis.layers]
    shown = {"median channel": "kl", "worst channel": "worst_kl"}
    for (name, field), symbol in zip(
        shown.items(), ("circle", "line-ew-open"), strict=True
    ):
        made.add_trace(
            go.Scatter(
                x=names,
                y=[max(getattr(layer, field), _LEAST_KL) for layer in diagnosis.layers],
                mode="markers",
                name=name,
                marker={"symbol": symbol, "size": 9, "color": "#444444", "line_width": 2},
                customdata=[(layer.shift, layer.ratio) for layer in diagnosis.layers],
                hovertemplate="%{x}<br>KL %{y:.2g} nats<br>mean %{customdata[0]:.2g} sigma off"
                "<br>variance %{customdata[1]:.2g} of the data's",
                legend="legend2",
            ),
            row=2,
            col=1,
        )
    made.update_yaxes(title="KL, in nats", type="log", dtick=1, row=2, col=1)
    _name_layers(made, names, 2)


def _add_shares(made: Any, diagnosis: Diagnosis) -> None:
    import plotly.graph_objects as go

    names = [layer.layer for layer in diagnosis.layers]
    for name, field, color in (
        ("alone causes", "causes", _CAUSES),
        ("alone repairs", "repairs", _REPAIRS),
    ):
        shares = [getattr(layer, field) for layer in diagnosis.layers]
        made.add_trace(
            go.Bar(x=names, y=shares, name=name, marker_color=color, legend="legend3"),
            row=3,
            col=1,
        )
    made.update_yaxes(title="share of the gap", tickformat=".0%", row=3, col=1)
    _name_layers(made, names, 3)


def _name_layers(made: Any, names: list[str], row: int) -> None:
    """Names below the layers where there is room for them."""
    made.update_xaxes(
        type="category",
        showticklabels=len(names) <= _MOST_NAMES,
        row=row,
        col=1,
    )
