"""Alerts, and which of them were raised already: each is told once, then counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bnscope.bn import AnyArray
from bnscope.rules.base import Rule, Severity, StateProblem, plural


@dataclass(slots=True)
class Alert:
    """Something that went wrong while a model trained.

    Args:
        code: the rule's code.
        name: the rule's name.
        severity: how bad it is.
        layer: path of the layer; the first one in forward order if there are several.
        channel: the worst channel; None where the alert is about no channel.
        step: the step at which it was seen first.
        value: the value that was seen.
        threshold: the value that should not have been passed; None where there is none.
        message: what was found.
        advice: what to do.
        channels: all channels concerned, worst first.
        others: how many more layers were found at the same step.
        count: at how many readings it was seen so far.
    """

    code: str
    name: str
    severity: Severity
    layer: str
    channel: int | None
    step: int
    value: float
    threshold: float | None
    message: str
    advice: str
    channels: tuple[int, ...] = ()
    others: int = 0
    count: int = 1

    def to_dict(self) -> dict[str, Any]:
        """The alert for JSON."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**fields, "severity": str(self.severity), "channels": list(self.channels)}

    def __str__(self) -> str:
        return (
            f"{self.severity} {self.code} {self.name} at step {self.step}: {self.layer}: "
            f"{self.message} {self.advice}"
        )


# What a rule found: the layer, and the problem.
Found = tuple[str, StateProblem]


@dataclass(slots=True)
class Ledger:
    """The alerts so far, and how often each was seen.

    Args:
        alerts: what was raised so far.
        every_channel: whether each further channel of a layer is news, and not only a doubling
            of their number.
    """

    alerts: list[Alert] = field(default_factory=list)
    every_channel: bool = False
    _of_layer: dict[tuple[str, str], Alert] = field(default_factory=dict)
    _channels: dict[tuple[str, str, str], set[int]] = field(default_factory=dict)

    def layers(self, rule: Rule, found: Sequence[Found], step: int) -> Alert | None:
        """One alert for all layers in which a rule found something for the first time.

        Args:
            rule: the rule.
            found: the layers and problems, the one to be named first.
            step: the step.

        Returns:
            The alert; None if all were named before, which is counted.
        """
        known: dict[int, Alert] = {}  # one alert stands for all layers that it came with
        fresh = []
        for layer, problem in found:
            alert = self._of_layer.get((rule.code, layer))
            if alert is None:
                fresh.append((layer, problem))
            else:
                known[id(alert)] = alert
        for alert in known.values():
            alert.count += 1
        if not fresh:
            return None
        others = len({layer for layer, _ in fresh}) - 1
        alert = self._add(rule, *fresh[0], step, others)
        for layer, _ in fresh:
            self._of_layer[rule.code, layer] = alert
        return alert

    def channels(
        self, rule: Rule, layer: str, problem: StateProblem, step: int, values: AnyArray
    ) -> Alert | None:
        """An alert for channels of one layer that were not named before.

        Channels often die one after another: of a layer that was named already only a doubling
        of their number is news, unless `every_channel` asks for more.

        Args:
            rule: the rule.
            layer: path of the layer.
            problem: what it found.
            step: the step.
            values: of each channel of the layer what `problem.value` is of the worst.

        Returns:
            The alert, whose `channel` is the worst of the new ones; None if there is no news.
        """
        named = self._channels.setdefault((rule.code, layer, problem.statistic), set())
        fresh = [channel for channel in problem.channels if channel not in named]
        if not fresh or (len(fresh) < len(named) and not self.every_channel):
            return None
        named.update(fresh)
        alert = self._add(rule, layer, problem, step)
        alert.channel = fresh[0]
        alert.value = float(values[fresh[0]])
        self._of_layer.setdefault((rule.code, layer), alert)
        return alert

    def seen(self, rule: Rule, layer: str) -> None:
        """Counts that a layer that may have been named shows the fault at this reading."""
        alert = self._of_layer.get((rule.code, layer))
        if alert is not None:
            alert.count += 1

    def _add(
        self, rule: Rule, layer: str, problem: StateProblem, step: int, others: int = 0
    ) -> Alert:
        more = the_same_in(others)
        alert = Alert(
            code=rule.code,
            name=rule.name,
            severity=problem.severity,
            layer=layer,
            channel=problem.channels[0] if problem.channels else None,
            step=step,
            value=problem.value,
            threshold=problem.threshold,
            message=sentence(problem.message) + more,
            advice=rule.advice,
            channels=problem.channels,
            others=others,
        )
        self.alerts.append(alert)
        return alert


def the_same_in(others: int) -> str:
    """What is added to an alert that stands for more layers; "" if it does not."""
    return f" The same in {plural(others, 'more layer')}." if others else ""


def sentence(message: str) -> str:
    """With a capital letter, unless it begins with the name of a variable."""
    is_name = "_" in message.partition(" ")[0]
    return message if is_name else message[:1].upper() + message[1:]
