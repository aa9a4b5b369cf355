"""Findings, and the report of one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bnscope.errors import BnscopeError
from bnscope.graph.model import NotAnalysed
from bnscope.rules.base import Severity


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule found at one layer.

    Args:
        code: the rule's code (`BN101`).
        name: the rule's name (`redundant-bias`).
        severity: `error`, `warning` or `info`.
        message: what was found, with the values, and why it matters.
        layer: path of the layer.
        related: paths of other layers that have a part in it.
        fix: "safe", "unsafe" or None.
        data: the numbers behind the message.
    """

    code: str
    name: str
    severity: Severity
    message: str
    layer: str
    related: tuple[str, ...] = ()
    fix: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The finding for JSON."""
        return {
            "code": self.code,
            "name": self.name,
            "severity": str(self.severity),
            "message": self.message,
            "layer": self.layer,
            "related": list(self.related),
            "fix": self.fix,
            "data": dict(self.data),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The findings of one model; iterate over it to get them, worst first.

    Args:
        path: the file, or the name of a live model.
        findings: the findings, worst first, then in forward order.
        not_analysed: what could not be analysed, and why.
        error: why the file could not be read at all; None if it could.
        live: whether it is a live model, so that `path` is no file.
    """

    path: str
    findings: tuple[Finding, ...] = ()
    not_analysed: tuple[NotAnalysed, ...] = ()
    error: BnscopeError | None = None
    live: bool = False

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    @property
    def status(self) -> str:
        """`analysed`, `partly` (see `not_analysed`) or `failed` (see `error`)."""
        if self.error is not None:
            return "failed"
        return "partly" if self.not_analysed else "analysed"

    @property
    def ok(self) -> bool:
        """Whether everything was analysed and nothing is at warning level or above."""
        return self.status == "analysed" and not self.at_least(Severity.WARNING)

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings that are as bad as a severity, or worse."""
        return tuple(f for f in self.findings if f.severity.at_least(severity))

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON: one entry of `files`."""
        error = self.error
        return {
            "path": self.path,
            "status": self.status,
            "error": error and {"message": error.message, "hint": error.hint},
            "not_analysed": [
                {"layer": part.layer, "reason": part.reason} for part in self.not_analysed
            ],
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def to_json(self) -> str:
        """The report as the JSON that `bnscope lint --output-format json` prints."""
        from bnscope.linting.formats.json import render

        return render([self])

    def to_sarif(self) -> str:
        """The report as SARIF 2.1.0."""
        from bnscope.linting.formats.sarif import render

        return render([self])

    def to_html(self) -> str:
        """The report as a page for browsers; no script in it."""
        from bnscope.linting.formats.html import render

        return render([self])

    def __str__(self) -> str:
        from bnscope.linting.formats.full import render

        return render([self])

    def _repr_html_(self) -> str:
        from bnscope.linting.formats.notebook import render

        return render([self])
