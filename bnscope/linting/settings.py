"""Which rules run, where they are quiet, how bad their findings are, and what fails."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from bnscope.rules import all_rules, matching
from bnscope.rules.base import Rule, Severity

_NO_MATCH = -2
_BY_DEFAULT = -1
_WHOLE_CODE = 100


@dataclass(frozen=True, slots=True)
class LayerIgnore:
    """Rules that are quiet in some layers.

    Args:
        layer: a pattern of layer paths: `*` is any text, slashes included, `?` one character,
            `[ab]` one of these. Without a slash it may also match the layer's own name alone:
            `conv1_bn` means that layer wherever it is nested.
        rules: codes, prefixes, names or `ALL`.
        reason: why.
        origin: where it was written, for messages.
    """

    layer: str
    rules: tuple[str, ...] = ("ALL",)
    reason: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", split_codes(self.rules) or ())

    def codes(self) -> frozenset[str]:
        """The codes of its rules.

        Raises:
            UnknownCodeError: if a code or name does not exist.
        """
        return frozenset(code for rule in self.rules for code in matching(rule))

    def __str__(self) -> str:
        return f"{self.layer}: {', '.join(self.rules)}"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the linter.

    Codes are given as codes, prefixes of codes, names or `ALL`. Rules that are off by default
    run only where their code, their name or `ALL` selects them, not for a prefix. Where `select` and `ignore`
    mean the same rule, the more specific one wins, and `ignore` if both are equally so.

    Args:
        select: the rules to run; None for all that are not off by default.
        ignore: those not to run.
        fail_on: the least severity that makes `bnscope lint` exit with 1.
        extend_select: rules to run besides.
        severity: how bad the findings of a rule are, by code, prefix or name; findings that
            the rule itself calls milder than usual stay at least that mild.
        per_layer_ignore: rules that are quiet in some layers.

    Raises:
        UnknownCodeError: from `rules`, if a code or name does not exist.
    """

    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    fail_on: Severity = Severity.WARNING
    extend_select: tuple[str, ...] = ()
    severity: Mapping[str, Severity] = field(default_factory=dict)
    per_layer_ignore: tuple[LayerIgnore, ...] = ()

    def __post_init__(self) -> None:
        for name in ("select", "ignore", "extend_select"):
            codes = split_codes(getattr(self, name))
            object.__setattr__(
                self, name, codes if codes is not None or name == "select" else ()
            )

    @classmethod
    def from_pyproject(cls, path: str | os.PathLike[str]) -> Settings:
        """The settings in a file, as the command line reads them.

        Args:
            path: a pyproject.toml with `[tool.bnscope]`, another TOML file with the same keys
                at its top, or a directory: then the nearest pyproject.toml upward from it
                that has `[tool.bnscope]`, and the defaults if there is none.

        Returns:
            The settings.

        Raises:
            SettingsError: if the file is missing, no TOML, or holds what is no setting.
        """
        from bnscope.linting import config

        found = config.nearest(path) if os.path.isdir(path) else path  # noqa: PTH112
        return cls() if found is None else config.read(found).settings

    def rules(self) -> tuple[Rule, ...]:
        """The rules that these settings select, in the order of the codes."""
        on = _ranks((*(self.select or ()), *self.extend_select))
        off = _ranks(self.ignore)
        for rule in all_rules():
            if rule.severity is Severity.OFF:
                if 0 < on.get(rule.code, 0) < _WHOLE_CODE:
                    del on[rule.code]
            elif self.select is None:
                on.setdefault(rule.code, _BY_DEFAULT)
        return tuple(
            rule
            for rule in all_rules()
            if not rule.while_training
            and on.get(rule.code, _NO_MATCH) > off.get(rule.code, _NO_MATCH)
        )

    def severities(self) -> dict[str, Severity]:
        """The severities that are set, by code."""
        ranks: dict[str, int] = {}
        found: dict[str, Severity] = {}
        for selector, severity in self.severity.items():
            for code in matching(selector):
                if _rank(selector) >= ranks.get(code, _NO_MATCH):
                    ranks[code], found[code] = _rank(selector), Severity(severity)
        return found

    def narrowed(
        self, ignore: Iterable[str] = (), extend_select: Iterable[str] = ()
    ) -> Settings:
        """These settings with some rules less or more, whatever selected them before."""
        less, more = _ranks(ignore), _ranks(extend_select)
        codes = {rule.code for rule in self.rules()}
        codes |= {code for code in more if more[code] > less.get(code, _NO_MATCH)}
        codes -= {code for code in less if less[code] >= more.get(code, _NO_MATCH)}
        return replace(self, select=tuple(sorted(codes)), ignore=(), extend_select=())


def _ranks(selectors: Iterable[str]) -> dict[str, int]:
    """How specifically each code is meant."""
    ranks: dict[str, int] = {}
    for selector in selectors:
        for code in matching(selector):
            ranks[code] = max(ranks.get(code, _NO_MATCH), _rank(selector))
    return ranks


def _rank(selector: str) -> int:
    if selector.upper() == "ALL":
        return 0
    whole = any(
        selector.upper() == rule.code or selector.lower() == rule.name
        for rule in all_rules()
    )
    return _WHOLE_CODE if whole else len(selector)


def split_codes(value: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """Codes out of `"BN101,BN2"`, or out of several of those; None stays None."""
    if value is None:
        return None
    texts = [value] if isinstance(value, str) else list(value)
    return tuple(code.strip() for text in texts for code in text.split(",") if code.strip())


def selected(
    settings: Settings | None,
    select: str | Iterable[str] | None,
    ignore: str | Iterable[str] | None,
) -> Settings:
    """Settings whose `select` and `ignore` are replaced by those that are given."""
    settings = settings or Settings()
    if select is not None:
        settings = replace(settings, select=split_codes(select))
    if ignore is not None:
        settings = replace(settings, ignore=split_codes(ignore) or ())
    return settings
