"""Names out of models and files as plotly draws them."""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence

from bnscope.printing import printable

_LONGEST = 30


def text(value: object) -> str:
    """A text that plotly draws as it is: it takes `<b>` and the like for markup."""
    return html.escape(printable(str(value)), quote=False)


def texts(paths: Sequence[str]) -> list[str]:
    """Whole paths as plotly draws them, none twice."""
    return _none_twice([text(path) for path in paths])


def in_template(label: str) -> str:
    """A text within a template of plotly's, which fills in `%{y}` and the like."""
    return label.replace("%{", "%&#123;")


def short(paths: Sequence[str]) -> list[str]:
    """Short labels of layers as plotly draws them, none twice; see `shortened`."""
    return [text(label) for label in shortened(paths)]


def shortened(paths: Sequence[str]) -> list[str]:
    """Paths without the beginning that all share, cut in the middle; none twice.

    Args:
        paths: full paths, none twice.
    """
    shared = _shared_parents(paths)
    return _none_twice([_middle_cut(path[shared:]) for path in paths])


def _none_twice(labels: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    made = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        made.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return made


def _shared_parents(paths: Sequence[str]) -> int:
    """How many characters of the beginning all paths share, whole names only."""
    if len(paths) < 2:  # noqa: PLR2004
        return 0
    first, last = min(paths), max(paths)
    alike = itertools.takewhile(
        lambda pair: pair[0] == pair[1], zip(first, last, strict=False)
    )
    return "".join(letter for letter, _ in alike).rfind("/") + 1


def _middle_cut(label: str) -> str:
    if len(label) <= _LONGEST:
        return label
    half = (_LONGEST - 1) // 2
    return f"{label[:half]}…{label[-(_LONGEST - 1 - half) :]}"
