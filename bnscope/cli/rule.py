"""`bnscope rule`."""

from __future__ import annotations

import argparse
import sys

from bnscope.cli.common import EXIT_CLEAN, Commands, Parser, add_format, print_json
from bnscope.errors import BnscopeError


def add(commands: Commands[Parser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("rule", help="explain a rule")
    parser.add_argument("code", nargs="?", metavar="CODE", help="BN101 or redundant-bias")
    parser.add_argument("--all", action="store_true", help="list all rules")
    add_format(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Prints a rule's page, or the list of all rules."""
    from bnscope.printing import console
    from bnscope.rules import all_rules, find
    from bnscope.tables import rule_table

    if options.all == bool(options.code):
        raise BnscopeError(
            "Name one rule, or use --all.", "For example: bnscope rule BN101."
        )
    rules = all_rules() if options.all else (find(options.code),)
    if options.output_format == "json":
        print_json([rule.to_dict() for rule in rules])
    elif options.all:
        console(sys.stdout).print(rule_table(rules))
    else:
        _print_markdown(rules[0].page())
    return EXIT_CLEAN


def _print_markdown(text: str) -> None:
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return
    from rich.markdown import Markdown

    from bnscope.printing import console

    console(sys.stdout).print(Markdown(text, code_theme="ansi_dark"))
