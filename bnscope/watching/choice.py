"""Which alerts a callback acts on."""

from __future__ import annotations

from collections.abc import Sequence

from bnscope.errors import BnscopeError
from bnscope.rules import all_rules, matching
from bnscope.rules.base import LEVELS, Severity
from bnscope.watching.alerts import Alert


class Choice:
    """Alerts by severity, code, prefix of codes or name.

    Args:
        on: `"error"`, `"warning"` or `"info"` for alerts at least as bad; or a code, a prefix of
            codes or a name of rules; or a list of such.

    Raises:
        BnscopeError: if it is none of these, or means no rule that is looked at in training.
    """

    def __init__(self, on: str | Sequence[str]) -> None:
        wanted = [on] if isinstance(on, str) else on
        if not isinstance(wanted, Sequence) or not all(isinstance(w, str) for w in wanted):
            raise BnscopeError(
                f"`on` must be a severity, a code or a list of such, got {on!r}.",
                'The default is "error".',
            )
        levels = {str(level) for level in LEVELS}
        self.severities = [Severity(w) for w in wanted if w in levels]
        self.codes = frozenset(c for w in wanted if w not in levels for c in matching(w))
        told = told_in_training()
        if not self.severities and not self.codes & told:
            raise BnscopeError(
                f"No alert while training has a code of {on!r}.",
                f"There are {', '.join(sorted(told))}, and the severities error, warning, info.",
            )

    def __contains__(self, alert: Alert) -> bool:
        return self.holds(alert.code, alert.severity)

    def holds(self, code: str, severity: Severity) -> bool:
        """Whether an alert of that code and severity is meant."""
        bad_enough = any(severity.at_least(level) for level in self.severities)
        return bad_enough or code in self.codes


def told_in_training() -> frozenset[str]:
    """The codes that an alert can have."""
    return frozenset(
        rule.code for rule in all_rules() if rule.while_training or rule.also_while_training
    )
