"""Folding from end to end: the folded model computes the same, and is otherwise the same."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

import bnscope
from bnscope.errors import (
    BnscopeError,
    OutputExistsError,
    UnreadableModelError,
    UnsupportedModelError,
    VerificationError,
)
from bnscope.folding import fold, make_plan
from bnscope.folding.patterns import all_patterns
from bnscope.folding.patterns.conv import ConvPattern
from bnscope.graph import live
from bnscope.rewriting.edits import TransformWeights
from bnscope.rewriting.engine import rewrite

layers = keras.layers
BN = layers.BatchNormalization


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(20)


def batch_norms(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, BN)]


def randomize(model, seed=0):
    """Variances from 1e-3 to 1e3 and 30 % negative gammas: fresh BN hides every mistake."""
    rng = np.random.default_rng(seed)
    for layer in batch_norms(model):
        size = int(layer.moving_mean.shape[0])
        if layer.scale:
            sign = np.where(rng.random(size) < 0.3, -1.0, 1.0)
            layer.gamma.assign(sign * rng.uniform(0.5, 1.5, size))
        if layer.center:
            layer.beta.assign(rng.normal(0.0, 1.0, size))
        layer.moving_mean.assign(rng.normal(0.0, 1.0, size))
        layer.moving_variance.assign(10.0 ** rng.uniform(-3.0, 3.0, size))
    for layer in model._flatten_layers():
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0.0, 1.0, layer.bias.shape))
    return model


def fit_statistics(model, inputs, seed=0):
    """Statistics that fit a deep network, then perturbed: others overflow or die out."""
    rng = np.random.default_rng(seed)
    for layer in batch_norms(model):
        size = int(layer.moving_mean.shape[0])
        if layer.scale:
            sign = np.where(rng.random(size) < 0.3, -1.0, 1.0)
            layer.gamma.assign(sign * rng.uniform(0.5, 1.5, size))
        if layer.center:
            layer.beta.assign(rng.normal(0.0, 0.5, size))
        layer.momentum = 0.0
    model(inputs, training=True)
    for layer in batch_norms(model):
        layer.momentum = 0.99
        variance = keras.ops.convert_to_numpy(layer.moving_variance)
        mean = keras.ops.convert_to_numpy(layer.moving_mean)
        layer.moving_variance.assign(variance * rng.uniform(0.8, 1.25, variance.shape))
        layer.moving_mean.assign(
            mean + 0.05 * np.sqrt(variance) * rng.normal(size=mean.shape)
        )
    return model


def run(model, inputs):
    """The outputs at inference; eager, since compiling takes longer than these models."""
    outputs = keras.tree.flatten(model(inputs, training=False))
    return [keras.ops.convert_to_numpy(output) for output in outputs]


def assert_folded(model, inputs, folded=None):
    """Folds, and compares independently of bnscope's own verification."""
    result = fold(model)
    if folded is not None:
        assert [verdict.layer for verdict in result.plan.folded] == folded
    expected, actual = run(model, inputs), run(result.model, inputs)
    for one, other in zip(expected, actual, strict=True):
        scale = np.abs(one).max()
        assert np.isfinite(one).all()
        assert np.ptp(one, axis=0).max() > 1e-2 * scale
        assert np.abs(other - one).max() <= 1e-5 * scale
    return result


