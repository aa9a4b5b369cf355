"""The options that say which rules run, and the settings that come of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bnscope.errors import SettingsError

if TYPE_CHECKING:
    from bnscope.linting.config import Config
    from bnscope.linting.settings import LayerIgnore, Settings
    from bnscope.rules.base import Severity


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which rules run, and where settings come from."""
    group = parser.add_argument_group(
        "rules", "CODES are codes, prefixes, names or ALL, with commas between."
    )
    codes: dict[str, Any] = {"action": "append", "metavar": "CODES"}
    group.add_argument("--select", **codes, help="run these rules and no others")
    group.add_argument("--extend-select", **codes, help="run these rules besides")
    group.add_argument(
        "--ignore", "--extend-ignore", **codes, help="do not run these rules"
    )
    group.add_argument(
        "--per-layer-ignore",
        action="append",
        metavar="GLOB:CODES",
        help="ignore these rules in the layers whose path matches ('backbone/*:BN101')",
    )
    group.add_argument(
        "--severity",
        action="append",
        metavar="CODES=LEVEL",
        help="how bad their findings are: error, warning or info",
    )
    group.add_argument(
        "--config",
        metavar="FILE",
        help="read the settings from this TOML file, not from the nearest pyproject.toml",
    )
    group.add_argument(
        "--isolated", action="store_true", help="read no pyproject.toml at all"
    )


def settings_from(options: argparse.Namespace) -> Settings:
    """The settings: what the options say, and what pyproject.toml says besides.

    Raises:
        SettingsError: if the file or an option holds what is no setting.
        UnknownCodeError: if a code or name does not exist.
    """
    return combine(configuration(options), options)


def configuration(options: argparse.Namespace) -> Config | None:
    """What is read from a file: `--config`, or the nearest pyproject.toml."""
    from bnscope.linting import config

    if options.isolated:
        if options.config:
            raise SettingsError(
                "--isolated reads no file, and --config names one.", "Use one of them."
            )
        return None
    path = options.config or config.nearest(".")
    return None if path is None else config.read(path)


def combine(config: Config | None, options: argparse.Namespace) -> Settings:
    """The options over a file: `--select` replaces its selection, the others add to it."""
    from bnscope.linting.settings import Settings, split_codes

    settings = Settings() if config is None else config.settings
    select = split_codes(options.select)
    ignore = split_codes(options.ignore) or ()
    extend = split_codes(options.extend_select) or ()
    if select is not None:
        settings = replace(settings, select=select, ignore=ignore, extend_select=extend)
    elif config is None:
        settings = replace(settings, ignore=ignore, extend_select=extend)
    elif ignore or extend:
        settings = settings.narrowed(ignore, extend)
    settings = replace(
        settings,
        severity={**settings.severity, **_severities(options.severity or ())},
        per_layer_ignore=settings.per_layer_ignore
        + tuple(_layer_ignore(text) for text in options.per_layer_ignore or ()),
    )
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    """An unknown code is an error before any file is read."""
    settings.rules()
    settings.severities()
    for entry in settings.per_layer_ignore:
        entry.codes()


def _layer_ignore(text: str) -> LayerIgnore:
    from bnscope.linting.settings import LayerIgnore, split_codes

    layer, _, codes = text.rpartition(":")
    rules = split_codes(codes)
    if not layer or not rules:
        raise SettingsError(
            f"--per-layer-ignore {text!r} is no pattern of layers with codes.",
            "Expected GLOB:CODES, for example 'backbone/*:BN101,BN106'.",
        )
    return LayerIgnore(layer, rules, origin="--per-layer-ignore")


def _severities(texts: Sequence[str]) -> dict[str, Severity]:
    from bnscope.linting.settings import split_codes
    from bnscope.rules.base import LEVELS, Severity

    found = {}
    for text in texts:
        codes, _, level = text.partition("=")
        if not split_codes(codes) or level not in LEVELS:
            raise SettingsError(
                f"--severity {text!r} is no severity of a rule.",
                "Expected CODES=LEVEL with the level error, warning or info: BN106=info.",
            )
        found.update(dict.fromkeys(split_codes(codes) or (), Severity(level)))
    return found
