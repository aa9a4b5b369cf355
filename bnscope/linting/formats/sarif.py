"""SARIF 2.1.0.

A model has no lines: a result's place is the file, and in it a logical location, the layer's
path. GitHub matches results from run to run by `primaryLocationLineHash`, and makes none up for
results without lines; it is the same as the other fingerprint, out of rule, layer path and file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bnscope import __version__
from bnscope.graph.model import NotAnalysed
from bnscope.linting.findings import Finding, Report
from bnscope.linting.formats.common import NOT_ANALYSED, UNREADABLE, with_layer
from bnscope.linting.formats.places import fingerprints, uri
from bnscope.printing import printable
from bnscope.rules import find
from bnscope.rules.base import Rule, Severity
from bnscope.strict_json import dumps

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning"}
_BASE = "%SRCROOT%"


def render(reports: Sequence[Report]) -> str:
    """The reports as one run."""
    return dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [_run(reports)]})


def _run(reports: Sequence[Report]) -> dict[str, Any]:
    codes = sorted({finding.code for report in reports for finding in report.findings})
    index = {code: place for place, code in enumerate(codes)}
    files = list(dict.fromkeys(uri(report) for report in reports if not report.live))
    return {
        "tool": {"driver": _driver(codes)},
        "invocations": [_invocation(reports)],
        "originalUriBaseIds": {
            _BASE: {"description": {"text": "The directory in which bnscope was run."}}
        },
        "artifacts": [
            {"location": _artifact(file), "roles": ["analysisTarget"]} for file in files
        ],
        "results": [
            _result(report, finding, mark, index[finding.code])
            for report in reports
            for finding, mark in fingerprints(report)
        ],
    }


def _driver(codes: Sequence[str]) -> dict[str, Any]:
    return {
        "name": "bnscope",
        "version": __version__,
        "semanticVersion": __version__,
        "rules": [_rule(find(code)) for code in codes],
        "notifications": [
            _described(
                UNREADABLE, "A file cannot be read.", "Its message says what to do."
            ),
            _described(
                NOT_ANALYSED,
                "A part of a model was not analysed.",
                "Nothing is known of it; the rest of the model was linted.",
            ),
        ],
    }


def _described(kind: str, text: str, advice: str) -> dict[str, Any]:
    return {
        "id": kind,
        "shortDescription": {"text": text},
        "fullDescription": {"text": f"{text} {advice}"},
        "help": {"text": advice},  # GitHub asks for it
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": rule.summary()},
        "fullDescription": {"text": f"{rule.summary()} {rule.advice}"},
        "help": {"text": rule.advice, "markdown": rule.page()},
        "defaultConfiguration": {"level": _level(rule.severity)},
        "properties": {"tags": ["batch-normalization"], "fix": rule.fix},
    }


def _result(report: Report, finding: Finding, mark: str, index: int) -> dict[str, Any]:
    result = {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": _level(finding.severity),
        "message": {"text": with_layer(finding.layer, finding.message)},
        "locations": [_location(report, finding.layer)],
        "partialFingerprints": {
            "ruleLayerFile/v1": mark,
            "primaryLocationLineHash": mark,
        },
        "properties": {"fix": finding.fix, "data": dict(finding.data)},
    }
    if finding.related:
        result["relatedLocations"] = [
            _location(report, layer) | {"id": number}
            for number, layer in enumerate(finding.related)
        ]
    return result


def _invocation(reports: Sequence[Report]) -> dict[str, Any]:
    notifications = [
        notification for report in reports for notification in _notifications(report)
    ]
    return {
        "executionSuccessful": all(report.error is None for report in reports),
        "toolExecutionNotifications": notifications,
    }


def _notifications(report: Report) -> Iterator[dict[str, Any]]:
    if report.error is not None:
        yield _notification(report, UNREADABLE, "error", NotAnalysed("", str(report.error)))
    for part in report.not_analysed:
        yield _notification(report, NOT_ANALYSED, "warning", part)


def _notification(
    report: Report, kind: str, level: str, part: NotAnalysed
) -> dict[str, Any]:
    return {
        "descriptor": {"id": kind},
        "level": level,
        "message": {"text": with_layer(part.layer, part.reason)},
        "locations": [_location(report, part.layer)],
    }


def _location(report: Report, layer: str) -> dict[str, Any]:
    location: dict[str, Any] = {}
    if not report.live:
        location["physicalLocation"] = {"artifactLocation": _artifact(uri(report))}
    path = printable(layer) or (printable(report.path) if report.live else "")
    if path:
        name = path.rpartition("/")[2]
        kind = "layer" if layer else "model"
        location["logicalLocations"] = [
            {"name": name, "fullyQualifiedName": path, "kind": kind}
        ]
    return location


def _artifact(file: str) -> dict[str, Any]:
    # Only a relative URI has a base.
    return {"uri": file} | ({} if "://" in file else {"uriBaseId": _BASE})


def _level(severity: Severity) -> str:
    return _LEVELS.get(severity, "note")
