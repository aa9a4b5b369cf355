"""Writing reports and lists: beside, then moved into place."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Writes a text, in the place of an older one; pipes and devices are written as they are.

    Args:
        path: where to; a link stays one, and the file behind it is replaced.
        text: the whole text.

    Raises:
        OSError: if it cannot be written; an older file is then as it was.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        path.write_text(text, encoding="utf-8")
        return
    with tempfile.TemporaryDirectory(prefix=".bnscope-", dir=target.parent) as folder:
        beside = Path(folder) / target.name
        beside.write_text(text, encoding="utf-8")
        if target.exists():
            shutil.copymode(target, beside)
        beside.replace(target)
