"""The page of a report: what the tab shows, in the same words, colours and figures."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnscope import figures
from bnscope.events.run import Run
from bnscope.figures import theme
from bnscope.figures.loading import script
from bnscope.health import Found, Health, Trouble, badness, examine
from bnscope.linting.formats.common import listed
from bnscope.markup import Markup, chip, document, joined, table, tag
from bnscope.rules.base import plural
from bnscope.strict_json import dumps

_HERE = Path(__file__).parent
_STATIC = _HERE.parent / "tensorboard" / "static"
# Maps of all layers that every run gets.
_MAPS = ("moving_variance", "distance", "gamma", "dead_share")
_WORDS = {"error": "broken", "warning": "in trouble", "ok": "healthy"}
_MOST_NAMED = 3
# Channels of an alert, and layers of a finding, that are named.
_MOST_LISTED = 8


class Page:
    """The page of some runs.

    Args:
        runs: the runs by name.

    Attributes:
        healths: how each of them is doing.
        layers: how many layers got figures of their own.
    """

    def __init__(self, runs: Mapping[str, Run]) -> None:
        self._runs = runs
        self.healths = {name: examine(run) for name, run in runs.items()}
        self._data: list[str] = []
        self._parts: list[Markup] = []
        self.layers = 0
        self._parts += [
            tag("h1", "What Batch Normalization did"),
            _headline(self.healths),
            *_alerts(self.healths),
        ]
        if len(runs) > 1:
            self._parts.append(_run_table(self.healths))
        self._parts.append(self._figure(figures.trends(runs)))

    def add_run(self, name: str, layers: Sequence[str]) -> None:
        """Adds the sections of one run.

        Args:
            name: its name.
            layers: the layers that get figures of their own.
        """
        run, health = self._runs[name], self.healths[name]
        title = f"Run {name}" if len(self._runs) > 1 else "All layers"
        self._parts.append(tag("h2", title))
        maps = [figures.layer_map(run, each) for each in _MAPS]
        self._parts += [self._figure(each) for each in maps if each.data]
        for layer in layers:
            self.layers += 1
            self._parts += [tag("h2", f"Layer {layer}"), *self._layer(run, health, layer)]
        self._parts += [*_lint(health), _model(run, health)]

    def text(self) -> str:
        """The page.

        Raises:
            BnscopeError: if plotly is not installed.
        """
        themes = dumps({"light": theme.template(), "dark": theme.template(dark=True)})
        plotly = script().replace("</script", "<\\/script")
        scripts = [
            plotly,
            _module("download.js"),
            (_HERE / "report.js").read_text(encoding="utf-8"),
        ]
        data = [
            tag("script", _inert(text), type="application/json", id=f"figure-{number}")
            for number, text in enumerate(self._data)
        ]
        page = document(
            "bnscope report",
            tag("main", *self._parts, class_="report"),
            *data,
            tag("script", _inert(themes), type="application/json", id="themes"),
            *(tag("script", Markup(text)) for text in scripts),
        )
        return f"{page}\n"

    def _figure(self, figure: Any) -> Markup:
        """A place for a figure, which is drawn when it is scrolled to."""
        self._data.append(str(figure.to_json()))
        number = str(len(self._data) - 1)
        title = html.unescape(figure.layout.title.text)
        plot = tag(
            "div",
            class_="plot",
            data_figure=number,
            style=f"min-height:{figure.layout.height}px",
        )
        return tag("section", plot, class_="figure", aria_label=title)

    def _layer(self, run: Run, health: Health, layer: str) -> Iterator[Markup]:
        """What is said and drawn of one layer."""
        troubles = [each for each in health.troubles if each.layer == layer]
        for trouble in troubles:
            yield tag(
                "p",
                chip(trouble.severity),
                " ",
                _what(trouble),
                f" Since {_since(trouble)}.",
            )
        width = dict(zip(run.layers, run.widths, strict=True))[layer]
        channels = [
            channel
            for trouble in troubles
            for channel, _ in trouble.channels
            if 0 <= channel < width
        ]
        yield self._figure(figures.bands(run, layer))
        yield self._figure(figures.channel_map(run, layer))
        yield self._figure(figures.channel(run, layer, channels[0] if channels else None))
        yield self._figure(figures.histograms(run, layer))


def _headline(healths: Mapping[str, Health]) -> Markup:
    """One sentence that says how it is."""
    verdicts = {health.verdict for health in healths.values()}
    worst = next((each for each in ("error", "warning") if each in verdicts), "ok")
    layers: dict[tuple[str, str], str] = {}  # the first of each is the worst
    for name, trouble in _troubles(healths):
        if trouble.until is None and trouble.severity == worst:
            of = f" ({name})" if len(healths) > 1 else ""
            text = f"{trouble.layer} since step {trouble.since}{of}"
            layers.setdefault((name, trouble.layer), text)
    count = sum(each.affected for each in healths.values() if each.verdict == worst)
    named = list(layers.values())[:_MOST_NAMED]
    more = f", and {count - len(named)} more" if count > len(named) else ""
    if worst == "ok":
        spans = "; ".join(f"{name}: {_span(health)}" for name, health in healths.items())
        said = f"No alert lasts: {spans}."
    else:
        where = f"{plural(count, 'layer')}: {', '.join(named)}{more}"
        said = f"Batch Normalization is {_WORDS[worst]} in {where}."
    return tag("p", chip(worst), " ", said, class_=f"headline {worst}")


def _troubles(healths: Mapping[str, Health]) -> list[tuple[str, Trouble]]:
    """The troubles of all runs with the run's name, the worst first."""
    found = [(name, each) for name, health in healths.items() for each in health.troubles]
    return sorted(found, key=lambda pair: badness(pair[1]))


