"""What the statistics are called, and how each is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bnscope.bn import Array
from bnscope.events.run import Run
from bnscope.statistics.layout import STATISTICS


@dataclass(frozen=True, slots=True)
class Quantity:
    """One statistic.

    Args:
        title: what people call it.
        log: whether it spans powers of ten.
        signed: whether it has a middle at 0.
        column: which number of a layer's channels tells most of its health.
    """

    title: str
    log: bool = False
    signed: bool = False
    column: str = "q50"


# In the order of menus: what tells most first.
QUANTITIES: Mapping[str, Quantity] = {
    "moving_variance": Quantity("moving variance", log=True, column="min"),
    "moving_mean": Quantity("moving mean", signed=True),
    "batch_variance": Quantity("mini-batch variance", log=True),
    "batch_mean": Quantity("mini-batch mean", signed=True),
    "distance": Quantity("distance of batch and moving mean (sigma)", log=True),
    "gamma": Quantity("gamma", signed=True),
    "beta": Quantity("beta", signed=True),
    "scale": Quantity("scale a = gamma / sqrt(variance + epsilon)", signed=True),
    "dead_share": Quantity("share of dead channels", column=""),
}
COLUMN_TITLES: Mapping[str, str] = {
    "min": "smallest channel",
    "q05": "5 % quantile of channels",
    "q25": "25 % quantile of channels",
    "q50": "median of channels",
    "q75": "75 % quantile of channels",
    "q95": "95 % quantile of channels",
    "max": "largest channel",
    "mean": "mean of channels",
    "nonfinite": "channels that are not finite",
    "since_min": "smallest since the last record",
    "since_max": "largest since the last record",
    "since_nonfinite": "most not finite since the last record",
}
OF_BATCHES = frozenset({"batch_mean", "batch_variance", "distance"})
COUNTS = frozenset({"nonfinite", "since_nonfinite"})


def across(run: Run, name: str, column: str) -> Array:
    """A quantity of every layer over the logged steps, shape `(records, layers)`.

    Raises:
        ValueError: if there is no such quantity or column.
    """
    return run.across(name, column) if name in STATISTICS else run.field(name)


def missing(*, of_batches: bool) -> str:
    """Why nothing is drawn: mini-batch statistics can be untold, others are all not finite."""
    return "mini-batch values could not be told" if of_batches else "no finite value"


def step_title(*runs: Run) -> str:
    """What the steps of some runs count."""
    counting = {(run.start.get("params") or {}).get("counting") for run in runs}
    return "step (number in the checkpoint's name)" if counting == {"names"} else "step"


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


def position(run: Run, layer: str) -> int:
    """Position of a layer in a run.

    Raises:
        ValueError: if there is none of that path.
    """
    if layer not in run.layers:
        raise ValueError(f"There is no layer {layer!r} in this run.")
    return run.layers.index(layer)
