"""`bnscope lint`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bnscope.cli.common import (
    EXIT_CLEAN,
    EXIT_ERROR,
    EXIT_FINDINGS,
    Commands,
    Parser,
    add_model_config,
    fail,
    note,
)
from bnscope.cli.output import add_output, check_output, write_output
from bnscope.cli.selection import add_selection, combine, configuration
from bnscope.errors import BnscopeError, SettingsError

if TYPE_CHECKING:
    from bnscope.linting import Report, Settings
    from bnscope.linting.baseline import Entry
    from bnscope.linting.batch import Batch
    from bnscope.linting.config import Config
    from bnscope.rules.base import Severity

_PATHS = "files (.keras, .h5, .json), directories, patterns ('ckpt/**/*.keras') or URLs"
# So many stale entries of a baseline are named.
_MOST_NAMES = 3


def add(commands: Commands[Parser]) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser("lint", help="find misuse of BN in saved models")
    parser.add_argument("paths", nargs="*", metavar="PATH", help=_PATHS)
    parser.add_argument(
        "--fail-on",
        choices=["error", "warning", "info"],
        help="least severity that gives exit code 1 (default: warning)",
    )
    parser.add_argument(
        "--jobs",
        type=_jobs,
        default=0,
        metavar="N",
        help="how many processes read the files (default: auto, as many as is worth it)",
    )
    parser.add_argument(
        "--show-settings", action="store_true", help="print the settings, lint nothing"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="also say what was skipped or quiet"
    )
    add_selection(parser)
    _add_baseline(parser)
    add_model_config(parser)
    add_output(parser)
    parser.set_defaults(command=run)


def _add_baseline(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("baseline").add_mutually_exclusive_group()
    group.add_argument(
        "--baseline", metavar="FILE", help="do not report the findings in this file"
    )
    group.add_argument(
        "--write-baseline", metavar="FILE", help="write all findings to this file"
    )


def run(options: argparse.Namespace) -> int:
    """Lints the files and prints one report."""
    config = configuration(options)
    settings = combine(config, options)
    if options.fail_on:
        settings = replace(settings, fail_on=_severity(options.fail_on))
    if options.show_settings:
        return _show(config, settings, options)
    if not options.paths:
        raise SettingsError(
            "There is nothing to lint.", "Name a file, a directory or a pattern."
        )
    if options.write_baseline:
        return _write_baseline(options, settings)
    check_output(options, options.paths)
    accepted = _Accepted(_baseline_file(config, options), settings)
    batch = _lint(options, settings)
    reports = accepted.without(batch.reports)
    write_output(options, reports)
    _tell(batch, config, options)
    accepted.tell()
    return _exit_code(reports, settings)


def _severity(text: str) -> Severity:
    from bnscope.rules.base import Severity

    return Severity(text)


def _lint(options: argparse.Namespace, settings: Settings) -> Batch:
    from bnscope.linting.batch import lint_files
    from bnscope.progress import bar

    with bar("Linting") as progress:
        return lint_files(
            options.paths,
            settings,
            config=options.model_config,
            jobs=options.jobs,
            progress=progress,
        )


def _exit_code(reports: Sequence[Report], settings: Settings) -> int:
    if any(report.error for report in reports):
        return EXIT_ERROR
    worst = any(report.at_least(settings.fail_on) for report in reports)
    return EXIT_FINDINGS if worst else EXIT_CLEAN


def _print_errors(reports: Sequence[Report]) -> None:
    for report in reports:
        if report.error is not None:
            fail(report.error)


def _tell(batch: Batch, config: Config | None, options: argparse.Namespace) -> None:
    """What is no finding: entries that are of no use, and what a verbose run did."""
    for entry in batch.unused:
        where = f"{entry.origin}: " if entry.origin else ""
        note(f"{where}the ignore {str(entry)!r} matched no finding.")
    if not options.verbose:
        return
    from bnscope.rules.base import plural

    if config is not None:
        note(f"Settings from {config.path}.")
    note(f"{plural(batch.quiet, 'finding')} ignored by layer.")
    note(f"{_files(batch)} linted with --jobs {batch.processes}.")
    for path in batch.skipped:
        note(f"{path} is no Keras model and was skipped.")


def _files(batch: Batch) -> str:
    from bnscope.rules.base import plural

    return plural(len(batch.reports), "file")


class _Accepted:
    """The baseline of a run, if there is one."""

    def __init__(self, path: str | None, settings: Settings) -> None:
        self._path = path
        self._settings = settings
        self._count = 0
        self._stale: tuple[Entry, ...] = ()
        if path is not None:
            from bnscope.linting.baseline import Baseline

            self._baseline = Baseline(path)

    def without(self, reports: Sequence[Report]) -> Sequence[Report]:
        """The reports without what is accepted."""
        if self._path is None:
            return reports
        codes = [rule.code for rule in self._settings.rules()]
        comparison = self._baseline.compare(reports, codes)
        self._count, self._stale = comparison.accepted, comparison.stale
        return comparison.reports

    def tell(self) -> None:
        """Says what the baseline did, and what in it is of no use any more."""
        from bnscope.rules.base import plural

        if self._path is None:
            return
        note(f"{plural(self._count, 'finding')} in the baseline {self._path}.")
        if self._stale:
            shown = "; ".join(str(entry) for entry in self._stale[:_MOST_NAMES])
            more = len(self._stale) - _MOST_NAMES
            note(
                f"{plural(len(self._stale), 'finding')} of {self._path} not found any "
                f"more: {shown}{f'; and {more} more' if more > 0 else ''}. "
                "Write it again with --write-baseline."
            )


def _baseline_file(config: Config | None, options: argparse.Namespace) -> str | None:
    named: str | None = options.baseline
    return named or (config.baseline if config else None)


def _write_baseline(options: argparse.Namespace, settings: Settings) -> int:
    from bnscope.linting import baseline
    from bnscope.rules.base import plural

    baseline.check_target(options.write_baseline)
    batch = _lint(options, settings)
    _print_errors(batch.reports)
    failed = sum(report.error is not None for report in batch.reports)
    if failed:
        raise BnscopeError(
            f"{options.write_baseline} is not written: {plural(failed, 'path')} could not "
            "be linted.",
            "Correct or leave them out first.",
        )
    count = baseline.write(options.write_baseline, batch.reports)
    entries = plural(count, "finding")
    note(f"{entries} in {_files(batch)} accepted in {options.write_baseline}.")
    return EXIT_CLEAN


def _show(config: Config | None, settings: Settings, options: argparse.Namespace) -> int:
    from bnscope.cli.settings import show

    show(config, settings, options)
    return EXIT_CLEAN


def _jobs(text: str) -> int:
    if text == "auto":
        return 0
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes, nor auto")
    return int(text)
