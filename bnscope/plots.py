"""Figures of what Batch Normalization did, for notebooks: the ones of the TensorBoard tab.

Each function takes the run from wherever it is: a `BatchNormMonitor`, its `history`, the result
of `bnscope.track`, a log directory, or saved checkpoints.

```python
from bnscope import plots

plots.layers("logs/run1")  # every layer at every step
plots.layer(monitor, "block1/bn")  # one layer's quantile bands
plots.channels("ckpt/*.keras", "block1/bn")  # its channels through time
```
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnscope import figures
from bnscope.errors import BnscopeError
from bnscope.events import Run, find, read

__all__ = ["channel", "channels", "compare", "histogram", "layer", "layers", "trends"]


def trends(source: Any) -> Any:
    """The whole model over steps: extremes of variance and gamma, distance, dead channels.

    Args:
        source: a monitor, a run, the result of `bnscope.track`, a log directory, checkpoints
            (a pattern, or a list of paths); or several of these in a dictionary by name.

    Returns:
        A `plotly.graph_objects.Figure`.

    Raises:
        BnscopeError: if there is no run in it, or plotly is not installed.
    """
    return figures.trends(_runs(source))


def layers(
    source: Any, statistic: str = "moving_variance", column: str | None = None
) -> Any:
    """A heat map of one statistic of every layer over the logged steps.

    Args:
        source: as in `trends`, one run.
        statistic: `gamma`, `beta`, `moving_mean`, `moving_variance`, `batch_mean`,
            `batch_variance`, `distance`, `scale` or `dead_share`.
        column: which number of a layer's channels: `min`, `q05`, `q25`, `q50`, `q75`, `q95`,
            `max`, `mean`, `nonfinite`, `since_min`, `since_max`, `since_nonfinite`; by
            default the one that tells most.

    Returns:
        A `plotly.graph_objects.Figure`.

    Raises:
        BnscopeError: if there is no run in it, or plotly is not installed.
        ValueError: if there is no such statistic or column.
    """
    return figures.layer_map(_run(source), statistic, column)


def layer(source: Any, path: str) -> Any:
    """Quantile bands of every statistic of one layer, mini-batch values over moving ones.

    Args:
        source: as in `trends`, one run.
        path: path of the layer.

    Returns:
        A `plotly.graph_objects.Figure`.

    Raises:
        BnscopeError: if there is no run in it, or plotly is not installed.
        ValueError: if there is no such layer.
    """
    return figures.bands(_run(source), path)


def histogram(source: Any, path: str, step: int | None = None) -> Any:
    """How gamma, beta, moving mean and variance are distributed over a layer's channels.

    Args:
        source: as in `trends`, one run.
        path: path of the layer.
        step: the nearest recorded epoch is taken; None for the last one.

    Returns:
        A `plotly.graph_objects.Figure`.

    Raises:
        BnscopeError: if there is no run in it, or plotly is not installed.
        ValueError: if there is no such layer.
    """
    return figures.histograms(_run(source), path, step)


def channels(
    source: Any, path: str, variable: str = "moving_variance", sort: str = "worst"
) -> Any:
    """A heat map of one variable of every channel of a layer over the recorded epochs.

    Args:
        source: as in `trends`, one run.
        path: path of the layer.
        variable: `gamma`, `beta`, `moving_mean` or `moving_variance`.
        sort: which channels stand at the top: `"worst"`, `"change"` or `"number"`.

    Returns:
        A `plotly.graph_objects.Figure`.

    Raises:
        BnscopeError: if there is no run in it, or plotly is not installed.
        ValueError: if there is no such layer, variable or order.
    """
    return figures.channel_map(_run(source), path, variable, sort)


def channel(source: Any, path: str, number: int | None = None) -> Any:
    """One channel followed through time, over its layer's other channels.

    Args:
        source: as in `trends`, one run.
        path: path of the layer.
        number: the channel, counted from 0; None for the one with the smallest variance at the
            end.

    Returns:
        A `plotly.graph_objects.Figure`.

    Raises:
        BnscopeError: if there is no run in it, or plotly is not installed.
        ValueError: if there is no such layer or channel.
    """
    return figures.channel(_run(source), path, number)


def compare(sources: Mapping[str, Any], path: str) -> Any:
    """The same layer in several runs.

    Args:
        sources: a source, as in `trends`, by the name that the legend shows.
        path: path of the layer.

    Returns:
        A `plotly.graph_objects.Figure`.

    Raises:
        BnscopeError: if there is no run in one of them, or plotly is not installed.
        ValueError: if no run has the layer.
    """
    return figures.comparison(_runs(sources), path)


def _runs(source: Any) -> dict[str, Run]:
    if isinstance(source, Mapping):
        if not source:
            raise BnscopeError(
                "There is no run in an empty dictionary.", "Give one at least."
            )
        return {str(name): _run(each) for name, each in source.items()}
    return {"run": _run(source)}


def _run(source: Any) -> Run:
    """The run of a monitor, of a result, or on disk."""
    if isinstance(source, Run):
        return source
    for name in ("history", "run"):
        if isinstance(found := getattr(source, name, None), Run):
            return found
    if isinstance(source, (str, os.PathLike)):
        return _read(source)
    if isinstance(source, (list, tuple)):
        return _track(source)
    raise BnscopeError(
        f"There is no run in {type(source).__name__} {source!r:.80}.",
        "Give a BatchNormMonitor, its history, a log directory or checkpoints.",
    )


def _read(source: str | os.PathLike[str]) -> Run:
    """The run of a log directory, or else of checkpoints."""
    path = Path(source)
    if not path.is_dir():
        return _track(source)
    runs = find(path)
    if not runs and any(
        any(path.rglob(f"*{suffix}")) for suffix in (".keras", ".h5", ".hdf5")
    ):
        return _track(source)
    if len(runs) > 1:
        raise BnscopeError(
            f"{path} holds {len(runs)} runs: {', '.join(list(runs)[:8])}.",
            "Give the directory of one of them.",
        )
    return read(next(iter(runs.values())), exact=True) if runs else read(path)


def _track(source: Any) -> Run:
    from bnscope.tracking import track

    return track(source).run
