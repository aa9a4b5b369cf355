"""Settings out of pyproject.toml: found, read and checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnscope.errors import BnscopeError, SettingsError, UnknownCodeError
from bnscope.linting.settings import LayerIgnore, Settings
from bnscope.rules import matching
from bnscope.rules.base import LEVELS, Severity

FILE = "pyproject.toml"
_TABLE = "tool.bnscope"
_ENTRY_KEYS = ("layer", "rules", "reason")
_KINDS = {str: "a string", bool: "a boolean", int: "a number", float: "a number"}
_KINDS |= {list: "a list", dict: "a table"}


@dataclass(frozen=True, slots=True)
class Config:
    """What a file says.

    Args:
        path: the file.
        settings: its settings, with defaults where it says nothing.
        keys: the keys that it has.
        baseline: the file of accepted findings; None if it names none.
    """

    path: Path
    settings: Settings
    keys: frozenset[str] = field(default_factory=frozenset)
    baseline: str | None = None


def nearest(directory: str | os.PathLike[str]) -> Path | None:
    """The nearest pyproject.toml upward that has `[tool.bnscope]`; None if there is none."""
    start = Path(os.path.abspath(directory))  # noqa: PTH100  symlinks stay as they were named
    for folder in (start, *start.parents):
        path = folder / FILE
        # Most files are of no concern, and the parser takes time to load.
        if path.is_file() and b"bnscope" in _bytes(path):
            table = _section(_parsed(path))
            if table is not None:
                return path
    return None


def read(path: str | os.PathLike[str]) -> Config:
    """The settings in a file.

    Args:
        path: a pyproject.toml, or another TOML file with the same keys at its top.

    Raises:
        SettingsError: if the file is missing, no TOML, or holds what is no setting.
    """
    path = Path(path)
    document = _parsed(path)
    table = _section(document)
    if table is None and path.name == FILE:
        raise SettingsError(
            f"{_shown(path)} has no [{_TABLE}].", "Add the table, or name another file."
        )
    where = f"{_TABLE}." if table is not None else ""
    reader = _Reader(_shown(path), where)
    return reader.config(path, document if table is None else table)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist.", "Check the path.") from None
    except OSError as error:
        raise SettingsError(
            f"{_shown(path)} cannot be read: {error.strerror or error}.",
            "--isolated lints without it.",
        ) from None


def _parsed(path: Path) -> dict[str, Any]:
    import tomllib

    content = _bytes(path)
    try:
        return tomllib.loads(content.decode())
    except ValueError as error:
        clash = b"[[tool.bnscope.ignore]]" in content
        hint = (
            "Codes to ignore beside [[tool.bnscope.ignore]] go into extend-ignore."
            if clash
            else "Correct it, or use --isolated to lint without it."
        )
        reason = str(error).splitlines()[0].rstrip(".")
        raise SettingsError(f"{_shown(path)} is no valid TOML: {reason}.", hint) from None


def _section(document: Mapping[str, Any]) -> Any:
    tool = document.get("tool")
    return tool.get("bnscope") if isinstance(tool, dict) else None


def _shown(path: Path) -> str:
    """The path as it is shortest to read from the working directory."""
    try:
        return os.path.relpath(path)
    except ValueError:  # another drive
        return str(path)


class _Reader:
    """Checks one table; every error names the file and the key."""

    def __init__(self, file: str, prefix: str) -> None:
        self.file = file
        self.prefix = prefix

    def config(self, path: Path, table: Any) -> Config:
        if not isinstance(table, dict):
            raise self._wrong(self.prefix.rstrip("."), "a table", table, whole=True)
        readers: dict[str, Callable[[str, Any], object]] = {
            "select": self._codes,
            "extend-select": self._codes,
            "ignore": self._ignore,
            "extend-ignore": self._codes,
            "per-layer-ignore": self._per_layer_ignore,
            "severity": self._severity,
            "fail-on": self._level,
            "baseline": self._text,
        }
        found: dict[str, Any] = {}
        for key, value in table.items():
            if key not in readers:
                raise self._unknown(self.prefix, key, list(readers))
            found[key] = readers[key](key, value)
        return self._assembled(path, found)

    def _assembled(self, path: Path, found: dict[str, Any]) -> Config:
        codes, entries = found.get("ignore", ((), ()))
        settings = Settings(
            select=found.get("select"),
            ignore=(*codes, *found.get("extend-ignore", ())),
            fail_on=found.get("fail-on", Severity.WARNING),
            extend_select=found.get("extend-select", ()),
            severity=found.get("severity", {}),
            per_layer_ignore=(*entries, *found.get("per-layer-ignore", ())),
        )
        baseline = found.get("baseline")
        if baseline is not None:
            baseline = os.path.normpath(path.parent / baseline)
        return Config(path, settings, frozenset(found), baseline)

    def _text(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise self._wrong(key, "a string", value)
        return value

    def _code(self, key: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self._wrong(key, 'a list of codes (["BN101", "BN3"])', value)
        try:
            matching(value)
        except UnknownCodeError as error:
            message = error.message[0].lower() + error.message[1:]
            raise SettingsError(
                f"{self.file}: {self.prefix}{key}: {message}", error.hint
            ) from None
        return value

    def _codes(self, key: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise self._wrong(key, 'a list of codes (["BN101", "BN3"])', value)
        return tuple(self._code(key, item) for item in value)

    def _ignore(
        self, key: str, value: Any
    ) -> tuple[tuple[str, ...], tuple[LayerIgnore, ...]]:
        """Codes and tables, in one list or as `[[tool.bnscope.ignore]]`."""
        if not isinstance(value, list):
            raise self._wrong(key, "a list of codes and of tables", value)
        codes = [self._code(key, item) for item in value if not isinstance(item, dict)]
        tables = [item for item in value if isinstance(item, dict)]
        return tuple(codes), tuple(self._entries(key, tables))

    def _entries(
        self, key: str, tables: Sequence[Mapping[str, Any]]
    ) -> Iterator[LayerIgnore]:
        for index, table in enumerate(tables, 1):
            where = f"{key}[{index}]" if len(tables) > 1 else key
            for name in table:
                if name not in _ENTRY_KEYS:
                    raise self._unknown(f"{self.prefix}{where}.", name, _ENTRY_KEYS)
            for name in ("layer", "rules"):
                if name not in table:
                    raise SettingsError(
                        f"{self.file}: {self.prefix}{where} has no {name}.",
                        'Expected layer = "backbone/*" and rules = ["BN101"].',
                    )
            yield LayerIgnore(
                self._text(f"{where}.layer", table["layer"]),
                self._codes(f"{where}.rules", table["rules"]),
                self._reason(f"{where}.reason", table.get("reason", "")),
                origin=self.file,
            )

    def _reason(self, key: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return value

    def _per_layer_ignore(self, key: str, value: Any) -> tuple[LayerIgnore, ...]:
        if not isinstance(value, dict):
            raise self._wrong(
                key, 'a table of patterns ({"backbone/*" = ["BN101"]})', value
            )
        return tuple(
            LayerIgnore(glob, self._codes(f'{key}."{glob}"', codes), origin=self.file)
            for glob, codes in value.items()
        )

    def _severity(self, key: str, value: Any) -> dict[str, Severity]:
        if not isinstance(value, dict):
            raise self._wrong(key, 'a table of codes (BN106 = "info")', value)
        return {
            self._code(key, code): self._level(f"{key}.{code}", level)
            for code, level in value.items()
        }

    def _level(self, key: str, value: Any) -> Severity:
        if value not in LEVELS:
            close = "" if not isinstance(value, str) else _did_you_mean(value, LEVELS)
            raise self._wrong(key, '"error", "warning" or "info"', value, hint=close)
        return Severity(value)

    def _unknown(self, prefix: str, key: str, known: Sequence[str]) -> BnscopeError:
        table = prefix.rstrip(".") or "the file"
        return SettingsError(
            f"{self.file}: {table} has no setting {key!r}.",
            _did_you_mean(key.replace("_", "-"), known) + f"There are {', '.join(known)}.",
        )

    def _wrong(
        self, key: str, expected: str, value: Any, *, hint: str = "", whole: bool = False
    ) -> BnscopeError:
        name = key if whole else f"{self.prefix}{key}"
        shown = f"{value!r}" if isinstance(value, (str, int, float)) else ""
        got = shown or _KINDS.get(type(value), type(value).__name__)
        return SettingsError(
            f"{self.file}: {name} is {got}.", f"{hint}Expected {expected}."
        )


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean {close[0]}? " if close else ""
