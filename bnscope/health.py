"""How a run is doing: what its alerts and findings say, the worst first. Pure functions.

What stands in a run may have been written by another version, so nothing is taken for granted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bnscope import rules
from bnscope.bn import BatchNormState
from bnscope.errors import UnknownCodeError
from bnscope.events.run import Run
from bnscope.rules.base import LEVELS, Rule, Severity, StateProblem, StateRule
from bnscope.rules.cold_stats_at_validation import ColdStatsAtValidation
from bnscope.statistics.layout import VARIABLES
from bnscope.watching.ledger import sentence, the_same_in


@dataclass(frozen=True, slots=True)
class Trouble:
    """What alerts of one kind say of one layer.

    Args:
        severity: `error`, `warning` or `info`.
        code: the rule's code.
        name: the rule's name.
        layer: path of the layer.
        since: the step of the first alert.
        until: the step of the newest values in which it is found no more; None if it is still
            found, or if values do not tell.
        value: the newest value that was seen; a number, or its name ("NaN").
        channels: the channels concerned, with the step at which each was named first.
        others: how many more layers it was found in, which have no alerts of their own.
        message: what the newest alert says.
        advice: what to do.
    """

    severity: str
    code: str
    name: str
    layer: str
    since: int
    until: int | None
    value: float | str | None
    channels: tuple[tuple[int, int], ...]
    others: int
    message: str
    advice: str


@dataclass(frozen=True, slots=True)
class Found:
    """What one lint rule found as training began.

    Args:
        severity: `error`, `warning` or `info`.
        code: the rule's code.
        name: the rule's name.
        layers: path of each layer, and what was found there.
        advice: what to do.
    """

    severity: str
    code: str
    name: str
    layers: tuple[tuple[str, str], ...]
    advice: str


@dataclass(frozen=True, slots=True)
class Health:
    """How a run is doing.

    Args:
        verdict: the severity of the worst that lasts: `error`, `warning`, or `ok`.
        affected: how many layers have what is as bad as the verdict, at least.
        model: the model's name.
        layers: how many BN layers are watched.
        channels: how many channels they have.
        dead: how many of these are dead at the last step; None if nothing is recorded.
        first: the first logged step; None if there is none.
        last: the last logged step.
        records: how many steps are logged.
        untold: layers whose mini-batch statistics could not be told at the last step, by the
            reason.
        troubles: what the alerts say, the worst first.
        findings: what lint says, the worst first.
        not_analysed: what lint could not analyse, as layer and reason.
    """

    verdict: str
    affected: int
    model: str
    layers: int
    channels: int
    dead: int | None
    first: int | None
    last: int | None
    records: int
    untold: Mapping[str, int]
    troubles: tuple[Trouble, ...]
    findings: tuple[Found, ...]
    not_analysed: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """The health for JSON."""
        return asdict(self)


def examine(run: Run) -> Health:
    """How a run is doing.

    Args:
        run: the run.
    """
    start = run.start
    steps = run.steps
    troubles = _troubles(run)
    lasting = [each for each in troubles if each.until is None]
    worst = min((each.severity for each in lasting), key=_rank, default="ok")
    dead = run.field("dead_share")[-1] @ np.array(run.widths) if len(steps) else None
    return Health(
        verdict="ok" if worst == "info" else worst,
        affected=_affected([each for each in lasting if each.severity == worst]),
        model=str(start.get("model") or ""),
        layers=len(run.layers),
        channels=sum(run.widths),
        dead=None if dead is None or not np.isfinite(dead) else round(dead),
        first=int(steps[0]) if len(steps) else None,
        last=int(steps[-1]) if len(steps) else None,
        records=len(steps),
        untold=_untold(run),
        troubles=troubles,
        findings=_findings(start),
        not_analysed=tuple(
            (str(part.get("layer") or ""), str(part.get("reason") or ""))
            for part in start.get("not_analysed") or ()
        ),
    )


def _affected(troubles: Sequence[Trouble]) -> int:
    """In how many layers these were found; those of several codes may be the same ones."""
    counts = {each.code: 0 for each in troubles}
    for each in troubles:
        counts[each.code] += 1 + each.others
    return max(len({each.layer for each in troubles}), *counts.values(), 0)


def _troubles(run: Run) -> tuple[Trouble, ...]:
    """The alerts by layer and code, the worst first."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for alert in run.alerts:
        key = str(alert.get("code")), str(alert.get("layer"))
        groups.setdefault(key, []).append(alert)
    found = [_trouble(run, *key, alerts) for key, alerts in groups.items()]
    widths = dict(zip(run.layers, run.widths, strict=True))
    return tuple(
        sorted(
            found,
            key=lambda each: (
                *badness(each),
                -len(each.channels) / widths.get(each.layer, 1),
                each.since,
            ),
        )
    )


