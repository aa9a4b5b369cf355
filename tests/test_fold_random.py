"""Random models, folded and compared: whatever the plan says must be right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keras
import pytest
from fold_cases import families, run
from random_models import START, seeded, steps_for

from bnscope.folding import patterns
from bnscope.folding.patterns.dense import DensePattern
from bnscope.graph import live

FUZZ = Path(__file__).parent / "fuzz" / "fuzz_fold.py"


def test_random_models_compute_the_same_when_they_are_folded():
    tally = run(cases=40, seed=None)
    assert tally.cases >= 40
    assert tally.models["folded BN"] > tally.cases // 3, str(tally)
    assert tally.unproven.total() < tally.cases // 4, str(tally)


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(4))
def test_ten_thousand_random_models_compute_the_same_when_they_are_folded(shard):
    command = [sys.executable, str(FUZZ), "--cases", "10000", "--seed", "1"]
    done = subprocess.run(
        [*command, "--shard", f"{shard}/4"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]


def test_every_family_that_folding_knows_has_a_step():
    found = {"BatchNormPattern"}
    for shape in START:
        for step in steps_for(len(shape) + 1):
            found |= families_of(step, shape)
    assert found == {type(family).__name__ for family in patterns.all_patterns()}


def families_of(step, shape):
    """The families that a step draws on a tensor; it may not fit this one."""
    x = keras.Input(shape)
    for seed in range(5):
        try:
            y = step(x, [x], seeded(seed))
        except ValueError:
            continue
        return set(families(live.read(keras.Model(x, y))))
    return set()


def test_a_wrong_fold_is_found_by_the_random_models_alone(monkeypatch):
    """Without the verification of bnscope, which would stop it before."""
    monkeypatch.setattr("bnscope.rewriting.comparison.Verification.passed", True)
    monkeypatch.setattr(DensePattern, "scaled", lambda *given: given[1])
    with pytest.raises(AssertionError, match="off by"):
        run(cases=40, seed=None, shrink=False)
