"""Intermediate tensors are dropped after their last use, and nothing else changes."""

from __future__ import annotations

import gc
import weakref

import keras
import numpy as np
import pytest

from bnscope.errors import VerificationError
from bnscope.rewriting.frugal import frugal
from bnscope.rewriting.running import run_model
from bnscope.rewriting.verify import Verifier

layers = keras.layers
SAMPLES = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")


ALIVE, MOST = [], []


class Counted(layers.Layer):
    """Notes how many tensors of its kind are alive when it is called."""

    def call(self, x):
        y = x + 1.0
        if not isinstance(y, keras.KerasTensor):
            gc.collect()
            ALIVE.append(weakref.ref(y))
            MOST.append(sum(reference() is not None for reference in ALIVE))
        return y


def chain(length, shape=(4,)):
    inputs = x = keras.Input(shape)
    for _ in range(length):
        x = Counted()(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        lambda model: keras.Sequential([keras.Input((4,)), model, layers.Dense(2)]),
        lambda model: keras.Sequential([keras.Input((4,)), *model.layers[1:]]),
    ],
    ids=["functional", "inside a Sequential", "a Sequential"],
)
@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="torch keeps tensors for gradients"
)
def test_a_chain_of_layers_holds_no_more_than_two_tensors(wrap):
    model = wrap(chain(5))
    ALIVE.clear()
    MOST.clear()
    (outputs,) = run_model(model, [(SAMPLES,)], ["float32"])
    assert max(MOST) <= 2
    np.testing.assert_allclose(next(iter(outputs.values())), model(SAMPLES), rtol=1e-6)


def test_outputs_that_are_used_inside_too_and_inputs_that_are_outputs_are_returned():
    inputs = keras.Input((4,), name="x")
    first, second = layers.Dense(4)(inputs), keras.ops.split(inputs, 2, axis=1)[1]
    end = layers.Add()([layers.Dense(4)(first), first])
    model = keras.Model(inputs, {"end": end, "first": first, "half": second, "x": inputs})
    expected = model(SAMPLES)
    with frugal(model):
        found = model(SAMPLES)
    assert list(found) == list(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)


def test_the_model_is_as_before_and_can_be_used_symbolically_meanwhile():
    model = chain(2)
    before = set(vars(model))
    with frugal(model):
        assert model.compute_output_shape((7, 4)) == (7, 4)
        assert model(keras.Input((4,))).shape == (None, 4)
    assert set(vars(model)) == before


class Noisy(layers.Layer):
    """Gives something else each time, by far less than a fold may change."""

    calls = 0

    def call(self, x):
        Noisy.calls += 1
        return x * (1.0 + 3e-5 * np.sin(Noisy.calls))


def test_noise_of_the_original_does_not_widen_the_tolerance():
    inputs = keras.Input((4,))
    verifier = Verifier(keras.Model(inputs, Noisy()(inputs)))
    assert verifier.widened() == verifier.tolerance


def test_a_sample_that_is_run_alone_too_shows_that_the_original_repeats():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    calm = Verifier(model)
    assert calm.is_steady(calm.expected)
    inputs = keras.Input((4,))
    noisy = Verifier(keras.Model(inputs, Noisy()(inputs)))
    assert not noisy.is_steady(noisy.expected)


def test_a_model_that_does_not_run_is_one_line():
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, layers.Reshape((5, 4))(inputs))
    with pytest.raises(VerificationError, match="does not run on inputs of shape"):
        run_model(model, [(np.zeros((1, 3, 4), "float32"),)], ["float32"])
