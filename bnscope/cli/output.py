"""Where a lint report goes, and in which format."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bnscope.cli.common import Parser, fail
from bnscope.errors import BnscopeError

if TYPE_CHECKING:
    from bnscope.linting import Report

# Not from the registry of formats: that would load the linter to print the help.
FORMATS = (
    "full",
    "concise",
    "json",
    "json-lines",
    "github",
    "gitlab",
    "sarif",
    "junit",
    "html",
)
_COUNTED = ("full", "concise", "json")
# A report never takes the place of a model.
_MODELS = (".keras", ".h5", ".hdf5")


def add_output(parser: Parser) -> None:
    """Adds `--output-format`, `--output-file` and `--statistics`."""
    parser.add_argument(
        "--output-format",
        choices=FORMATS,
        default="full",
        help="for people, machines or a service (default: %(default)s)",
    )
    parser.add_argument(
        "--output-file",
        metavar="FILE",
        help="write the report here instead of to stdout; an older report is replaced",
    )
    parser.add_argument(
        "--statistics", action="store_true", help="count the findings of each rule instead"
    )


def check_output(options: argparse.Namespace, inputs: Iterable[str]) -> None:
    """Checks the options before any file is read.

    Raises:
        BnscopeError: if the report cannot be written so, or would replace a model.
    """
    if options.statistics and options.output_format not in _COUNTED:
        raise BnscopeError(
            f"--statistics has no {options.output_format} format.",
            f"Use --output-format {', '.join(_COUNTED[:-1])} or {_COUNTED[-1]}.",
        )
    if options.output_file is not None:
        _check_file(Path(options.output_file), inputs)


def write_output(options: argparse.Namespace, reports: Sequence[Report]) -> None:
    """Writes the report, and an error line for each file that could not be read."""
    if options.output_file is None:
        _print(options, reports)
    else:
        text = _text(options, reports)
        _write(Path(options.output_file), text + "\n" if text else "")
    for report in reports:
        if report.error is not None:
            fail(report.error)


def _print(options: argparse.Namespace, reports: Sequence[Report]) -> None:
    if not options.statistics:
        from bnscope.linting import formats

        formats.write(options.output_format, reports, sys.stdout)
    elif options.output_format == "json":
        sys.stdout.write(_text(options, reports) + "\n")
    else:
        from bnscope.linting.formats import statistics
        from bnscope.printing import emit

        if lines := list(statistics.lines(reports)):
            emit(lines, sys.stdout)


def _text(options: argparse.Namespace, reports: Sequence[Report]) -> str:
    from bnscope.linting import formats
    from bnscope.linting.formats import statistics
    from bnscope.printing import plain

    if not options.statistics:
        return formats.render(options.output_format, reports)
    if options.output_format == "json":
        return statistics.render_json(reports)
    return plain(statistics.lines(reports))


def _check_file(path: Path, inputs: Iterable[str]) -> None:
    if path.is_dir():
        raise BnscopeError(f"{path} is a directory.", "Give the name of a file.")
    if not path.parent.is_dir():
        raise BnscopeError(
            f"The directory {path.parent} does not exist.", "Create it first."
        )
    if path.suffix in _MODELS or any(_same(path, source) for source in inputs):
        raise BnscopeError(
            f"{path} is the name of a model, which a report must not replace.",
            "Choose another name for --output-file.",
        )


def _same(path: Path, source: str) -> bool:
    try:
        return path.samefile(source)
    except (OSError, ValueError):  # one of them does not exist, or is a remote path
        return False


def _write(path: Path, text: str) -> None:
    from bnscope.writing import replace_text

    try:
        replace_text(path, text)
    except OSError as error:
        raise BnscopeError(
            f"{path} cannot be written: {error.strerror or error}.",
            "Choose another place for --output-file.",
        ) from error
