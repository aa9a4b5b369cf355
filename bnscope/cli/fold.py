"""`bnscope fold`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import zipfile
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bnscope.cli.common import EXIT_CLEAN, Commands, Parser, add_format, print_json
from bnscope.errors import BnscopeError
from bnscope.rules.base import plural

if TYPE_CHECKING:
    from bnscope.folding import FoldResult, Verdict


def add(commands: Commands[Parser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("fold", help="fold BN into the layers before it")
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
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="verify on the array x of this .npz (or one by input name), not on random input",
    )
    parser.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="import this module first: it registers your classes (runs its code)",
    )
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
        _say(f"Not analysed: {part.layer or graph.name}: {part.reason}.")
    return EXIT_CLEAN


def _fold(options: argparse.Namespace) -> FoldResult:
    """Folds with a word on a terminal that it takes a while."""
    for module in options.modules:
        _import(module)
    data = _read_data(options.data) if options.data else None
    from rich.console import Console

    from bnscope.backend import import_keras_quietly

    with Console(stderr=True).status(f"Folding {options.path} ..."):
        import_keras_quietly()
        from bnscope.folding import fold

        return fold(options.path, verify_data=data)


def _import(module: str) -> None:
    sys.path.insert(0, os.getcwd())  # noqa: PTH109  as `python -m` does
    try:
        importlib.import_module(module)
    except Exception as error:
        raise BnscopeError(
            f"--import {module} failed: {type(error).__name__}: {error}.",
            "The module must be importable from here.",
        ) from error


def _read_data(path: str) -> Any:
    import numpy as np

    if not os.path.exists(path):  # noqa: PTH110
        raise BnscopeError(f"{path} does not exist.", "Check the path.")
    unreadable = BnscopeError(
        f"{path} cannot be read as .npz.", "Write it with numpy.savez(path, x=x)."
    )
    if not zipfile.is_zipfile(path):
        raise unreadable
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise unreadable from error
    return arrays.get("x", arrays)


def _print(result: FoldResult, output: str) -> None:
    _print_verdicts(result.verdicts)
    before, after = result.parameters
    _say(f"Parameters: {before:,} before, {after:,} after.")
    _say(
        f"Verified: outputs differ by at most {result.max_error:.1e} of their scale "
        f"({result.tolerance:.1e} allowed)."
    )
    for note in result.notes:
        _say(note)
    _say(f"Written to {output}, not compiled.")


def _print_verdicts(verdicts: Iterable[Verdict]) -> None:
    from bnscope.tables import print_verdicts

    verdicts = list(verdicts)
    print_verdicts(verdicts, sys.stdout)
    folded = sum(verdict.folded for verdict in verdicts)
    _say(f"{folded} of {plural(len(verdicts), 'BN layer')} folded.")


def _say(text: str) -> None:
    from bnscope.printing import console, printable

    console(sys.stdout).print(printable(text))
