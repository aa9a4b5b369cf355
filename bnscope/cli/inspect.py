"""`bnscope inspect`."""

from __future__ import annotations

import argparse
import sys

from bnscope.cli.common import (
    EXIT_CLEAN,
    Commands,
    Parser,
    add_format,
    add_model_config,
    print_json,
)


def add(commands: Commands[Parser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("inspect", help="show every BN layer of a saved model")
    parser.add_argument("path", metavar="FILE", help=".keras, .h5 or .json")
    add_model_config(parser)
    add_format(parser, "html")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Prints the BN layers of a file."""
    from bnscope.inspection import inspect

    inspection = inspect(options.path, config=options.model_config)
    if options.output_format == "json":
        print_json(inspection.to_dict())
    elif options.output_format == "html":
        sys.stdout.write(inspection.to_html() + "\n")
    else:
        from bnscope.tables import print_inspection

        print_inspection(inspection, sys.stdout)
    return EXIT_CLEAN