def samples(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


EXAMPLES = [
    pytest.param(getattr(pattern, name), id=name)
    for pattern in all_patterns()
    for name in pattern.examples("folds")
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("example", EXAMPLES)
def test_each_pattern_computes_the_same_without_batch_norm(example, seed):
    model = randomize(example(keras), seed)
    result = assert_folded(model, samples(3, *model.input_shape[1:]))
    assert not batch_norms(result.model)
    assert result.max_error <= result.tolerance == 1e-5


CONVOLUTIONS = [
    (layers.Conv1D, (9, 4), {"filters": 6, "kernel_size": 3, "groups": 2}),
    (layers.Conv2D, (8, 9, 4), {"filters": 6, "kernel_size": (3, 1), "dilation_rate": 2}),
    (layers.Conv3D, (5, 6, 5, 2), {"filters": 4, "kernel_size": 2, "groups": 2}),
    (layers.DepthwiseConv1D, (9, 3), {"kernel_size": 3, "depth_multiplier": 3}),
    (layers.DepthwiseConv2D, (8, 8, 3), {"kernel_size": 3, "depth_multiplier": 2}),
    (
        layers.SeparableConv1D,
        (9, 4),
        {"filters": 5, "kernel_size": 3, "depth_multiplier": 2},
    ),
    (layers.SeparableConv2D, (8, 8, 3), {"filters": 5, "kernel_size": 3}),
    (layers.Conv1DTranspose, (6, 3), {"filters": 5, "kernel_size": 3, "strides": 2}),
    (layers.Conv2DTranspose, (5, 6, 3), {"filters": 5, "kernel_size": 3, "strides": 2}),
    (layers.Conv3DTranspose, (3, 4, 3, 2), {"filters": 3, "kernel_size": 2, "strides": 2}),
    (layers.Dense, (7,), {"units": 5}),
    (layers.Dense, (3, 4, 7), {"units": 5}),
]


@pytest.mark.parametrize(
    ("arguments", "use_bias"),
    [({}, True), ({"scale": False}, False), ({"center": False}, True)],
)
@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=lambda layer: layer[0].__name__)
def test_every_layer_is_folded_with_and_without_bias_gamma_and_beta(
    layer, arguments, use_bias
):
    cls, shape, kwargs = layer
    model = keras.Sequential(
        [
            keras.Input(shape),
            cls(**kwargs, use_bias=use_bias),
            layers.Dropout(0.5),
            BN(**arguments, epsilon=1e-5),
        ]
    )
    assert_folded(randomize(model, 3), samples(3, *shape))


def test_channels_first_is_folded_where_tensorflow_can_run_it():
    inputs = keras.Input((3, 9))
    x = layers.Conv1D(5, 3, padding="same", data_format="channels_first")(inputs)
    model = randomize(keras.Model(inputs, BN(axis=1)(x)))
    assert_folded(model, samples(3, 3, 9))


def test_two_batch_norms_are_folded_into_the_same_layer_with_one_rounding():
    inputs = keras.Input((8, 8, 3))
    x = BN(name="second")(
        layers.Dropout(0.3)(BN(name="first")(layers.Conv2D(4, 3)(inputs)))
    )
    result = assert_folded(
        randomize(keras.Model(inputs, x)), samples(2, 8, 8, 3), ["first", "second"]
    )
    assert [layer.name for layer in result.model.layers][-1] == "second"


def nested():
    """Sequential in Functional in Functional; the outer BN is folded into the inner conv."""
    stem = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="stem_in"),
            layers.Conv2D(4, 3, name="conv", use_bias=False),
            BN(name="bn"),
            layers.ReLU(),
            layers.Conv2D(5, 3, name="last"),
        ],
        name="stem",
    )
    x = body_in = keras.Input((8, 8, 3), name="body_in")
    body = keras.Model(body_in, stem(x), name="body")
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.ReLU(name="relu")(BN(name="outer")(body(inputs)))
    return keras.Model(inputs, layers.Flatten(name="flat")(x), name="whole")


def test_nested_models_are_folded_to_any_depth_and_keep_their_shape():
    model = randomize(nested())
    result = assert_folded(model, samples(2, 8, 8, 3), ["body/stem/bn", "outer"])
    body = result.model.get_layer("body")
    stem = body.get_layer("stem")
    assert isinstance(stem, keras.Sequential)
    assert [layer.name for layer in stem.layers][:2] == ["conv", "re_lu"] or (
        len(stem.layers) == 3
    )
    assert stem.get_layer("conv").use_bias
    assert [v.into for v in result.verdicts] == ["body/stem/conv", "body/stem/last"]
    assert not batch_norms(result.model)


def test_a_block_that_is_used_twice_is_folded_once_and_stays_shared():
    block = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4), BN(), layers.Activation("tanh")], name="block"
    )
    left, right = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    model = keras.Model([left, right], layers.Concatenate()([block(left), block(right)]))
    result = assert_folded(randomize(model), [samples(3, 6), samples(3, 6, seed=2)])
    assert sum(layer.name == "block" for layer in result.model.layers) == 1
    assert len(result.model.weights) == 2