def _span(health: Health) -> str:
    return f"{plural(health.layers, 'BN layer')}, {_steps(health)}"


def _steps(health: Health) -> str:
    return (
        f"steps {health.first} to {health.last}" if health.records else "nothing recorded"
    )


def _alerts(healths: Mapping[str, Health]) -> Iterator[Markup]:
    rows = _troubles(healths)
    if not rows:
        return
    several = len(healths) > 1
    yield tag("h2", "Alerts, worst first")
    yield table(
        [
            "",
            *(["run"] if several else []),
            "layer",
            "since step",
            "value",
            "channels",
            "what",
        ],
        [
            [
                chip(trouble.severity),
                *([name] if several else []),
                trouble.layer,
                _since(trouble),
                tag("span", _value(trouble.value), class_="number"),
                listed([f"{at} ({step})" for at, step in trouble.channels], _MOST_LISTED),
                _what(trouble),
            ]
            for name, trouble in rows
        ],
    )


def _value(value: float | str | None) -> str:
    return (
        "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
    )


def _since(trouble: Trouble) -> str:
    gone = "" if trouble.until is None else f", no more at {trouble.until}"
    return f"step {trouble.since}{gone}"


def _what(trouble: Trouble) -> Markup:
    head = tag("b", f"{trouble.code} {trouble.name}:")
    return joined([head, f" {trouble.message} ", tag("i", trouble.advice)])


def _run_table(healths: Mapping[str, Health]) -> Markup:
    rows = [
        [
            chip(health.verdict),
            name,
            str(health.layers),
            _steps(health),
            "" if health.dead is None else f"{health.dead} of {health.channels}",
        ]
        for name, health in healths.items()
    ]
    return table(["", "run", "BN layers", "steps", "dead channels"], rows)


def _lint(health: Health) -> Iterator[Markup]:
    yield tag("h2", "Lint report")
    if not health.findings and not health.not_analysed:
        yield tag("p", "Nothing was found as training began.", class_="note")
        return
    rows = [_finding(found) for found in health.findings]
    rows += [[chip("info"), "not analysed", *part] for part in health.not_analysed]
    yield table(["", "rule", "layers", "what and what to do"], rows)


def _finding(found: Found) -> list[str]:
    message = found.layers[0][1]
    return [
        chip(found.severity),
        tag("b", f"{found.code} {found.name}", class_="rule"),
        listed([layer or "the model" for layer, _ in found.layers], _MOST_LISTED),
        joined([f"{message} ", tag("i", found.advice)]),
    ]


def _model(run: Run, health: Health) -> Markup:
    rows = run.start.get("layers") or ()
    cells = [
        [
            str(row.get("layer")),
            ", ".join(row.get("fed_by") or ["?"]),
            ", ".join(row.get("feeds") or ["?"]),
            _known(row.get("channels")),
            _known(row.get("momentum")),
            _known(row.get("epsilon")),
            str(row.get("folds_into") or f"kept: {row.get('reason') or '?'}"),
        ]
        for row in rows
    ]
    heads = ["layer", "fed by", "feeds", "channels", "momentum", "epsilon", "folds into"]
    title = f"{health.model or 'Model'}: {plural(len(cells), 'BN layer')} in forward order"
    return joined([tag("h2", title), table(heads, cells)])


def _known(value: Any) -> str:
    if value is None:
        return "?"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _inert(text: str) -> Markup:
    """JSON that no browser takes for markup."""
    return Markup(text.replace("<", "\\u003c"))


def _module(name: str) -> str:
    """One of the tab's modules as a plain script."""
    text = (_STATIC / name).read_text(encoding="utf-8")
    return re.sub(r"^export ", "", text, flags=re.MULTILINE)
