"""Where findings lie, for machines: URIs, and fingerprints that stay from run to run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from bnscope.linting.discovery import is_remote
from bnscope.linting.findings import Finding, Report
from bnscope.linting.formats.common import numbered
from bnscope.printing import printable


def uri(report: Report) -> str:
    """Where a report's file lies: relative to the working directory where it is inside.

    Returns:
        A URI: forward slashes, percent-encoded; "" for a live model.
    """
    if report.live:
        return ""
    if is_remote(report.path):
        return quote(report.path, safe="/:@%+,=")
    return _uri(report.path, os.getcwd())  # noqa: PTH109  a text, as a key


def place(report: Report) -> str:
    """The file as consumers show it: relative, with forward slashes; or a model's name."""
    if report.live or is_remote(report.path):
        return printable(report.path)
    return _place(report.path, os.getcwd())  # noqa: PTH109  a text, as a key


def fingerprints(report: Report) -> Iterator[tuple[Finding, str]]:
    """Each finding with what identifies it from run to run: rule, layer path and file.

    The message is no part of it, since the numbers in it change. What one rule finds at one
    layer a second time is counted, so that no two findings share a fingerprint.
    """
    where = uri(report) or report.path
    for finding, time in numbered(report.findings):
        repeat = [str(time)] if time > 1 else []
        yield finding, fingerprint(finding.code, finding.layer, where, *repeat)


def fingerprint(*parts: str) -> str:
    """A hash of texts in their order."""
    text = "\0".join(parts).encode(errors="surrogatepass")
    return hashlib.sha256(text).hexdigest()[:32]


# Asked for with each finding, and not cheap.
@lru_cache
def _uri(path: str, directory: str) -> str:
    absolute, inside = _resolved(path, directory)
    if inside is None:
        return absolute.as_uri()
    return quote(os.fsencode(inside.as_posix()))


@lru_cache
def _place(path: str, directory: str) -> str:
    absolute, inside = _resolved(path, directory)
    return printable((inside or absolute).as_posix())


def _resolved(path: str, directory: str) -> tuple[Path, Path | None]:
    """The absolute path, and the path within a directory; links stay as they were named."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100
    inside = absolute.is_relative_to(directory)
    return absolute, absolute.relative_to(directory) if inside else None
