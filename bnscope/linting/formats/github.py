"""Workflow commands for GitHub Actions, which show as annotations.

GitHub shows ten annotations a step and severity, so repeats are grouped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bnscope.linting.findings import Finding, Report
from bnscope.linting.formats.common import (
    NOT_ANALYSED,
    UNREADABLE,
    grouped,
    layers_of,
    listed,
    messages_at,
    with_layer,
)
from bnscope.linting.formats.places import place
from bnscope.rules import find
from bnscope.rules.base import Severity

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning"}
_MOST_NAMES = 10


def render(reports: Sequence[Report]) -> str:
    """The reports as one workflow command a rule and file."""
    return "\n".join(command for report in reports for command in _commands(report))


def _commands(report: Report) -> Iterator[str]:
    if report.error is not None:
        yield _command("error", report, UNREADABLE, with_layer("", str(report.error)))
    for group in grouped(report.findings):
        first = group[0]
        title = f"{first.code} {first.name}"
        yield _command(_COMMANDS.get(first.severity, "notice"), report, title, _text(group))
    for part in report.not_analysed:
        yield _command("notice", report, NOT_ANALYSED, with_layer(part.layer, part.reason))


def _text(findings: list[Finding]) -> str:
    first = findings[0]
    lines = [with_layer(first.layer, text) for text in messages_at(first.layer, findings)]
    others = layers_of(findings)[1:]
    if others:
        lines.append(with_layer("", f"Also {listed(others, _MOST_NAMES)}."))
    return "\n".join([*lines, f"To do: {find(first.code).advice}"])


def _command(kind: str, report: Report, title: str, text: str) -> str:
    properties = {} if report.live else {"file": place(report)}
    properties["title"] = title
    given = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{kind} {given}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
