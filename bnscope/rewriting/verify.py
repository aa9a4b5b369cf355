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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnscope.errors import VerificationError
from bnscope.graph import live
from bnscope.graph.model import Graph
from bnscope.graph.tracing import is_users
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
from bnscope.rewriting.copying import all_layers
from bnscope.rewriting.inputs import (
    Batch,
    Trial,
    cheapest,
    draws_for,
    input_specs,
    nudged,
    random_batches,
    takes_twin,
    user_batches,
)
from bnscope.rewriting.running import (
    before_activations,
    joined,
    lowest_dtype,
    run_model,
    vocabulary,
)

SEED = 20


@dataclass(frozen=True, slots=True)
class Values:
    """What a model gave for each batch, by name.

    Args:
        outputs: its outputs.
        before: what went into the activations at the outputs; empty where not looked at.
    """

    outputs: list[Outputs]
    before: list[Outputs] = field(default_factory=list)

    def of(self, chosen: Sequence[int]) -> Values:
        """Those for some of the batches."""
        before = [self.before[index] for index in chosen] if self.before else []
        return Values([self.outputs[index] for index in chosen], before)

    def after(self, count: int) -> Values:
        """Those for all batches but the first ones."""
        return self.of(range(count, len(self.outputs)))

    def rows(self, chosen: slice) -> Values:
        """Those for some samples of the first batch."""

        def cut(parts: list[Outputs]) -> list[Outputs]:
            return [{name: y[chosen] for name, y in part.items()} for part in parts[:1]]

        return Values(cut(self.outputs), cut(self.before))

    def then(self, others: Values) -> Values:
        """These, and those for more batches."""
        return Values(self.outputs + others.outputs, self.before + others.before)

    def compared(self, other: Values) -> list[OutputCheck]:
        """How far the values of another model are from these."""
        checks = list(compare_outputs(joined(self.outputs), joined(other.outputs)))
        if self.before and other.before:
            checks += compare_outputs(joined(self.before), joined(other.before))
        return checks


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
        self.draws = list(draws_for(self.specs))
        if self.given:
            batches = user_batches(self.specs, data)
            self.take(Trial(batches), self.run(model, batches).outputs)
        else:
            self.take(*self.choose())
        if proof:
            self.require_proof()

    def take(self, trial: Trial, outputs: list[Outputs]) -> None:
        """Compares on these batches, for which the original gives these outputs.

        If one is saturated or proves nothing, what goes into its activation is looked at too.
        """
        self.batches = trial.batches
        self.sensitivity: float | None = None
        whole = joined(outputs)
        saturated = any(is_saturated(values) for values in whole.values())
        looks = saturated or not self.proven(whole)
        before = self.values_before(self.model, trial.runs) if looks else []
        values = Values(outputs, before)
        self.twin = values.rows(slice(-1, None)) if trial.twin else None
        # Whether the lone sample was not run, and is said to give what it gives among others.
        self.assumed = trial.spares_lone
        if trial.twin:
            first, rest = values.rows(slice(0, -1)), values.after(1)
            alone = first.rows(slice(0, 1)) if trial.spares_lone else Values([])
            values = first.then(alone).then(rest)
        self.expected = values

    def compare(self, rewritten: Any) -> Verification:
        """How far a rewritten model is from the original.

        Args:
            rewritten: a model with the same inputs and outputs.

        Returns:
            The comparison; it may have failed.
        """
        actual = self.run(rewritten, self.batches, before=bool(self.expected.before))
        if self.assumed and not self.is_steady(actual):
            self.run_same()
        self.assumed = False
        verification = self.settled(lambda: self.judge(self.expected.compared(actual)))
        if verification.passed or self.given:
            return verification
        if self.is_drowned(verification) and self.draw_again():
            return self.compare(rewritten)
        return verification

    def judge(self, checks: Sequence[OutputCheck]) -> Verification:
        """Comparisons of outputs with the tolerance that they must keep to."""
        tolerance = self.tolerance
        if any(check.error > tolerance for check in checks):
            tolerance = self.widened()
        return Verification(tuple(checks), tolerance, self.samples)

    def settled(self, compare: Callable[[], Verification]) -> Verification:
        """A comparison; if it fails, the one with the original run on the very same batches.

        In some networks a sample changes what comes of those beside it, as of the nudged one.

        Args:
            compare: compares with `expected`.
        """
        verification = compare()
        if verification.passed or self.twin is None:
            return verification
        self.run_same()
        return compare()

    def run_same(self) -> None:
        """Runs the original on the batches that are compared, without the nudged sample."""
        before = bool(self.expected.before)
        self.expected = self.run(self.model, self.batches, before=before)
        self.twin = self.sensitivity = None
        self.assumed = False

    @property
    def samples(self) -> int:
        """How many samples are run."""
        return sum(len(batch[0]) for batch in self.batches)

    def widened(self) -> float:
        """The tolerance with regard to the network's own sensitivity to rounding."""
        if self.sensitivity is None:
            self.sensitivity = self.measured_sensitivity()
        rounding = SENSITIVITY_FACTOR * self.sensitivity
        return min(max(self.tolerance, rounding), LIMITS[self.dtype])

    def measured_sensitivity(self) -> float:
        """How far moving each input by one unit of rounding moves the outputs.

        Of large samples only one is looked at. It is 0 where the outputs differ from run to
        run, of which rounding is not the cause.
        """
        chosen = cheapest(self.batches)
        if self.assumed:
            self.run_same()
        if not self.is_steady(self.expected) and not self.repeats(chosen):
            return 0.0
        errors = [check.error for check in self.moved(chosen)]
        return max((error for error in errors if np.isfinite(error)), default=0.0)

    def moved(self, chosen: Sequence[int]) -> list[OutputCheck]:
        """How far rounding moves the original's values on the chosen batches."""
        if self.twin is not None:
            return self.expected.rows(slice(0, 1)).compared(self.twin)
        batches = [self.batches[index] for index in chosen]
        return self.again(chosen, nudged(self.specs, batches, self.dtype, SEED))

    def is_steady(self, values: Values) -> bool:
        """Whether samples that were run twice, among others and alone, gave the same."""
        first = self.batches[0]
        for batch, outputs in zip(self.batches[1:], values.outputs[1:], strict=True):
            count = len(batch[0])
            pairs = zip(batch, first, strict=True)
            if all(np.array_equal(one, other[:count]) for one, other in pairs):
                among = {key: y[:count] for key, y in values.outputs[0].items()}
                return self.agree(compare_outputs(among, outputs))
        return False

    def again(self, chosen: Sequence[int], batches: Sequence[Batch]) -> list[OutputCheck]:
        """How far the original's values on batches are from those on the chosen ones."""
        expected = self.expected.of(chosen)
        return expected.compared(
            self.run(self.model, batches, before=bool(expected.before))
        )

    def is_drowned(self, verification: Verification) -> bool:
        """Whether rounding alone may explain a difference, which then shows nothing."""
        rounding = SENSITIVITY_FACTOR * (self.sensitivity or 0.0)
        return verification.max_error <= rounding

    def draw_again(self) -> bool:
        """Takes random inputs of another distribution, if there are any that prove something.

        The network may amplify rounding less there: images of one that it is made for.
        """
        while self.draws:
            self.take(*self.drawn())
            if self.shows_something():
                return True
        return False

    def repeats(self, chosen: Sequence[int] | None = None) -> bool:
        """Whether the original gives the same outputs when it is run again.

        Args:
            chosen: the batches to run; None for all.
        """
        indices = range(len(self.batches)) if chosen is None else chosen
        return self.agree(self.again(indices, [self.batches[index] for index in indices]))

    def agree(self, checks: Iterable[OutputCheck]) -> bool:
        """Whether values are the same but for rounding."""
        return all(check.error <= self.tolerance for check in checks)

    def choose(self) -> tuple[Trial, list[Outputs]]:
        """The first random inputs on which all outputs prove something, else the best ones."""
        tried = []
        while self.draws:
            trial, outputs = self.drawn()
            whole = joined(outputs)
            spreads = [spread(values) for values in whole.values()]
            variation = min((s for s in spreads if not np.isnan(s)), default=np.inf)
            tried.append((variation, trial, outputs))
            if self.proven(whole):
                break
        _, trial, outputs = max(tried, key=lambda entry: entry[0])
        return trial, outputs

    def drawn(self) -> tuple[Trial, list[Outputs]]:
        """The next random inputs, and what the original gives for them.

        Raises:
            VerificationError: if it runs on none of them.
        """
        words = vocabulary(self.model)
        batches = random_batches(self.specs, self.draws.pop(0), SEED, words)
        if any(None in spec.shape[1:] for spec in self.specs):
            batches = self.running(batches)
        trial = Trial(batches)
        if takes_twin(batches):
            twin = nudged(self.specs, batches[1:2], self.dtype, SEED)[0]
            # What users wrote may do something else for one sample; Keras's layers do not.
            spares = not any(is_users(layer) for layer in all_layers(self.model))
            trial = Trial(batches, twin, spares_lone=spares)
        return trial, self.run(self.model, trial.runs).outputs

    def running(self, batches: list[Batch]) -> list[Batch]:
        """The batches on which the original runs: open sizes may be restricted after all."""
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
        return self.expected.compared(self.expected)

    def run(self, model: Any, batches: Sequence[Batch], *, before: bool = False) -> Values:
        """The values of a model on batches, those before the last activations on request."""
        outputs = run_model(model, batches, self.dtypes)
        return Values(outputs, self.values_before(model, batches) if before else [])

    def values_before(self, model: Any, batches: Sequence[Batch]) -> list[Outputs]:
        """What goes into the activations at the outputs of a model; empty if there are none."""
        probe = before_activations(model)
        return [] if probe is None else run_model(probe, batches, self.dtypes)

    @property
    def dtypes(self) -> list[str]:
        """The dtypes of the inputs."""
        return [spec.dtype for spec in self.specs]


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