def test_names_structure_and_settings_are_kept():
    image = keras.Input((8, 8, 3), name="image", batch_size=2)
    extra = keras.Input((5,), name="extra", dtype="float64")
    x = layers.Conv2D(
        4, 3, name="conv", kernel_regularizer="l2", bias_initializer="ones", trainable=False
    )(image)
    x = BN(name="bn")(x)
    y = layers.GlobalAveragePooling2D(name="pool")(layers.ReLU(name="relu")(x))
    z = layers.Dense(3, name="dense", kernel_constraint="non_neg")(extra)
    model = keras.Model(
        {"extra": extra, "image": image}, {"bn": x, "b": y, "a": [z]}, name="whole"
    )
    model.compile("adam", "mse")
    new = fold(randomize(model)).model
    assert new.name == "whole"
    assert list(new.input) == ["extra", "image"]
    assert [(t.name, tuple(t.shape), t.dtype) for t in new.inputs] == [
        (t.name, tuple(t.shape), t.dtype) for t in model.inputs
    ]
    assert new.output_names == model.output_names
    assert list(new.output) == ["bn", "b", "a"]
    assert [layer.name for layer in new.layers] == [layer.name for layer in model.layers]
    assert isinstance(new.get_layer("bn"), layers.Identity)
    assert not new.get_layer("conv").trainable
    assert new.get_layer("dense").trainable
    for name in ("conv", "dense"):
        config = model.get_layer(name).get_config()
        assert new.get_layer(name).get_config() == {**config, "use_bias": True}
    assert not new.compiled


def test_the_model_that_is_passed_in_is_not_changed_and_shares_nothing():
    model = randomize(nested())
    model.compile("sgd", "mse")
    before = [keras.ops.convert_to_numpy(v).copy() for v in model.variables]
    config = model.to_json()
    nodes = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    result = fold(model)
    after = [keras.ops.convert_to_numpy(v) for v in model.variables]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert model.to_json() == config
    assert model.compiled
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == nodes
    assert not {id(v) for v in model.variables} & {id(v) for v in result.model.variables}
    for variable in result.model.variables:
        variable.assign(keras.ops.zeros_like(variable))
    after = [keras.ops.convert_to_numpy(v) for v in model.variables]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_dtype_policies_are_kept(policy):
    inputs = keras.Input((8, 8, 3), dtype=None if policy != "float64" else "float64")
    x = layers.Conv2D(4, 3, dtype=policy)(inputs)
    x = layers.ReLU(dtype=policy)(BN(dtype=policy)(x))
    model = randomize(keras.Model(inputs, layers.Flatten(dtype="float32")(x)))
    result = fold(model)
    assert result.plan.folded
    assert result.max_error <= result.tolerance
    assert result.tolerance <= {"mixed_float16": 0.1, "mixed_bfloat16": 0.3}.get(
        policy, 1e-5
    )
    kept = [layer for layer in model.layers if not isinstance(layer, BN)]
    assert [layer.dtype_policy.name for layer in result.model.layers] == [
        layer.dtype_policy.name for layer in kept
    ]


def test_a_batch_norm_that_changes_the_dtype_leaves_the_cast_in_its_place():
    inputs = keras.Input((8, 8, 3))
    x = BN(name="bn", dtype="float32")(layers.Conv2D(4, 3, dtype="mixed_float16")(inputs))
    model = randomize(keras.Model(inputs, layers.Flatten()(x)))
    result = fold(model)
    assert result.model.get_layer("bn").compute_dtype == "float32"
    assert [t.dtype for t in result.model.outputs] == [t.dtype for t in model.outputs]


def test_operations_between_the_layers_are_kept():
    inputs = keras.Input((8, 8, 3))
    x = keras.ops.transpose(BN()(layers.Conv2D(4, 3)(inputs)), (0, 3, 1, 2))
    x = keras.ops.reshape(keras.ops.relu(x) * 2.0 + np.float32(1.0), (-1, 4, 36))
    parts = keras.ops.split(x, 2, axis=1)
    model = randomize(keras.Model(inputs, keras.ops.concatenate(parts[::-1], axis=-1)))
    assert_folded(model, samples(2, 8, 8, 3))


def test_masks_and_integer_inputs_are_kept():
    ids = keras.Input((7,), name="ids")
    x = layers.Embedding(11, 6, mask_zero=True)(ids)
    x = BN(name="bn")(layers.Dense(5, name="dense")(x))
    model = randomize(keras.Model(ids, layers.Dense(3, name="head")(layers.LSTM(4)(x))))
    model.get_layer("bn").moving_variance.assign(np.ones(5))
    inputs = np.random.default_rng(0).integers(0, 11, (4, 7))
    inputs[:, 4:] = 0
    assert_folded(model, inputs, ["bn"])


