"""Runs the rules over a graph."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bnscope.graph import read
from bnscope.graph.model import Graph
from bnscope.linting.discovery import is_remote
from bnscope.linting.findings import Finding, Report
from bnscope.linting.settings import Settings, selected
from bnscope.linting.suppression import Suppression
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
        model_or_path: a path (`.keras`, `.h5`, `.json`), the URL of one that fsspec can read
            (`s3://...`), or a `keras.Model`.
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
    return Linter(selected(settings, select, ignore)).lint(model_or_path, config).report


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
    return Linter(rules=rules).lint_graph(graph, path).report


@dataclass(frozen=True, slots=True)
class Linted:
    """What linting one model gave.

    Args:
        report: the report.
        used: the entries of `per_layer_ignore` that covered a finding, by their places.
        quiet: how many findings they covered.
    """

    report: Report
    used: frozenset[int] = frozenset()
    quiet: int = 0


class Linter:
    """The rules that settings select, ready for any number of models.

    Args:
        settings: the settings; None for the defaults.
        rules: the rules to run; None for those that the settings select.
    """

    def __init__(
        self, settings: Settings | None = None, rules: Iterable[Rule] | None = None
    ) -> None:
        settings = settings or Settings()
        self.rules = settings.rules() if rules is None else tuple(rules)
        self._severities = settings.severities()
        self._suppression = Suppression(settings.per_layer_ignore)

    def lint(self, model_or_path: Any, config: Any = None) -> Linted:
        """Lints a saved or live model; see `bnscope.lint`."""
        if not isinstance(model_or_path, (str, os.PathLike)):
            return self.lint_graph(read(model_or_path, config))
        path = os.fspath(model_or_path)
        if not is_remote(path):
            return self.lint_graph(read(path, config), path)
        from bnscope.linting import remote

        return self.lint_graph(remote.read(path, config), path)

    def lint_graph(self, graph: Graph, path: str | None = None) -> Linted:
        """Lints a graph; `path` is what the report is called."""
        context = Context(graph)
        order = {layer.path: index for index, layer in enumerate(graph.layers)}
        found = [
            self._finding(rule, problem, graph)
            for rule in self.rules
            for problem in rule.check(context)
        ]
        found.sort(key=lambda f: (f.severity.rank, f.code, order.get(f.layer, len(order))))
        findings, used, quiet = [], set[int](), 0
        for finding in _unique(found):
            covering = self._suppression.covering(finding.code, finding.layer)
            used |= covering
            quiet += bool(covering)
            if not covering:
                findings.append(finding)
        report = Report(
            path=path or graph.name,
            findings=tuple(findings),
            not_analysed=graph.not_analysed,
            live=path is None,
        )
        return Linted(report, frozenset(used), quiet)

    def _finding(self, rule: Rule, problem: Problem, graph: Graph) -> Finding:
        fix = rule.fix if problem.fix == THE_RULES_OWN else problem.fix
        # What a `call` of the user's does cannot be made again with changes.
        if graph.has_layer(problem.layer) and graph.is_traced(graph.layer(problem.layer)):
            fix = None
        return Finding(
            code=rule.code,
            name=rule.name,
            severity=self._severity(rule, problem.severity or rule.severity),
            message=problem.message,
            layer=problem.layer,
            related=problem.related,
            fix=fix,
            data=problem.data,
        )

    def _severity(self, rule: Rule, found: Severity) -> Severity:
        # Who selects a rule that is off by default wants to see what it finds.
        found, usual = (
            Severity.INFO if severity is Severity.OFF else severity
            for severity in (found, rule.severity)
        )
        wanted = self._severities.get(rule.code)
        if wanted is None or (not found.at_least(usual) and found.rank > wanted.rank):
            return found
        return wanted


def _unique(findings: list[Finding]) -> Iterable[Finding]:
    # A layer that is called several times is found at each call.
    seen = set()
    for finding in findings:
        key = (finding.code, finding.layer, finding.message)
        if key not in seen:
            seen.add(key)
            yield finding
