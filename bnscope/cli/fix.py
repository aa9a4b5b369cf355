"""`bnscope fix`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bnscope.cli.common import (
    EXIT_CLEAN,
    EXIT_FINDINGS,
    Commands,
    Parser,
    add_format,
    print_json,
    say,
)
from bnscope.cli.loading import add_loading, import_modules, read_data, working
from bnscope.cli.selection import add_selection, settings_from
from bnscope.errors import BnscopeError
from bnscope.rules.base import Severity, plural

if TYPE_CHECKING:
    from bnscope.fixing import FixResult
    from bnscope.fixing.repairs import Repair
    from bnscope.graph.model import Graph
    from bnscope.linting.settings import Settings


def add(commands: Commands[Parser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("fix", help="repair what lint finds, and prove it")
    parser.add_argument("path", metavar="FILE", help=".keras or .h5")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="where to write: .keras, or .h5"
    )
    parser.add_argument(
        "--unsafe-fixes",
        action="store_true",
        help="also make repairs that change what the model computes or how it trains",
    )
    parser.add_argument(
        "--diff",
        action="store_true",
        help="print what would change, write nothing; exit code 1 if anything would",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing output"
    )
    add_selection(parser)
    add_loading(parser)
    add_format(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Fixes a file, or prints what would be fixed."""
    settings = settings_from(options)
    settings.rules()  # an unknown code is an error before anything is read
    if options.diff and options.output:
        raise BnscopeError(
            "--diff writes nothing.", "Leave out -o, or pass it instead of --diff."
        )
    if options.diff:
        return _diff(options, settings)
    if not options.output:
        raise BnscopeError(
            "Where to write the fixed model is not said.", "Use -o FILE, or --diff."
        )
    from bnscope.rewriting.files import check_output

    output = check_output(options.output, overwrite=options.overwrite)
    result = _fix(options, settings)
    written = str(output) if result.applied else None
    if written is not None:
        result.save(output, overwrite=options.overwrite)
    if options.output_format == "json":
        print_json({"path": options.path, "output": written, **result.to_dict()})
    else:
        _print(result, options, written)
    return EXIT_FINDINGS if result.remaining.at_least(Severity.WARNING) else EXIT_CLEAN


def _fix(options: argparse.Namespace, settings: Settings) -> FixResult:
    """Fixes with a word on a terminal that it takes a while."""
    import_modules(options.modules)
    data = read_data(options.data)
    with working(f"Fixing {options.path} ..."):
        from bnscope.fixing import fix

        return fix(
            options.path,
            unsafe=options.unsafe_fixes,
            settings=settings,
            verify_data=data,
        )


def _diff(options: argparse.Namespace, settings: Settings) -> int:
    """What the first pass would change; the file is read only, and Keras not needed."""
    from bnscope.fixing.repairs import apart, repairs
    from bnscope.graph import archive
    from bnscope.linting.engine import Linter

    graph = archive.read(options.path)
    linter = Linter(settings)
    grades = ("unsafe", "safe") if options.unsafe_fixes else ("safe",)
    found = [
        repair
        for grade in grades
        for repair in repairs(graph, linter, grade)
        if repair.edits
    ]
    chosen, waiting = apart(found)
    if options.output_format == "json":
        print_json({"path": options.path, **_diff_dict(chosen, waiting, graph)})
    else:
        _print_diff(chosen, waiting, graph)
    return EXIT_FINDINGS if chosen else EXIT_CLEAN


def _diff_dict(
    chosen: Sequence[Repair], waiting: Sequence[Repair], graph: Graph
) -> dict[str, Any]:
    return {
        "repairs": [
            {
                **_named(repair),
                "changes": [change.to_dict() for change in repair.changes(graph)],
            }
            for repair in chosen
        ],
        "later": [_named(repair) for repair in waiting],
        "not_analysed": [
            {"layer": part.layer, "reason": part.reason} for part in graph.not_analysed
        ],
    }


def _named(repair: Repair) -> dict[str, Any]:
    found = repair.finding
    return {"code": found.code, "name": found.name, "layer": found.layer, "fix": found.fix}


def _print_diff(chosen: Sequence[Repair], waiting: Sequence[Repair], graph: Graph) -> None:
    for repair in chosen:
        found = repair.finding
        say(f"{found.code} {found.name} ({found.fix}): {found.layer}")
        for change in repair.changes(graph):
            say(f"  {change.layer} ({change.kind})")
            for text in change.lines:
                say(f"    {text}")
    for repair in waiting:
        found = repair.finding
        say(f"{found.code} {found.name} ({found.fix}): {found.layer}")
        say("  in a later pass, since it changes a layer that is changed above")
    for part in graph.not_analysed:
        say(f"Not analysed: {part.layer or graph.name}: {part.reason}.")
    count = plural(len(chosen) + len(waiting), "finding")
    say(f"{count} would be repaired." if chosen else "Nothing to repair.")


def _print(result: FixResult, options: argparse.Namespace, written: str | None) -> None:
    from bnscope.fixing.text import lines

    for text in lines(result):
        say(text)
    if result.remaining.findings or result.remaining.not_analysed:
        _print_remaining(result)
    more = sum(finding.fix == "unsafe" for finding in result.remaining)
    if written and not written.endswith(".keras") and result.training.steps is not None:
        say("Keras does not load the optimizer's state from .h5 files; .keras keeps it.")
    if more and not options.unsafe_fixes:
        say(f"{plural(more, 'finding')} can be repaired with --unsafe-fixes.")
    say(
        f"Written to {written}."
        if written
        else "Nothing was repaired; no file was written."
    )


def _print_remaining(result: FixResult) -> None:
    from bnscope.linting.formats import full
    from bnscope.printing import emit

    say("Remaining:")
    emit(full.lines([result.remaining]), sys.stdout)
