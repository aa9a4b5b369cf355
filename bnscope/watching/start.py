"""The record written as training begins: what is known of the model before the first step."""

from __future__ import annotations

from typing import Any

from bnscope.events.schema import VERSION
from bnscope.folding.plan import make_plan
from bnscope.graph.model import Graph
from bnscope.inspection import inspect_graph
from bnscope.linting import Report, lint_graph
from bnscope.rules.base import Severity, plural


def start_record(graph: Graph, report: Report, params: dict[str, Any]) -> dict[str, Any]:
    """The start record of the event schema.

    Args:
        graph: the model.
        report: what linting says of it.
        params: what `fit` was asked for: epochs, steps; and `counting`, whether the number of
            updates between two readings is "exact" or "approximate", or "names" where steps
            are the numbers in the names of checkpoints.

    Returns:
        Values ready for JSON.
    """
    return {
        "version": VERSION,
        "model": graph.name,
        "params": {key: params.get(key) for key in ("epochs", "steps", "counting")},
        "layers": [row.to_dict() for row in inspect_graph(graph).rows],
        "verdicts": [verdict.to_dict() for verdict in make_plan(graph).verdicts],
        "findings": [finding.to_dict() for finding in report.findings],
        "not_analysed": [
            {"layer": part.layer, "reason": part.reason} for part in report.not_analysed
        ],
    }


def start_report(graph: Graph, *, trained: bool = False) -> Report:
    """What linting says as training begins; that the model is untrained is no news then.

    Args:
        graph: the model.
        trained: whether its first steps in this training are done, which built it.
    """
    report = lint_graph(graph)
    no_news = {"BN301", "BN302"} if trained else {"BN301"}
    findings = tuple(found for found in report.findings if found.code not in no_news)
    return Report(report.path, findings, report.not_analysed)


def start_text(record: dict[str, Any], report: Report) -> str:
    """The start record for people, in the Markdown of the Text dashboard."""
    lines = [
        f"### {record['model']}: {plural(len(record['layers']), 'BN layer')}",
        "",
        "| layer | fed by | channels | momentum | epsilon | folds into |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in record["layers"]:
        cells = [
            row["layer"],
            ", ".join(row["fed_by"]) or "?",
            _known(row["channels"]),
            _known(row["momentum"]),
            _known(row["epsilon"]),
            row["folds_into"] or f"kept: {row['reason']}",
        ]
        lines.append(
            "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
        )
    lines += ["", "### Lint", "", "```", str(report), "```"]
    return "\n".join(lines)


def _known(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"


def summary_line(report: Report, steps: int = 0) -> str | None:
    """The findings at warning level or above in one line; None if there are none.

    Args:
        report: what linting says.
        steps: after how many steps of this training, which built the model.
    """
    found = report.at_least(Severity.WARNING)
    if not found:
        return None
    codes = sorted({(finding.code, finding.name) for finding in found})
    counted = ", ".join(
        f"{code} {name} x{sum(f.code == code for f in found)}" for code, name in codes
    )
    when = (
        f"after {plural(steps, 'step')}, which built the model"
        if steps
        else "before training"
    )
    return f"lint {when}: {counted} (bnscope.lint(model) explains)"
