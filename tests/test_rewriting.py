"""Edits, their application to a copy of a model, and the comparison of two models."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest

from bnscope.errors import UnsupportedModelError, VerificationError
from bnscope.graph import live
from bnscope.rewriting.apply import apply_edits, rebuild
from bnscope.rewriting.comparison import OutputCheck, Verification, compare_outputs, spread
from bnscope.rewriting.edits import (
    DropLayer,
    DropTraining,
    SetConfig,
    SetTrainable,
    Step,
    TransformWeights,
    Unwrap,
    by_layer,
)
from bnscope.rewriting.engine import rewrite
from bnscope.rewriting.files import check_output, holds_code
from bnscope.rewriting.inputs import InputSpec, input_specs, nudged, random_batches
from bnscope.rewriting.verify import Verifier, find_culprit

layers = keras.layers


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(7)


def values(model, inputs):
    return keras.ops.convert_to_numpy(model(inputs, training=False))


def normal(*shape):
    return np.random.default_rng(3).normal(size=shape).astype("float32")


def dense_model(**arguments):
    inputs = keras.Input((4,), name="x")
    hidden = layers.Dense(3, name="dense", **arguments)(inputs)
    return keras.Model(inputs, layers.Dense(2, name="head")(hidden), name="model")


def doubled(weights):
    return {"kernel": np.asarray(weights["kernel"], np.float64) * 2.0}


# Edits


def test_transforms_of_a_layer_are_chained_without_rounding_between():
    third = TransformWeights("a", lambda w: {"kernel": w["kernel"] / np.float64(3.0)})
    back = TransformWeights("a", lambda w: {"kernel": w["kernel"] * 3.0})
    kernel = np.array([1e-30, 0.1, 7.0], np.float32)
    found = by_layer([third, back])["a"].transformed({"kernel": kernel})
    assert np.array_equal(found["kernel"].astype(np.float32), kernel)
    assert found["kernel"].dtype == np.float64


def test_edits_are_collected_by_layer():
    found = by_layer(
        [SetConfig("a", {"x": 1}), DropLayer("b"), SetConfig("a", {"x": 2, "y": 3})]
    )
    assert found["a"].config == {"x": 2, "y": 3}
    assert not found["a"].dropped
    assert found["b"].dropped


# Apply


def test_without_edits_a_model_is_copied_exactly():
    model = dense_model()
    new = apply_edits(model, [])
    x = normal(5, 4)
    assert np.array_equal(values(new, x), values(model, x))
    assert new.to_json() == model.to_json()
    assert not {id(v) for v in new.variables} & {id(v) for v in model.variables}


def test_a_transform_changes_the_weights_of_the_copy_alone():
    model = dense_model()
    before = keras.ops.convert_to_numpy(model.get_layer("dense").kernel)
    new = apply_edits(model, [TransformWeights("dense", doubled)])
    assert np.array_equal(new.get_layer("dense").kernel, before * 2.0)
    assert np.array_equal(model.get_layer("dense").kernel, before)
    assert np.array_equal(new.get_layer("dense").bias, model.get_layer("dense").bias)


def test_a_bias_is_added_or_taken_away():
    bias = np.array([1.0, 2.0, 3.0])
    new = apply_edits(
        dense_model(use_bias=False),
        [
            SetConfig("dense", {"use_bias": True}),
            TransformWeights("dense", lambda _: {"bias": bias}),
        ],
    )
    assert np.array_equal(new.get_layer("dense").bias, bias)
    new = apply_edits(dense_model(), [SetConfig("dense", {"use_bias": False})])
    assert [v.name for v in new.get_layer("dense").weights] == ["kernel"]


def test_a_dropped_layer_is_gone_unless_its_name_is_an_output():
    inputs = keras.Input((4,))
    x = layers.Activation("tanh", name="middle")(layers.Dense(3)(inputs))
    model = keras.Model(inputs, [layers.Dense(2, name="a")(x), layers.ReLU(name="b")(x)])
    new = apply_edits(model, [DropLayer("middle"), DropLayer("b")])
    assert "middle" not in [layer.name for layer in new.layers]
    assert isinstance(new.get_layer("b"), layers.Identity)
    assert new.output_names == model.output_names


def test_an_edit_that_cannot_be_made_is_an_error_and_not_left_out():
    inputs = keras.Input((5, 4))
    model = keras.Model(
        inputs, layers.TimeDistributed(layers.Dense(3, name="d"), name="t")(inputs)
    )
    with pytest.raises(UnsupportedModelError, match="1 of the layers to change lie where"):
        apply_edits(model, [TransformWeights("t/d", doubled)])


def test_a_layer_whose_configuration_says_too_little_is_named():
    class Forgetful(layers.Layer):
        def __init__(self, size, **kwargs):
            super().__init__(**kwargs)
            self.size = size
            self.factor = self.add_weight(shape=())

        def call(self, inputs):
            return inputs[:, : self.size] * self.factor

        def get_config(self):
            return super().get_config()

    model = keras.Sequential([keras.Input((4,)), Forgetful(2, name="f")])
    with pytest.raises(UnsupportedModelError) as error:
        apply_edits(model, [])
    assert error.value.message.startswith(
        'Layer "f" of class Forgetful cannot be made again from its configuration: '
    )
    assert "get_config()" in error.value.hint


def test_flags_of_layers_inside_frozen_and_trainable_models_are_kept():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3), layers.Dense(3)], name="in"
    )
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inner(inputs)))
    inner.trainable = False
    inner.layers[1].trainable = True
    new = apply_edits(model, [])
    copy = new.get_layer("in")
    assert (new.trainable, copy.trainable) == (True, False)
    assert [layer.trainable for layer in copy.layers] == [False, True]
    assert len(new.trainable_variables) == len(model.trainable_variables)


def test_operands_that_are_variables_are_not_shared():
    inputs = keras.Input((4,))
    dense = layers.Dense(4, name="dense")
    x = dense(inputs)
    model = keras.Model(inputs, keras.ops.matmul(x, keras.ops.transpose(dense.kernel)))
    new = apply_edits(model, [])
    x = normal(3, 4)
    assert np.allclose(values(new, x), values(model, x), atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        layers.LSTM(3),
        layers.Bidirectional(layers.GRU(3)),
        layers.MultiHeadAttention(2, 3),
        layers.TimeDistributed(layers.Dense(3)),
        layers.LayerNormalization(),
        layers.GroupNormalization(2),
        layers.EinsumDense("abc,cd->abd", output_shape=(None, 5), bias_axes="d"),
        layers.PReLU(),
        layers.SpectralNormalization(layers.Dense(3)),
        layers.Discretization(bin_boundaries=[0.0, 1.0]),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_of_all_sorts_are_copied_with_their_state(layer):
    inputs = keras.Input((5, 4))
    attention = isinstance(layer, layers.MultiHeadAttention)
    model = keras.Model(inputs, layer(inputs, inputs) if attention else layer(inputs))
    for variable in model.variables:
        if str(variable.dtype) == "float32":
            variable.assign(normal(*variable.shape))
    x = normal(3, 5, 4)
    assert np.array_equal(values(apply_edits(model, []), x), values(model, x))


# Compare


def test_the_error_is_a_share_of_the_outputs_scale():
    (check,) = compare_outputs(
        {"y": np.array([[0.0], [-200.0]])}, {"y": np.array([[1.0], [-200.0]])}
    )
    assert (check.error, check.scale, check.variation) == (1 / 200, 200.0, 1.0)


@pytest.mark.parametrize(
    "other",
    [
        np.array([[1.0, np.nan]]),
        np.array([[1.0, np.inf]]),
        np.array([[1.0]]),
        np.array([[1.0, 2.0]], np.float32),
    ],
)
def test_another_shape_dtype_or_a_nan_is_an_infinite_error(other):
    (check,) = compare_outputs({"y": np.array([[1.0, 2.0]])}, {"y": other})
    assert check.error == np.inf
    assert not Verification((check,), 1e-5, 1).passed


def test_a_nan_in_both_models_proves_nothing():
    one = {"y": np.array([[np.nan], [np.nan]])}
    (check,) = compare_outputs(one, one)
    assert not check.proves(1e-5)
    assert not check.proves_something(1e-5)


def test_an_output_proves_something_only_if_it_varies():
    def check(variation):
        return OutputCheck("y", 0.0, 1.0, variation)

    assert check(0.1).proves(1e-5)
    assert not check(1e-3).proves(1e-5)
    assert check(1e-3).proves_something(1e-5)
    assert not check(1e-6).proves_something(1e-5)
    assert spread(np.array([[1.0, 5.0], [3.0, 5.0]])) == 2.0 / 5.0


@pytest.mark.parametrize("guilty", range(9))
def test_bisection_finds_the_first_step_that_fails(guilty):
    asked = []

    def fails(count):
        asked.append(count)
        return count > guilty

    assert find_culprit(9, fails) == guilty
    assert len(asked) <= 4


def test_a_step_that_changes_the_function_is_refused_and_named():
    model = dense_model()
    steps = [
        Step("a step that does nothing", (SetConfig("head", {}),)),
        Step("doubling the kernel", (TransformWeights("dense", doubled),)),
        Step("another that does nothing", (SetConfig("dense", {}),)),
    ]
    with pytest.raises(VerificationError, match="; doubling the kernel causes it"):
        rewrite(model, steps)
    assert rewrite(model, steps[:1]).verification.max_error == 0.0


def test_a_model_that_does_not_survive_being_made_again_is_not_blamed_on_a_step():
    class Counting(layers.Layer):
        total = 0.0

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            Counting.total += 1.0
            self.offset = Counting.total

        def call(self, inputs):
            return inputs + self.offset

        def get_config(self):
            return super().get_config()

    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="d"), Counting()])
    with pytest.raises(VerificationError, match="the model cannot be made again"):
        rewrite(model, [Step("nothing", (SetConfig("d", {}),))])


def test_one_unit_of_rounding_bounds_the_tolerance_of_a_sensitive_network():
    inputs = keras.Input((4,))
    x = layers.Dense(3, name="dense")(inputs)
    model = keras.Model(inputs, keras.ops.sin(x * 1e4))
    verifier = Verifier(model)
    assert 1e-5 < verifier.widened() <= 1e-3
    calm = Verifier(dense_model())
    assert calm.widened() == 1e-5


def test_the_inputs_are_moved_by_one_unit_of_their_own_size():
    spec = InputSpec("x", (None, 3), "float32")
    given = [(np.array([[1.0, 1000.0, 1e-4]], np.float32),)]
    (moved,) = nudged([spec], given, "float32", 0)
    step = np.abs(moved[0] - np.array([[1.0, 1000.0, 1e-4]], np.float32))
    assert (step > 0).all()
    assert (step <= 2.0**-23 * np.array([1.0, 1000.0, 1e-4])).all()
    ids = np.array([[1, 2]])
    assert np.array_equal(nudged([spec], [(ids,)], "float32", 0)[0][0], ids)
    padded = np.array([[1.0, -1.0, -1.0]], np.float32)
    (moved,) = nudged([replace(spec, padding=-1.0)], [(padded,)], "float32", 0)
    assert list(moved[0][0] == padded[0]) == [False, True, True]


def test_random_inputs_fit_what_the_inputs_take():
    specs = [
        InputSpec("image", (None, None, None, 3), "float32"),
        InputSpec("ids", (None, None), "int32", limit=5),
        InputSpec("text", (None,), "string"),
        InputSpec("flag", (None, 1), "bool", limit=2),
    ]
    batch, *_ = random_batches(
        specs, lambda rng, shape: rng.normal(size=shape), 0, ["a", "b"]
    )
    image, ids, text, flag = batch
    assert image.shape[1:] == (64, 64, 3)
    assert ids.max() < 5
    assert ids.dtype == np.int32
    assert set(text) <= {"a", "b"}
    assert flag.dtype == bool
    assert len({len(array) for array in batch}) == 1


@pytest.mark.parametrize(
    ("first", "dtype", "padding"),
    [
        (layers.Masking(-1.0), "float32", -1.0),
        (layers.Embedding(5_000, 3, mask_zero=True), "int32", 0),
    ],
)
def test_some_samples_have_steps_that_are_masked(first, dtype, padding):
    inputs = keras.Input((6, 3) if dtype == "float32" else (6,), dtype=dtype)
    model = keras.Model(inputs, layers.LSTM(2)(layers.Dropout(0.1)(first(inputs))))
    (spec,) = input_specs(live.read(model))
    batch = random_batches([spec], lambda rng, shape: rng.normal(size=shape), 0)[0][0]
    masked = (batch == padding).reshape(len(batch), 6, -1).all(axis=-1)
    assert masked[1::2, -1].all()
    assert not masked[:, 0].any()


def test_a_batch_size_of_one_is_run_more_than_once():
    spec = InputSpec("x", (1, 4), "float32")
    assert len(random_batches([spec], lambda rng, shape: rng.normal(size=shape), 0)) == 2


# Files


def test_bytecode_is_found_wherever_it_lies():
    function = {"class_name": "__lambda__", "config": {"code": "..."}}
    assert holds_code({"layer": {"config": {"activation": function}}})
    assert holds_code({"function": ["...", None, None], "function_type": "lambda"})
    assert holds_code([{"a": [function]}])
    assert not holds_code({"class_name": "Dense", "config": {"activation": "relu"}})
    assert not holds_code({"function_type": "function", "function": "swish"})


def test_a_directory_is_no_output(tmp_path):
    (tmp_path / "model.keras").mkdir()
    with pytest.raises(Exception, match="is a directory"):
        check_output(tmp_path / "model.keras", overwrite=True)


# Flags, calls and wrappers


def norm_model(**arguments):
    inputs = keras.Input((4,))
    x = layers.BatchNormalization(name="bn")(layers.Dense(3)(inputs), **arguments)
    return keras.Model(inputs, layers.ReLU()(x))


def test_a_flag_is_set_on_one_layer_alone_also_in_a_nested_model():
    model = norm_model()
    new = apply_edits(model, [SetTrainable("bn", value=False)])
    assert not new.get_layer("bn").trainable
    assert new.layers[1].trainable
    assert model.get_layer("bn").trainable
    outer = keras.Sequential([keras.Input((4,)), norm_model(), layers.Dense(1)])
    path = f"{outer.layers[0].name}/bn"
    new = apply_edits(outer, [SetTrainable(path, value=False)])
    assert not new.layers[0].get_layer("bn").trainable
    assert new.layers[0].layers[1].trainable


def test_a_frozen_layer_is_thawed():
    model = norm_model()
    model.get_layer("bn").trainable = False
    new = apply_edits(model, [SetTrainable("bn", value=True)])
    assert new.get_layer("bn").trainable


def test_training_is_taken_out_of_the_calls_of_one_layer():
    inputs = keras.Input((4,))
    x = layers.BatchNormalization(name="bn")(inputs, training=True)
    model = keras.Model(inputs, layers.Dropout(0.5, name="drop")(x, training=True))
    new = apply_edits(model, [DropTraining("bn")])
    trained = {call.layer.path: call.training for call in live.read(new).calls}
    assert trained == {"bn": None, "drop": True}
    before = np.array(new.get_layer("bn").moving_mean)
    new(normal(8, 4))
    assert np.array_equal(before, new.get_layer("bn").moving_mean)


def test_training_is_taken_out_of_the_calls_of_outer_models_too():
    inner = norm_model(training=True)
    middle = keras.Sequential([keras.Input((4,)), inner], name="middle")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, middle(inputs, training=True))
    path = f"middle/{inner.name}/bn"
    assert live.read(model).calls_of(live.read(model).layer(path))[0].training is True
    new = apply_edits(model, [DropTraining(path)])
    assert {call.training for call in live.read(new).calls} == {None}
    x = normal(8, 4)
    assert np.allclose(new(x), values(model, x), atol=1e-6)


def test_a_wrapper_gives_way_to_the_layer_inside_it():
    inputs = keras.Input((5, 4))
    inside = layers.BatchNormalization(name="bn", momentum=0.5, trainable=False)
    model = keras.Model(inputs, layers.TimeDistributed(inside, name="steps")(inputs))
    inside.gamma.assign([1.0, -2.0, 3.0, 0.5])
    inside.moving_mean.assign([0.1, 0.2, 0.3, -0.4])
    new = apply_edits(model, [Unwrap("steps"), SetConfig("steps", {"momentum": 0.9})])
    norm = new.get_layer("steps")
    assert type(norm) is layers.BatchNormalization
    assert (norm.momentum, norm.trainable) == (0.9, False)
    x = normal(3, 5, 4)
    assert np.allclose(values(new, x), values(model, x), atol=1e-6)
    assert new.output_names == model.output_names


def test_a_wrapper_in_a_sequential_model_gives_way_too():
    inside = layers.BatchNormalization(name="bn")
    model = keras.Sequential(
        [keras.Input((5, 4)), layers.TimeDistributed(inside, name="steps"), layers.ReLU()]
    )
    inside.moving_mean.assign([0.1, 0.2, 0.3, -0.4])
    rebuilt = rebuild(model, [Unwrap("steps")])
    x = normal(3, 5, 4)
    assert np.allclose(values(rebuilt.model, x), values(model, x), atol=1e-6)
    assert rebuilt.variables[id(inside.gamma)] is rebuilt.model.get_layer("steps").gamma


def test_a_wrapper_whose_layer_counts_its_axis_from_the_front_stays():
    inputs = keras.Input((5, 4))
    inside = layers.BatchNormalization(name="bn", axis=1)
    model = keras.Model(inputs, layers.TimeDistributed(inside, name="steps")(inputs))
    with pytest.raises(
        UnsupportedModelError, match="its axis is not counted from the back"
    ):
        apply_edits(model, [Unwrap("steps")])


def test_variables_are_followed_into_the_new_model():
    model = norm_model()
    dense, norm = model.layers[1:3]
    rebuilt = rebuild(
        model,
        [
            SetConfig(dense.name, {"use_bias": False}),
            TransformWeights("bn", lambda w: {"moving_mean": w["moving_mean"] + 1.0}),
        ],
    )
    new = rebuilt.model.get_layer("bn")
    assert rebuilt.variables[id(norm.gamma)] is new.gamma
    assert rebuilt.variables[id(dense.kernel)] is rebuilt.model.layers[1].kernel
    assert id(dense.bias) not in rebuilt.variables
    assert rebuilt.changed == {id(new.moving_mean)}
