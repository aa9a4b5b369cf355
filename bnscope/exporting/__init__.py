"""Export: a Keras model as the artifact of another runtime, run there and compared."""

from __future__ import annotations

from bnscope.exporting.engine import Export, export
from bnscope.exporting.formats import FORMATS, Format, find_format

__all__ = ["FORMATS", "Export", "Format", "export", "find_format"]