def test_state_that_is_no_weight_is_kept():
    words, numbers = keras.Input((), dtype="string"), keras.Input((3,))
    text = layers.TextVectorization(output_sequence_length=4, output_mode="int")
    text.adapt(["red green blue", "blue cat", "green cat red"])
    scaled = layers.Normalization()
    scaled.adapt(samples(50, 3) * 5.0 + 2.0)
    x = layers.Flatten()(layers.Embedding(text.vocabulary_size(), 3)(text(words)))
    x = layers.Concatenate()([x, scaled(numbers)])
    model = randomize(keras.Model([words, numbers], BN()(layers.Dense(4)(x))))
    result = fold(model)
    assert result.plan.folded
    new = next(v for v in result.model.layers if isinstance(v, layers.TextVectorization))
    assert new.get_vocabulary() == text.get_vocabulary()


def test_a_function_of_the_users_with_a_name_of_kerass_is_no_linear_activation():
    def linear(x):
        return keras.ops.tanh(x)

    inputs = keras.Input((6,))
    model = randomize(keras.Model(inputs, BN()(layers.Dense(5, activation=linear)(inputs))))
    (verdict,) = assert_folded(model, samples(3, 6)).verdicts
    assert not verdict.folded


@pytest.mark.parametrize("sequential", [True, False])
def test_bn_on_integers_goes_forward_and_leaves_real_numbers(sequential):
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    parts = [BN(), layers.AveragePooling2D(2), layers.Conv2D(4, 3)]
    model = keras.Sequential([inputs, *parts])
    if not sequential:
        x = inputs
        for part in parts:
            x = part(x)
        model = keras.Model(inputs, x)
    pixels = np.random.default_rng(2).integers(0, 256, (3, 8, 8, 3)).astype("uint8")
    (verdict,) = assert_folded(randomize(model), pixels).verdicts
    assert verdict.folded


def test_lambdas_functions_and_custom_layers_of_a_live_model_are_kept():
    class Halved(layers.Layer):
        def __init__(self, factor, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor

        def build(self, shape):
            self.shift = self.add_weight(shape=(shape[-1],), initializer="ones")

        def call(self, inputs):
            return self.factor * inputs + self.shift

        def get_config(self):
            return {**super().get_config(), "factor": self.factor}

    def swish_of_mine(x):
        return x * keras.ops.sigmoid(x)

    inputs = keras.Input((6,))
    x = BN()(layers.Dense(5)(Halved(0.5)(inputs)))
    x = layers.Lambda(lambda t: t * 2.0)(layers.Activation(swish_of_mine)(x))
    model = randomize(keras.Model(inputs, layers.Dense(3, activation=lambda t: t**2)(x)))
    assert_folded(model, samples(3, 6))


def test_a_stateful_layer_is_run_without_losing_its_state():
    inputs = keras.Input((4, 3), batch_size=2)
    recurrent = layers.LSTM(4, stateful=True)
    model = keras.Model(inputs, recurrent(BN()(layers.Dense(5)(inputs))))
    model(samples(2, 4, 3))
    before = [keras.ops.convert_to_numpy(state) for state in recurrent.states]
    assert fold(randomize(model)).plan.folded
    after = [keras.ops.convert_to_numpy(state) for state in recurrent.states]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert np.abs(before[0]).max() > 0


def test_a_model_without_anything_to_fold_comes_back_as_a_copy():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="relu"), BN()])
    result = fold(randomize(model))
    assert result.max_error == 0.0
    assert len(batch_norms(result.model)) == 1
    assert not result.plan.folds


def test_a_deep_application_with_fitted_statistics_stays_within_rounding():
    model = keras.applications.MobileNetV2(
        weights=None, input_shape=(32, 32, 3), alpha=0.35, classifier_activation=None
    )
    images = np.random.default_rng(5).uniform(-1.0, 1.0, (8, 32, 32, 3)).astype("float32")
    fit_statistics(model, images)
    result = fold(model)
    assert len(result.plan.folded) == 52
    assert not result.plan.kept
    expected, actual = (
        model.predict(images, verbose=0),
        result.model.predict(images, verbose=0),
    )
    scale = np.abs(expected).max()
    assert np.isfinite(expected).all()
    assert np.ptp(expected, axis=0).max() > 0.05 * scale
    assert np.abs(actual - expected).max() <= 5e-5 * scale
    assert result.parameters[1] < result.parameters[0]


