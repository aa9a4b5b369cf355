"""Lint, repair what can be repaired, prove it, and lint again, until nothing is left.

Unsafe repairs come first, one rule after the other: what each changes in the model's outputs
is measured. Safe repairs follow, and must not change the outputs at all. That the unsafe ones
come first keeps the proof of the safe ones free of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from bnscope.errors import UnsupportedModelError, VerificationError
from bnscope.fixing.repairs import Repair, apart, of_first_rule, repairs
from bnscope.fixing.report import Fix, Skipped
from bnscope.graph import live
from bnscope.graph.model import Graph
from bnscope.linting.engine import Linter
from bnscope.rewriting.apply import Rebuilt, apply_edits, rebuild
from bnscope.rewriting.engine import failure
from bnscope.rewriting.routes import TITLES, RouteCheck, compare_by
from bnscope.rewriting.structure import check_rebuildable
from bnscope.rewriting.verify import Verifier

# More passes than any chain of overlapping repairs needs.
_MOST_PASSES = 100
_SAFE_ROUTES = ("predict", "export")
# `predict` computes what `call` does, whatever is written into the graph.
_MEASURED_ROUTES = ("call", "bare")
_AGAIN = "It is found again after its repair."
_NO_REPAIR = "Its rule has no repair for this place."


class Fixer:
    """Repairs one model.

    Args:
        model: the original. It is not changed.
        linter: finds what is repaired.
        verify_data: samples to verify with; None for random ones with a fixed seed.
    """

    def __init__(self, model: Any, linter: Linter, verify_data: Any = None) -> None:
        self.original = model
        self.model = model
        self.linter = linter
        self.verify_data = verify_data
        self.training = live.read(model).training
        self.variables: dict[int, Any] | None = None
        self.changed: frozenset[int] = frozenset()
        self.applied: list[Fix] = []
        self.skipped: dict[tuple[str, str], Skipped] = {}
        self.proofs: list[RouteCheck] = []
        self.notes: list[str] = []
        self.passes = 0

    def run(self, *, unsafe: bool) -> None:
        """Repairs all it can; the unsafe repairs only if they are asked for.

        Raises:
            VerificationError: if a safe repair changes what the model computes.
        """
        while True:
            before = self.passes
            if unsafe:
                self.unsafe_stage()
            self.safe_stage()
            if self.passes == before or self.passes > _MOST_PASSES:
                return

    def graph(self, *, trace: bool = False) -> Graph:
        """The graph of the model as it is now, with the original's training.

        Args:
            trace: whether the `call`s of the user's classes are followed, which shows faults
                that nothing here can repair.
        """
        graph = live.read(self.model, trace=trace)
        return dataclasses.replace(graph, training=self.training)

    def unsafe_stage(self) -> None:
        """Unsafe repairs, one rule after the other, and what each changes in the outputs."""
        for chosen, graph in self.batches("unsafe", of_first_rule):
            before = self.model
            done = self.apply(chosen)
            if done:
                effect = self.measure(before, graph)
                self.record(done, graph, effect)

    def safe_stage(self) -> None:
        """Safe repairs; together they must leave all outputs as they are."""
        start = self.model
        verifier: Verifier | None = None
        for chosen, graph in self.batches("safe", list):
            if not self.can_rebuild(chosen):
                continue
            if verifier is None:
                verifier = Verifier(start, self.verify_data, live.read(start))
            before = self.model
            done = self.apply(chosen)
            if done:
                check = verifier.compare(self.model)
                if not check.passed:
                    steps = [repair.step for repair in done]
                    raise failure(partial(apply_edits, before), steps, verifier, check)
                self.record(done, graph, {})
        if verifier is not None and self.model is not start:
            self.prove(verifier)

    def batches(
        self, grade: str, pick: Callable[[list[Repair]], list[Repair]]
    ) -> Iterator[tuple[list[Repair], Graph]]:
        """Repairs that can be made together, pass by pass, until there are none."""
        while self.passes <= _MOST_PASSES:
            graph = self.graph()
            found = [r for r in repairs(graph, self.linter, grade) if self.is_new(r)]
            if not found:
                return
            self.passes += 1
            yield apart(pick(found))[0], graph

    def is_new(self, repair: Repair) -> bool:
        """Whether a repair can be tried; if not, the reason is noted."""
        if repair.key in self.skipped:
            return False
        if not repair.edits:
            self.skip(repair, _NO_REPAIR)
        elif any(repair.key == (fix.code, fix.layer) for fix in self.applied):
            self.skip(repair, _AGAIN)
        return repair.key not in self.skipped

    def skip(self, repair: Repair, reason: str) -> None:
        """Notes that a finding is left as it is."""
        finding = repair.finding
        self.skipped[repair.key] = Skipped(
            finding.code, finding.name, finding.layer, str(finding.fix), reason
        )

    def can_rebuild(self, chosen: Sequence[Repair]) -> bool:
        """Whether the model can be made again at all; if not, all are skipped."""
        try:
            check_rebuildable(self.model)
        except UnsupportedModelError as error:
            for repair in chosen:
                self.skip(repair, error.message)
            return False
        return True

    def apply(self, chosen: Sequence[Repair]) -> list[Repair]:
        """Makes the repairs that can be made; the others are skipped with their reason."""
        try:
            self.accept(self.rebuilt(chosen))
        except UnsupportedModelError as error:
            done = self.those_that_work(chosen, error)
            if done:
                self.accept(self.rebuilt(done))
            return done
        return list(chosen)

    def those_that_work(
        self, chosen: Sequence[Repair], error: UnsupportedModelError
    ) -> list[Repair]:
        """Which of several repairs can be made one by one, after all together failed."""
        if len(chosen) == 1:
            self.skip(chosen[0], error.message)
            return []
        done = []
        hopeless = self.why_not_rebuilt()
        for repair in chosen:
            if hopeless:
                self.skip(repair, hopeless)
                continue
            try:
                self.rebuilt([repair])
            except UnsupportedModelError as reason:
                self.skip(repair, reason.message)
            else:
                done.append(repair)
        return done

    def why_not_rebuilt(self) -> str | None:
        """Why the model cannot be made again even without changes; None if it can."""
        try:
            self.rebuilt([])
        except UnsupportedModelError as error:
            return error.message
        return None

    def rebuilt(self, chosen: Sequence[Repair]) -> Rebuilt:
        """The model as it is now, with some repairs made."""
        return rebuild(self.model, [edit for repair in chosen for edit in repair.edits])

    def accept(self, rebuilt: Rebuilt) -> None:
        """Takes over a new model, and follows the original's variables into it."""
        step = rebuilt.variables
        if self.variables is None:
            self.variables = dict(step)
        else:
            self.variables = {
                key: step[id(variable)]
                for key, variable in self.variables.items()
                if id(variable) in step
            }
        moved = {id(step[key]) for key in self.changed if key in step}
        self.changed = rebuilt.changed | moved
        self.model = rebuilt.model

    def record(
        self, done: Sequence[Repair], graph: Graph, effect: dict[str, float]
    ) -> None:
        """Notes what was repaired."""
        for repair in done:
            finding = repair.finding
            self.applied.append(
                Fix(
                    code=finding.code,
                    name=finding.name,
                    layer=finding.layer,
                    fix=str(finding.fix),
                    changes=repair.changes(graph),
                    effect=effect,
                )
            )

    def prove(self, verifier: Verifier) -> None:
        """Compares the model before and after the safe repairs by every route."""
        call = RouteCheck("call", verifier.compare(self.model))
        checks = [call, *compare_by(verifier, self.model, _SAFE_ROUTES)]
        self.proofs += checks
        self.notes += call.verification.notes if call.verification else ()
        for check in checks:
            if check.verification is None:
                self.notes.append(f"Not compared: {TITLES[check.route]}. {check.reason}")
            elif not check.passed:
                raise VerificationError(
                    f"{check.verification.difference}, by {TITLES[check.route]}.",
                    "Nothing was returned or written.",
                )

    def measure(self, before: Any, graph: Graph) -> dict[str, float]:
        """How far unsafe repairs moved the outputs, by route."""
        try:
            verifier = Verifier(before, self.verify_data, graph, proof=False)
            checks = list(compare_by(verifier, self.model, _MEASURED_ROUTES))
        except VerificationError as error:
            self.notes.append(
                f"What unsafe repairs change is not measured: {error.message}"
            )
            return {}
        return {
            check.route: 0.0 if check.passed else float(check.error or 0.0)
            for check in checks
            if check.verification is not None
        }
