"""Which file is which step: read from the names of the checkpoints."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from bnscope.errors import BnscopeError, UnreadableModelError
from bnscope.linting import discovery
from bnscope.rules.base import plural
from bnscope.tracking.result import Checkpoint

_SUFFIX = re.compile(r"(\.weights)?\.(keras|h5|hdf5|json)$", re.IGNORECASE)
# `0.47` is one number, and no whole one; in `.05.0.47` each part is a number.
_NUMBER = re.compile(r"\.?\d+(?:\.\d+)*", re.ASCII)
_HINT = r"Say where it is: --step-regex 'epoch_(\d+)'."
# TensorBoard's steps are signed numbers of 64 bits.
_MOST = 2**63 - 1


def find(paths: Iterable[str], step_regex: str | None = None) -> list[Checkpoint]:
    """The checkpoints that paths name, with their steps, in the order of the steps.

    Args:
        paths: files, directories or patterns.
        step_regex: an expression whose group (or whole match) in the name is the step; None
            for the first whole number that differs between the names.

    Returns:
        The checkpoints; those without a step, at the end, have an error.

    Raises:
        BnscopeError: if there are no checkpoints, or their steps cannot be told apart.
    """
    sources = [source for source in discovery.discover(paths) if _is_wanted(source)]
    checkpoints = [Checkpoint(source.path, error=_fault(source)) for source in sources]
    sound = [each for each in checkpoints if each.error is None]
    if not checkpoints:
        raise BnscopeError("No checkpoint was found.", "Expected .keras, .h5 or .hdf5.")
    if sound:
        names = [each.path for each in sound]
        steps = _by_regex(names, step_regex) if step_regex else _by_difference(names)
        sound = [_with_step(each, step) for each, step in zip(sound, steps, strict=True)]
        _check_unique(sound)
    failed = [each for each in checkpoints if each.error is not None]
    every = [*sound, *failed]
    return sorted(every, key=lambda each: (each.step is None, each.step or 0))


def _is_wanted(source: discovery.Source) -> bool:
    """Whether a file is a checkpoint, and not one that was found beside them."""
    if source.error is not None or not source.found:
        return True
    json = source.path.lower().endswith(".json")  # has a configuration, but no values
    return not json and not discovery.is_foreign(source.path, failed=True)


def _fault(source: discovery.Source) -> BnscopeError | None:
    if source.error is None and discovery.is_remote(source.path):
        return UnreadableModelError(
            f"{source.path} is a URL.", "Copy the checkpoints to this machine first."
        )
    return source.error


def _with_step(checkpoint: Checkpoint, step: int | None) -> Checkpoint:
    if step is None:
        error = BnscopeError(f"{checkpoint.path} has no step in its name.", _HINT)
        return replace(checkpoint, error=error)
    if step > _MOST:
        error = BnscopeError(
            f"{checkpoint.path}: the step {step} is too large for an event.", _HINT
        )
        return replace(checkpoint, error=error)
    return replace(checkpoint, step=step)


def _by_regex(paths: Sequence[str], step_regex: str) -> list[int | None]:
    try:
        pattern = re.compile(step_regex)
    except re.error as error:
        raise BnscopeError(
            f"--step-regex {step_regex!r} is no regular expression: {error}.", _HINT
        ) from None
    steps = [_matched(pattern, path) for path in paths]
    if all(step is None for step in steps):
        raise BnscopeError(
            f"--step-regex {step_regex!r} finds no whole number in any of "
            f"{plural(len(paths), 'name')}, the first of which is {paths[0]}.",
            _HINT,
        )
    return steps


def _matched(pattern: re.Pattern[str], path: str) -> int | None:
    """The number in the file's name, or else in its path."""
    for text in (os.path.basename(path), path):  # noqa: PTH119
        found = pattern.search(text)
        if found:
            number = found[1] if pattern.groups else found[0]
            return int(number) if number and re.fullmatch(r"[0-9]{1,30}", number) else None
    return None


def _by_difference(paths: Sequence[str]) -> list[int | None]:
    """The first whole number that differs between the names, or else between the paths."""
    for names in ([os.path.basename(path) for path in paths], paths):  # noqa: PTH119
        rows = [_numbers(name) for name in names]
        for place in range(max(map(len, rows))):
            column = [row[place] if place < len(row) else None for row in rows]
            if len({value for value in column if value is not None}) > 1:
                return column
    if len(paths) == 1 and not (discovery.is_remote(paths[0]) or Path(paths[0]).exists()):
        raise BnscopeError(f"{paths[0]} does not exist.", "Give checkpoints that do.")
    if len(paths) == 1:
        raise BnscopeError(
            f"{paths[0]} is one checkpoint, and a series has several.",
            "`bnscope lint` looks at one.",
        )
    raise BnscopeError(
        f"No whole number differs between the names of {plural(len(paths), 'checkpoint')}, "
        f"the first of which is {paths[0]}.",
        _HINT,
    )


def _numbers(name: str) -> list[int]:
    """The whole numbers in a name, without those of its suffix."""
    found: list[int] = []
    for match in _NUMBER.finditer(_SUFFIX.sub("", name)):
        text = match[0]
        if not text.startswith(".") and text.count(".") == 1:
            continue  # a decimal
        # The longest is cut: Python refuses numbers of thousands of digits.
        found += [int(part[:30]) for part in text.split(".") if part]
    return found


def _check_unique(checkpoints: Iterable[Checkpoint]) -> None:
    seen: dict[int, str] = {}
    for each in checkpoints:
        if each.step is None:
            continue
        if each.step in seen:
            raise BnscopeError(
                f"{seen[each.step]} and {each.path} have the same step {each.step}.",
                "Leave one of them out, or say where the step is: --step-regex '...(\\d+)'.",
            )
        seen[each.step] = each.path