# Verification


def corrupted(plan, which, damage):
    """The steps of a plan, the kernel or bias of one fold damaged."""
    steps = list(plan.steps())

    def break_(function):
        return lambda weights: damage(dict(function(weights)))

    edits = tuple(
        dataclasses.replace(edit, function=break_(edit.function))
        if isinstance(edit, TransformWeights)
        else edit
        for edit in steps[which].edits
    )
    steps[which] = dataclasses.replace(steps[which], edits=edits)
    return steps


def hundredfold(weights):
    return {**weights, "kernel": weights["kernel"] * 100.0}


def one_channel(weights):
    kernel = weights["kernel"].copy()
    kernel[..., 1] *= 1.01
    return {**weights, "kernel": kernel}


def small_shift(weights):
    return {**weights, "bias": weights["bias"] + 1e-3 * np.abs(weights["bias"]).max()}


def deep():
    x = inputs = keras.Input((8, 8, 3))
    for index in range(5):
        x = layers.Conv2D(6, 3, padding="same", name=f"conv{index}")(x)
        x = layers.Activation("tanh")(BN(name=f"bn{index}")(x))
    model = keras.Model(inputs, layers.Dense(4, name="head")(layers.Flatten()(x)))
    return fit_statistics(model, samples(16, 8, 8, 3))


@pytest.mark.parametrize("which", [0, 2, 4])
@pytest.mark.parametrize("damage", [hundredfold, one_channel, small_shift])
def test_a_corrupted_fold_fails_and_is_named(which, damage):
    model = deep()
    plan = make_plan(live.read(model))
    assert rewrite(model, plan.steps()).verification.passed
    with pytest.raises(VerificationError) as failure:
        rewrite(model, corrupted(plan, which, damage))
    assert f'the fold of "bn{which}" into "conv{which}" causes it' in failure.value.message
    assert 'Output "head" differs by' in failure.value.message


@pytest.mark.parametrize("factor", [100.0, 1.01, 1.0003])
def test_no_tolerance_lets_a_scaled_output_pass(factor):
    model = randomize(ConvPattern.folds_conv2d_dilated(keras))
    steps = corrupted(
        make_plan(live.read(model)),
        0,
        lambda weights: {name: value * factor for name, value in weights.items()},
    )
    with pytest.raises(VerificationError):
        rewrite(model, steps)


def test_saturated_outputs_are_compared_before_their_activation():
    ids = keras.Input((5,), dtype="int32")
    x = layers.Dense(4, name="dense")(layers.Flatten()(layers.Embedding(9, 3)(ids)))
    x = layers.Activation("sigmoid", name="p")(BN(name="bn")(x))
    model = randomize(keras.Model(ids, x))
    model.get_layer("bn").beta.assign([60.0, 70.0, 80.0, 90.0])
    model.get_layer("bn").moving_variance.assign([1.0] * 4)
    model.get_layer("bn").moving_mean.assign([0.0] * 4)
    result = fold(model)
    assert [check.name for check in result.verification.outputs] == ["p", "bn"]
    assert not result.informative
    assert 'Output "p" hardly varies' in result.notes[0]
    with pytest.raises(VerificationError, match='Output "bn" differs'):
        rewrite(model, corrupted(make_plan(live.read(model)), 0, hundredfold))


def test_looking_before_an_activation_leaves_the_layers_as_they_were():
    inputs = keras.Input((3,))
    x = BN(name="bn")(layers.Dense(9)(inputs))
    model = randomize(keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x)))
    model.layers[-1].bias.assign([90.0])
    fold(model)
    assert [len(layer._outbound_nodes) for layer in model.layers] == [1, 1, 1, 0]


def test_pixels_are_tried_where_standard_normal_numbers_do_nothing():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(layers.Rescaling(1.0 / 255.0)(inputs))
    model = randomize(keras.Model(inputs, BN()(x)))
    model.layers[-1].beta.assign([9.0, 9.0, 9.0, 9.0])
    model.layers[-1].moving_variance.assign([50.0, 50.0, 50.0, 50.0])
    result = fold(model)
    assert result.informative
    assert result.verification.outputs[0].variation > 0.01


