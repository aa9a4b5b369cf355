"""`bnscope report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bnscope.cli.common import (
    EXIT_CLEAN,
    Commands,
    Parser,
    add_model_config,
    fail,
    note,
    say,
)
from bnscope.errors import BnscopeError

if TYPE_CHECKING:
    from bnscope.events import Run


def add(commands: Commands[Parser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "report", help="write what BN did, with figures, as one HTML file"
    )
    parser.add_argument(
        "logdir",
        nargs="?",
        metavar="LOGDIR",
        help="a log directory of one run or of several",
    )
    parser.add_argument(
        "--checkpoints",
        nargs="+",
        metavar="PATH",
        help="saved checkpoints, directories or patterns ('ckpt/*.h5') instead",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="the report, FILE.html"
    )
    parser.add_argument(
        "--layer",
        action="append",
        metavar="GLOB",
        help="figures of the layers whose path matches; repeatable "
        "(default: of those with alerts)",
    )
    parser.add_argument(
        "--step-regex",
        metavar="REGEX",
        help="its first group, or whole match, in a checkpoint's name is the step",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an older report")
    add_model_config(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Writes the report."""
    from bnscope import reporting

    output = Path(options.output)
    if (options.logdir is None) == (options.checkpoints is None):
        raise BnscopeError(
            "A report is made of a log directory or of checkpoints.",
            "Give LOGDIR, or --checkpoints 'ckpt/*.keras'.",
        )
    reporting.check(output, overwrite=options.overwrite)
    runs = _tracked(options) if options.logdir is None else _logged(Path(options.logdir))
    for text in reporting.write(runs, output, options.layer):
        note(text)
    say(f"The report is in {output}.")
    return EXIT_CLEAN


def _logged(log_dir: Path) -> dict[str, Run]:
    """The runs of a log directory; those that cannot be read are told and left out."""
    from bnscope.backend import import_tensorflow_quietly
    from bnscope.events import find, read

    if not log_dir.is_dir():
        raise BnscopeError(f"There is no directory {log_dir}.", "Give a log directory.")
    import_tensorflow_quietly()
    runs: dict[str, Run] = {}
    errors = []
    for name, path in find(log_dir).items():
        try:
            runs[name] = read(path, exact=True)
        except BnscopeError as why:
            errors.append(BnscopeError(f"{name}: {why.message}", why.hint))
    if not runs:
        raise (
            errors[0]
            if errors
            else BnscopeError(
                f"{log_dir} holds no events of bnscope.",
                "Give the log_dir of a BatchNormMonitor, or what holds several of them.",
            )
        )
    for error in errors:
        fail(error)
    return runs


def _tracked(options: argparse.Namespace) -> dict[str, Run]:
    from bnscope.progress import bar
    from bnscope.tracking import track

    with bar("Tracking") as progress:
        result = track(
            options.checkpoints,
            step_regex=options.step_regex,
            config=options.model_config,
            progress=progress,
        )
    for error in result.errors:
        fail(error)
    return {"checkpoints": result.run}
