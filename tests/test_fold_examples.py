"""The examples of every family are folded and compared, and planned alike from files."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from random_models import compare

import bnscope
from bnscope.folding import make_plan
from bnscope.folding.patterns import all_patterns
from bnscope.graph import archive

NAMED = {
    f"{type(family).__name__}.{name}": example
    for family in all_patterns()
    for prefix in ("folds", "refuses")
    for name, example in family.examples(prefix).items()
}
EXAMPLES = [pytest.param(example, id=name) for name, example in NAMED.items()]
PAGE = Path(__file__).parents[1] / "docs" / "patterns.md"


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


def test_the_page_of_patterns_names_every_example():
    named = re.findall(r"`(\w+\.(?:folds|refuses)_\w+)`", PAGE.read_text())
    assert sorted(named) == sorted(
        [*NAMED, "ConvPattern.folds_conv2d_dilated", "ConvPattern.folds_conv3d"]
    )
