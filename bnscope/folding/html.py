"""HTML for notebooks: escaped, without scripts, in the page's own colours."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bnscope.folding.text import Section, result_sections
from bnscope.printing import printable
from bnscope.rules.base import plural

if TYPE_CHECKING:
    from bnscope.folding.result import FoldResult

# More rows than this are folded away behind their title.
_MOST_ROWS = 20


def render(result: FoldResult) -> str:
    """The report of a fold as HTML, the numbers first."""
    plan = result.plan
    title = (
        f"<b>{_text(plan.model)}</b>: {len(plan.folded)} of "
        f"{plural(len(plan.verdicts), 'BN layer')} folded"
    )
    sections = result_sections(result)
    body = "".join(part for section in sections for part in _section(section))
    return f'<div class="bnscope" style="line-height:1.5"><div>{title}</div>{body}</div>'


def _section(section: Section) -> Iterator[str]:
    table = _table(section.columns, section.rows) if section.rows else ""
    title = _text(section.title)
    if title:
        state = "" if len(section.rows) > _MOST_ROWS else " open"
        yield (
            f"<details{state}><summary><b>{title}</b> ({len(section.rows)})</summary>"
            f"{table}</details>"
        )
    else:
        yield table
    for sentence in section.sentences:
        yield f"<div>{_text(sentence)}</div>"


def _table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    sides = [side for _, side in columns]
    head = "".join(_cell("th", title, side) for title, side in columns)
    body = "".join(
        f"<tr>{''.join(_cell('td', *pair) for pair in zip(row, sides, strict=True))}</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(tag: str, text: str, side: str) -> str:
    return f'<{tag} style="text-align:{side}">{_text(text)}</{tag}>'


def _text(text: str) -> str:
    return html.escape(printable(text))