def _trouble(run: Run, code: str, layer: str, alerts: list[Mapping[str, Any]]) -> Trouble:
    channels: dict[int, int] = {}
    for alert in alerts:
        for channel in alert.get("channels") or ():
            channels.setdefault(int(channel), _step(alert))
    last = alerts[-1]
    newest, problems = _newest(run, code, layer, _step(last))
    now = problems[0] if problems else None
    others = sum(int(alert.get("others") or 0) for alert in alerts)
    return Trouble(
        severity=min((_severity(alert) for alert in alerts), key=_rank),
        code=code,
        name=str(last.get("name") or ""),
        layer=layer,
        since=min(map(_step, alerts)),
        until=newest if problems == () else None,
        value=now.value if now else last.get("value"),
        channels=tuple(channels.items()),
        others=others,
        message=sentence(now.message) + the_same_in(others)
        if now
        else str(last.get("message") or ""),
        advice=str(last.get("advice") or ""),
    )


def _step(alert: Mapping[str, Any]) -> int:
    return int(alert.get("step") or 0)


def _newest(
    run: Run, code: str, layer: str, step: int
) -> tuple[int, tuple[StateProblem, ...] | None]:
    """What a rule finds in the newest values that are known, and their step.

    Returns:
        The step, and the problems; None if there are no values since the alert, or if the rule
        is about something else than values.
    """
    rule = _rule(code)
    if isinstance(rule, ColdStatsAtValidation) and len(run.steps):
        momentum, last = run.row(layer).get("momentum"), int(run.steps[-1])
        if not isinstance(momentum, (int, float)):
            return step, None
        # What it said holds for the validation it was said of, whatever came later.
        return last, () if rule.check_updates(momentum, last) is None else None
    steps = run.channel_steps
    if not isinstance(rule, StateRule) or layer not in run.layers or not len(steps):
        return step, None
    state = _state(run, layer)
    if state is None or steps[-1] < step:
        return step, None
    return int(steps[-1]), rule.check_state(state)


def _state(run: Run, layer: str) -> BatchNormState | None:
    """The newest values of a layer; None if its momentum and epsilon are not known."""
    row = run.row(layer)
    momentum, epsilon = row.get("momentum"), row.get("epsilon")
    if not isinstance(momentum, (int, float)) or not isinstance(epsilon, (int, float)):
        return None
    values = {name: run.channels(layer, name)[-1] for name in VARIABLES}
    return BatchNormState(**values, momentum=momentum, epsilon=epsilon)


def _untold(run: Run) -> dict[str, int]:
    """How many layers' mini-batch statistics could not be told at the last step, and why."""
    if not len(run.steps):
        return {}
    counts: dict[str, int] = {}
    for number in run.field("status")[-1]:
        known = 0 <= number < len(run.statuses)
        status = run.statuses[int(number)] if known else "unknown"
        if status != "exact":
            counts[status] = counts.get(status, 0) + 1
    return counts


def _findings(start: Mapping[str, Any]) -> tuple[Found, ...]:
    """What lint found, by rule, the worst first."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for finding in start.get("findings") or ():
        key = _severity(finding), str(finding.get("code"))
        groups.setdefault(key, []).append(finding)
    found = [
        Found(
            severity=severity,
            code=code,
            name=str(group[0].get("name") or ""),
            layers=tuple(
                (str(each.get("layer") or ""), str(each.get("message") or ""))
                for each in group
            ),
            advice=rule.advice if (rule := _rule(code)) else "",
        )
        for (severity, code), group in groups.items()
    ]
    return tuple(sorted(found, key=lambda each: _rank(each.severity)))


def _rule(code: str) -> Rule | None:
    try:
        return rules.find(code)
    except UnknownCodeError:
        return None


def badness(trouble: Trouble) -> tuple[bool, int]:
    """By what troubles of several runs are sorted, the worst first."""
    return trouble.until is not None, _rank(trouble.severity)


def _severity(record: Mapping[str, Any]) -> str:
    """How bad an alert or a finding is; what others wrote may say anything."""
    severity = str(record.get("severity"))
    return severity if severity in LEVELS else str(Severity.WARNING)


def _rank(severity: str) -> int:
    """0 for the worst."""
    order = [str(each) for each in Severity]
    return order.index(severity) if severity in order else len(order)
