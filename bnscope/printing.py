r"""Lines for people: coloured and wrapped on a terminal, plain in a pipe or file.

Names come out of files, so control characters are written as `\x1b`, never sent to a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# Letters, by their category, that show nothing.
_INVISIBLE = frozenset("\u115f\u1160\u3164\uffa0\u034f\u17b4\u17b5\u2800")
# Parts of a line: text, style.
Line = Sequence[tuple[str, str]]


def line(*parts: str | tuple[str, str]) -> Line:
    """A line out of texts, and of texts with a style."""
    return [(part, "") if isinstance(part, str) else part for part in parts]


def printable(text: str) -> str:
    """The text with control characters spelled out."""
    if text.isprintable():  # nearly always
        return text
    return "".join(
        char
        if char.isprintable() and char not in _INVISIBLE
        else char.encode("unicode_escape").decode()
        for char in text
    )


def plain(lines: Iterable[Line]) -> str:
    """The lines as text without styles."""
    return "\n".join("".join(printable(text) for text, _ in parts) for parts in lines)


def emit(lines: Iterable[Line], stream: TextIO) -> None:
    """Writes lines: with colours and wrapped if the stream is a terminal, else plain."""
    if not stream.isatty():
        stream.write(plain(lines) + "\n")
        return
    from rich.padding import Padding
    from rich.text import Text

    target = console(stream)
    for parts in lines:
        text = Text.assemble(*((printable(text), style) for text, style in parts))
        indent = len(text.plain) - len(text.plain.lstrip(" "))
        target.print(
            Padding(text[indent:], (0, 0, 0, indent)) if text.plain.strip() else ""
        )


def console(stream: TextIO, **options: Any) -> Console:
    """A rich console on a stream; outside a terminal nothing is coloured or cut."""
    from rich.console import Console

    if not stream.isatty():
        options = {"width": 10_000, "color_system": None, **options}
    return Console(file=stream, highlight=False, markup=False, emoji=False, **options)
