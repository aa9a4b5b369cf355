"""A report in parts, each a title, a table and sentences: as text, and as HTML for notebooks.

The HTML is escaped, without scripts, and in the page's own colours.
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TextIO

from bnscope.printing import console, printable

# In HTML more rows than this are folded away behind their title.
_MOST_ROWS = 20


class Section(NamedTuple):
    """A part of the report: a title, a table, and sentences below it.

    Args:
        title: what the table shows; "" for none.
        columns: titles and how each is justified.
        rows: the cells.
        sentences: what follows, a line each.
    """

    title: str
    columns: Sequence[tuple[str, str]] = ()
    rows: Sequence[Sequence[str]] = ()
    sentences: Sequence[str] = ()


def print_sections(sections: Iterable[Section], stream: TextIO) -> None:
    """Prints sections: tables where there is room, wrapped on a narrow terminal."""
    from bnscope.tables import fitting_table

    target = console(stream)
    for index, section in enumerate(sections):
        if index:
            target.print()
        if section.title:
            target.print(printable(section.title), style="bold")
        if section.rows:
            fitting_table(section.columns, section.rows, target)
        for sentence in section.sentences:
            target.print(printable(sentence))


def as_text(sections: Iterable[Section]) -> str:
    """The sections as plain text."""
    stream = io.StringIO()
    print_sections(sections, stream)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def as_html(title: str, sections: Iterable[Section]) -> str:
    """The sections as HTML, behind a title that is HTML already."""
    body = "".join(part for section in sections for part in _section(section))
    return f'<div class="bnscope" style="line-height:1.5"><div>{title}</div>{body}</div>'


def escaped(text: str) -> str:
    """Text as HTML."""
    return html.escape(printable(text))


def _section(section: Section) -> Iterator[str]:
    table = _table(section.columns, section.rows) if section.rows else ""
    title = escaped(section.title)
    if title and not section.rows:
        yield f"<div><b>{title}</b></div>"
    elif title:
        state = "" if len(section.rows) > _MOST_ROWS else " open"
        yield (
            f"<details{state}><summary><b>{title}</b> ({len(section.rows)})</summary>"
            f"{table}</details>"
        )
    else:
        yield table
    for sentence in section.sentences:
        yield f"<div>{escaped(sentence)}</div>"


def _table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    sides = [side for _, side in columns]
    head = "".join(_cell("th", title, side) for title, side in columns)
    body = "".join(
        f"<tr>{''.join(_cell('td', *pair) for pair in zip(row, sides, strict=True))}</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(tag: str, text: str, side: str) -> str:
    return f'<{tag} style="text-align:{side}">{escaped(text)}</{tag}>'
