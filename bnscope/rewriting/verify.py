"""Whether a rewritten model computes what the original computes: both are run and compared.

For each output y of the original and y' of the rewritten model, over all samples:

    error = max|y' - y| / max|y|

It must stay within a tolerance that depends on the dtype of the computation. Where rounding
alone can move the output further, because the network amplifies it, the tolerance is ten times
what moving each input by one unit of rounding does to the original, up to a limit.

A check that cannot fail is no check. So an output must be finite and must vary with the input;
of an output that an activation saturates, what goes into that activation is compared instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bnscope.errors import VerificationError
from bnscope.graph import live
from bnscope.graph.model import Graph
from bnscope.rewriting.comparison import (
    LIMITS,
    SENSITIVITY_FACTOR,
    TOLERANCES,
    OutputCheck,
    Outputs,
    Verification,
    compare_outputs,
    is_saturated,
    spread,
)
from bnscope.rewriting.inputs import (
    Batch,
    draws_for,
    input_specs,
    nudged,
    random_batches,
    user_batches,
)
from bnscope.rewriting.running import (
    before_activations,
    lowest_dtype,
    run_model,
    vocabulary,
)

SEED = 20


class Verifier:
    """Compares rewritten models with one original, on the same inputs each time.

    Args:
        model: the original. Running it leaves its variables as they were.
        data: samples to run: an array, a list in the order of the inputs, or a mapping by
            input names. None for random ones with a fixed seed.
        graph: the original's graph, where it is known already.
        proof: whether something must be provable; False where only differences are measured.

    Raises:
        VerificationError: if the original does not run, or no output proves anything.
        BnscopeError: if the data do not fit the model.
    """

    def __init__(
        self,
        model: Any,
        data: Any = None,
        graph: Graph | None = None,
        *,
        proof: bool = True,
    ) -> None:
        self.model = model
        self.dtype = lowest_dtype(model)
        self.tolerance = TOLERANCES[self.dtype]
        self.specs = input_specs(graph or live.read(model))
        self.given = data is not None
        self.sensitivity: float | None = None
        self.draws = list(draws_for(self.specs))
        if self.given:
            self.batches = user_batches(self.specs, data)
            self.expected = self.run(model, self.batches)
        else:
            self.batches, self.expected = self.choose()
        self.before = self.values_before_activations()
        if proof:
            self.require_proof()

    def compare(self, rewritten: Any) -> Verification:
        """How far a rewritten model is from the original.

        Args:
            rewritten: a model with the same inputs and outputs.

        Returns:
            The comparison; it may have failed.
        """
        verification = self.judge(self.checks(rewritten, self.batches))
        if not verification.passed and self.is_drowned(verification) and self.draw_again():
            return self.compare(rewritten)
        return verification

    def checks(self, model: Any, batches: Sequence[Batch]) -> list[OutputCheck]:
        """How far each output of a model is from the original's on the inputs chosen."""
        checks = list(compare_outputs(self.expected, self.run(model, batches)))
        if self.before:
            probe = before_activations(model)
            if probe is not None:
                checks += compare_outputs(self.before, self.run(probe, batches))
        return checks

    def judge(self, checks: Sequence[OutputCheck]) -> Verification:
        """Comparisons of outputs with the tolerance that they must keep to."""
        tolerance = self.tolerance
        if any(check.error > tolerance for check in checks):
            tolerance = self.widened()
        return Verification(tuple(checks), tolerance, self.samples)

    @property
    def samples(self) -> int:
        """How many samples are run."""
        return sum(len(batch[0]) for batch in self.batches)

    def widened(self) -> float:
        """The tolerance with regard to the network's own sensitivity to rounding."""
        if self.sensitivity is None:
            batches = nudged(self.batches, self.dtype, SEED)
            errors = [check.error for check in self.checks(self.model, batches)]
            self.sensitivity = max((e for e in errors if np.isfinite(e)), default=0.0)
        rounding = SENSITIVITY_FACTOR * self.sensitivity
        return min(max(self.tolerance, rounding), LIMITS[self.dtype])

    def is_drowned(self, verification: Verification) -> bool:
        """Whether rounding alone may explain a difference, which then shows nothing."""
        rounding = SENSITIVITY_FACTOR * (self.sensitivity or 0.0)
        return not self.given and verification.max_error <= rounding

    def draw_again(self) -> bool:
        """Takes random inputs of another distribution, if there are any that prove something.

        The network may amplify rounding less there: images of one that it is made for.
        """
        words = vocabulary(self.model)
        while self.draws:
            batches = random_batches(self.specs, self.draws.pop(0), SEED, words)
            self.batches = self.running(batches)
            self.expected = self.run(self.model, self.batches)
            self.before = self.values_before_activations()
            self.sensitivity = None
            if self.shows_something():
                return True
        return False

    def repeats(self) -> bool:
        """Whether the original gives the same outputs when it is run again."""
        again = compare_outputs(self.expected, self.run(self.model, self.batches))
        return all(check.error <= self.tolerance for check in again)

    def choose(self) -> tuple[list[Batch], Outputs]:
        """The first random inputs on which all outputs prove something, else the best ones."""
        words = vocabulary(self.model)
        tried = []
        while self.draws:
            batches = random_batches(self.specs, self.draws.pop(0), SEED, words)
            batches = self.running(batches)
            # The first samples show whether outputs vary: large networks are slow to run.
            count = 1 if len(batches[0][0]) > 1 else 2
            outputs = self.run(self.model, batches[:count])
            variation = min(spread(values) for values in outputs.values())
            tried.append((variation, batches, outputs, count))
            if self.proven(outputs):
                break
        _, batches, outputs, count = max(tried, key=lambda entry: entry[0])
        if len(batches) > count:
            # Not the rest alone: a layer that keeps a state goes on from the first samples.
            outputs = self.run(self.model, batches)
        return batches, outputs

    def running(self, batches: list[Batch]) -> list[Batch]:
        """The batches on which the original runs: open sizes may be restricted after all.

        Raises:
            VerificationError: if it runs on none of them.
        """
        if not any(None in spec.shape[1:] for spec in self.specs):
            return batches
        found, errors = [], []
        for batch in batches:
            try:
                self.run(self.model, [batch])
            except VerificationError as error:
                errors.append(error)
            else:
                found.append(batch)
        if not found:
            raise errors[0]
        return found

    def values_before_activations(self) -> Outputs:
        """What goes into the activations at the outputs, if an output is saturated."""
        if self.proven(self.expected) and not any(
            is_saturated(values) for values in self.expected.values()
        ):
            return {}
        probe = before_activations(self.model)
        return {} if probe is None else self.run(probe, self.batches)

    def proven(self, outputs: Outputs) -> bool:
        """Whether an error would show in each of these outputs."""
        checks = list(compare_outputs(outputs, outputs))
        return bool(checks) and all(check.proves(self.tolerance) for check in checks)

    def require_proof(self) -> None:
        """Raises VerificationError if nothing that is compared could show an error."""
        if self.shows_something():
            return
        which = "the samples given" if self.given else "random inputs"
        finite = all(np.isfinite(check.scale) for check in self.self_checks())
        what = "do not vary with the input" if finite else "are not finite"
        raise VerificationError(
            f"The outputs of the original model {what} on {which}, so nothing can be "
            "verified.",
            "Pass real samples to verify with (verify_data, --data)."
            if not self.given
            else "Pass other samples, or check the model's weights.",
        )

    def shows_something(self) -> bool:
        """Whether a gross error would show in one of the values that are compared."""
        return any(check.proves_something(self.tolerance) for check in self.self_checks())

    def self_checks(self) -> list[OutputCheck]:
        """The original's values compared with themselves: their scale and variation."""
        return [
            *compare_outputs(self.expected, self.expected),
            *compare_outputs(self.before, self.before),
        ]

    def run(self, model: Any, batches: Sequence[Batch]) -> Outputs:
        """The outputs of a model on batches, by name."""
        return run_model(model, batches, [spec.dtype for spec in self.specs])


def find_culprit(count: int, fails: Callable[[int], bool]) -> int:
    """The first step that makes the comparison fail, by bisection.

    Args:
        count: number of steps; all of them together fail.
        fails: whether the first n steps fail.

    Returns:
        The index of the step.
    """
    good, bad = 0, count
    while bad - good > 1:
        middle = (good + bad) // 2
        if fails(middle):
            bad = middle
        else:
            good = middle
    return bad - 1
