"""Runs the rules over a graph."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from bnscope.graph import read
from bnscope.graph.model import Graph
from bnscope.linting.findings import Finding, Report
from bnscope.linting.settings import Settings, split_codes
from bnscope.rules.base import THE_RULES_OWN, Context, Problem, Rule, Severity


def lint(
    model_or_path: Any,
    *,
    select: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] | None = None,
    settings: Settings | None = None,
    config: str | os.PathLike[str] | None = None,
) -> Report:
    """Lints a saved or live model. The model is not changed, and a file is never run.

    Args:
        model_or_path: a path (`.keras`, `.h5`, `.json`) or a `keras.Model`.
        select: codes, prefixes or names of the rules to run (`"BN101,BN2"` or a list).
        ignore: those not to run.
        settings: settings to start from; `select` and `ignore` replace theirs.
        config: the JSON of `model.to_json()`, which completes a file with only weights.

    Returns:
        The report: iterate over its findings, ask for `.ok`, print it, or take `.to_json()`.

    Raises:
        UnreadableModelError: if the file is missing, damaged or no Keras model.
        UnsupportedModelError: if a live object is no Keras 3 model.
        UnknownCodeError: if a code or name does not exist.
    """
    settings = settings or Settings()
    if select is not None:
        settings = replace(settings, select=split_codes(select))
    if ignore is not None:
        settings = replace(settings, ignore=split_codes(ignore) or ())
    rules = settings.rules()
    graph = read(model_or_path, config)
    is_file = isinstance(model_or_path, (str, os.PathLike))
    return lint_graph(graph, rules, path=os.fspath(model_or_path) if is_file else None)


def lint_graph(
    graph: Graph, rules: Iterable[Rule] | None = None, *, path: str | None = None
) -> Report:
    """Lints a graph.

    Args:
        graph: what was read of the model.
        rules: the rules to run; None for all that are not off by default.
        path: the file; None for a live model, whose report bears its name.

    Returns:
        The report.
    """
    context = Context(graph)
    rules = Settings().rules() if rules is None else rules
    order = {layer.path: index for index, layer in enumerate(graph.layers)}
    findings = [
        _finding(rule, problem) for rule in rules for problem in rule.check(context)
    ]
    findings.sort(key=lambda f: (f.severity.rank, f.code, order.get(f.layer, len(order))))
    return Report(
        path=path or graph.name,
        findings=tuple(_unique(findings)),
        not_analysed=graph.not_analysed,
        live=path is None,
    )


def _finding(rule: Rule, problem: Problem) -> Finding:
    severity = problem.severity or rule.severity
    return Finding(
        code=rule.code,
        name=rule.name,
        # Who selects a rule that is off by default wants to see what it finds.
        severity=Severity.INFO if severity is Severity.OFF else severity,
        message=problem.message,
        layer=problem.layer,
        related=problem.related,
        fix=rule.fix if problem.fix == THE_RULES_OWN else problem.fix,
        data=problem.data,
    )


def _unique(findings: list[Finding]) -> Iterable[Finding]:
    # A layer that is called several times is found at each call.
    seen = set()
    for finding in findings:
        key = (finding.code, finding.layer, finding.message)
        if key not in seen:
            seen.add(key)
            yield finding
