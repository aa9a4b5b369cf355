"""Findings that are accepted for now: a file that names them, so that only new ones count.

A finding is known by the file, the rule and the layer, never by its message, which may name
other numbers after each training.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from bnscope.errors import SettingsError
from bnscope.linting.discovery import is_remote
from bnscope.linting.findings import Report
from bnscope.writing import replace_text

VERSION = 1
_WRITE = "Write it with --write-baseline."
_AGAIN = "Remove it, and write it again with --write-baseline."


class Entry(NamedTuple):
    """An accepted finding: the file as the baseline names it, rule, layer."""

    file: str
    code: str
    layer: str

    def __str__(self) -> str:
        return f"{self.file}: {self.code} {self.layer}".rstrip()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Reports against a baseline.

    Args:
        reports: the reports without the accepted findings.
        accepted: how many findings were accepted.
        stale: entries that were not found again, though their file was read or is gone.
    """

    reports: tuple[Report, ...]
    accepted: int
    stale: tuple[Entry, ...]


class Baseline:
    """The accepted findings in a file.

    Args:
        path: the file; it names others relative to its own folder.

    Raises:
        SettingsError: if it is missing or no baseline.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.entries = frozenset(_entries(self.path, _document(self.path)))

    def compare(self, reports: Iterable[Report], codes: Iterable[str]) -> Comparison:
        """Takes the accepted findings out of reports.

        Args:
            reports: the reports of this run.
            codes: the rules that ran; entries of others are left alone.
        """
        kept, found, read = [], set[Entry](), set[str]()
        accepted = 0
        for report in reports:
            file = key(report.path, self.path)
            if report.error is None:
                read.add(file)
            entries = [Entry(file, each.code, each.layer) for each in report.findings]
            known = [entry in self.entries for entry in entries]
            accepted += sum(known)
            found.update(entries)
            left = [f for f, out in zip(report.findings, known, strict=True) if not out]
            kept.append(replace(report, findings=tuple(left)))
        ran = set(codes)
        stale = sorted(
            entry
            for entry in self.entries - found
            if entry.code in ran and (entry.file in read or self._is_gone(entry.file))
        )
        return Comparison(tuple(kept), accepted, tuple(stale))

    def _is_gone(self, file: str) -> bool:
        return not is_remote(file) and not (self.path.parent / file).exists()


def key(path: str, baseline: str | os.PathLike[str]) -> str:
    """How a baseline names a file: relative to the baseline's folder, with slashes."""
    if is_remote(path):
        return path
    try:
        name = os.path.relpath(path, Path(baseline).parent)
    except ValueError:  # another drive
        name = os.path.abspath(path)  # noqa: PTH100  links stay as they are named
    return name.replace(os.sep, "/")


def write(path: str | os.PathLike[str], reports: Sequence[Report]) -> int:
    """Writes the findings of reports as a baseline, beside and then into place.

    Args:
        path: the file; an older baseline is replaced, any other file is not.
        reports: the reports.

    Returns:
        How many entries it has.

    Raises:
        SettingsError: if another file is in the way, or it cannot be written.
    """
    target = check_target(path)
    entries = {
        Entry(key(report.path, target), finding.code, finding.layer)
        for report in reports
        for finding in report.findings
    }
    files: dict[str, dict[str, list[str]]] = {}
    for file, code, layer in sorted(entries):
        files.setdefault(file, {}).setdefault(code, []).append(layer)
    text = json.dumps({"version": VERSION, "files": files}, indent=2, ensure_ascii=False)
    try:
        replace_text(target, text + "\n")
    except OSError as error:
        raise SettingsError(
            f"{target} cannot be written: {error.strerror or error}.",
            "Choose another place for the baseline.",
        ) from None
    return len(entries)


def check_target(path: str | os.PathLike[str]) -> Path:
    """Checks that a baseline may be written at a path; see `write`."""
    target = Path(path)
    if target.exists():
        try:
            Baseline(target)
        except SettingsError:
            raise SettingsError(
                f"{target} exists and is no baseline, so it is not replaced.",
                "Remove it, or choose another place for the baseline.",
            ) from None
    elif not target.parent.is_dir():
        raise SettingsError(
            f"The directory {target.parent} does not exist.", "Create it first."
        )
    return target


def _document(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"The baseline {path} does not exist.", _WRITE) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(f"The baseline {path} cannot be read: {reason}.") from None
    except (ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise SettingsError(
            f"The baseline {path} is no valid JSON: {reason}.", _AGAIN
        ) from None


def _entries(path: Path, document: Any) -> Iterator[Entry]:
    if not isinstance(document, dict) or not isinstance(document.get("files"), dict):
        raise SettingsError(f"{path} is no baseline: it has no table of files.", _AGAIN)
    if document.get("version") != VERSION:
        raise SettingsError(
            f"The baseline {path} has version {document.get('version')!r}, and {VERSION} "
            "is known.",
            _AGAIN,
        )
    for file, codes in document["files"].items():
        if not isinstance(codes, dict):
            raise _no_codes(path, file)
        for code, layers in codes.items():
            if not isinstance(layers, list) or not all(isinstance(x, str) for x in layers):
                raise _no_codes(path, file)
            yield from (Entry(file, code, layer) for layer in layers)


def _no_codes(path: Path, file: str) -> SettingsError:
    return SettingsError(
        f"The baseline {path} does not list codes with layers for {file}.", _AGAIN
    )
