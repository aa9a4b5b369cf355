"""Pages of HTML, and their pieces. Every text is escaped: names come out of files."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from bnscope.printing import printable

# Every page looks like the tab.
_STYLE = Path(__file__).parent / "tensorboard" / "static" / "style.css"


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
        f' {key.rstrip("_").replace("_", "-")}="{_references(value)}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{''.join(parts)}>{''.join(map(escaped, children))}</{name}>")


def escaped(text: str) -> str:
    """The text as HTML shows it; elements as they are."""
    return text if isinstance(text, Markup) else _references(printable(text))


def _references(text: str) -> str:
    """The text with references for markup, and beyond ASCII: so no stream can garble it."""
    return html.escape(text).encode("ascii", "xmlcharrefreplace").decode("ascii")


def joined(parts: Iterable[str]) -> Markup:
    """Elements and texts, one after another."""
    return Markup("".join(map(escaped, parts)))


def chip(severity: str, text: str | None = None) -> Markup:
    """How bad something is, in one word: by default the severity itself."""
    return tag("span", text or severity, class_=f"chip {severity}")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """A table."""
    head = tag("tr", *(tag("th", text) for text in heads))
    body = (tag("tr", *(tag("td", cell) for cell in row)) for row in rows)
    made = tag("table", tag("thead", head), tag("tbody", *body))
    return tag("div", made, class_="scroll")


def document(title: str, *body: str) -> str:
    """A page that needs nothing else, light or dark as the system is.

    Args:
        title: of its tab in a browser.
        body: elements.
    """
    head = tag(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", title),
        tag("style", Markup(_STYLE.read_text(encoding="utf-8"))),
    )
    page = tag("html", head, tag("body", *body), lang="en", class_="system")
    return f"<!doctype html>\n{page}"
