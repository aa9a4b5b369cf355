"""`bnscope fold`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bnscope.cli.common import (
    EXIT_CLEAN,
    Commands,
    Parser,
    add_format,
    note,
    print_json,
    say,
)
from bnscope.cli.loading import add_loading, import_modules, read_data, working
from bnscope.errors import BnscopeError
from bnscope.rules.base import plural

if TYPE_CHECKING:
    from bnscope.exporting import Export, Format
    from bnscope.folding import FoldResult
    from bnscope.folding.benchmark import Benchmark
    from bnscope.folding.plan import Plan
    from bnscope.sections import Section


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
    parser.add_argument(
        "--benchmark", action="store_true", help="time inference before and after"
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="of --benchmark (default: 1)"
    )
    add_loading(parser)
    add_format(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Folds a file, or prints what would be folded."""
    if options.batch_size is not None and options.batch_size < 1:
        raise BnscopeError(
            f"--batch-size cannot be {options.batch_size}.", "Use 1 or more."
        )
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
    benchmark = _benchmark(options, result)
    if options.output_format == "json":
        times = {} if benchmark is None else {"benchmark": benchmark.to_dict()}
        made = {"export": None if exported is None else exported.to_dict()}
        whole = {"output": options.output, **result.to_dict(), **times, **made}
        print_json({"path": options.path, **whole})
    else:
        _print_result(result, options.output, exported, benchmark)
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
    from bnscope.folding.report import expected
    from bnscope.folding.text import report_sections
    from bnscope.graph import archive

    if options.output:
        raise BnscopeError(
            "A dry run writes nothing.", "Leave out -o, or pass it instead of --dry-run."
        )
    if options.benchmark:
        raise BnscopeError(
            "A dry run makes no model whose inference could be timed.",
            "Leave out --benchmark, or pass -o instead of --dry-run.",
        )
    graph = archive.read(options.path)
    plan = make_plan(graph)
    report = expected(graph, plan)
    if options.output_format == "json":
        not_analysed = [asdict(part) for part in graph.not_analysed]
        rest = {**plan.to_dict(), **report.to_dict(), "not_analysed": not_analysed}
        print_json({"path": options.path, **rest})
        return EXIT_CLEAN
    _print(report_sections(report))
    for part in graph.not_analysed:
        say(f"Not analysed: {part.layer or graph.name}: {part.reason}.")
    _say_count(plan, "can be folded")
    return EXIT_CLEAN


def _fold(options: argparse.Namespace) -> FoldResult:
    """Folds with a word on a terminal that it takes a while."""
    import_modules(options.modules)
    data = read_data(options.data)
    with working(f"Folding {options.path} ..."):
        from bnscope.folding import fold

        return fold(options.path, verify_data=data)


def _benchmark(options: argparse.Namespace, result: FoldResult) -> Benchmark | None:
    if not options.benchmark:
        return None
    if sys.stderr.isatty():  # without a spinner, which would be timed too
        note("timing inference ...")
    return result.benchmark(options.batch_size)


def _print_result(
    result: FoldResult, output: str, exported: Export | None, benchmark: Benchmark | None
) -> None:
    from bnscope.folding.text import result_sections

    _print(result_sections(result, benchmark))
    if exported is None:
        say(f"Written to {output}, not compiled.")
    else:
        _say_export(exported)
    _say_count(result.plan, "folded")


def _say_export(exported: Export) -> None:
    say(
        f"Written to {exported.path} ({exported.size:,} bytes). {exported.runtime}: outputs "
        f"differ by at most {exported.verification.max_error:.1e} of their scale "
        f"({exported.verification.tolerance:.1e} allowed)."
    )
    if exported.bn_like is not None:
        say(f"Operations like BN left in it: {exported.bn_like}.")


def _print(sections: Iterable[Section]) -> None:
    from bnscope.sections import print_sections

    print_sections(sections, sys.stdout)


def _say_count(plan: Plan, what: str) -> None:
    """The last line, which is what is seen of a long report."""
    if not plan.verdicts:
        return
    reasons = Counter(str(verdict.reason) for verdict in plan.kept).most_common()
    kept = ", ".join(f"{count} {reason}" for reason, count in reasons)
    say(
        f"{len(plan.folded)} of {plural(len(plan.verdicts), 'BN layer')} {what}"
        + (f"; kept: {kept}." if kept else ".")
    )
