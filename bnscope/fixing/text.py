"""What was fixed, for people."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from bnscope.fixing.report import Fix, Skipped
from bnscope.rewriting.routes import TITLES
from bnscope.rules.base import plural

if TYPE_CHECKING:
    from bnscope.fixing.result import FixResult

# So many layers of a group are described; JSON holds all.
_MOST_LAYERS = 3


def lines(result: FixResult) -> Iterator[str]:
    """What was repaired, how it was proved, and what was not; a sentence or two a line."""
    for _, group in groupby(result.applied, key=lambda fix: (fix.code, fix.fix)):
        yield from _applied(list(group))
    yield from _proof(result)
    yield from _training(result)
    skips = groupby(result.skipped, key=lambda one: (one.code, one.reason))
    for (_, reason), left in skips:
        yield _skipped(list(left), reason)
    yield from result.notes


def _applied(fixes: list[Fix]) -> Iterator[str]:
    first = fixes[0]
    where = f" in {len(fixes)} layers" if len(fixes) > 1 else ""
    yield f"Repaired {first.code} {first.name} ({first.fix}){where}. {first.behaviour}"
    for fix in fixes[:_MOST_LAYERS]:
        parts = [f"{change.layer}: {', '.join(change.lines)}" for change in fix.changes]
        yield f"  {'; '.join(parts)}"
    if len(fixes) > _MOST_LAYERS:
        yield f"  and {len(fixes) - _MOST_LAYERS} more (--diff, --output-format json)"


def _proof(result: FixResult) -> Iterator[str]:
    for check in result.verification:
        done = check.verification
        if done is not None:
            yield (
                f"Verified by {TITLES[check.route]}: outputs differ by at most "
                f"{done.max_error:.1e} of their scale ({done.tolerance:.1e} allowed)."
            )
    before, after = result.parameters
    if before != after:
        yield f"Parameters: {before:,} before, {after:,} after."


def _training(result: FixResult) -> Iterator[str]:
    state = result.training
    if not state.compiled:
        return
    if state.steps is None:
        yield f"Compiled as before with {state.optimizer}, which has no state yet."
        return
    yield (
        f"Compiled as before: {state.optimizer} goes on at step {state.steps} with the state "
        f"of {plural(state.kept, 'variable')}; {state.dropped} gone, {state.fresh} anew."
    )


def _skipped(group: list[Skipped], reason: str) -> str:
    names = ", ".join(f'"{one.layer}"' for one in group[:_MOST_LAYERS])
    left = len(group) - _MOST_LAYERS
    more = f" and {left} more" if left > 0 else ""
    return f"Not repaired: {group[0].code} at {names}{more}. {reason}"
