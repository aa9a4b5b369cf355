"""Output formats, one file each, known by name.

Formats for terminals make lines with styles (`lines`), all others make text (`render`).
Everything that comes out of files is neutralized: control characters are spelled out, and each
format escapes what means something in it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, TextIO

from bnscope.linting.findings import Report

WITH_STYLES = ("full", "concise")
TEXT_ONLY = ("json", "json-lines", "github", "gitlab", "sarif", "junit", "html")
NAMES = (*WITH_STYLES, *TEXT_ONLY)


def render(name: str, reports: Sequence[Report]) -> str:
    """The reports as text.

    Args:
        name: one of `NAMES`.
        reports: one report a model.

    Returns:
        The text, without styles and without a newline at the end.
    """
    text: str = _module(name).render(reports)
    return text


def write(name: str, reports: Sequence[Report], stream: TextIO) -> None:
    """Writes the reports to a stream; with styles if it is a terminal and the format has some.

    Args:
        name: one of `NAMES`.
        reports: one report a model.
        stream: where to.
    """
    if name in WITH_STYLES:
        from bnscope.printing import emit

        lines = list(_module(name).lines(reports))
        if lines:
            emit(lines, stream)
        return
    text = render(name, reports)
    stream.write(text + "\n" if text else "")


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
