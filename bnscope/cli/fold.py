"""`bnscope fold`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bnscope.cli.common import EXIT_CLEAN, Commands, Parser, add_format, print_json, say
from bnscope.cli.loading import add_loading, import_modules, read_data, working
from bnscope.errors import BnscopeError
from bnscope.rules.base import plural

if TYPE_CHECKING:
    from bnscope.folding import FoldResult, Verdict


def add(commands: Commands[Parser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("fold", help="fold BN into the layers around it")
    parser.add_argument("path", metavar="FILE", help=".keras or .h5")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="where to write: .keras, or .h5"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan, run nothing"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing output"
    )
    add_loading(parser)
    add_format(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Folds a file, or prints what would be folded."""
    if options.dry_run:
        return _dry_run(options)
    if not options.output:
        raise BnscopeError(
            "Where to write the folded model is not said.", "Use -o FILE, or --dry-run."
        )
    from bnscope.rewriting.files import check_output

    output = check_output(options.output, overwrite=options.overwrite)
    result = _fold(options)
    result.save(output, overwrite=options.overwrite)
    if options.output_format == "json":
        print_json({"path": options.path, "output": str(output), **result.to_dict()})
    else:
        _print(result, str(output))
    return EXIT_CLEAN


def _dry_run(options: argparse.Namespace) -> int:
    from bnscope.folding.plan import make_plan
    from bnscope.graph import archive

    graph = archive.read(options.path)
    verdicts = make_plan(graph).verdicts
    if options.output_format == "json":
        print_json(
            {"path": options.path, "verdicts": [verdict.to_dict() for verdict in verdicts]}
        )
        return EXIT_CLEAN
    _print_verdicts(verdicts)
    for part in graph.not_analysed:
        say(f"Not analysed: {part.layer or graph.name}: {part.reason}.")
    return EXIT_CLEAN


def _fold(options: argparse.Namespace) -> FoldResult:
    """Folds with a word on a terminal that it takes a while."""
    import_modules(options.modules)
    data = read_data(options.data)
    with working(f"Folding {options.path} ..."):
        from bnscope.folding import fold

        return fold(options.path, verify_data=data)


def _print(result: FoldResult, output: str) -> None:
    _print_verdicts(result.verdicts)
    before, after = result.parameters
    say(f"Parameters: {before:,} before, {after:,} after.")
    say(
        f"Verified: outputs differ by at most {result.max_error:.1e} of their scale "
        f"({result.tolerance:.1e} allowed)."
    )
    for note in result.notes:
        say(note)
    say(f"Written to {output}, not compiled.")


def _print_verdicts(verdicts: Iterable[Verdict]) -> None:
    from bnscope.tables import print_verdicts

    verdicts = list(verdicts)
    print_verdicts(verdicts, sys.stdout)
    folded = sum(verdict.folded for verdict in verdicts)
    say(f"{folded} of {plural(len(verdicts), 'BN layer')} folded.")
