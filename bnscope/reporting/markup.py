"""Pieces of HTML. Every text is escaped: names come out of files."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from bnscope.printing import printable


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: str) -> Markup:
    """An element.

    Args:
        name: its name.
        children: texts, which are escaped, and elements.
        attributes: its attributes; `class_` is `class`.
    """
    parts = (
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{''.join(parts)}>{''.join(map(escaped, children))}</{name}>")


def escaped(text: str) -> str:
    """The text as HTML shows it; elements as they are."""
    return text if isinstance(text, Markup) else html.escape(printable(text))


def joined(parts: Iterable[str]) -> Markup:
    """Elements and texts, one after another."""
    return Markup("".join(map(escaped, parts)))


def chip(severity: str) -> Markup:
    """How bad something is."""
    return tag("span", severity, class_=f"chip {severity}")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """A table."""
    head = tag("tr", *(tag("th", text) for text in heads))
    body = (tag("tr", *(tag("td", cell) for cell in row)) for row in rows)
    made = tag("table", tag("thead", head), tag("tbody", *body))
    return tag("div", made, class_="scroll")
