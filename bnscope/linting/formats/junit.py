"""JUnit XML: one suite a model, one case a finding.

Errors and warnings are failures; infos pass, with their text as output. A file that cannot be
read is an error, a part that was not analysed is skipped, and a clean model is one case that
passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from bnscope.linting.findings import Finding, Report
from bnscope.linting.formats.common import NOT_ANALYSED, UNREADABLE, numbered, with_layer
from bnscope.linting.formats.places import place
from bnscope.printing import printable
from bnscope.rules import find
from bnscope.rules.base import Severity

# In the order in which the counts stand on a suite.
_OUTCOMES = {"failures": "failure", "errors": "error", "skipped": "skipped"}


def render(reports: Sequence[Report]) -> str:
    """The reports as one document."""
    root = Element("testsuites", name="bnscope")
    for report in reports:
        root.append(_suite(report))
    _count(root)
    indent(root)
    # Characters beyond ASCII are written as references: no stream can garble them.
    return '<?xml version="1.0" encoding="utf-8"?>\n' + tostring(root).decode("ascii")


def _suite(report: Report) -> Element:
    suite = Element("testsuite", name=place(report))
    if report.error is not None:
        text = printable(str(report.error))
        SubElement(_case(suite, report, UNREADABLE), "error", message=text)
    for finding, time in numbered(report.findings):
        _finding(suite, report, finding, time)
    for part in report.not_analysed:
        text = with_layer(part.layer, part.reason)
        SubElement(
            _case(suite, report, f"{NOT_ANALYSED} {part.layer}"), "skipped", message=text
        )
    if not len(suite):
        _case(suite, report, "bnscope lint")
    _count(suite)
    return suite


def _finding(suite: Element, report: Report, finding: Finding, time: int) -> None:
    # Two cases of one name would be taken for one.
    repeat = f" ({time})" if time > 1 else ""
    name = f"{finding.code} {finding.name} {finding.layer}{repeat}"
    case = _case(suite, report, name)
    text = with_layer(finding.layer, finding.message)
    if finding.severity.at_least(Severity.WARNING):
        failure = SubElement(case, "failure", message=text, type=str(finding.severity))
        failure.text = f"{text}\nTo do: {find(finding.code).advice}"
    else:
        SubElement(case, "system-out").text = text


def _case(suite: Element, report: Report, name: str) -> Element:
    case = SubElement(
        suite, "testcase", classname=place(report), name=printable(name.strip())
    )
    if not report.live:
        case.set("file", place(report))
    return case


def _count(element: Element) -> None:
    element.set("tests", str(len(element.findall(".//testcase"))))
    for name, outcome in _OUTCOMES.items():
        element.set(name, str(len(element.findall(f".//testcase/{outcome}"))))
