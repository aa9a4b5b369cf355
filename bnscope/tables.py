"""Tables for people: the BN layers of a model, the rules."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, TextIO

from bnscope.printing import console, printable
from bnscope.rules.base import plural

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from bnscope.inspection import BatchNormRow, Inspection, Range
    from bnscope.rules.base import Rule

# Narrower than this, each layer gets lines of its own instead of a row.
_TABLE_WIDTH = 150
# Rich measures every cell, a millisecond a row; more rows than this are not aligned.
_MOST_ROWS = 500
# Of an inspection, in the order of `_cells`.
_COLUMNS = (
    ("layer", "left"),
    ("fed by", "left"),
    ("feeds", "left"),
    ("channels", "right"),
    ("axis", "right"),
    ("momentum", "right"),
    ("epsilon", "right"),
    ("gamma", "left"),
    ("beta", "left"),
    ("mean", "left"),
    ("variance", "left"),
    ("dead", "right"),
    ("folds into", "left"),
)
_NEIGHBOURS = frozenset({"fed by", "feeds"})


def table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> Table:
    """A table without lines.

    Args:
        columns: titles and how each is justified ("left", "right"); no header if all titles
            are empty.
        rows: one text a column.
    """
    from rich.table import Table as RichTable

    made = RichTable(
        box=None,
        pad_edge=False,
        header_style="bold",
        padding=(0, 2, 0, 0),
        show_header=any(title for title, _ in columns),
    )
    for title, justify in columns:
        made.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        made.add_row(*(printable(cell) for cell in row))
    return made


def inspection_table(inspection: Inspection) -> Table:
    """One row a BN layer."""
    return table(_COLUMNS, (_cells(row) for row in inspection.rows))


def inspection_page(inspection: Inspection) -> str:
    """One row a BN layer, as a page of HTML."""
    from bnscope import markup

    heads = [title for title, _ in _COLUMNS if title not in _NEIGHBOURS]
    parts = [
        markup.tag("h1", inspection.path),
        markup.tag(
            "p",
            f"{plural(len(inspection.rows), 'BN layer')} in forward order",
            class_="note",
        ),
        markup.table(heads, map(_page_cells, inspection.rows)),
    ]
    parts += [
        markup.tag("p", f"not analysed: {text}.", class_="note")
        for text in _left(inspection)
    ]
    return markup.document("bnscope inspect", markup.tag("main", *parts))


def print_inspection(inspection: Inspection, stream: TextIO) -> None:
    """Prints the BN layers: a table where there is room, else some lines for each."""
    target = console(stream)
    count = plural(len(inspection.rows), "BN layer")
    target.print(f"{printable(inspection.path)}: {count}")
    if len(inspection.rows) > _MOST_ROWS:
        print_unaligned((_cells(row) for row in inspection.rows), stream)
    elif target.width >= _TABLE_WIDTH:
        target.print(inspection_table(inspection))
    else:
        for row in inspection.rows:
            target.print()
            target.print(printable(row.layer), style="bold")
            target.print(table([("", "left"), ("", "left")], _facts(row)))
    for text in _left(inspection):
        target.print(f"not analysed: {printable(text)}.")


def _left(inspection: Inspection) -> list[str]:
    """What could not be analysed, and why."""
    return [
        f"{part.layer}: {part.reason}" if part.layer else part.reason
        for part in inspection.not_analysed
    ]


def fitting_table(
    columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], target: Console
) -> None:
    """Prints a table, or the rows as they are where there are too many to align."""
    if len(rows) > _MOST_ROWS:
        print_unaligned(rows, target.file)
    else:
        target.print(table(columns, rows))


def print_unaligned(rows: Iterable[Sequence[str]], stream: IO[str]) -> None:
    """Prints rows without aligning their columns."""
    stream.writelines("  ".join(printable(cell) for cell in row) + "\n" for row in rows)


def rule_table(rules: Iterable[Rule]) -> Table:
    """One row a rule."""
    columns = [("code", "left"), ("name", "left"), ("severity", "left"), ("finds", "left")]
    return table(
        columns,
        ([rule.code, rule.name, str(rule.severity), rule.summary()] for rule in rules),
    )


def as_text(made: Table) -> str:
    """A table as plain text."""
    stream = io.StringIO()
    console(stream).print(made)
    return "\n".join(text.rstrip() for text in stream.getvalue().splitlines())


def _cells(row: BatchNormRow) -> list[str]:
    return [
        row.layer + (" (frozen)" if row.trainable is False else ""),
        ", ".join(row.fed_by) or "?",
        ", ".join(row.feeds) or "?",
        _or_unknown(row.channels),
        _or_unknown(row.axis),
        _number(row.momentum),
        _number(row.epsilon),
        _span(row.gamma),
        _span(row.beta),
        _span(row.moving_mean),
        _span(row.moving_variance),
        _or_unknown(row.dead_channels),
        row.folds_into or f"kept: {row.reason or '?'}",
    ]


def _page_cells(row: BatchNormRow) -> list[str]:
    """The cells of a page: what is around a layer stands below its name, to save width."""
    from bnscope.markup import joined, tag

    layer, fed_by, feeds, *numbers, into = _cells(row)
    around = tag("div", f"fed by {fed_by}; feeds {feeds}", class_="note")
    name = joined([tag("b", layer), around])
    return [name, *(tag("span", cell, class_="number") for cell in numbers), into]


def _facts(row: BatchNormRow) -> list[list[str]]:
    cells = _cells(row)
    return [
        ["  fed by", cells[1]],
        ["  feeds", cells[2]],
        [
            "  settings",
            f"{cells[3]} channels on axis {cells[4]}, momentum {cells[5]}, epsilon {cells[6]}",
        ],
        ["  gamma, beta", f"{cells[7]}, {cells[8]}"],
        ["  mean, variance", f"{cells[9]}, {cells[10]}"],
        ["  dead channels", cells[11]],
        ["  folds into", cells[12]],
    ]


def _span(values: Range | None) -> str:
    if values is None:
        return "-"
    low, high = values
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"


def _or_unknown(value: int | None) -> str:
    return "?" if value is None else str(value)