def test_an_output_that_never_varies_is_no_proof():
    inputs = keras.Input((6,))
    x = BN()(layers.Dense(4, kernel_initializer="zeros")(inputs))
    model = randomize(keras.Model(inputs, x))
    with pytest.raises(VerificationError) as failure:
        fold(model)
    assert failure.value.message == (
        "The outputs of the original model do not vary with the input on random inputs, so "
        "nothing can be verified."
    )


def test_outputs_that_are_not_finite_are_no_proof():
    inputs = keras.Input((6,))
    x = layers.Dense(3)(BN()(layers.Dense(4)(inputs)))
    model = randomize(keras.Model(inputs, x))
    model.layers[-1].bias.assign([np.nan, 0.0, 0.0])
    with pytest.raises(VerificationError, match="are not finite on random inputs"):
        fold(model)


def test_a_model_that_is_random_at_inference_cannot_be_verified():
    class Noise(layers.Layer):
        def call(self, inputs):
            return inputs + keras.random.normal(keras.ops.shape(inputs))

    inputs = keras.Input((6,))
    model = randomize(keras.Model(inputs, Noise()(BN()(layers.Dense(4)(inputs)))))
    with pytest.raises(VerificationError, match="other outputs each time it is run"):
        fold(model)


def two_inputs():
    left, right = keras.Input((6,), name="left"), keras.Input((4,), name="right")
    x = layers.Concatenate()([BN()(layers.Dense(4)(left)), right])
    return randomize(keras.Model([left, right], layers.Dense(2)(x)))


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_it_is_verified_on_the_data_that_are_given(batch):
    left, right = samples(batch, 6), samples(batch, 4)
    model = two_inputs()
    for data in ([left, right], {"right": right, "left": left}):
        result = fold(model, verify_data=data)
        assert result.verification.samples == batch
        assert result.max_error <= 1e-5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            [samples(3, 6)],
            "1 arrays were given to verify with, and the model has 2 inputs.",
        ),
        ({"left": samples(3, 6)}, "The data to verify with lack right; they have left."),
        ([samples(3, 6), samples(2, 4)], "The arrays to verify with have [2, 3] samples."),
        ([samples(0, 6), samples(0, 4)], "The arrays to verify with have [0] samples."),
        (
            [samples(3, 4), samples(3, 4)],
            (
                'The input "left" takes samples of shape (6), and the data to verify with '
                "have samples of shape (4,)."
            ),
        ),
    ],
)
def test_data_that_do_not_fit_are_refused_in_a_sentence(data, message):
    with pytest.raises(BnscopeError) as error:
        fold(two_inputs(), verify_data=data)
    assert error.value.message == message


def test_a_fixed_batch_size_is_kept_to():
    inputs = keras.Input((6,), batch_size=4)
    model = randomize(keras.Model(inputs, BN()(layers.Dense(3)(inputs))))
    assert fold(model).verification.samples == 4
    assert fold(model, verify_data=samples(9, 6)).verification.samples == 8
    with pytest.raises(BnscopeError, match="takes batches of 4, and 3 samples were given"):
        fold(model, verify_data=samples(3, 6))


# Models and files that cannot be folded


def test_an_unbuilt_model_is_refused():
    with pytest.raises(UnsupportedModelError, match="is not built, so it has no weights"):
        fold(keras.Sequential([layers.Dense(3), BN()]))


def test_a_functional_model_with_a_call_of_its_own_does_what_that_says():
    class Own(keras.Model):
        def call(self, inputs, training=None):
            return super().call(inputs, training=training) + 1.0

    inputs = keras.Input((6,))
    model = randomize(Own(inputs, BN()(layers.Dense(3)(inputs)), name="own"))
    result = fold(model)
    assert result.verdicts[0].folded
    x = samples(4, 6)
    np.testing.assert_allclose(result.model(x), model(x), rtol=1e-5, atol=1e-5)


