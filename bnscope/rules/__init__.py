"""The rule catalogue: one file a rule; whatever lies in this package is found."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from bnscope.errors import UnknownCodeError
from bnscope.rules.base import Rule


@cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule of the catalogue, in the order of the codes."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    found = [cls() for cls in _subclasses(Rule) if hasattr(cls, "code")]
    return tuple(sorted(found, key=lambda rule: rule.code))


def find(code_or_name: str) -> Rule:
    """The rule with a code or name.

    Raises:
        UnknownCodeError: if there is none.
    """
    wanted = code_or_name.strip()
    for rule in all_rules():
        if wanted.upper() == rule.code or wanted.lower() == rule.name:
            return rule
    raise _unknown(wanted)


def matching(selector: str) -> frozenset[str]:
    """The codes that a selector means: a code, a prefix of codes, a name, or `ALL`.

    Raises:
        UnknownCodeError: if it means none.
    """
    wanted = selector.strip()
    if wanted.upper() == "ALL":
        return frozenset(rule.code for rule in all_rules())
    found = frozenset(
        rule.code
        for rule in all_rules()
        if (wanted and rule.code.startswith(wanted.upper())) or wanted.lower() == rule.name
    )
    if not found:
        raise _unknown(wanted)
    return found


def _unknown(wanted: str) -> UnknownCodeError:
    import difflib

    codes, names = zip(*((rule.code, rule.name) for rule in all_rules()), strict=True)
    # Of a code one character may be wrong: any two are alike otherwise.
    close = difflib.get_close_matches(wanted.upper(), codes, n=1, cutoff=0.8)
    close = close or difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]}? " if close else ""
    return UnknownCodeError(
        f"There is no rule {wanted!r}.", f"{hint}`bnscope rule --all` lists them."
    )


def _subclasses(cls: type[Rule]) -> list[type[Rule]]:
    return [found for sub in cls.__subclasses__() for found in (sub, *_subclasses(sub))]
