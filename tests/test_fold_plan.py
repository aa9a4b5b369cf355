"""The plan of a fold: which BN layers are folded, which are kept, and why."""

from __future__ import annotations

from pathlib import Path

import hostile_files
import keras
import numpy as np
import pytest

from bnscope.folding import Reason, make_plan
from bnscope.folding.patterns import all_patterns
from bnscope.folding.patterns.base import Pattern
from bnscope.graph import archive, live

layers = keras.layers
BN = layers.BatchNormalization


class Scaled(layers.Layer):
    """A custom layer."""

    def call(self, inputs):
        return 2.0 * inputs


class OwnBatchNorm(BN):
    """A custom BN."""


class Holder(layers.Layer):
    """A custom layer with a BN inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.bn = BN(name="bn")

    def build(self, shape):
        self.bn.build(shape)

    def call(self, inputs):
        return self.bn(inputs)


class Subclassed(keras.Model):
    """A model whose structure is in its `call`."""

    def __init__(self):
        super().__init__(name="subclassed")
        self.dense = layers.Dense(3)
        self.bn = BN(name="bn")

    def call(self, inputs):
        return self.bn(self.dense(inputs))


def chain(*between, shape=(8, 8, 3)):
    inputs = x = keras.Input(shape, name="image")
    for layer in between:
        x = layer(x)
    return keras.Model(inputs, BN(name="bn")(x))


def plan_of(model):
    return make_plan(live.read(model))


def verdict(model, name="bn"):
    return next(v for v in plan_of(model).verdicts if v.layer.split("/")[-1] == name)


def conv(**kwargs):
    return layers.Conv2D(4, 3, name="conv", **kwargs)


def with_training(value, **arguments):
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, BN(name="bn", **arguments)(conv()(inputs), training=value))


def active_dropout():
    inputs = keras.Input((8, 8, 3))
    x = layers.Dropout(0.5, name="drop")(conv()(inputs), training=True)
    return keras.Model(inputs, BN(name="bn")(x))


def baked_into_a_nested_call():
    inner = keras.Sequential([keras.Input((8, 8, 3)), conv(), BN(name="bn")], name="inner")
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, inner(inputs, training=True))


def also_used():
    inputs = keras.Input((8, 8, 3))
    x = conv()(inputs)
    return keras.Model(inputs, layers.Add(name="add")([x, BN(name="bn")(x)]))


def also_an_output():
    inputs = keras.Input((8, 8, 3))
    x = conv()(inputs)
    return keras.Model(inputs, [x, BN(name="bn")(x)])


def used_behind_the_dropout():
    inputs = keras.Input((8, 8, 3))
    x = layers.Dropout(0.2, name="drop")(conv()(inputs))
    return keras.Model(inputs, [BN(name="bn")(x), layers.ReLU(name="relu")(x)])


def shared_conv():
    left, right = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    shared = conv()
    return keras.Model([left, right], [BN(name="bn")(shared(left)), shared(right)])


def shared_bn():
    inputs = keras.Input((8, 8, 3))
    bn = BN(name="bn")
    one = bn(layers.Conv2D(4, 3, name="one")(inputs))
    other = bn(layers.Conv2D(4, 3, name="other")(inputs))
    return keras.Model(inputs, [one, other])


def shared_with_other_statistics():
    inputs = keras.Input((4,))
    dense = layers.Dense(3, name="dense")
    parts = [dense(inputs), dense(layers.ReLU()(inputs))]
    x = layers.Concatenate()(parts)
    model = keras.Model(inputs, BN(name="bn")(x))
    model.get_layer("bn").moving_mean.assign(np.arange(6.0))
    return model


def padded():
    model = chain(conv(), layers.ZeroPadding2D(name="pad"))
    model.get_layer("bn").beta.assign([0.5, 0.0, 0.0, 0.0])
    return model


def before_a_padded_conv():
    inputs = keras.Input((8, 8, 3))
    x = BN(name="bn")(layers.ReLU()(inputs))
    model = keras.Model(inputs, conv(padding="same")(x))
    model.get_layer("bn").beta.assign([0.5, 0.0, 0.0])
    return model


def negative():
    model = chain(conv(), layers.MaxPooling2D(name="pool"))
    model.get_layer("bn").gamma.assign([0.5, -0.5, 1.0, -2.0])
    return model


def conv_shared_with_a_wrapper():
    frames, image = keras.Input((2, 8, 8, 3)), keras.Input((8, 8, 3))
    shared = conv()
    wrapped = layers.TimeDistributed(shared, name="wrapper")(frames)
    return keras.Model([frames, image], [wrapped, BN(name="bn")(shared(image))])


def wrong_axis():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="conv")(inputs)
    return keras.Model(inputs, BN(name="bn", axis=1)(x))


def masked():
    inputs = keras.Input((5, 3))
    mask = keras.Input((5,), dtype="bool")
    return keras.Model([inputs, mask], BN(name="bn")(layers.Dense(4)(inputs), mask=mask))


def invalid(statistic, value):
    model = chain(conv())
    variable = getattr(model.get_layer("bn"), statistic)
    values = np.ones(4, "float32")
    values[2] = value
    variable.assign(values)
    return model


def without_variance_and_epsilon():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, BN(name="bn", epsilon=0.0)(conv()(inputs)))
    model.get_layer("bn").moving_variance.assign(np.zeros(4))
    return model


def quantized():
    model = chain(layers.Dense(6, name="dense"), shape=(4,))
    model.get_layer("dense").quantize("int8")
    return model


def with_lora():
    model = chain(layers.Dense(6, name="dense"), shape=(4,))
    model.get_layer("dense").enable_lora(2)
    return model


def built_subclass():
    model = Subclassed()
    model(np.zeros((1, 4), "float32"))
    return model


def nested_subclass():
    inputs = keras.Input((4,))
    return keras.Model(inputs, Subclassed()(inputs))


def behind_a_subclassed_model():
    inputs = keras.Input((4,))
    return keras.Model(inputs, BN(name="outer")(Subclassed()(inputs)))


def channels_first(cls, shape, **kwargs):
    inputs = keras.Input(shape)
    x = cls(kernel_size=3, padding="same", data_format="channels_first", **kwargs)(inputs)
    return keras.Model(inputs, BN(axis=1, name="bn")(x))


REFUSED = [
    ("no-linear-neighbour", chain, "It normalizes an input of the model."),
    (
        "no-linear-neighbour",
        lambda: chain(conv(), layers.ReLU(name="relu")),
        'ReLU "relu" feeds it, which cannot take it up.',
    ),
    (
        "no-linear-neighbour",
        lambda: chain(conv(), layers.Activation("relu", name="act")),
        'Activation(relu) "act" feeds it, which cannot take it up.',
    ),
    (
        "no-linear-neighbour",
        lambda: chain(conv(), layers.LayerNormalization(name="norm")),
        'LayerNormalization "norm" feeds it, which cannot take it up.',
    ),
    (
        "no-linear-neighbour",
        lambda: chain(
            layers.TimeDistributed(layers.ReLU(name="relu"), name="td"), shape=(4, 3)
        ),
        'ReLU "td/relu" feeds it, which cannot take it up.',
    ),
    ("nonlinear-producer", lambda: chain(conv(activation="relu")), "the activation relu"),
    ("multiple-consumers", also_used, 'of Conv2D "conv" is also used by Add "add".'),
    ("multiple-consumers", also_an_output, "is also used by the model, as an output."),
    ("multiple-consumers", used_behind_the_dropout, 'Dropout "drop" is also used by ReLU'),
    ("shared-layer", shared_conv, "is called 2 times, and only 1 of these calls"),
    ("shared-layer", shared_with_other_statistics, "would need different weights."),
    ("shared-layer", conv_shared_with_a_wrapper, "conv is also used inside wrapper."),
    (
        "axis-mismatch",
        wrong_axis,
        'Its scale and shift vary along axis 1, and the channels of Conv2D "conv" are on',
    ),
    ("padding", padded, 'ZeroPadding2D "pad" puts zeros around'),
    ("padding", before_a_padded_conv, 'Conv2D "conv" pads with zeros'),
    ("negative-scale", negative, "2 of 4 channels have a negative scale."),
    ("baked-training", lambda: with_training(True), "called with training=True"),
    ("baked-training", lambda: with_training(1), "called with training=True"),
    ("baked-training", baked_into_a_nested_call, "called with training=True"),
    ("baked-training", active_dropout, 'Dropout "drop" before it is called with training'),
    ("invalid-statistics", lambda: invalid("gamma", np.nan), "gamma is nan in channel 2."),
    ("invalid-statistics", lambda: invalid("beta", np.inf), "beta is inf in channel 2."),
    ("invalid-statistics", lambda: invalid("moving_mean", np.nan), "moving_mean is nan"),
    (
        "invalid-statistics",
        lambda: invalid("moving_variance", -0.5),
        "moving_variance is -0.5 in channel 2.",
    ),
    ("invalid-statistics", without_variance_and_epsilon, "are both zero"),
    ("custom-layer", lambda: chain(Scaled(name="own")), 'Scaled "own" feeds it'),
    ("quantized-layer", quantized, 'The kernel of Dense "dense" is quantized.'),
    ("lora", with_lora, 'Dense "dense" has LoRA weights'),
    ("opaque-graph", built_subclass, "The model is not analysed: a subclassed model"),
    ("opaque-graph", nested_subclass, "subclassed is not analysed: a subclassed model"),
]


@pytest.mark.parametrize(
    ("reason", "build", "detail"),
    REFUSED,
    ids=[f"{r}-{i}" for i, (r, _, _) in enumerate(REFUSED)],
)
def test_what_cannot_be_folded_is_kept_with_its_reason(reason, build, detail):
    model = build()
    found = verdict(model)
    assert (found.folded, found.into) == (False, None)
    assert found.reason == reason
    assert detail in found.detail
    assert not plan_of(model).folds


def test_a_custom_batch_norm_is_kept():
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, OwnBatchNorm(name="bn")(conv()(inputs)))
    found = verdict(model)
    assert found.reason == "custom-layer"
    assert found.detail == "Its class OwnBatchNorm is not Keras's BatchNormalization."


def test_a_batch_norm_inside_a_custom_layer_is_kept():
    model = keras.Sequential([keras.Input((8, 8, 3)), conv(), Holder(name="holder")])
    found = verdict(model)
    assert found.reason == "custom-layer"
    assert found.detail.startswith('It is inside Holder "holder"')


def test_a_batch_norm_inside_a_wrapper_without_a_layer_before_it_is_kept():
    x = layers.TimeDistributed(BN(name="bn"), name="td")(inputs := keras.Input((5, 4)))
    found = verdict(keras.Model(inputs, layers.ReLU()(x)))
    assert found.reason == "no-linear-neighbour"
    assert found.detail == "It normalizes an input of the model."


def test_a_batch_norm_behind_a_subclassed_model_is_kept():
    found = verdict(behind_a_subclassed_model(), "outer")
    assert found.reason == "opaque-graph"


@pytest.mark.parametrize(
    ("cls", "shape", "kwargs"),
    [
        (layers.Conv2D, (3, 8, 6), {"filters": 6}),
        (layers.Conv2D, (3, 8, None), {"filters": 6}),
        (layers.Conv3D, (3, 4, 4, 6), {"filters": 6}),
        (layers.DepthwiseConv2D, (6, 8, 6), {}),
        (layers.SeparableConv1D, (3, 6), {"filters": 6}),
        (layers.Conv2DTranspose, (3, 8, 6), {"filters": 6}),
    ],
)
def test_a_bias_that_tensorflow_may_add_along_the_wrong_axis_is_not_made(
    cls, shape, kwargs
):
    assert verdict(channels_first(cls, shape, **kwargs)).reason == "backend-bias"


def test_channels_first_is_folded_where_the_axes_differ_in_length():
    assert verdict(channels_first(layers.Conv2D, (3, 8, 8), filters=6)).folded


def test_every_reason_has_a_test():
    tested = {reason for reason, _, _ in REFUSED} | {"backend-bias"}
    assert tested == {str(reason) for reason in Reason}


def test_a_mask_only_matters_in_training_and_is_no_obstacle():
    assert verdict(masked()).folded


@pytest.mark.parametrize("value", [None, False])
def test_inference_written_into_the_call_is_no_obstacle(value):
    assert verdict(with_training(value)).folded


def test_a_frozen_batch_norm_ignores_training_and_is_folded():
    assert verdict(with_training(True, trainable=False)).folded


PATTERN_EXAMPLES = [
    pytest.param(pattern, name, id=f"{type(pattern).__name__}-{name}")
    for pattern in all_patterns()
    for name in [*pattern.examples("folds"), *pattern.examples("refuses")]
]


@pytest.mark.parametrize(("pattern", "name"), PATTERN_EXAMPLES)
def test_the_examples_of_each_family_hold(pattern, name, randomized):
    model = randomized(getattr(pattern, name)(keras))
    verdicts = plan_of(model).verdicts
    if name.startswith("folds_"):
        assert verdicts
        assert all(v.folded for v in verdicts)
    else:
        assert verdicts[-1].reason == name.removeprefix("refuses_").replace("_", "-")


def test_what_speaks_against_both_directions_is_said(randomized):
    after = layers.Conv2D(4, 3, padding="same", name="next")
    model = chain(conv(activation="relu"), BN(name="first"), after)
    found = verdict(randomized(model), "first")
    assert found.reason == "nonlinear-producer"
    assert found.detail.endswith(
        'Behind it, Conv2D "next" pads with zeros, which a shift would have to pass too.'
    )


def test_each_kind_of_layer_belongs_to_one_pattern():
    kinds = [kind for p in all_patterns() if isinstance(p, Pattern) for kind in p.kinds]
    assert len(kinds) == len(set(kinds))


# Random statistics always have a shift, which does not pass a padding.
NO_FOLDS = {"PaddingFamily"}


def test_each_family_has_examples_of_both_kinds():
    for family in all_patterns():
        assert family.examples("refuses"), family
        assert family.examples("folds") or type(family).__name__ in NO_FOLDS, family


def test_the_way_leads_through_dropout_identity_and_linear_activations():
    model = chain(
        conv(activation="linear"),
        layers.Dropout(0.3, name="drop"),
        layers.SpatialDropout2D(0.3, name="spatial"),
        layers.GaussianNoise(0.1, name="noise"),
        layers.Activation("linear", name="linear"),
        layers.Identity(name="same"),
        layers.ActivityRegularization(l2=0.1, name="penalty"),
    )
    found = verdict(model)
    assert found.folded
    assert found.into == "conv"
    assert found.through == ("drop", "spatial", "noise", "linear", "same", "penalty")
    assert found.detail.startswith('Into Conv2D "conv" through Dropout "drop", ')


def test_a_folded_batch_norm_lets_the_next_one_pass():
    inputs = keras.Input((8, 8, 3))
    x = BN(name="second")(
        layers.Dropout(0.5, name="drop")(BN(name="first")(conv()(inputs)))
    )
    plan = plan_of(keras.Model(inputs, x))
    assert [v.layer for v in plan.folded] == ["first", "second"]
    assert [v.into for v in plan.verdicts] == ["conv", "conv"]
    assert plan.verdicts[1].through == ("first", "drop")


def test_a_kept_batch_norm_takes_up_the_next_one():
    inputs = keras.Input((8, 8, 3))
    x = BN(name="second")(BN(name="first")(conv(activation="relu")(inputs)))
    plan = plan_of(keras.Model(inputs, x))
    assert [v.reason for v in plan.verdicts] == ["nonlinear-producer", None]
    assert plan.verdicts[1].into == "first"


def test_a_batch_norm_shared_by_two_layers_is_folded_into_both():
    found = verdict(shared_bn())
    assert set(found.layers) == {"one", "other"}
    assert found.direction == "backward"


def test_a_layer_is_folded_across_the_borders_of_nested_models():
    inner = keras.Sequential([keras.Input((8, 8, 3)), conv()], name="inner")
    middle_in = keras.Input((8, 8, 3))
    middle = keras.Model(middle_in, inner(middle_in), name="middle")
    inputs = keras.Input((8, 8, 3))
    found = verdict(keras.Model(inputs, BN(name="bn")(middle(inputs))))
    assert (found.folded, found.into) == (True, "middle/inner/conv")


def test_a_nested_model_that_is_called_twice_is_folded_if_all_calls_agree():
    block = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3), BN(name="bn")], name="block"
    )
    left, right = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([left, right], layers.Add()([block(left), block(right)]))
    assert verdict(model).folded


def test_the_verdicts_are_ready_for_json_and_in_forward_order():
    model = also_used()
    dictionary = plan_of(model).to_dict()
    assert dictionary["folded"] == 0
    assert dictionary["kept"] == 1
    assert dictionary["verdicts"] == [
        {
            "layer": "bn",
            "folded": False,
            "into": None,
            "layers": [],
            "direction": None,
            "through": [],
            "reason": "multiple-consumers",
            "detail": 'The output of Conv2D "conv" is also used by Add "add".',
        }
    ]
    assert type(dictionary["verdicts"][0]["reason"]) is str


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize(
    "build", [also_used, shared_conv, used_behind_the_dropout, shared_bn]
)
def test_a_file_is_planned_as_the_model_in_memory(tmp_path, build, suffix):
    model = build()
    path = tmp_path / f"model{suffix}"
    model.save(path)
    assert make_plan(archive.read(path)).verdicts == plan_of(model).verdicts


def test_a_configuration_without_weights_is_planned_too(tmp_path):
    path = tmp_path / "model.json"
    path.write_text(chain(conv()).to_json())
    assert make_plan(archive.read(path)).verdicts[0].folded


@pytest.mark.parametrize(
    ("name", "kept"),
    [("MobileNetV2", 0), ("DenseNet121", 62)],
)
def test_applications_are_folded_as_far_as_their_structure_allows(name, kept):
    model = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3))
    plan = plan_of(model)
    assert len(plan.kept) == kept
    assert {v.reason for v in plan.kept} <= {"no-linear-neighbour"}


def test_the_documentation_lists_every_reason_and_every_kind_of_layer():
    page = (Path(__file__).parents[1] / "docs" / "fold.md").read_text("utf-8")
    assert [str(reason) for reason in Reason if f"| `{reason}` |" not in page] == []
    shown = {kind for p in all_patterns() for kind in p.kinds if hasattr(layers, kind)}
    aliases = {
        kind for kind in shown if kind.startswith(("Convolution", "SeparableConvolution"))
    }
    assert [kind for kind in sorted(shown - aliases) if f"`{kind}`" not in page] == []


def test_shapes_that_contradict_each_other_are_a_reason_and_no_crash(tmp_path):
    inputs = keras.Input((4,))
    parts = [layers.Dense(3, name="one")(inputs), layers.Dense(3, name="other")(inputs)]
    model = keras.Model(inputs, BN(name="bn")(layers.Concatenate(name="join")(parts)))
    config = model.to_json()
    for wrong in ("[null, 5]", "[null, 2, 6]"):
        path = tmp_path / "model.json"
        path.write_text(config.replace("[null, 6]", wrong))
        (found,) = make_plan(archive.read(path)).verdicts
        assert found.folded or found.detail


@pytest.mark.parametrize("kind", ["Add", "Average", "Dropout", "Flatten", "MaxPooling2D"])
def test_a_damaged_file_may_hold_a_layer_without_an_input(kind, tmp_path):
    damaged = hostile_files.layer(kind, "a", [])
    damaged["inbound_nodes"] = [[]]
    parts = [hostile_files.source(), damaged, hostile_files.bn("b", ["a"])]
    path = hostile_files.write_json(tmp_path, hostile_files.model(parts, ["b"]))
    (verdict,) = make_plan(archive.read(path)).verdicts
    assert not verdict.folded