def test_something_that_is_no_model_is_refused():
    with pytest.raises(
        UnsupportedModelError, match=r"Expected a Keras 3 model, got builtins\.int"
    ):
        fold(3)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_saved_model_is_folded_and_saved_again(tmp_path, suffix):
    model = randomize(nested())
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    model.save(source)
    before = source.read_bytes()
    result = bnscope.fold(source)
    assert result.save(target) == target
    assert source.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [source.name, target.name]
    loaded = keras.models.load_model(target)
    x = samples(2, 8, 8, 3)
    expected = model.predict(x, verbose=0)
    error = np.abs(loaded.predict(x, verbose=0) - expected).max()
    assert error <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_batch_norm_at_the_output_is_saved_as_an_identity(tmp_path, policy):
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, dtype=policy), BN(name="bn", dtype=policy)]
    )
    fold(randomize(model)).save(tmp_path / "out.keras")
    last = keras.models.load_model(tmp_path / "out.keras").layers[-1]
    assert (type(last), last.name, last.dtype_policy.name) == (
        layers.Identity,
        "bn",
        policy,
    )


def test_an_existing_file_is_only_replaced_when_that_is_said(tmp_path):
    result = fold(randomize(nested()))
    target = tmp_path / "out.keras"
    target.write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="exists already"):
        result.save(target)
    assert target.read_bytes() == b"precious"
    result.save(target, overwrite=True)
    assert keras.models.load_model(target).name == "whole"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/out.keras", "does not exist"),
        ("out.zip", "does not say in which format to save"),
        ("file.txt/out.keras", "does not exist"),
    ],
)
def test_a_place_where_nothing_can_be_written_gives_one_error(tmp_path, name, message):
    (tmp_path / "file.txt").write_text("text")
    result = fold(randomize(nested()))
    with pytest.raises(BnscopeError, match=message) as error:
        result.save(tmp_path / name)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_file_that_does_not_load_as_it_was_saved_is_not_left_behind(tmp_path):
    class Forgetting(layers.Dense):
        def save_own_variables(self, store):
            store["0"] = np.zeros(self.kernel.shape)
            store["1"] = np.zeros(self.bias.shape)

    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), BN(), Forgetting(2)])
    result = fold(randomize(model))
    with pytest.raises(VerificationError, match="not the same when it is loaded again"):
        result.save(tmp_path / "out.keras")
    assert not list(tmp_path.iterdir())


def test_python_code_in_a_file_is_never_run(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3),
            BN(),
            layers.Lambda(lambda t: t * 2, name="code"),
        ]
    )
    for suffix in (".keras", ".h5"):
        path = tmp_path / f"model{suffix}"
        model.save(path)
        with pytest.raises(UnsupportedModelError) as error:
            fold(path)
        assert error.value.message == (
            f'Layer "code" in {path} holds the bytecode of a Python function, which is never '
            "run."
        )
    result = fold(randomize(model))
    with pytest.raises(UnsupportedModelError, match="could be saved only as bytecode"):
        result.save(tmp_path / "out.keras")
    assert not (tmp_path / "out.keras").exists()


def test_an_unknown_class_is_named_with_the_way_to_give_it(tmp_path):
    class Unknown(layers.Layer):
        def call(self, inputs):
            return inputs * 2.0

    model = randomize(
        keras.Sequential(
            [keras.Input((4,)), layers.Dense(3), BN(), Unknown(), layers.Dense(2)]
        )
    )
    for suffix in (".keras", ".h5"):
        path = tmp_path / f"model{suffix}"
        model.save(path)
        with pytest.raises(UnsupportedModelError) as error:
            fold(path)
        assert error.value.message == (
            f'{path} uses the class or function "Unknown", which Keras does not know.'
        )
        assert "custom_objects" in error.value.hint
        assert fold(path, custom_objects={"Unknown": Unknown}).plan.folded


def test_a_configuration_or_weights_alone_are_refused(tmp_path):
    model = randomize(nested())
    (tmp_path / "model.json").write_text(model.to_json())
    with pytest.raises(UnsupportedModelError, match="without its weights"):
        fold(tmp_path / "model.json")
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(UnsupportedModelError, match="without its configuration"):
        fold(tmp_path / "model.weights.h5")
    with pytest.raises(UnreadableModelError, match="does not exist"):
        fold(tmp_path / "none.keras")


def test_the_result_is_ready_for_json():
    import json

    result = fold(randomize(nested()))
    dictionary = json.loads(json.dumps(result.to_dict()))
    assert dictionary["folded"] == 2
    assert dictionary["max_error"] <= dictionary["tolerance"] == 1e-5
    assert dictionary["informative"]
    assert dictionary["parameters"]["before"] > dictionary["parameters"]["after"]
