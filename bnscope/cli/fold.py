"""`bnscope fold`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bnscope.cli.common import EXIT_CLEAN, Commands, Parser, add_format, print_json, say
from bnscope.cli.loading import add_loading, import_modules, read_data, working
from bnscope.errors import BnscopeError
from bnscope.rules.base import plural

if TYPE_CHECKING:
    from bnscope.exporting import Export, Format
    from bnscope.folding import FoldResult, Verdict


def add(commands: Commands[Parser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("fold", help="fold BN into the layers around it")
    parser.add_argument("path", metavar="FILE", help=".keras or .h5")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="where to write: .keras, .h5, .onnx, .tflite, .xml (OpenVINO), or a directory "
        "for a SavedModel",
    )
    parser.add_argument(
        "--format",
        choices=["keras", "h5", "tf_saved_model", "onnx", "litert", "openvino"],
        help="the format of the output, where its name does not tell",
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
    from bnscope.exporting.formats import find_format

    chosen = find_format(options.output, options.format)
    _check_output(options, chosen)
    result = _fold(options)
    exported = None if chosen is None else _export(result, options)
    if chosen is None:
        result.save(options.output, overwrite=options.overwrite)
    if options.output_format == "json":
        facts = {"path": options.path, "output": options.output, **result.to_dict()}
        print_json({**facts, "export": None if exported is None else exported.to_dict()})
    else:
        _print(result, options.output, exported)
    return EXIT_CLEAN


def _check_output(options: argparse.Namespace, chosen: Format | None) -> None:
    """Checks before any work is done whether the output can be written."""
    if chosen is None:
        from bnscope.rewriting.files import check_output

        check_output(options.output, overwrite=options.overwrite)
        return
    from bnscope.exporting.formats import check_installed, check_target

    check_installed(chosen)
    check_target(Path(options.output), chosen, overwrite=options.overwrite)


def _export(result: FoldResult, options: argparse.Namespace) -> Export:
    """Exports with a word on a terminal that it takes a while."""
    with working(f"Exporting {options.output} ..."):
        return result.export(
            options.output,
            format=options.format,
            overwrite=options.overwrite,
            verify_data=read_data(options.data),
        )


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


def _print(result: FoldResult, output: str, exported: Export | None) -> None:
    _print_verdicts(result.verdicts)
    before, after = result.parameters
    say(f"Parameters: {before:,} before, {after:,} after.")
    say(
        f"Verified: outputs differ by at most {result.max_error:.1e} of their scale "
        f"({result.tolerance:.1e} allowed)."
    )
    for note in result.notes:
        say(note)
    if exported is None:
        say(f"Written to {output}, not compiled.")
        return
    say(
        f"Written to {output} ({exported.size:,} bytes). {exported.runtime}: outputs differ "
        f"by at most {exported.verification.max_error:.1e} of their scale "
        f"({exported.verification.tolerance:.1e} allowed)."
    )
    if exported.bn_like is not None:
        say(f"Operations like BN left in it: {exported.bn_like}.")


def _print_verdicts(verdicts: Iterable[Verdict]) -> None:
    from bnscope.tables import print_verdicts

    verdicts = list(verdicts)
    print_verdicts(verdicts, sys.stdout)
    folded = sum(verdict.folded for verdict in verdicts)
    say(f"{folded} of {plural(len(verdicts), 'BN layer')} folded.")
