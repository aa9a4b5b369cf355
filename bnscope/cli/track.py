"""`bnscope track`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bnscope.cli.common import (
    EXIT_CLEAN,
    EXIT_ERROR,
    EXIT_FINDINGS,
    Commands,
    Parser,
    add_format,
    add_model_config,
    fail,
    note,
)

if TYPE_CHECKING:
    from bnscope.tracking import Checkpoint, TrackResult


def add(commands: Commands[Parser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("track", help="follow BN through saved checkpoints")
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="checkpoints (.keras, .h5), directories or patterns ('ckpt/*.keras')",
    )
    parser.add_argument(
        "--logdir",
        metavar="DIR",
        help="write the events for TensorBoard to DIR/bnscope (default: write none)",
    )
    parser.add_argument(
        "--step-regex",
        metavar="REGEX",
        help="its first group, or whole match, in a name is the step "
        "(default: the first whole number that differs between the names)",
    )
    parser.add_argument(
        "--layer",
        action="append",
        metavar="GLOB",
        help="track only layers whose path matches, each with plots of its own; repeatable",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the events of an older run"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show which file is which step, then stop"
    )
    add_model_config(parser)
    add_format(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Tracks the checkpoints and prints what was found."""
    from bnscope.tracking import steps, target

    checkpoints = steps.find(options.paths, options.step_regex)
    log_dir = None if options.logdir is None else Path(options.logdir)
    if log_dir is not None:
        target.check(log_dir, overwrite=options.overwrite)
    _show(checkpoints, options)
    if options.dry_run:
        return _tell_errors([each for each in checkpoints if each.error is not None])
    result = _follow(checkpoints, log_dir, options)
    _print(result, options)
    for text in result.notes:
        note(text)
    left_out = [each for each in result.checkpoints if each.error is not None]
    return _tell_errors(left_out) or (EXIT_FINDINGS if result.alerts else EXIT_CLEAN)


def _show(checkpoints: list[Checkpoint], options: argparse.Namespace) -> None:
    """Which file is which step, before anything is read or written."""
    from bnscope.cli.common import print_json
    from bnscope.printing import emit
    from bnscope.tracking.report import table

    machine = options.output_format == "json"
    if machine and options.dry_run:
        print_json({"checkpoints": [each.to_dict() for each in checkpoints]})
        return
    if any(each.step is not None for each in checkpoints):
        emit([*table(checkpoints), []], sys.stderr if machine else sys.stdout)
        sys.stdout.flush()


def _follow(
    checkpoints: list[Checkpoint], log_dir: Path | None, options: argparse.Namespace
) -> TrackResult:
    from bnscope.progress import bar
    from bnscope.tracking.engine import follow

    with bar("Tracking") as progress:
        return follow(
            checkpoints,
            log_dir,
            layers=options.layer,
            config=options.model_config,
            overwrite=options.overwrite,
            progress=progress,
        )


def _print(result: TrackResult, options: argparse.Namespace) -> None:
    from bnscope.printing import emit
    from bnscope.tracking.report import lines

    if options.output_format == "json":
        sys.stdout.write(result.to_json() + "\n")
    else:
        emit(lines(result), sys.stdout)
    sys.stdout.flush()


def _tell_errors(left_out: list[Checkpoint]) -> int:
    for each in left_out:
        if each.error is not None:
            fail(each.error)
    return EXIT_ERROR if left_out else EXIT_CLEAN
