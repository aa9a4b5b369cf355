"""`bnscope demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from bnscope.cli.common import Commands, Parser


def add(commands: Commands[Parser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "demo", help="train, watch, diagnose and fold a small AlexNet"
    )
    parser.add_argument(
        "--epochs", type=_positive, metavar="N", help="epochs of each training"
    )
    parser.add_argument(
        "--log-dir",
        type=Path,
        default=Path("logs/demo"),
        metavar="DIR",
        help="where the events go (default: %(default)s)",
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Runs the demonstration."""
    from bnscope.demo import main

    return main(epochs=options.epochs, log_dir=options.log_dir)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {value}")
    return value
