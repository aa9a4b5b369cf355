"""The schema, version 1: tags, and what each holds. `docs/monitor.md` describes it in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bnscope.statistics.channels import FIELDS, STATUSES
from bnscope.statistics.layout import STATISTICS, VARIABLES, Layout
from bnscope.statistics.quantiles import COLUMNS
from bnscope.statistics.replicas import DIVERGENCE

VERSION = 1
PLUGIN = "bnscope"

START = "bnscope/start"  # JSON: what was known of the model when training began
STATISTICS_TAG = "bnscope/statistics"  # float32 [layers, statistics, columns]
LAYERS = "bnscope/layers"  # float32 [layers, fields]
CHANNELS = "bnscope/channels"  # float32 [variables, channels of all layers]
DIVERGENCE_TAG = "bnscope/divergence"  # float32 [layers, divergence]; several replicas only
ALERT = "bnscope/alert"  # JSON: one alert; further ones of a step under numbered tags
ALERT_TEXT = "bnscope/alerts"  # the same for people
MARK = "bnscope/mark"  # JSON: what a callback did to the layers; numbered likewise
MARK_TEXT = "bnscope/marks"

# After so many records the cadence doubles.
MAX_RECORDS = 4000
# The same for the per-channel records, which are larger.
MAX_CHANNEL_RECORDS = 100


def describe(layout: Layout) -> dict[str, Any]:
    """What the axes of the tensors mean; stands in the `plugin_content` of their tags."""
    return {
        "version": VERSION,
        "layers": list(layout.paths),
        "widths": list(layout.widths),
        "momentum": list(layout.momentum),
        "epsilon": list(layout.epsilon),
        "status": [str(status) for status in layout.statuses],
        "statistics": list(STATISTICS),
        "columns": list(COLUMNS),
        "fields": list(FIELDS),
        "statuses": [str(status) for status in STATUSES],
        "variables": list(VARIABLES),
        "divergence": list(DIVERGENCE),
    }


def shapes(widths: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The shape of each tag's tensors, where the layers have so many channels each."""
    count = len(widths)
    return {
        STATISTICS_TAG: (count, len(STATISTICS), len(COLUMNS)),
        LAYERS: (count, len(FIELDS)),
        CHANNELS: (len(VARIABLES), sum(widths)),
        DIVERGENCE_TAG: (count, len(DIVERGENCE)),
    }


def numbered(tag: str, number: int) -> str:
    """The tag of the value of that number, counted from 0, at one step.

    TensorBoard's default data server keeps one value of a tag at a step, the last one.
    """
    return f"{tag}/{number}" if number else tag


def is_of(tag: str, kind: str) -> bool:
    """Whether a tag is a kind's, numbered or not."""
    return tag == kind or tag.startswith(f"{kind}/")


class Thinning:
    """Which records of a run are kept: all, then every second, then every fourth, ...

    Args:
        most: how many records are kept before the cadence doubles.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.every = 1
        self._seen = 0
        self._kept = 0

    def keep(self) -> bool:
        """Whether the next record is kept. Call once a record."""
        kept = self._seen % self.every == 0
        self._seen += 1
        if kept:
            self._kept += 1
            if self._kept >= self.most:
                self.every *= 2
                self._kept = self.most // 2  # as many as a run of this cadence would have
        return kept
