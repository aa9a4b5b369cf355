"""The report for people: findings of one kind together, with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from bnscope.linting.findings import Finding, Report
from bnscope.printing import Line, line
from bnscope.rules import find
from bnscope.rules.base import Severity, plural

_STYLES = {
    Severity.ERROR: "bold red",
    Severity.WARNING: "bold yellow",
    Severity.INFO: "cyan",
}
# So many layers of a group are named; JSON names all.
_MOST_NAMES = 10


def render(reports: Sequence[Report]) -> Iterator[Line]:
    """The reports as lines with styles."""
    for report in reports:
        if report.error is None:
            yield from _report(report)
            yield line("")
    yield from _summary(reports)


def _report(report: Report) -> Iterator[Line]:
    clean = not report.findings and not report.not_analysed
    yield line((report.path, "bold"), (": nothing found" if clean else "", ""))
    for _, group in groupby(report.findings, key=lambda f: (f.severity, f.code)):
        yield from _group(list(group))
    for part in report.not_analysed:
        where = f"{part.layer}: " if part.layer else ""
        yield line(("  not analysed ", "bold magenta"), f"{where}{part.reason}.")


def _group(findings: list[Finding]) -> Iterator[Line]:
    first = findings[0]
    count = f" in {len(findings)} layers" if len(findings) > 1 else ""
    yield line(
        "  ",
        (str(first.severity), _STYLES.get(first.severity, "")),
        " ",
        (first.code, "bold"),
        f" {first.name}{count}",
    )
    yield line("    ", (first.layer, "bold"), f": {first.message}")
    others = [finding.layer for finding in findings[1:]]
    if others:
        names = ", ".join(others[:_MOST_NAMES])
        left = len(others) - _MOST_NAMES
        yield line(f"    also {names}{f' and {left} more' if left > 0 else ''}")
    if first.severity.at_least(Severity.WARNING):
        yield line(("    To do: ", "green"), find(first.code).advice)


def _summary(reports: Sequence[Report]) -> Iterator[Line]:
    findings = [finding for report in reports for finding in report.findings]
    linted = sum(report.error is None for report in reports)
    counts = [
        (sum(finding.severity is severity for finding in findings), noun)
        for severity, noun in ((Severity.ERROR, "error"), (Severity.WARNING, "warning"))
    ]
    notes = sum(finding.severity is Severity.INFO for finding in findings)
    parts = [plural(count, noun) for count, noun in counts]
    parts += [plural(notes, "note")] if notes else []
    if linted:
        yield line((f"{', '.join(parts)} in {plural(linted, 'model')}.", "bold"))
    worst = next((f for f in findings if f.severity.at_least(Severity.WARNING)), None)
    if worst is not None:
        yield line(f"`bnscope rule {worst.code}` explains {worst.code}.")
