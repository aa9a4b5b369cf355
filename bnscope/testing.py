"""For test suites: a model in which the linter finds nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from bnscope.errors import BnscopeError
from bnscope.linting import Report, lint
from bnscope.printing import printable
from bnscope.rules.base import LEVELS, Severity

__all__ = ["NotAnalysedWarning", "assert_clean"]


class NotAnalysedWarning(UserWarning):
    """A part of the model could not be analysed, so nothing is known of it."""


def assert_clean(
    model_or_path: Any,
    *,
    select: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] | None = None,
    fail_on: str = "warning",
) -> Report:
    """Asserts that linting a model finds nothing. Works in any test framework.

    Args:
        model_or_path: a path (`.keras`, `.h5`, `.json`) or a `keras.Model`.
        select: codes, prefixes or names of the rules to run (`"BN101,BN2"` or a list).
        ignore: those not to run.
        fail_on: the least severity that fails: "error", "warning" or "info".

    Returns:
        The report, with what is below `fail_on`. Each part of the model that could not be
        analysed gives a `NotAnalysedWarning`.

    Raises:
        AssertionError: if something is found; its message is the report.
        BnscopeError: if the model cannot be read, or an argument is wrong.
    """
    __tracebackhide__ = True  # pytest shows the test's line, not this one
    least = _level(fail_on)
    report = lint(model_or_path, select=select, ignore=ignore)
    if report.at_least(least):
        raise AssertionError(f"bnscope found misuse of BN.\n\n{report}")
    for part in report.not_analysed:
        where = f"{part.layer}: " if part.layer else ""
        warnings.warn(
            printable(f"{report.path}: not analysed: {where}{part.reason}."),
            NotAnalysedWarning,
            stacklevel=2,
        )
    return report


def _level(fail_on: str) -> Severity:
    if fail_on not in LEVELS:
        raise BnscopeError(
            f"There is no severity {fail_on!r}.",
            f"Use {', '.join(LEVELS[:-1])} or {LEVELS[-1]}.",
        )
    return Severity(fail_on)
