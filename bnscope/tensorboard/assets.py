"""The files of the tab: its own, and plotly's script out of plotly's package."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from bnscope.figures.loading import script

# TensorBoard forbids browsers to guess, and the system's own table may say something else.
_TYPES = {".js": "text/javascript", ".css": "text/css"}
_FOLDER = Path(__file__).parent / "static"
PLOTLY = "plotly.min.js"


def own() -> Mapping[str, str]:
    """The names of the tab's own files, and the type of each."""
    return {
        path.name: _TYPES[path.suffix]
        for path in sorted(_FOLDER.iterdir())
        if path.suffix in _TYPES
    }


def read(name: str) -> bytes:
    """One of the tab's own files."""
    return (_FOLDER / name).read_bytes()


@cache
def plotly() -> bytes:
    """Plotly's script, compressed with gzip.

    Raises:
        BnscopeError: if plotly is not installed.
    """
    return gzip.compress(script().encode(), 5, mtime=0)
