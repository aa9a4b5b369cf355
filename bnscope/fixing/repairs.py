"""Which findings can be repaired, by which edits, and which of them in one pass. No Keras."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bnscope.fixing.changes import Change, changes
from bnscope.graph.model import Graph
from bnscope.linting.engine import Linter
from bnscope.linting.findings import Finding
from bnscope.rewriting.edits import Edit, Step
from bnscope.rules import find
from bnscope.rules.base import Context


@dataclass(frozen=True, slots=True)
class Repair:
    """A finding, and the edits that remove it.

    Args:
        finding: what was found.
        edits: what is to be done; none where the rule has no repair for it after all.
    """

    finding: Finding
    edits: tuple[Edit, ...]

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from other repairs: code and layer."""
        return self.finding.code, self.finding.layer

    @property
    def layers(self) -> frozenset[str]:
        """The layers that it changes."""
        return frozenset(edit.layer for edit in self.edits)

    @property
    def step(self) -> Step:
        """The edits as one step of a rewrite."""
        code, layer = self.key
        return Step(f'the repair of {code} at "{layer}"', self.edits)

    def changes(self, graph: Graph) -> tuple[Change, ...]:
        """What it changes, layer by layer."""
        return changes(graph, self.edits)


def repairs(graph: Graph, linter: Linter, grade: str) -> Iterator[Repair]:
    """The repairs of everything that the rules find in a graph, in a stable order.

    Args:
        graph: the model.
        linter: runs the rules.
        grade: "safe" or "unsafe".
    """
    context = Context(graph)
    for finding in linter.lint_graph(graph).report:
        if finding.fix == grade:
            yield Repair(finding, find(finding.code).repair(context, finding.layer))


def apart(found: Iterable[Repair]) -> tuple[list[Repair], list[Repair]]:
    """Repairs no two of which change the same layer, and those that must wait for them."""
    taken: set[str] = set()
    chosen: list[Repair] = []
    waiting: list[Repair] = []
    for repair in found:
        if repair.layers & taken:
            waiting.append(repair)
        else:
            chosen.append(repair)
            taken |= repair.layers
    return chosen, waiting


def of_first_rule(found: Sequence[Repair]) -> list[Repair]:
    """Those of the rule that comes first, so that its effect can be told from others'."""
    return [repair for repair in found if repair.finding.code == found[0].finding.code]
