"""What several formats share: repeats together, and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from bnscope.linting.findings import Finding, Report
from bnscope.printing import printable
from bnscope.rules.base import Severity, plural

# What is no finding, but must not look clean either.
UNREADABLE = "unreadable-file"
NOT_ANALYSED = "not-analysed"


def grouped(findings: Iterable[Finding]) -> list[list[Finding]]:
    """The findings of one model by severity and rule, in their order."""
    groups: dict[tuple[Severity, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.code), []).append(finding)
    return list(groups.values())


def numbered(findings: Iterable[Finding]) -> Iterator[tuple[Finding, int]]:
    """The findings, and for which time their rule finds something at their layer."""
    times: Counter[tuple[str, str]] = Counter()
    for finding in findings:
        times[finding.code, finding.layer] += 1
        yield finding, times[finding.code, finding.layer]


def layers_of(findings: Iterable[Finding]) -> list[str]:
    """The layers that findings name, each once, in their order."""
    return list(dict.fromkeys(finding.layer for finding in findings))


def messages_at(layer: str, findings: Iterable[Finding]) -> list[str]:
    """What findings say of one layer."""
    return [finding.message for finding in findings if finding.layer == layer]


def listed(names: Sequence[str], most: int) -> str:
    """`a, b, c and 7 more`."""
    left = len(names) - most
    return ", ".join(names[:most]) + (f" and {left} more" if left > 0 else "")


def with_layer(layer: str, text: str) -> str:
    """A text about a layer, with control characters spelled out; "" is the whole model."""
    return printable(f"{layer}: {text}" if layer else text)


def count_line(reports: Sequence[Report]) -> str:
    """`0 errors, 2 warnings, 1 note in 1 model.`; "" if no model could be read."""
    linted = sum(report.error is None for report in reports)
    found = [finding.severity for report in reports for finding in report.findings]
    parts = [plural(found.count(Severity.ERROR), "error")]
    parts += [plural(found.count(Severity.WARNING), "warning")]
    notes = found.count(Severity.INFO)
    parts += [plural(notes, "note")] if notes else []
    return f"{', '.join(parts)} in {plural(linted, 'model')}." if linted else ""


def hints(reports: Sequence[Report]) -> Iterator[str]:
    """What to do next, in sentences."""
    findings = [finding for report in reports for finding in report.findings]
    worst = next((f for f in findings if f.severity.at_least(Severity.WARNING)), None)
    if worst is not None:
        yield f"`bnscope rule {worst.code}` explains {worst.code}."
    safe = sum(finding.fix == "safe" for finding in findings)
    if safe:
        has = "finding has" if safe == 1 else "findings have"
        yield f"{safe} {has} a safe fix (`bnscope fix`)."
