"""JSON Lines for machines: one finding a line, and one for what could not be analysed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bnscope.linting.findings import Report
from bnscope.strict_json import dumps


def render(reports: Sequence[Report]) -> str:
    """The reports as one JSON object a line.

    Returns:
        Lines with `path` and `kind`: "finding" with the keys of a finding, "not_analysed" with
        `layer` and `reason`, "error" with `message` and `hint`.
    """
    return "\n".join(dumps(entry) for report in reports for entry in _entries(report))


def _entries(report: Report) -> Iterator[dict[str, Any]]:
    if report.error is not None:
        error = report.error
        yield _entry(report, "error", {"message": error.message, "hint": error.hint})
    for finding in report.findings:
        yield _entry(report, "finding", finding.to_dict())
    for part in report.not_analysed:
        yield _entry(report, "not_analysed", {"layer": part.layer, "reason": part.reason})


def _entry(report: Report, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    return {"path": report.path, "kind": kind, **values}
