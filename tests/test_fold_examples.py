"""The examples of every family are folded and compared, and planned alike from files."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from random_models import compare

import bnscope
from bnscope.folding import make_plan
from bnscope.folding.patterns import all_patterns
from bnscope.graph import archive

EXAMPLES = [
    pytest.param(example, id=f"{type(family).__name__}-{name}")
    for family in all_patterns()
    for prefix in ("folds", "refuses")
    for name, example in family.examples(prefix).items()
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_folded_example_computes_the_same(example, randomized, tmp_path):
    keras.utils.set_random_seed(20)
    model = randomized(example(keras))
    for layer in model.layers:
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(np.random.default_rng(1).normal(size=layer.bias.shape))
    result = bnscope.fold(model)
    compare(model, result.model, seed=2)
    for name in ("model.keras", "model.h5"):
        model.save(tmp_path / name)
        assert make_plan(archive.read(tmp_path / name)).to_dict() == result.plan.to_dict()
