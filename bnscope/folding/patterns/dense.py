"""Dense, on inputs of any rank: kernel (in, out)."""

from __future__ import annotations

from bnscope.folding.patterns.base import Pattern
from bnscope.graph import kinds
from bnscope.graph.model import Call


class Dense(Pattern):
    """The output channels are the kernel's last axis, and the output's."""

    kinds = kinds.DENSE

    def output_channels(self, call: Call) -> int | None:
        """The last axis, whatever the rank."""
        rank = call.outputs[0].rank
        return None if rank is None else rank - 1
