"""`bnscope lint`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bnscope.cli.common import (
    EXIT_CLEAN,
    EXIT_ERROR,
    EXIT_FINDINGS,
    Commands,
    Parser,
    add_model_config,
)
from bnscope.cli.output import add_output, check_output, write_output
from bnscope.errors import BnscopeError

if TYPE_CHECKING:
    from bnscope.linting import Report, Settings


def add(commands: Commands[Parser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("lint", help="find misuse of BN in saved models")
    parser.add_argument("paths", nargs="+", metavar="FILE", help=".keras, .h5 or .json")
    parser.add_argument(
        "--select", metavar="CODES", help="run these rules (BN101,BN2 or ALL)"
    )
    parser.add_argument("--ignore", metavar="CODES", help="do not run these rules")
    parser.add_argument(
        "--fail-on",
        choices=["error", "warning", "info"],
        default="warning",
        help="least severity that gives exit code 1 (default: %(default)s)",
    )
    add_model_config(parser)
    add_output(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Lints the files and prints one report."""
    from bnscope.linting.settings import Settings, split_codes
    from bnscope.rules.base import Severity

    settings = Settings(
        select=split_codes(options.select),
        ignore=split_codes(options.ignore) or (),
        fail_on=Severity(options.fail_on),
    )
    settings.rules()  # an unknown code is an error before any file is read
    check_output(options, options.paths)
    reports = [_lint(path, settings, options.model_config) for path in options.paths]
    write_output(options, reports)
    if any(report.error for report in reports):
        return EXIT_ERROR
    worst = any(report.at_least(settings.fail_on) for report in reports)
    return EXIT_FINDINGS if worst else EXIT_CLEAN


def _lint(path: str, settings: Settings, config: str | None) -> Report:
    from bnscope.linting import Report, lint

    try:
        return lint(path, settings=settings, config=config)
    except BnscopeError as error:
        return Report(path=path, error=error)
