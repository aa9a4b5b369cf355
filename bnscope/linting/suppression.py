"""Findings that are not wanted in some layers."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

from bnscope.linting.settings import LayerIgnore


class Suppression:
    """Says which entries cover a finding.

    Args:
        entries: rules that are quiet in some layers.
    """

    def __init__(self, entries: Sequence[LayerIgnore]) -> None:
        self._entries = [(entry.codes(), _pattern(entry.layer)) for entry in entries]

    def covering(self, code: str, layer: str) -> frozenset[int]:
        """The places, among the entries, of those that cover a finding."""
        return frozenset(
            index
            for index, (codes, (pattern, of_name)) in enumerate(self._entries)
            if code in codes
            and (
                pattern.fullmatch(layer)
                or (of_name and pattern.fullmatch(layer.rpartition("/")[2]))
            )
        )


def _pattern(glob: str) -> tuple[re.Pattern[str], bool]:
    return re.compile(fnmatch.translate(glob)), "/" not in glob
