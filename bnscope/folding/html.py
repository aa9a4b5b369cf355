"""The report of a fold for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnscope.folding.text import result_sections
from bnscope.rules.base import plural
from bnscope.sections import as_html, escaped

if TYPE_CHECKING:
    from bnscope.folding.result import FoldResult


def render(result: FoldResult) -> str:
    """The report of a fold as HTML, the numbers first."""
    plan = result.plan
    title = (
        f"<b>{escaped(plan.model)}</b>: {len(plan.folded)} of "
        f"{plural(len(plan.verdicts), 'BN layer')} folded"
    )
    return as_html(title, result_sections(result))
