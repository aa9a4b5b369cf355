"""A page for browsers: the findings of one rule together, with what to do; no script in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bnscope.linting.findings import Finding, Report
from bnscope.linting.formats.common import (
    count_line,
    grouped,
    hints,
    layers_of,
    messages_at,
)
from bnscope.markup import Markup, chip, document, joined, table, tag
from bnscope.rules import find
from bnscope.rules.base import LEVELS, Severity, plural

_CLEAN = "ok"
_FAILED = "unreadable"
# The worst first.
_VERDICTS = (Severity.ERROR, _FAILED, Severity.WARNING, Severity.INFO, _CLEAN)
_HEADS = ("", "rule", "layers", "what and what to do")


def render(reports: Sequence[Report]) -> str:
    """The reports as one page."""
    parts = [tag("h1", "Lint report of Batch Normalization"), _headline(reports)]
    parts += [tag("p", *_coded(text), class_="note") for text in hints(reports)]
    if len(reports) > 1:
        parts.append(_overview(reports))
    for number, report in enumerate(reports):
        parts += _report(report, number)
    return document("bnscope lint", tag("main", *parts))


def _headline(reports: Sequence[Report]) -> Markup:
    failed = sum(report.error is not None for report in reports)
    unread = f"{plural(failed, 'file')} could not be read." if failed else ""
    said = " ".join(filter(None, [count_line(reports), unread])) or "0 models."
    worst = min(map(_verdict, reports), key=_VERDICTS.index, default=_CLEAN)
    return tag("p", _chip(worst), f" {said}", class_=f"headline {_color(worst)}")


def _coded(text: str) -> Iterator[str]:
    """What stands between backticks as code."""
    for number, part in enumerate(text.split("`")):
        yield tag("code", part) if number % 2 else part


def _verdict(report: Report) -> str:
    """The worst that is said of a model."""
    if report.error is not None:
        return _FAILED
    said: list[str] = [finding.severity for finding in report.findings]
    said += [Severity.INFO] * len(report.not_analysed)
    return str(min(said, key=_VERDICTS.index, default=_CLEAN))


def _chip(verdict: str) -> Markup:
    return chip(_color(verdict), "OK" if verdict == _CLEAN else verdict)


def _color(verdict: str) -> str:
    return str(Severity.ERROR) if verdict == _FAILED else verdict


def _counts(report: Report) -> list[str]:
    if report.error is not None:
        return [""] * (len(LEVELS) + 1)
    found = [finding.severity for finding in report.findings]
    return [*(str(found.count(level)) for level in LEVELS), str(len(report.not_analysed))]


def _overview(reports: Sequence[Report]) -> Markup:
    """One row a model, each leading to what is found in it."""
    return table(
        ["", "model", "errors", "warnings", "notes", "not analysed"],
        [
            [
                _chip(_verdict(report)),
                tag("a", report.path, href=f"#{_anchor(number)}"),
                *_counts(report),
            ]
            for number, report in enumerate(reports)
        ],
    )


def _anchor(number: int) -> str:
    return f"model-{number + 1}"


def _report(report: Report, number: int) -> Iterator[Markup]:
    yield tag("h2", report.path, id=_anchor(number))
    if report.error is not None:
        yield tag("p", _chip(_FAILED), f" {report.error}")
        return
    rows = [_group(findings) for findings in grouped(report.findings)]
    rows += [
        [chip(Severity.INFO), "not analysed", part.layer or "the model", part.reason]
        for part in report.not_analysed
    ]
    yield table(_HEADS, rows) if rows else tag("p", "Nothing found.", class_="note")


def _group(findings: list[Finding]) -> list[str]:
    """The row of what one rule found in a model."""
    first = findings[0]
    names = layers_of(findings)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [
        chip(first.severity),
        tag("b", f"{first.code} {first.name}", class_="rule"),
        (first.layer or "the model") + more,
        joined(_said(findings, names)),
    ]


def _said(findings: list[Finding], names: Sequence[str]) -> Iterator[Markup]:
    first = findings[0]
    for message in messages_at(first.layer, findings):
        yield tag("div", message)
    if first.severity.at_least(Severity.WARNING):
        yield tag("i", f"To do: {find(first.code).advice}")
    if len(names) > 1:
        others = [
            tag("li", tag("b", name), ": ", " ".join(messages_at(name, findings)))
            for name in names[1:]
        ]
        summary = tag("summary", f"Also in {plural(len(others), 'more layer')}")
        yield tag("details", summary, tag("ul", *others))
