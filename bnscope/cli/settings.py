"""`--show-settings`: what holds, and where each setting comes from."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from bnscope.linting.config import Config
    from bnscope.linting.settings import Settings

_DEFAULT = "default"
_COLUMN = 18


class Row(NamedTuple):
    """One setting: its values, and where they come from."""

    name: str
    values: tuple[str, ...]
    origins: tuple[str, ...]


def show(config: Config | None, settings: Settings, options: argparse.Namespace) -> None:
    """Prints the settings, as text or as JSON."""
    rows = list(_rows(config, settings, options))
    rules = [rule.code for rule in settings.rules()]
    if options.output_format == "json":
        from bnscope.cli.common import print_json

        print_json({"settings": _table(rows), "rules": rules})
        return
    from bnscope.printing import emit, line

    lines = [
        line(
            (row.name.ljust(_COLUMN), "bold"),
            ", ".join(row.values) or "none",
            (f"  ({', '.join(row.origins)})", "dim"),
        )
        for row in rows
    ]
    lines.append(
        line(("rules that run".ljust(_COLUMN), "bold"), ", ".join(rules) or "none")
    )
    emit(lines, sys.stdout)


def _table(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        row.name: {"values": list(row.values), "from": list(row.origins)} for row in rows
    }


def _rows(
    config: Config | None, settings: Settings, options: argparse.Namespace
) -> Iterator[Row]:
    rows = _Rows(config, options)
    yield rows.codes("select", ("all that are not off",), replaces=True)
    yield rows.codes("extend-select")
    yield rows.codes("ignore", besides="extend-ignore")
    levels = tuple(f"{code}={level}" for code, level in settings.severity.items())
    yield Row("severity", levels, rows.origins("severity"))
    entries = tuple(
        f"{entry} ({entry.reason})" if entry.reason else str(entry)
        for entry in settings.per_layer_ignore
    )
    origins = dict.fromkeys(entry.origin for entry in settings.per_layer_ignore)
    yield Row("per-layer-ignore", entries, tuple(origins) or (_DEFAULT,))
    yield Row("fail-on", (str(settings.fail_on),), rows.origins("fail-on", replaces=True))
    baseline = options.baseline or (config.baseline if config else None)
    origins_ = rows.origins("baseline", replaces=True)
    yield Row("baseline", (baseline,) if baseline else (), origins_)


class _Rows:
    def __init__(self, config: Config | None, options: argparse.Namespace) -> None:
        self._config = config
        self._options = options
        self._file = os.path.relpath(config.path) if config else ""

    def origins(self, name: str, *names: str, replaces: bool = False) -> tuple[str, ...]:
        """The option, the file, or both."""
        found = []
        keys = self._config.keys if self._config else frozenset()
        if keys & {name, *names}:
            found.append(self._file)
        if getattr(self._options, name.replace("-", "_")):
            found = [f"--{name}"] if replaces else [*found, f"--{name}"]
        return tuple(found) or (_DEFAULT,)

    def codes(
        self,
        name: str,
        default: tuple[str, ...] = (),
        *,
        besides: str = "",
        replaces: bool = False,
    ) -> Row:
        """A list of codes. `--select` puts all lists of the file out of force."""
        from bnscope.linting.settings import split_codes

        attribute = name.replace("-", "_")
        given = split_codes(getattr(self._options, attribute)) or ()
        config = None if self._options.select else self._config
        saved = getattr(config.settings, attribute) if config else None
        values = given if replaces and given else (*(saved or ()), *given)
        if self._options.select:
            return Row(name, values, (f"--{name}",) if given else ("--select",))
        origins = self.origins(name, besides, replaces=replaces)
        return Row(name, values or (default if saved is None else ()), origins)
