"""HTML for notebooks: escaped, without scripts, readable on a dark and on a light page."""

from __future__ import annotations

import html
from collections.abc import Sequence

from bnscope.linting.findings import Finding, Report
from bnscope.linting.formats.common import (
    count_line,
    grouped,
    layers_of,
    listed,
    messages_at,
)
from bnscope.printing import printable
from bnscope.rules import find
from bnscope.rules.base import Severity

# White on these is readable, and they stand out from white and from black.
_COLORS = {
    Severity.ERROR: "#c62828",
    Severity.WARNING: "#a65d00",
    Severity.INFO: "#00718f",
}
_NOT_ANALYSED = "#8f47a3"
_MOST_NAMES = 10


def render(reports: Sequence[Report]) -> str:
    """The reports as HTML; text and lines have the page's own colour."""
    body = "".join(_report(report) for report in reports)
    return f'<div class="bnscope" style="line-height:1.5">{body}</div>'


def _report(report: Report) -> str:
    title = f"<div><b>{_text(report.path)}</b>: {_text(_summary(report))}</div>"
    rows = [_row(group) for group in grouped(report.findings)]
    rows += [
        _entry(
            "not analysed",
            _NOT_ANALYSED,
            "",
            _text(f"{part.layer}: {part.reason}" if part.layer else part.reason),
        )
        for part in report.not_analysed
    ]
    return title + "".join(rows)


def _summary(report: Report) -> str:
    if report.error is not None:
        return str(report.error)
    return (
        count_line([report]) if report.findings or report.not_analysed else "nothing found."
    )


def _row(findings: list[Finding]) -> str:
    first = findings[0]
    names = layers_of(findings)
    count = f" in {len(names)} layers" if len(names) > 1 else ""
    layer = f"<code>{_text(first.layer)}</code>: " if first.layer else ""
    parts = [layer + _text(text) for text in messages_at(first.layer, findings)]
    if len(names) > 1:
        parts.append(_text(f"also {listed(names[1:], _MOST_NAMES)}"))
    if first.severity.at_least(Severity.WARNING):
        parts.append(f"<i>To do:</i> {_text(find(first.code).advice)}")
    return _entry(
        str(first.severity),
        _COLORS.get(first.severity, _NOT_ANALYSED),
        f"<b>{first.code}</b> {_text(first.name)}{count}",
        "<br>".join(parts),
    )


def _entry(badge: str, color: str, head: str, body: str) -> str:
    mark = (
        f'<span style="background:{color};color:#fff;border-radius:3px;padding:0 .4em">'
        f"{badge}</span>"
    )
    return (
        f'<div style="margin:.5em 0 0 .2em;padding-left:.7em;border-left:3px solid {color}">'
        f"{mark} {head}<div>{body}</div></div>"
    )


def _text(text: str) -> str:
    return html.escape(printable(text))
