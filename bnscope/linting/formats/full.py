"""The report for people: findings of one kind together, with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bnscope.linting.findings import Finding, Report
from bnscope.linting.formats.common import (
    count_line,
    grouped,
    hints,
    layers_of,
    listed,
    messages_at,
)
from bnscope.printing import Line, line, plain
from bnscope.rules import find
from bnscope.rules.base import Severity

STYLES = {
    Severity.ERROR: "bold red",
    Severity.WARNING: "bold yellow",
    Severity.INFO: "cyan",
}
# So many layers of a group are named; JSON names all.
_MOST_NAMES = 10


def render(reports: Sequence[Report]) -> str:
    """The reports as plain text."""
    return plain(lines(reports))


def lines(reports: Sequence[Report]) -> Iterator[Line]:
    """The reports as lines with styles."""
    for report in reports:
        if report.error is None:
            yield from _report(report)
            yield line("")
    yield from _summary(reports)


def _report(report: Report) -> Iterator[Line]:
    clean = not report.findings and not report.not_analysed
    yield line((report.path, "bold"), (": nothing found" if clean else "", ""))
    for group in grouped(report.findings):
        yield from _group(group)
    for part in report.not_analysed:
        where = f"{part.layer}: " if part.layer else ""
        yield line(("  not analysed: ", "bold magenta"), f"{where}{part.reason}.")


def _group(findings: list[Finding]) -> Iterator[Line]:
    first = findings[0]
    names = layers_of(findings)
    count = f" in {len(names)} layers" if len(names) > 1 else ""
    yield line(
        "  ",
        (str(first.severity), STYLES.get(first.severity, "")),
        " ",
        (first.code, "bold"),
        f" {first.name}{count}",
    )
    where = f"{first.layer}: " if first.layer else ""
    for message in messages_at(first.layer, findings):
        yield line("    ", (where, "bold"), message)
    if len(names) > 1:
        yield line(f"    also {listed(names[1:], _MOST_NAMES)}")
    if first.severity.at_least(Severity.WARNING):
        yield line(("    To do: ", "green"), find(first.code).advice)


def _summary(reports: Sequence[Report]) -> Iterator[Line]:
    if count_line(reports):
        yield line((count_line(reports), "bold"))
    yield from map(line, hints(reports))
