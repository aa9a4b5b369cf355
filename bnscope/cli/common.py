"""What the commands share: exit codes, errors in one line, output formats."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from bnscope.errors import BnscopeError

EXIT_CLEAN = 0
EXIT_FINDINGS = 1
EXIT_ERROR = 2

Commands = argparse._SubParsersAction  # noqa: SLF001  argparse gives it no public name


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raises what the command line prints as its error."""
        raise BnscopeError(f"{message}.", f"`{self.prog} --help` shows the usage.")


def fail(error: BnscopeError) -> int:
    """Prints an error as one line; returns the exit code for it."""
    from bnscope.printing import printable

    print(f"bnscope: error: {printable(str(error))}", file=sys.stderr)  # noqa: T201
    return EXIT_ERROR


def note(text: str) -> None:
    """Prints a line that is neither a finding nor an error to stderr."""
    from bnscope.printing import printable

    print(f"bnscope: note: {printable(text)}", file=sys.stderr)  # noqa: T201


def add_format(parser: argparse.ArgumentParser, *more: str) -> None:
    """Adds `--output-format`: `full`, `json`, and more where there are some."""
    parser.add_argument(
        "--output-format",
        choices=["full", "json", *more],
        default="full",
        help="for people or for machines (default: %(default)s)",
    )


def add_model_config(parser: argparse.ArgumentParser) -> None:
    """Adds `--model-config`."""
    parser.add_argument(
        "--model-config",
        metavar="FILE",
        help="what model.to_json() wrote, to complete a file with only weights",
    )


def print_json(value: object) -> None:
    """Prints a value as JSON."""
    from bnscope.strict_json import dumps

    sys.stdout.write(dumps(value, indent=2) + "\n")


def say(text: str) -> None:
    """Prints a line for people."""
    from bnscope.printing import console, printable

    console(sys.stdout).print(printable(text))
