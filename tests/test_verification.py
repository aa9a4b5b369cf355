"""Both models are run at several sizes, and what is wrong at one of them is found."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import bnscope
from bnscope.errors import VerificationError
from bnscope.graph import live
from bnscope.rewriting.inputs import DRAWS, draws_for, input_specs, nudged, random_batches
from bnscope.rewriting.running import joined
from bnscope.rewriting.verify import Verifier

layers = keras.layers


def batches_of(model):
    specs = input_specs(live.read(model))
    return [batch[0].shape for batch in random_batches(specs, DRAWS[0], 0)]


def test_an_open_batch_is_run_with_several_sizes():
    x = keras.Input((4,))
    shapes = batches_of(keras.Model(x, layers.Dense(2)(x)))
    assert len({shape[0] for shape in shapes}) > 1
    assert {shape[1:] for shape in shapes} == {(4,)}


def test_open_dimensions_are_run_with_several_sizes():
    x = keras.Input((None, None, 3))
    shapes = batches_of(keras.Model(x, layers.Conv2D(2, 3)(x)))
    assert len({shape[1:] for shape in shapes}) == 3
    assert any(shape[1] != shape[2] for shape in shapes)
    assert any(shape[1] % 2 for shape in shapes)


def test_a_fixed_batch_size_is_kept():
    x = keras.Input(batch_shape=(5, 4))
    assert batches_of(keras.Model(x, layers.Dense(2)(x))) == [(5, 4)]


def test_sizes_on_which_the_original_does_not_run_are_left_out(randomized):
    x = keras.Input((None, None, 3))
    y = layers.BatchNormalization()(layers.Conv2D(4, 2, strides=2)(x))
    y = layers.Add()([x, layers.Conv2DTranspose(3, 2, strides=2)(y)])
    model = randomized(keras.Model(x, y))  # odd sizes do not fit together
    assert len({batch[0].shape[1:] for batch in Verifier(model).batches}) == 2
    assert bnscope.fold(model).plan.folded


class OddIsWrong(layers.Layer):
    """Right for even lengths only."""

    def call(self, x):
        odd = keras.ops.shape(x)[1] % 2
        return x + keras.ops.cast(odd, x.dtype)


@pytest.fixture
def large(randomized):
    """Samples so large that one is enough to see what rounding does."""
    x = keras.Input((160, 160, 3))
    y = layers.BatchNormalization()(layers.Conv2D(4, 5, strides=16)(x))
    return randomized(keras.Model(x, layers.Flatten()(y)))


@pytest.fixture
def ran(monkeypatch):
    """How many samples the batches had that models ran, by the name of the model."""
    counts = {}
    run = Verifier.run

    def counted(self, model, batches, **kwargs):
        counts.setdefault(model.name, []).extend(len(batch[0]) for batch in batches)
        return run(self, model, batches, **kwargs)

    monkeypatch.setattr(Verifier, "run", counted)
    return counts


def test_of_large_samples_rounding_is_seen_without_another_run(large, ran):
    verifier = Verifier(large)
    same = keras.Model(large.inputs, large.outputs, name="same")
    assert verifier.compare(same).passed
    within = verifier.widened()
    assert ran == {large.name: [3], "same": [2, 1]}
    ((sample,),) = verifier.batches[1]
    ((twin,),) = nudged(verifier.specs, [(sample[None],)], "float32", 20)[0]
    assert 0 < np.max(np.abs(twin - sample)) < 1e-6
    moved = np.abs(large(np.stack([sample, twin])).numpy())
    assert verifier.sensitivity == pytest.approx(
        np.max(np.abs(moved[0] - moved[1])) / moved[0].max(), rel=0.3
    )
    assert within == max(1e-5, 10 * verifier.sensitivity)


def test_a_layer_of_the_user_is_run_on_one_large_sample_at_once(large, ran):
    peculiar = keras.Model(large.inputs, AloneIsWrong()(large.output), name="peculiar")
    same = keras.Model(large.inputs, AloneIsWrong()(large.output), name="same")
    assert Verifier(peculiar).compare(same).passed
    assert ran == {"peculiar": [3, 1], "same": [2, 1]}
    assert not Verifier(peculiar).compare(large).passed


class Centering(layers.Layer):
    """Less the mean of the batch."""

    def call(self, x):
        return x - keras.ops.mean(x, axis=0, keepdims=True)


def test_samples_may_depend_on_each_other(large):
    for centered in (
        Centering()(large.output),
        large.output - keras.ops.mean(large.output, axis=0, keepdims=True),
    ):
        model = keras.Model(large.inputs, centered)
        assert bnscope.fold(model).plan.folded
        other = keras.Model(large.inputs, 1.001 * model.output)
        assert not Verifier(model).compare(other).passed


def test_the_first_axis_of_an_output_may_be_another_one(large):
    model = keras.Model(large.inputs, keras.ops.reshape(large.output, (-1, 4)))
    assert bnscope.fold(model).plan.folded


def test_a_call_of_the_user_is_run_on_one_large_sample_at_once(large, ran):
    model = Written(large)
    model(np.zeros((2, 160, 160, 3), "float32"))
    verifier = Verifier(model, graph=live.read(model, trace=True))
    assert verifier.compare(large).passed
    assert ran == {model.name: [3, 1], large.name: [2, 1]}


class Written(keras.Model):
    """A model whose structure is written in its `call`."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x)


