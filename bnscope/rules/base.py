"""What a rule is. Linting, monitoring and the docs read the same class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from bnscope.bn import Array, BatchNormState
from bnscope.graph.batchnorm import batch_norm_calls, batch_norms, state
from bnscope.graph.model import Call, Graph, Layer
from bnscope.rewriting.edits import Edit

if TYPE_CHECKING:
    from bnscope.folding.plan import Plan


class Severity(StrEnum):
    """How bad a finding is; `off` means only when selected."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    OFF = "off"

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)

    def at_least(self, other: Severity) -> bool:
        """Whether this is as bad as another or worse."""
        return self.rank <= other.rank


# Those that a finding can have, the worst first.
LEVELS = (Severity.ERROR, Severity.WARNING, Severity.INFO)
# In the place of a problem's fix: that of its rule.
THE_RULES_OWN = "rule"


@dataclass(frozen=True, slots=True)
class Problem:
    """What a rule found at one layer.

    Args:
        layer: path of the layer.
        message: what was found, with the values, and why it matters.
        severity: how bad it is; None for the rule's own severity.
        related: paths of other layers that have a part in it.
        fix: "safe" or "unsafe", None where this one cannot be fixed; by default the grade of
            the rule.
        data: the numbers behind the message, ready for JSON.
    """

    layer: str
    message: str
    severity: Severity | None = None
    related: tuple[str, ...] = ()
    fix: str | None = THE_RULES_OWN
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StateProblem:
    """What a rule found in the values of one BN layer, or in what a run does with it.

    Args:
        message: what was found, with the values, and why it matters.
        statistic: what `value` is (`moving_variance`, `batch_size`, ...).
        channels: the channels concerned, worst first; empty where it is about no channel.
        value: the value of the worst channel.
        threshold: the value that should not have been passed; None where there is none.
        severity: how bad it is.
    """

    message: str
    statistic: str
    channels: tuple[int, ...]
    value: float
    threshold: float | None
    severity: Severity


class Context:
    """A graph, with what several rules ask of it computed once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._states: dict[str, BatchNormState | None] = {}

    @cached_property
    def batch_norms(self) -> tuple[Layer, ...]:
        """All BN layers in forward order."""
        return batch_norms(self.graph)

    @cached_property
    def batch_norm_calls(self) -> tuple[Call, ...]:
        """All calls of BN layers in forward order."""
        return batch_norm_calls(self.graph)

    @cached_property
    def fold_plan(self) -> Plan:
        """What folding would do to the model; made only when a rule asks."""
        from bnscope.folding.plan import make_plan

        return make_plan(self.graph)

    def state(self, layer: Layer) -> BatchNormState | None:
        """The values of a BN layer; None where they are not known."""
        if layer.path not in self._states:
            self._states[layer.path] = state(layer)
        return self._states[layer.path]


class Rule:
    """One rule of the catalogue.

    The docstring of a rule is its page: sections in Markdown under `## What it does`,
    `## Why is this bad`, `## What to do`, `## When it is quiet` and `## References`. Static
    methods `bad_*` and `good_*` are its examples: given the module `keras`, they return a
    model in which the rule finds something, or nothing. The first good one is what to use
    instead, the others are exceptions. `make docs` writes the pages into docs/rules.

    Attributes:
        code: `BN` and three digits.
        name: the fault, in words joined by hyphens.
        severity: how bad it usually is.
        advice: what to do, in one sentence.
        fix: grade of the rule's fix, "safe" or "unsafe"; None where it has none.
        while_training: whether it is raised by callbacks instead of linting.
        also_while_training: whether it is raised by callbacks as well as by linting.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    severity: ClassVar[Severity]
    advice: ClassVar[str]
    fix: ClassVar[str | None] = None
    while_training: ClassVar[bool] = False
    also_while_training: ClassVar[bool] = False

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        raise NotImplementedError

    def repair(self, context: Context, layer: str) -> tuple[Edit, ...]:
        """The edits that remove what was found at a layer; none where no fix exists.

        Args:
            context: the graph in which it was found.
            layer: path of the layer that the finding names.
        """
        del context, layer
        return ()

    @classmethod
    def examples(cls, prefix: str) -> dict[str, Callable[[Any], Any]]:
        """The examples by name: `prefix` is "bad" or "good"."""
        return {
            name: getattr(cls, name)
            for name in vars(cls)
            if name.startswith(prefix + "_") and callable(getattr(cls, name))
        }

    @classmethod
    def thresholds(cls) -> dict[str, float]:
        """The thresholds, which are the class's upper-case attributes."""
        return {name: value for name, value in vars(cls).items() if name.isupper()}

    @classmethod
    def to_dict(cls) -> dict[str, Any]:
        """The rule for JSON."""
        return {
            "code": cls.code,
            "name": cls.name,
            "severity": str(cls.severity),
            "fix": cls.fix,
            "summary": cls.summary(),
            "advice": cls.advice,
            "while_training": cls.while_training,
            "thresholds": cls.thresholds(),
            "page": cls.page(),
        }

    @classmethod
    def summary(cls) -> str:
        """What the rule finds, in one sentence."""
        return inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0]

    @classmethod
    def page(cls) -> str:
        """The rule's page in Markdown."""
        from bnscope.rules.page import page

        return page(cls)


class StateRule(Rule):
    """A rule on the values of one BN layer: a pure function of its state."""

    def check_state(self, state: BatchNormState) -> tuple[StateProblem, ...]:
        """What it finds in the values of one BN layer, at any time."""
        raise NotImplementedError

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in the saved values of a model."""
        for layer in context.batch_norms:
            values = context.state(layer)
            if values is None:
                continue
            for problem in self.check_state(values):
                yield Problem(
                    layer.path,
                    problem.message,
                    severity=problem.severity,
                    data={
                        "statistic": problem.statistic,
                        "channels": list(problem.channels),
                        "value": problem.value,
                        "threshold": problem.threshold,
                    },
                )


class ChannelRule(StateRule):
    """A rule on the values of one BN layer that judges each channel by itself."""

    def flagged_channels(
        self, values: Array, epsilon: npt.ArrayLike
    ) -> npt.NDArray[np.bool_]:
        """Which channels are bad, of one layer or of many side by side.

        Args:
            values: gamma, beta, moving mean and moving variance, shape `(4, channels)`.
            epsilon: one, or one a channel.

        Returns:
            Booleans of shape `(channels,)`.
        """
        raise NotImplementedError


class RunRule(Rule):
    """A rule on what a run does with BN, which no saved model shows."""

    while_training = True

    def check(self, context: Context) -> Iterator[Problem]:  # noqa: ARG002
        """Finds nothing in a saved model."""
        return iter(())


def plural(count: int, noun: str) -> str:
    """`1 channel`, `3 channels`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def channel_list(channels: tuple[int, ...], most: int = 8) -> str:
    """`channel 3`, `channels 3, 7 and 12`, `channels 0, 1, 2, ... (64 in all)`."""
    shown = [
        str(channel) for channel in sorted(channels[:most])
    ]  # those given first, in order
    if len(channels) > most:
        return f"channels {', '.join(shown)}, ... ({len(channels)} in all)"
    if len(shown) == 1:
        return f"channel {shown[0]}"
    return f"channels {', '.join(shown[:-1])} and {shown[-1]}"
