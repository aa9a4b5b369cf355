"""Random models, folded and compared: whatever the plan says must be right."""

from __future__ import annotations

import keras
import pytest
from random_models import compare, random_model

import bnscope
from bnscope.errors import VerificationError

QUICK = range(40)
# All of them take about an hour; 250 numbers a test, so that a failure names its seed soon.
MANY = range(1000, 11000, 250)


@pytest.mark.parametrize("start", QUICK[::10])
def test_random_models_compute_the_same_when_they_are_folded(start):
    check(range(start, start + 10))


@pytest.mark.slow
@pytest.mark.parametrize("start", MANY)
def test_ten_thousand_random_models_compute_the_same_when_they_are_folded(start):
    check(range(start, start + 250))


def check(seeds):
    folded = 0
    for seed in seeds:
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        model = random_model(seed)
        result = fold(model)
        if result is None:
            continue
        folded += len(result.plan.folded)
        compare(model, result.model, seed)
    assert folded > len(seeds) // 2


def fold(model):
    """The folded model; None where no inputs prove anything, or none of any size runs."""
    try:
        return bnscope.fold(model)
    except VerificationError as error:
        if "vary" in error.message or "does not run" in error.message:
            return None
        raise