def test_of_large_samples_differences_for_one_and_for_several_are_found(large):
    verifier = Verifier(large)
    assert verifier.compare(large).passed
    for wrong in (AloneIsWrong(), SeveralAreWrong()):
        other = keras.Model(large.inputs, wrong(large.output))
        assert not verifier.compare(other).passed


def test_noise_at_inference_does_not_widen_the_tolerance_of_large_samples():
    x = keras.Input((160, 160, 3))
    noisy = keras.Model(x, Noise()(layers.GlobalAveragePooling2D()(x)))
    verifier = Verifier(noisy)
    assert verifier.widened() == 1e-5
    assert not verifier.compare(noisy).passed


class Noise(layers.Layer):
    """Adds noise of 1e-4 at inference too."""

    def call(self, x):
        return x + 1e-4 * keras.random.normal(keras.ops.shape(x))


class AloneIsWrong(layers.Layer):
    """Right for more than one sample only."""

    def call(self, x):
        alone = keras.ops.equal(keras.ops.shape(x)[0], 1)
        return x + keras.ops.cast(alone, x.dtype)


class SeveralAreWrong(layers.Layer):
    """Right for a single sample only."""

    def call(self, x):
        several = keras.ops.greater(keras.ops.shape(x)[0], 1)
        return x + keras.ops.cast(several, x.dtype)


def test_a_difference_at_some_sizes_only_is_found():
    x = keras.Input((None, 3))
    y = layers.Dense(3)(x)
    verification = Verifier(keras.Model(x, y)).compare(keras.Model(x, OddIsWrong()(y)))
    assert not verification.passed
    assert len(verification.outputs) == 3
    assert "(27, 3)" in verification.difference


def test_a_difference_for_single_samples_only_is_found():
    x = keras.Input((3,))
    y = layers.Dense(3)(x)
    verifier = Verifier(keras.Model(x, y))
    assert not verifier.compare(keras.Model(x, AloneIsWrong()(y))).passed
    assert verifier.compare(keras.Model(x, y)).passed


def test_an_output_of_another_shape_is_a_difference():
    x = keras.Input((None, 3))
    y = layers.Dense(3)(x)
    pooled = keras.Model(x, layers.GlobalAveragePooling1D()(y))
    assert not Verifier(keras.Model(x, y)).compare(pooled).passed


def test_a_network_of_pixels_is_tried_on_pixels_first():
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, layers.Conv2D(2, 3)(layers.Rescaling(1 / 255)(x)))
    specs = input_specs(live.read(model))
    drawn = draws_for(specs)[0](np.random.default_rng(0), (100,))
    assert drawn.max() > 200
    assert Verifier(model).batches[0][0].max() > 200


class Amplifier(layers.Layer):
    """Amplifies rounding where its input is negative."""

    def call(self, x):
        return keras.ops.where(x < 0, keras.ops.sin(1e5 * x), x)


def test_where_rounding_drowns_an_error_other_inputs_are_tried():
    x = keras.Input((4,))
    model = keras.Model(x, Amplifier()(layers.Rescaling(1.0)(x)))
    other = keras.Model(x, Amplifier()(layers.Rescaling(1.0 + 2e-7)(x)))
    verifier = Verifier(model)
    verification = verifier.compare(other)
    assert verification.passed
    assert verification.tolerance == 1e-5
    assert all((batch[0] >= 0).all() for batch in verifier.batches)
    assert (
        not Verifier(model)
        .compare(keras.Model(x, Amplifier()(layers.Rescaling(1.001)(x))))
        .passed
    )


def test_what_goes_into_a_saturated_activation_is_compared_too(randomized):
    inputs = keras.Input((6,))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(5)(inputs))
    head = keras.layers.Dense(4, activation="softmax", name="head")
    model = randomized(keras.Model(inputs, head(x)))
    head.kernel.assign(1e4 * head.kernel)  # each sample is certain of one class
    verifier = Verifier(model)
    assert verifier.proven(joined(verifier.expected.outputs))
    wrong = keras.models.clone_model(model)
    wrong.set_weights(model.get_weights())
    wrong.get_layer("head").kernel.assign(1.001 * head.kernel)
    assert not verifier.compare(wrong).passed
    assert verifier.compare(model).passed


def test_a_fold_is_not_blamed_for_what_rounding_does(randomized):
    x = keras.Input((4,))
    y = layers.BatchNormalization()(layers.Dense(3)(x))
    model = randomized(keras.Model(x, keras.ops.sin(1e6 * y)))
    with pytest.raises(VerificationError, match="rounding its inputs alone moves") as error:
        bnscope.fold(model, verify_data=np.random.default_rng(1).normal(size=(5, 4)))
    assert "fold of" not in str(error.value)
