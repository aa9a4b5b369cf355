"""The report for people in a hurry: one line a rule and file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bnscope.linting.findings import Finding, Report
from bnscope.linting.formats.common import count_line, grouped, layers_of, messages_at
from bnscope.linting.formats.full import STYLES
from bnscope.printing import Line, line, plain
from bnscope.rules.base import plural


def render(reports: Sequence[Report]) -> str:
    """The reports as plain text."""
    return plain(lines(reports))


def lines(reports: Sequence[Report]) -> Iterator[Line]:
    """The reports as lines with styles."""
    for report in reports:
        for group in grouped(report.findings):
            yield _line(report, group)
        for part in report.not_analysed:
            where = f"{part.layer}: " if part.layer else ""
            yield line(
                (report.path, "bold"),
                ": ",
                ("not analysed", "bold magenta"),
                f": {where}{part.reason}.",
            )
    if count_line(reports):
        yield line((count_line(reports), "bold"))


def _line(report: Report, findings: list[Finding]) -> Line:
    first = findings[0]
    others = len(layers_of(findings)) - 1
    more = f" (and {plural(others, 'more layer')})" if others else ""
    where = f"{first.layer}{more}: " if first.layer else ""
    return line(
        (report.path, "bold"),
        ": ",
        (str(first.severity), STYLES.get(first.severity, "")),
        " ",
        (first.code, "bold"),
        f" {first.name}: {where}{' '.join(messages_at(first.layer, findings))}",
    )
