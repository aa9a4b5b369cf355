"""GitLab's Code Quality report: a list of issues, each with a stable fingerprint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bnscope.linting.findings import Report
from bnscope.linting.formats.common import NOT_ANALYSED, UNREADABLE, with_layer
from bnscope.linting.formats.places import fingerprint, fingerprints, place
from bnscope.printing import printable
from bnscope.rules.base import Severity
from bnscope.strict_json import dumps

_SEVERITIES = {Severity.ERROR: "critical", Severity.WARNING: "major"}


def render(reports: Sequence[Report]) -> str:
    """The reports as one list of issues."""
    issues = [issue for report in reports for issue in _issues(report)]
    return dumps(issues)


def _issues(report: Report) -> Iterator[dict[str, Any]]:
    if report.error is not None:
        mark = fingerprint(UNREADABLE, place(report))
        yield _issue(report, UNREADABLE, "blocker", mark, printable(str(report.error)))
    for finding, mark in fingerprints(report):
        severity = _SEVERITIES.get(finding.severity, "info")
        text = with_layer(finding.layer, finding.message)
        yield _issue(report, f"{finding.code} {finding.name}", severity, mark, text)
    for part in report.not_analysed:
        text = with_layer(part.layer, f"not analysed: {part.reason}")
        mark = fingerprint(NOT_ANALYSED, place(report), part.layer, part.reason)
        yield _issue(report, NOT_ANALYSED, "info", mark, text)


def _issue(
    report: Report, check: str, severity: str, mark: str, text: str
) -> dict[str, Any]:
    return {
        "description": text,
        "check_name": check,
        "fingerprint": mark,
        "severity": severity,
        # A model has no lines; GitLab asks for one.
        "location": {"path": place(report), "lines": {"begin": 1}},
    }
