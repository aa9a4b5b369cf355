"""The command line: parse, call, print."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bnscope import __version__
from bnscope.errors import BnscopeError

if TYPE_CHECKING:
    from bnscope.linting import Report, Settings

EXIT_CLEAN = 0
EXIT_FINDINGS = 1
EXIT_ERROR = 2
_EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: the arguments without the program's name; None for `sys.argv`.

    Returns:
        0 for a clean run, 1 for findings at or above `--fail-on`, 2 for errors.
    """
    try:
        options = _parser().parse_args(arguments)
        command: Callable[[argparse.Namespace], int] = options.command
        code = command(options)
        sys.stdout.flush()
    except BnscopeError as error:
        return _fail(error)
    except BrokenPipeError:  # the reader (`head`, a pager) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_CLEAN
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except Exception as error:
        if os.environ.get("BNSCOPE_DEBUG"):
            raise
        what = " ".join(str(error).split()) or "no message"
        return _fail(
            BnscopeError(
                f"internal error: {type(error).__name__}: {what}.",
                "Set BNSCOPE_DEBUG=1 to see where, and report it.",
            )
        )
    return code


def _fail(error: BnscopeError) -> int:
    from bnscope.printing import printable

    print(f"bnscope: error: {printable(str(error))}", file=sys.stderr)  # noqa: T201
    return EXIT_ERROR


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise BnscopeError(f"{message}.", f"`{self.prog} --help` shows the usage.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bnscope",
        description="See, lint and fold Batch Normalization in Keras models.",
    )
    parser.add_argument("--version", action="version", version=f"bnscope {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for add in (_add_lint, _add_inspect, _add_rule, _add_fold, _add_demo):
        add(commands)
    return parser


_Commands = argparse._SubParsersAction  # noqa: SLF001  argparse gives it no public name


def _add_lint(commands: _Commands[argparse.ArgumentParser]) -> None:
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
    _add_format(parser, "full")
    parser.set_defaults(command=_lint)


def _add_inspect(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("inspect", help="show every BN layer of a saved model")
    parser.add_argument("path", metavar="FILE", help=".keras, .h5 or .json")
    _add_format(parser, "full")
    parser.set_defaults(command=_inspect)


def _add_rule(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("rule", help="explain a rule")
    parser.add_argument("code", nargs="?", metavar="CODE", help="BN101 or redundant-bias")
    parser.add_argument("--all", action="store_true", help="list all rules")
    _add_format(parser, "full")
    parser.set_defaults(command=_rule)


def _add_fold(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("fold", help="fold BN into the layers before it")
    parser.add_argument("path", metavar="FILE", help=".keras or .h5")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write the result")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan, run nothing"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing output"
    )
    parser.add_argument(
        "--data", metavar="FILE", help="verify on x of this .npz, not on random input"
    )
    parser.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="import this module first: it registers your classes (runs its code)",
    )
    _add_format(parser, "full")
    parser.set_defaults(command=_fold)


def _add_demo(commands: _Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("demo", help="train, watch, lint and fold a small AlexNet")
    parser.add_argument(
        "--epochs", type=_positive, metavar="N", help="epochs of each training"
    )
    parser.add_argument("--log-dir", type=Path, default=Path("logs/demo"), metavar="DIR")
    parser.set_defaults(command=_demo)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _add_format(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--output-format",
        choices=["full", "json"],
        default=default,
        help="for people or for machines (default: %(default)s)",
    )


def _lint(options: argparse.Namespace) -> int:
    from bnscope.linting.settings import Settings, split_codes
    from bnscope.rules.base import Severity

    settings = Settings(
        select=split_codes(options.select),
        ignore=split_codes(options.ignore) or (),
        fail_on=Severity(options.fail_on),
    )
    settings.rules()  # an unknown code is an error before any file is read
    reports = [_lint_file(path, settings) for path in options.paths]
    _print_reports(reports, options.output_format)
    failed = [report.error for report in reports if report.error is not None]
    if options.output_format != "json":
        for error in failed:
            _fail(error)
    if failed:
        return EXIT_ERROR
    worst = any(report.at_least(settings.fail_on) for report in reports)
    return EXIT_FINDINGS if worst else EXIT_CLEAN


def _lint_file(path: str, settings: Settings) -> Report:
    from bnscope.linting import Report, lint

    try:
        return lint(path, settings=settings)
    except BnscopeError as error:
        return Report(path=path, error=error)


def _print_reports(reports: Sequence[Report], output_format: str) -> None:
    if output_format == "json":
        from bnscope.linting.formats import json

        sys.stdout.write(json.render(reports) + "\n")
        return
    from bnscope.linting.formats import full
    from bnscope.printing import emit

    if any(report.error is None for report in reports):
        emit(full.render(reports), sys.stdout)


def _inspect(options: argparse.Namespace) -> int:
    from bnscope.inspection import inspect

    inspection = inspect(options.path)
    if options.output_format == "json":
        _print_json(inspection.to_dict())
    else:
        from bnscope.tables import print_inspection

        print_inspection(inspection, sys.stdout)
    return EXIT_CLEAN


def _rule(options: argparse.Namespace) -> int:
    from bnscope.rules import all_rules, find

    if options.all == bool(options.code):
        raise BnscopeError(
            "Name one rule, or use --all.", "For example: bnscope rule BN101."
        )
    rules = all_rules() if options.all else (find(options.code),)
    if options.output_format == "json":
        _print_json([rule.to_dict() for rule in rules])
    elif options.all:
        from bnscope.printing import console
        from bnscope.tables import rule_table

        console(sys.stdout).print(rule_table(rules))
    else:
        _print_markdown(rules[0].page())
    return EXIT_CLEAN


def _fold(options: argparse.Namespace) -> int:
    from bnscope.folding.command import run

    return run(options)


def _demo(options: argparse.Namespace) -> int:
    from bnscope.demo import main as demo

    return demo(epochs=options.epochs, log_dir=options.log_dir)


def _print_json(value: object) -> None:
    from bnscope.linting.formats.json import dumps

    sys.stdout.write(dumps(value) + "\n")


def _print_markdown(text: str) -> None:
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return
    from rich.markdown import Markdown

    from bnscope.printing import console

    console(sys.stdout).print(Markdown(text, code_theme="ansi_dark"))
