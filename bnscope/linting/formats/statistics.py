"""Counts for each rule, for `--statistics`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from bnscope.linting.findings import Finding, Report
from bnscope.linting.formats.common import count_line
from bnscope.printing import Line, line
from bnscope.rules.base import Severity
from bnscope.strict_json import dumps

VERSION = 1


def count(reports: Sequence[Report]) -> list[dict[str, Any]]:
    """The counts, the most frequent rule first.

    Returns:
        For each rule that found something: `code`, `name`, `count`, `models` (in how many),
        `severities` and `fixes` (how many findings of each).
    """
    found: dict[str, list[tuple[int, Finding]]] = {}
    for number, report in enumerate(reports):
        for finding in report.findings:
            found.setdefault(finding.code, []).append((number, finding))
    rows = [_row(entries) for entries in found.values()]
    return sorted(rows, key=lambda row: (-row["count"], row["code"]))


def render_json(reports: Sequence[Report]) -> str:
    """The counts as one JSON document."""
    failed = sum(report.error is not None for report in reports)
    return dumps(
        {
            "version": VERSION,
            "models": len(reports) - failed,
            "failed": failed,
            "statistics": count(reports),
        },
        indent=2,
    )


def lines(reports: Sequence[Report]) -> Iterator[Line]:
    """The counts as a table for people."""
    rows = [_cells(row) for row in count(reports)]
    titles = ["findings", "models", "rule", "severity", "fix"]
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]
    for row in [titles, *rows] if rows else []:
        cells = [
            cell.rjust(width) if i < 2 else cell.ljust(width)  # noqa: PLR2004  two counts
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield line(("  ".join(cells).rstrip(), "bold" if row is titles else ""))
    if count_line(reports):
        yield line((count_line(reports), "bold"))


def _row(entries: Sequence[tuple[int, Finding]]) -> dict[str, Any]:
    findings = [finding for _, finding in entries]
    severities = Counter(finding.severity for finding in findings)
    fixes = Counter(finding.fix for finding in findings if finding.fix)
    return {
        "code": findings[0].code,
        "name": findings[0].name,
        "count": len(findings),
        "models": len({number for number, _ in entries}),
        "severities": {str(s): severities[s] for s in Severity if severities[s]},
        "fixes": dict(sorted(fixes.items())),
    }


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        str(row["count"]),
        str(row["models"]),
        f"{row['code']} {row['name']}",
        _counts(row["severities"], row["count"]),
        _counts(row["fixes"], row["count"]) or "none",
    ]


def _counts(values: dict[str, int], whole: int) -> str:
    """`warning` where that is all of them, else `3 error, 1 warning`."""
    if list(values.values()) == [whole]:
        return next(iter(values))
    return ", ".join(f"{number} {name}" for name, number in values.items())
