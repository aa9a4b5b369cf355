"""What the tab asks for, out of the runs."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

from bnscope import figures
from bnscope.errors import BnscopeError
from bnscope.events.provider import Source, State
from bnscope.events.reader import run_names
from bnscope.events.run import Run
from bnscope.figures import quantities, theme
from bnscope.tensorboard.store import Store

# The largest whole number that JavaScript tells from the next one.
_LARGEST = 2**53
# Values of a query: `get(name, default, type=)` and `getlist(name)`, as werkzeug has them.
_Query = Any


def runs(store: Store, source: Source, query: _Query) -> Any:
    """The runs that hold events of bnscope, and what can be chosen of each figure."""
    del store, query
    return {
        "runs": [
            {"name": name, "label": label, "version": _version(source.state(name))}
            for name, label in run_names(source.names()).items()
        ],
        "statistics": [
            {"name": name, "title": each.title, "column": each.column}
            for name, each in quantities.QUANTITIES.items()
        ],
        "columns": [
            {"name": name, "title": title}
            for name, title in quantities.COLUMN_TITLES.items()
        ],
        "most_runs": len(theme.RUNS),
    }


def _version(state: State) -> str:
    """A short text that changes as a run grows."""
    return f"{zlib.crc32(repr(sorted(state)).encode()):08x}"


def health(store: Store, source: Source, query: _Query) -> Any:
    """How a run is doing: its alerts and its findings, the worst first, or why it is unreadable."""
    name = _name(query)
    try:
        return store.health(source, name).to_dict()
    except BnscopeError as error:
        return {"error": error.message, "hint": error.hint}


def model(store: Store, source: Source, query: _Query) -> Any:
    """The layers of a run in forward order, with what is known of each."""
    run = store.run(source, _name(query))
    rows = {row.get("layer"): row for row in run.start.get("layers") or ()}
    watched = dict(zip(run.layers, run.widths, strict=True))
    statuses = _statuses(run)
    names = list(dict.fromkeys([*rows, *watched]))
    return {
        "model": run.start.get("model"),
        "layers": [
            {
                **{key: rows.get(name, {}).get(key) for key in _ROW},
                "layer": name,
                "watched": watched.get(name),
                "status": statuses.get(name),
            }
            for name in names
        ],
    }


def steps(store: Store, source: Source, query: _Query) -> Any:
    """The steps at which the values of every channel are there."""
    return {"steps": store.run(source, _name(query), channels=True).channel_steps.tolist()}


def figure(store: Store, source: Source, query: _Query) -> str:
    """A figure, as plotly writes it to JSON."""
    name = query.get("figure", "")
    if name not in _FIGURES:
        raise BnscopeError(
            f"There is no figure {name!r}.", f"There are {', '.join(_FIGURES)}."
        )
    return str(_FIGURES[name](_Asked(store, source, query)).to_json())


# What is taken of the rows of `bnscope inspect`.
_ROW = (
    "fed_by",
    "feeds",
    "channels",
    "momentum",
    "epsilon",
    "trainable",
    "calls",
    "folds_into",
    "reason",
    "detail",
)


class _Asked:
    """What a figure is asked of.

    Args:
        store: the runs.
        source: where they are read.
        query: the query.
    """

    def __init__(self, store: Store, source: Source, query: _Query) -> None:
        self._store = store
        self._source = source
        self._query = query

    @property
    def run(self) -> Run:
        """The run."""
        return self._store.run(self._source, _name(self._query))

    @property
    def whole_run(self) -> Run:
        """The run, with the values of every channel."""
        return self._store.run(self._source, _name(self._query), channels=True)

    @property
    def runs(self) -> Mapping[str, Run | None]:
        """The runs, by what people call them; None in the place of one that cannot be read.

        Raises:
            BnscopeError: if none is chosen, or none can be read.
        """
        names = self._query.getlist("run")[: len(theme.RUNS)]
        if not names:
            raise BnscopeError("No run is chosen.", "Choose one.")
        labels = run_names(self._source.names())
        found: dict[str, Run | None] = {}
        for name in names:
            label = labels.get(name, name)
            try:
                found[label] = self._store.run(self._source, name)
            except BnscopeError as error:
                found[label], problem = None, error
        if not any(found.values()):
            raise problem
        return found

    def text(self, name: str, default: str | None = None) -> Any:
        """A value of the query; the default if it is not there or empty."""
        return self._query.get(name) or default

    def number(self, name: str) -> int | None:
        """A whole number of the query; None if it is not there.

        Raises:
            BnscopeError: if it is none, or beyond all steps.
        """
        value = self._query.get(name)
        if not value:
            return None
        try:
            number = int(value)
        except ValueError:
            raise BnscopeError(f"{name} must be a whole number, got {value!r}.") from None
        if abs(number) > _LARGEST:
            raise BnscopeError(
                f"{name} must be a number up to {_LARGEST}, got {value!r:.40}."
            )
        return number


_FIGURES: Mapping[str, Callable[[_Asked], Any]] = {
    "trends": lambda asked: figures.trends(asked.runs),
    "layers": lambda asked: figures.layer_map(
        asked.run, asked.text("statistic", "moving_variance"), asked.text("column")
    ),
    "bands": lambda asked: figures.bands(asked.run, asked.text("layer", "")),
    "histograms": lambda asked: figures.histograms(
        asked.whole_run, asked.text("layer", ""), asked.number("step")
    ),
    "channels": lambda asked: figures.channel_map(
        asked.whole_run,
        asked.text("layer", ""),
        asked.text("variable", "moving_variance"),
        asked.text("sort", "worst"),
    ),
    "channel": lambda asked: figures.channel(
        asked.whole_run, asked.text("layer", ""), asked.number("channel")
    ),
    "compare": lambda asked: figures.comparison(asked.runs, asked.text("layer", "")),
}


def _name(query: _Query) -> str:
    name = query.get("run", "")
    if not name:
        raise BnscopeError("No run is chosen.", "Choose one.")
    return str(name)


def _statuses(run: Run) -> dict[str, str]:
    """Whether each layer's mini-batch statistics could be told at the last step."""
    last = run.field("status")[-1:].ravel()
    return {
        layer: run.statuses[int(number)]
        for layer, number in zip(run.layers, last, strict=bool(len(last)))
        if 0 <= number < len(run.statuses)
    }
