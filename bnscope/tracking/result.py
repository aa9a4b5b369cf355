"""What tracking found: the checkpoints, the alerts, and the layers that got worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnscope.errors import BnscopeError
from bnscope.events.run import Run
from bnscope.rules.base import Severity, plural
from bnscope.strict_json import dumps
from bnscope.watching.alerts import Alert


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One file of the series.

    Args:
        path: the file.
        step: its step; None where its name has none.
        error: why it was left out; None if it was tracked.
    """

    path: str
    step: int | None = None
    error: BnscopeError | None = None

    def to_dict(self) -> dict[str, Any]:
        """The checkpoint for JSON."""
        error = None if self.error is None else str(self.error)
        return {"path": self.path, "step": self.step, "error": error}


@dataclass(frozen=True, slots=True)
class Trouble:
    """One layer that got worse.

    Args:
        layer: path of the layer.
        code: the rule's code.
        name: the rule's name.
        severity: how bad it is.
        since: the first step at which it was seen.
        fine: the last step before, at which it was not seen; None if there is none.
        last: the last step at which it was seen.
        gone: the step from which on it was not seen any more; None if it lasted to the end.
        channels: the first step of each channel concerned, in the order of the steps.
        width: channels of the layer.
        messages: what was found, with the steps.
        advice: what to do.
    """

    layer: str
    code: str
    name: str
    severity: Severity
    since: int
    fine: int | None
    last: int
    gone: int | None
    channels: dict[int, int]
    width: int
    messages: tuple[tuple[int, str], ...]
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """The layer for JSON."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            **fields,
            "severity": str(self.severity),
            "channels": [
                {"channel": channel, "step": step}
                for channel, step in self.channels.items()
            ],
            "messages": [{"step": step, "message": text} for step, text in self.messages],
        }


@dataclass(frozen=True, slots=True)
class TrackResult:
    """What tracking a series of checkpoints found.

    Args:
        checkpoints: the files in the order of their steps; those left out have an error.
        run: the recorded series.
        alerts: the alerts, as `BatchNormMonitor` raises them.
        layers: the layers that got worse, the worst first.
        log_dir: where the events were written; None if they were not.
        notes: what else is worth knowing.
    """

    checkpoints: tuple[Checkpoint, ...]
    run: Run
    alerts: tuple[Alert, ...] = ()
    layers: tuple[Trouble, ...] = ()
    log_dir: Path | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def tracked(self) -> tuple[Checkpoint, ...]:
        """The checkpoints that were tracked."""
        return tuple(each for each in self.checkpoints if each.error is None)

    @property
    def errors(self) -> tuple[BnscopeError, ...]:
        """Why checkpoints were left out."""
        return tuple(each.error for each in self.checkpoints if each.error is not None)

    def to_dict(self) -> dict[str, Any]:
        """What was found, for JSON."""
        return {
            "log_dir": None if self.log_dir is None else str(self.log_dir),
            "checkpoints": [each.to_dict() for each in self.checkpoints],
            "layers": [each.to_dict() for each in self.layers],
            "alerts": [alert.to_dict() for alert in self.alerts],
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """What was found, as JSON."""
        return dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        from bnscope.printing import plain
        from bnscope.tracking.report import lines

        return plain(lines(self))


def troubles(
    alerts: Sequence[Alert],
    seen: dict[tuple[str, str], int],
    steps: Sequence[int],
    widths: dict[str, int],
) -> tuple[Trouble, ...]:
    """The layers that got worse, the worst first.

    Args:
        alerts: the alerts in the order of their steps.
        seen: the last step at which each code was seen at each layer.
        steps: the steps that were read, in order.
        widths: channels of each layer by path.
    """
    groups: dict[tuple[str, str], list[Alert]] = {}
    for alert in alerts:
        groups.setdefault((alert.code, alert.layer), []).append(alert)
    found = [
        _trouble(group, seen[key], steps, widths[key[1]]) for key, group in groups.items()
    ]
    return tuple(sorted(found, key=_badness))


def _trouble(
    alerts: Sequence[Alert], last: int, steps: Sequence[int], width: int
) -> Trouble:
    first = alerts[0]
    channels: dict[int, int] = {}
    for alert in alerts:
        for channel in alert.channels:
            channels.setdefault(channel, alert.step)
    return Trouble(
        layer=first.layer,
        code=first.code,
        name=first.name,
        severity=min((alert.severity for alert in alerts), key=lambda each: each.rank),
        since=first.step,
        fine=max((step for step in steps if step < first.step), default=None),
        last=last,
        gone=min((step for step in steps if step > last), default=None),
        channels=channels,
        width=width,
        messages=tuple((alert.step, alert.message) for alert in alerts),
        advice=first.advice,
    )


def _badness(trouble: Trouble) -> tuple[Any, ...]:
    """Sorts the worst first: what lasts, what concerns most of a layer, what began first."""
    share = len(trouble.channels) / max(trouble.width, 1)
    return (trouble.severity.rank, trouble.gone is not None, -share, trouble.since)


def counted(result: TrackResult) -> str:
    """`10 checkpoints, steps 0 to 110`."""
    steps = [each.step for each in result.tracked if each.step is not None]
    span = f", steps {min(steps)} to {max(steps)}" if steps else ""
    return f"{plural(len(steps), 'checkpoint')}{span}"
