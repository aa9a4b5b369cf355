"""Alerts: what the rules say of a run while it trains. Each is told once, then counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.bn import Array
from bnscope.rules.base import Severity, StateProblem, StateRule, plural
from bnscope.rules.cold_stats_at_validation import ColdStatsAtValidation
from bnscope.rules.collapsed_variance import CollapsedVariance
from bnscope.rules.nan_statistics import NanStatistics
from bnscope.statistics.layout import Layout, Status

# Not updated, or more often than once a step.
_OTHER_COUNT = frozenset({Status.FROZEN, Status.TIME_DISTRIBUTED, Status.SHARED})


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


@dataclass(slots=True)
class Watch:
    """Looks at each reading and raises what is new.

    The rules look at one layer at a time; most readings are fine, which a comparison of all
    channels at once tells.

    Args:
        layout: the layers.
        alerts: what was raised so far.
        every_channel: whether each further channel of a layer is news, and not only a doubling
            of their number.
    """

    layout: Layout
    alerts: list[Alert] = field(default_factory=list)
    every_channel: bool = False
    _seen: dict[tuple[str, str], Alert] = field(default_factory=dict)
    _channels: dict[tuple[str, str], set[int]] = field(default_factory=dict)

    def reading(self, step: int, values: Array) -> Iterator[Alert]:
        """The alerts that a reading raises for the first time.

        Args:
            step: the step.
            values: the variables, shape `(4, channels)`.
        """
        variance = values[3]
        invalid = ~np.isfinite(values[:4]).all(0) | (variance < 0)
        yield from self.invalid(step, values, self.layers_with(invalid))
        rule = CollapsedVariance()
        collapsed = variance < rule.SHARE_OF_EPSILON * self.layout.channel_epsilon
        collapsed |= variance > rule.LARGEST_VARIANCE
        yield from self.collapsed(step, values, self.layers_with(collapsed & ~invalid))

    def layers_with(self, channels: npt.NDArray[np.bool_]) -> list[int]:
        """The layers that have such a channel."""
        if not channels.any():
            return []
        counts = np.add.reduceat(channels.astype(np.int64), self.layout.starts[:-1])
        return [int(index) for index in np.flatnonzero(counts)]

    def invalid(self, step: int, values: Array, layers: list[int]) -> Iterator[Alert]:
        """BN501 for the first layer, in forward order, that went bad at this step."""
        rule = NanStatistics()
        fresh = []
        known: dict[int, Alert] = {}  # one alert stands for all layers that it came with
        for index in layers:
            alert = self._seen.get((rule.code, self.layout.paths[index]))
            if alert is None:
                fresh.append(index)
            else:
                known[id(alert)] = alert
        for alert in known.values():
            alert.count += 1
        if not fresh:
            return
        problem = rule.check_state(self.layout.state(values, fresh[0]))[0]
        alert = self.add(rule, problem, self.layout.paths[fresh[0]], step, len(fresh) - 1)
        for index in fresh[1:]:  # what lies behind went bad with it
            self._seen[rule.code, self.layout.paths[index]] = alert
        yield alert

    def collapsed(self, step: int, values: Array, layers: list[int]) -> Iterator[Alert]:
        """BN304 for each layer with channels that were not named before.

        Channels often die one after another: of a layer that was named already only a doubling
        of their number is news, unless `every_channel` asks for more.
        """
        rule = CollapsedVariance()
        for index in layers:
            key = (rule.code, self.layout.paths[index])
            named = self._channels.setdefault(key, set())
            if key in self._seen:
                self._seen[key].count += 1
            for problem in rule.check_state(self.layout.state(values, index)):
                fresh = [channel for channel in problem.channels if channel not in named]
                if fresh and (self.every_channel or len(fresh) >= len(named)):
                    named.update(fresh)
                    alert = self.add(rule, problem, key[1], step)
                    alert.channel = fresh[0]
                    alert.value = float(values[3, self.layout.part(index)][fresh[0]])
                    yield alert

    def validation(self, step: int, updates: int, skip: frozenset[str]) -> Iterator[Alert]:
        """BN503 if validation starts with cold statistics.

        Args:
            step: the step.
            updates: updates since training began.
            skip: layers whose statistics were not the initial ones when it began.
        """
        rule = ColdStatsAtValidation()
        cold: list[tuple[str, StateProblem]] = []
        for path, momentum, status in zip(
            self.layout.paths, self.layout.momentum, self.layout.statuses, strict=True
        ):
            if path in skip or status in _OTHER_COUNT:
                continue
            problem = rule.check_updates(momentum, updates)
            if problem is not None:
                cold.append((path, problem))
        if not cold:
            return
        path, problem = max(cold, key=lambda pair: pair[1].value)
        known = self._seen.get((rule.code, "validation"))
        if known is not None:
            known.count += 1
            return
        alert = self.add(rule, problem, path, step, len(cold) - 1)
        self._seen[rule.code, "validation"] = alert
        yield alert

    def add(
        self,
        rule: StateRule | ColdStatsAtValidation,
        problem: StateProblem,
        path: str,
        step: int,
        others: int = 0,
    ) -> Alert:
        """A new alert."""
        more = f" The same in {plural(others, 'more layer')}." if others else ""
        alert = Alert(
            code=rule.code,
            name=rule.name,
            severity=problem.severity,
            layer=path,
            channel=problem.channels[0] if problem.channels else None,
            step=step,
            value=problem.value,
            threshold=problem.threshold,
            message=problem.message[:1].upper() + problem.message[1:] + more,
            advice=rule.advice,
            channels=problem.channels,
            others=others,
        )
        self.alerts.append(alert)
        self._seen.setdefault((rule.code, path), alert)
        return alert
