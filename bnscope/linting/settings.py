"""Which rules run, and what counts as a failure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bnscope.rules import all_rules, matching
from bnscope.rules.base import Rule, Severity


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the linter.

    Args:
        select: codes, prefixes of codes or names of the rules to run, or `ALL`; None for all
            that are not off by default.
        ignore: those not to run; they win over `select`.
        fail_on: the least severity that makes `bnscope lint` exit with 1.

    Raises:
        UnknownCodeError: from `rules`, if a code or name does not exist.
    """

    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    fail_on: Severity = Severity.WARNING

    def rules(self) -> tuple[Rule, ...]:
        """The rules that these settings select, in the order of the codes."""
        rules = [rule for rule in all_rules() if not rule.while_training]
        if self.select is None:
            chosen = {rule.code for rule in rules if rule.severity is not Severity.OFF}
        else:
            chosen = _codes(self.select)
        chosen -= _codes(self.ignore)
        return tuple(rule for rule in rules if rule.code in chosen)


def _codes(selectors: Iterable[str]) -> set[str]:
    return {code for selector in selectors for code in matching(selector)}


def split_codes(value: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """Codes out of `"BN101,BN2"`, or out of several of those; None stays None."""
    if value is None:
        return None
    texts = [value] if isinstance(value, str) else list(value)
    return tuple(code.strip() for text in texts for code in text.split(",") if code.strip())
