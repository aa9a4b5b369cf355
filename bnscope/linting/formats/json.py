"""JSON for machines, version 1."""

from __future__ import annotations

from collections.abc import Sequence

from bnscope.linting.findings import Report
from bnscope.strict_json import dumps

VERSION = 1


def render(reports: Sequence[Report]) -> str:
    """The reports as one JSON document.

    Returns:
        `{"version": 1, "files": [{"path", "status", "error", "not_analysed", "findings"}]}`.
    """
    files = [report.to_dict() for report in reports]
    return dumps({"version": VERSION, "files": files}, indent=2)
