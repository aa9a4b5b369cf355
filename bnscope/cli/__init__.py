"""The command line: parse, call, print; one file a command."""

from __future__ import annotations

import argparse
import errno
import gc
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from bnscope import __version__
from bnscope.cli.common import EXIT_CLEAN, Parser, fail
from bnscope.errors import BnscopeError

_EXIT_INTERRUPTED = 130
# Commands that start no threads and hold no resources.
_READING = frozenset({"lint", "inspect", "rule"})
# What a full or broken disk says.
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})


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
        return fail(error)
    except BrokenPipeError:  # the reader (`head`, a pager) has seen enough
        _drop_output()
        return EXIT_CLEAN
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            _drop_output()
            return fail(
                BnscopeError(
                    f"The output cannot be written: {error.strerror}.",
                    "Make room, or write it elsewhere.",
                )
            )
        if os.environ.get("BNSCOPE_DEBUG"):
            raise
        what = " ".join(str(error).split()) or "no message"
        return fail(
            BnscopeError(
                f"internal error: {type(error).__name__}: {what}.",
                "Set BNSCOPE_DEBUG=1 to see where, and report it.",
            )
        )
    return code


def _drop_output() -> None:
    """Leaves nothing for Python to write at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run() -> NoReturn:
    """The console script: runs the command line and leaves.

    Commands that only read leave at once: what Python does at its end, freeing every object of
    numpy and h5py, takes a good part of the time of linting a file.
    """
    # Reading a model makes many objects and no garbage worth looking for so often.
    gc.set_threshold(50_000)
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not cost the findings.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    code = main()
    if len(sys.argv) > 1 and sys.argv[1] in _READING:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    # Imported here, where Ctrl-C already leaves quietly.
    from bnscope.cli import (
        demo,
        diagnose,
        fix,
        fold,
        inspect,
        lint,
        recalibrate,
        report,
        rule,
        track,
    )

    parser = Parser(
        prog="bnscope",
        description="See, lint, fix, fold, diagnose and recalibrate Batch Normalization in Keras models.",
    )
    parser.add_argument("--version", action="version", version=f"bnscope {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for command in (
        lint,
        fix,
        inspect,
        rule,
        fold,
        diagnose,
        recalibrate,
        track,
        report,
        demo,
    ):
        command.add(commands)
    return parser
