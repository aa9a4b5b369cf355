"""One random model, folded and compared; what the tests and the long run share."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from random_models import Choices, random_model

import bnscope
from bnscope.errors import VerificationError
from bnscope.folding.patterns import all_patterns, family_for
from bnscope.folding.plan import make_plan
from bnscope.graph import archive, live

SETTINGS = settings(
    deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
TOLERANCE = 1e-5
# BN computes in float32 within networks of half precision, and what takes it up does not.
HALF_TOLERANCE = 0.05
UNIT = 2.0**-23
SENSITIVITY = 10.0


@dataclass
class Tally:
    """What a run has seen."""

    cases: int = 0
    folded: Counter = field(default_factory=Counter)
    kept: Counter = field(default_factory=Counter)
    families: Counter = field(default_factory=Counter)
    unproven: Counter = field(default_factory=Counter)
    models: Counter = field(default_factory=Counter)
    worst: float = 0.0
    last: list = field(default_factory=list)

    @property
    def never_drawn(self):
        return {type(family).__name__ for family in all_patterns()} - set(self.families)

    def __str__(self):
        lines = [f"{self.cases} cases, worst error {self.worst:.1e} of the scale"]
        for name in ("models", "folded", "kept", "unproven", "families"):
            lines.append(f"{name}:")
            lines += [f"  {n:7d} {what}" for what, n in getattr(self, name).most_common()]
        lines.append(f"never drawn: {', '.join(sorted(self.never_drawn)) or 'no family'}")
        return "\n".join(lines)


def run(cases, *, seed, every=None, shrink=True):
    """Checks cases: always the same for a seed, and those of the tests without one.

    Args:
        cases: number of models.
        seed: seed of hypothesis; None derives it from the function.
        every: after how many cases a line is printed; None for no lines.
        shrink: whether a case that fails is made small, which takes minutes.

    Returns:
        What was seen.
    """
    tally, start = Tally(), time.perf_counter()

    @given(st.data())
    def check(data):
        check_case(Choices(lambda low, high: data.draw(st.integers(low, high))), tally)
        if every and tally.cases % every == 0:
            seconds = time.perf_counter() - start
            _say(
                f"{tally.cases} cases, {seconds / tally.cases:.2f} s each, "
                f"{tally.folded.total()} BN folded, {tally.kept.total()} kept, "
                f"worst error {tally.worst:.1e}"
            )

    if seed is not None:
        check = seeded(seed)(check)
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    chosen = settings(SETTINGS, derandomize=seed is None, max_examples=cases, phases=phases)
    try:
        chosen(check)()
    except BaseException:
        _say("\n  ".join(["The model that failed:", *tally.last]))
        raise
    return tally


def _say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def check_case(choices: Choices, tally: Tally) -> None:
    """Builds a model, folds it, and compares it; AssertionError if anything is wrong."""
    # Without a garbage collection, which takes longer than all the rest.
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(1)
    model = random_model(choices)
    # Shown where the case fails.
    tally.last = [f"{type(o).__name__} {o.name}" for o in model.operations]
    graph = live.read(model)
    tally.cases += 1
    tally.families.update(families(graph))
    if choices.chance(5):
        compare_with_file(model, make_plan(graph))
        tally.models["plan compared with that of the file"] += 1
    result = fold(model, tally)
    if result is None:
        return
    note(model, result, graph, tally)
    tally.worst = max(tally.worst, compare(model, result, 1))


def families(graph):
    found = (family_for(call) for call in graph.calls)
    return [type(family).__name__ for family in found if family is not None]


def note(model, result, graph, tally):
    kinds = {call.layer.path: call.kind for call in graph.calls}
    for verdict in result.verdicts:
        if verdict.reason is not None:
            tally.kept[str(verdict.reason.value)] += 1
            continue
        tally.folded[
            f"{verdict.direction} into {kinds.get(verdict.into, verdict.into)}"
        ] += 1
    tally.models["folded BN" if result.plan.folded else "nothing to fold"] += 1
    tally.models[f"computes in {keras_dtype(model)}"] += 1
    tally.models["several outputs"] += len(model.outputs) > 1
    tally.models["several inputs"] += len(model.inputs) > 1


def keras_dtype(model):
    return next(
        (layer.compute_dtype for layer in model.layers if "16" in layer.compute_dtype),
        "float32",
    )


def fold(model, tally):
    """The folded model; None where no inputs prove anything."""
    try:
        return bnscope.fold(model)
    except VerificationError as error:
        if "nothing can be verified" in error.message:
            tally.unproven[
                "does not vary" if "vary" in error.message else "not finite"
            ] += 1
            return None
        if keras_dtype(model) != "float32" and "differs by" in error.message:
            tally.unproven["beyond the tolerance of half precision"] += 1
            return None
        if "does not run" in error.message and not runs(model):
            tally.unproven["Keras cannot run it either"] += 1
            return None
        raise


def runs(model):
    """Whether Keras runs a model at all; on CPU some operations lack half precision."""
    try:
        outputs(
            model, [_input(tensor, np.random.default_rng(0)) for tensor in model.inputs]
        )
    except Exception:  # noqa: BLE001  each backend has errors of its own
        return False
    return True


def compare(model, result, seed):
    """Compares independently of bnscope's own verification: the largest error."""
    rng = np.random.default_rng(seed)
    given = [_input(tensor, rng) for tensor in model.inputs]
    expected, found = outputs(model, given), outputs(result.model, given)
    errors = differences(expected, found)
    half = keras_dtype(model) != "float32"
    allowed = HALF_TOLERANCE if half else TOLERANCE
    if max(errors) > allowed:
        signs = [rng.choice([-UNIT, UNIT], x.shape).astype("float32") for x in given]
        moved = [
            x if x.dtype.kind == "i" else x * (1 + s)
            for x, s in zip(given, signs, strict=True)
        ]
        own = max(differences(expected, outputs(model, moved)))
        allowed = max(allowed, SENSITIVITY * own)
    assert max(errors) <= allowed, f"off by {max(errors):.1e}, {allowed:.1e} allowed"
    return 0.0 if half else max(errors)


def differences(expected, found):
    assert [one.shape for one in expected] == [two.shape for two in found]
    assert [one.dtype for one in expected] == [two.dtype for two in found]
    pairs = zip(expected, found, strict=True)
    with np.errstate(invalid="ignore"):
        return [_difference(*(a.astype("float64") for a in pair)) for pair in pairs]


def _difference(one, two):
    finite = np.isfinite(one)
    assert np.array_equal(finite, np.isfinite(two))
    scale = max(np.abs(one[finite]).max(initial=0.0), 1e-30)
    return float(np.abs(one[finite] - two[finite]).max(initial=0.0) / scale)


def _input(tensor, rng):
    shape = (3, *tensor.shape[1:])
    if "int" in tensor.dtype:
        return rng.integers(0, 9, shape).astype("int32")
    return rng.normal(size=shape).astype("float32")


def outputs(model, given):
    tensors = [keras.ops.convert_to_tensor(x) for x in given]
    found = keras.tree.flatten(
        model(tensors if len(tensors) > 1 else tensors[0], training=False)
    )
    return [keras.ops.convert_to_numpy(value) for value in found]


def compare_with_file(model, plan):
    """The plan from the saved file is the plan of the live model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        assert make_plan(archive.read(path)).to_dict() == plan.to_dict()
