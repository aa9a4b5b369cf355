"""Fixing: every repair, its proof, the optimizer's state, and the command line."""

from __future__ import annotations

import html
import json
import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest

import bnscope
from bnscope.errors import BnscopeError, UnknownCodeError, VerificationError
from bnscope.fixing.repairs import apart, repairs
from bnscope.graph import archive, live
from bnscope.linting.engine import Linter
from bnscope.rewriting.apply import apply_edits, rebuild
from bnscope.rewriting.edits import TransformWeights
from bnscope.rewriting.training import carry_training
from bnscope.rules import find
from bnscope.rules.redundant_bias import RedundantBias

layers = keras.layers


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(11)


@pytest.fixture
def lively(randomized, rng):
    """Random BN statistics, negative gammas, and biases that are not zero."""

    def make_lively(model):
        randomized(model)
        for variable in model.trainable_variables:
            if variable.name == "bias":
                variable.assign(rng.normal(0.0, 1.0, variable.shape))
        return model

    return make_lively


@pytest.fixture
def quick(monkeypatch):
    """For what does not depend on it: no proof by `predict` and export, which take long."""
    monkeypatch.setattr("bnscope.fixing.engine._SAFE_ROUTES", ())


def sample(model, count=6):
    rng = np.random.default_rng(5)
    shapes = [(count, *tensor.shape[1:]) for tensor in model.inputs]
    arrays = [rng.normal(size=shape).astype("float32") for shape in shapes]
    return arrays[0] if len(arrays) == 1 else arrays


def outputs(model, x):
    y = model(x, training=False)
    return [keras.ops.convert_to_numpy(one) for one in keras.tree.flatten(y)]


def error(model, other):
    x = sample(model)
    pairs = zip(outputs(model, x), outputs(other, x), strict=True)
    return max(np.max(np.abs(b - a)) / np.max(np.abs(a)) for a, b in pairs)


def repaired(model, code, fix="safe"):
    """The model after one pass of the repairs of one rule, not verified."""
    chosen, _ = apart(repairs(live.read(model), Linter(rules=[find(code)]), fix))
    assert chosen, f"{code} has no repair"
    return apply_edits(model, [edit for repair in chosen for edit in repair.edits])


def chain(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts, layers.ReLU(), layers.Flatten()])


def bn(**arguments):
    return layers.BatchNormalization(**arguments)


# BN101, redundant bias

BIASED = {
    "conv": lambda: chain((8, 8, 3), layers.Conv2D(4, 3), bn()),
    "conv1d pooled": lambda: chain(
        (12, 3), layers.Conv1D(4, 3), layers.MaxPooling1D(2), bn()
    ),
    "conv3d": lambda: chain((5, 5, 5, 2), layers.Conv3D(3, 2), bn()),
    "transposed": lambda: chain((5, 5, 3), layers.Conv2DTranspose(4, 3), bn()),
    "depthwise": lambda: chain(
        (8, 8, 3), layers.DepthwiseConv2D(3, depth_multiplier=2), bn()
    ),
    "separable": lambda: chain((8, 8, 3), layers.SeparableConv2D(5, 3), bn()),
    "dense": lambda: chain((7,), layers.Dense(5), bn()),
    "dense on a sequence": lambda: chain((4, 7), layers.Dense(5), bn()),
    "einsum": lambda: chain(
        (4, 7),
        layers.EinsumDense("abc,cd->abd", output_shape=(None, 5), bias_axes="d"),
        bn(),
    ),
    "pooled": lambda: chain(
        (9, 9, 3), layers.Conv2D(4, 2), layers.AveragePooling2D(2, padding="same"), bn()
    ),
    "upsampled and cropped": lambda: chain(
        (5, 5, 3),
        layers.Conv2D(4, 2),
        layers.UpSampling2D(2, interpolation="bilinear"),
        layers.Cropping2D(1),
        bn(),
    ),
    "global": lambda: chain(
        (6, 6, 3), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), bn()
    ),
    "flattened": lambda: chain((6, 5, 3), layers.Conv2D(4, 3), layers.Flatten(), bn()),
    "pooled and flattened": lambda: chain(
        (8, 8, 3), layers.Conv2D(4, 3), layers.MaxPooling2D(2), layers.Flatten(), bn()
    ),
    "sequence flattened": lambda: chain((4, 7), layers.Dense(5), layers.Flatten(), bn()),
    "without scale": lambda: chain((7,), layers.Dense(5), bn(scale=False, center=False)),
    "renorm": lambda: chain((7,), layers.Dense(5), bn(renorm=True)),
}


@pytest.mark.parametrize("name", BIASED)
def test_a_bias_moves_into_the_moving_mean(name, lively):
    model = lively(BIASED[name]())
    if name == "renorm":
        model.layers[1].renorm_mean.assign(model.layers[1].moving_mean)
    new = repaired(model, "BN101")
    assert not any(variable.name == "bias" for variable in new.variables)
    assert error(model, new) < 1e-5
    assert not bnscope.lint(new, select="BN101").findings


def test_renorm_mean_moves_with_the_moving_mean(lively):
    model = lively(BIASED["renorm"]())
    old, norm = model.layers[:2]
    expected = np.asarray(norm.renorm_mean) - np.asarray(old.bias)
    new = repaired(model, "BN101").layers[1]
    assert np.allclose(new.renorm_mean, expected, atol=1e-6)


def test_a_bias_moves_into_every_bn_that_it_feeds(lively):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3)(inputs)
    ends = [layers.ReLU()(bn()(x)), layers.ReLU()(bn()(layers.MaxPooling2D(2)(x)))]
    model = lively(keras.Model(inputs, ends))
    assert error(model, repaired(model, "BN101")) < 1e-5


def test_a_shared_layer_with_its_shared_bn_is_repaired_once(lively):
    dense, norm = layers.Dense(4), bn()
    inputs = [keras.Input((5,)), keras.Input((5,))]
    towers = [layers.ReLU()(norm(dense(tensor))) for tensor in inputs]
    model = lively(keras.Model(inputs, towers))
    assert error(model, repaired(model, "BN101")) < 1e-5


def test_two_biased_layers_that_feed_one_bn_are_found_and_left_alone(lively):
    norm = bn(name="norm")
    inputs = keras.Input((5,))
    towers = [layers.ReLU()(norm(layers.Dense(4, name=name)(inputs))) for name in "ab"]
    model = lively(keras.Model(inputs, towers))
    found = bnscope.lint(model, select="BN101")
    assert [(f.layer, f.fix) for f in found] == [("a", None), ("b", None)]
    assert "It cannot be moved into the moving mean" in found.findings[0].message
    assert find("BN101").repair(bnscope.rules.base.Context(live.read(model)), "a") == ()
    result = bnscope.fix(model, select="BN101")
    assert result.model is model
    assert not result.applied


def test_a_bias_is_not_moved_where_a_regularizer_sees_it():
    model = chain((7,), layers.Dense(5, activity_regularizer="l2"), bn())
    assert not bnscope.lint(model, select="BN101").findings


def test_pooling_over_channels_lets_no_bias_pass():
    model = chain(
        (8, 6, 4),
        layers.Conv2D(4, 1),
        layers.AveragePooling2D(1, data_format="channels_first"),
        bn(),
    )
    assert not bnscope.lint(model, select="BN101").findings


@pytest.mark.usefixtures("quick")
def test_nested_models_are_repaired_inside(lively):
    inner = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4, 3),
            bn(),
            layers.Conv2D(3, 2, name="last"),
        ],
        name="inner",
    )
    inputs = keras.Input((6, 6, 3))
    x = layers.ReLU()(bn(name="outer")(inner(inputs)))
    model = lively(keras.Model(inputs, layers.Flatten()(x)))
    result = bnscope.fix(model, select="BN101")
    assert [one.layer for one in result.applied] == ["inner/conv2d", "inner/last"] or [
        one.layer.rpartition("/")[0] for one in result.applied
    ] == ["inner", "inner"]
    assert result.max_error < 1e-5
    assert not result.remaining.findings


@pytest.mark.usefixtures("quick")
def test_mixed_precision_is_repaired(lively):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = lively(chain((8, 8, 3), layers.Conv2D(4, 3), bn()))
        result = bnscope.fix(model)
    finally:
        keras.config.set_dtype_policy(policy)
    assert [one.code for one in result.applied] == ["BN101"]
    assert result.max_error < 0.01
    assert str(result.model.layers[1].moving_mean.dtype) == "float32"


def channels_first(width, flatten=None):
    between = [] if flatten is None else [layers.Flatten(data_format=flatten)]
    return chain(
        (3, 6, width),
        layers.Conv2D(4, 3, data_format="channels_first"),
        *between,
        bn(axis=1),
    )


@pytest.mark.parametrize("flatten", [None, "channels_first", "channels_last"])
def test_channels_may_come_first(flatten, lively):
    model = lively(channels_first(8, flatten))
    assert error(model, repaired(model, "BN101")) < 1e-5


def test_a_bias_that_tensorflow_may_misplace_stays():
    (finding,) = bnscope.lint(channels_first(6), select="BN101")
    assert finding.fix is None
    assert "TensorFlow may add this bias along another axis" in finding.message


# The other repairs


def test_a_missing_shift_is_added_and_changes_no_output(lively):
    model = lively(chain((7,), layers.Dense(5, use_bias=False), bn(center=False)))
    new = repaired(model, "BN102", "unsafe")
    assert np.array_equal(new.layers[1].beta, np.zeros(5))
    assert error(model, new) == 0.0


@pytest.mark.parametrize(
    ("shape", "between"),
    [
        ((6, 6, 4), []),
        ((6, 6, 4), [lambda: layers.AveragePooling2D(2, padding="same")]),
        ((6, 6, 4), [lambda: layers.UpSampling2D(2), layers.Flatten]),
        ((6, 6, 4), [layers.GlobalAveragePooling2D]),
        ((4,), [lambda: layers.Dropout(0.5)]),
    ],
)
@pytest.mark.parametrize("second", [{}, {"scale": False, "center": False, "epsilon": 1e-2}])
def test_two_bn_collapse_into_one_that_computes_the_same(shape, between, second, lively):
    model = lively(chain(shape, bn(), *[make() for make in between], bn(**second)))
    gamma = np.asarray(model.layers[0].gamma).copy()
    gamma[1] = 0.0
    model.layers[0].gamma.assign(gamma)
    new = repaired(model, "BN105", "unsafe")
    assert sum(isinstance(one, layers.BatchNormalization) for one in new.layers) == 1
    assert error(model, new) < 1e-5


def test_the_collapsed_bn_has_the_statistics_of_its_own_input(lively):
    model = lively(chain((4,), bn(momentum=0.0), bn(momentum=0.0)))
    x = np.random.default_rng(1).normal(2.0, 3.0, (512, 4)).astype("float32")
    model(x, training=True)
    new = repaired(model, "BN105", "unsafe").layers[0]
    assert np.allclose(new.moving_mean, x.mean(0), rtol=1e-3, atol=1e-3)
    assert np.allclose(new.moving_variance, x.var(0), rtol=1e-3)


def test_a_frozen_second_bn_does_not_take_up_a_trainable_first():
    model = chain((4,), bn(), bn(trainable=False))
    (finding,) = bnscope.lint(model, select="BN105")
    assert finding.fix is None


def test_a_zero_gamma_becomes_one_also_in_the_configuration():
    model = chain((7,), layers.Dense(5, use_bias=False), bn(gamma_initializer="zeros"))
    new = repaired(model, "BN201", "unsafe").layers[1]
    assert np.array_equal(new.gamma, np.ones(5))
    assert new.get_config()["gamma_initializer"]["class_name"] == "Ones"


def test_a_ported_momentum_is_turned_round():
    model = chain((7,), layers.Dense(5, use_bias=False), bn(momentum=0.1))
    assert repaired(model, "BN203", "unsafe").layers[1].momentum == 0.9


def test_a_wrong_axis_has_no_repair_and_the_page_says_why():
    rule = find("BN108")
    for make in rule.examples("bad").values():
        assert all(one.fix is None for one in bnscope.lint(make(keras), select="BN108"))
    assert "There is no repair" in rule.page()


@pytest.mark.parametrize("code", ["BN101", "BN102", "BN105", "BN201", "BN203"])
def test_a_repair_removes_what_the_examples_of_its_rule_show(code, lively):
    for make in find(code).examples("bad").values():
        model = make(keras)
        if code != "BN201":
            lively(model)
        new = repaired(model, code, "safe" if code == "BN101" else "unsafe")
        assert not bnscope.lint(new, select=code).findings


# The whole


def everything_wrong():
    inputs = keras.Input((8, 8, 3))
    x = bn(name="a")(layers.Conv2D(4, 3, name="conv")(inputs))
    x = layers.ReLU()(bn(name="b")(x))
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.ReLU()(bn(name="c", center=False, momentum=0.1)(x))
    x = layers.Dense(5, name="dense")(layers.Flatten()(x))
    x = layers.ReLU()(bn(name="d")(x))
    return keras.Model(inputs, layers.Dense(2, name="head")(x), name="wrong")


def test_safe_repairs_are_proved_by_three_ways_of_using_the_model(lively):
    model = lively(everything_wrong())
    result = bnscope.fix(model)
    assert {one.code for one in result.applied} == {"BN101"}
    assert [check.route for check in result.verification] == ["call", "predict", "export"]
    assert all(check.passed and check.error is not None for check in result.verification)
    assert 0.0 <= result.max_error < 1e-5
    assert {f.code for f in result.remaining} == {"BN102", "BN105", "BN203"}
    assert not result.notes


def test_a_model_with_named_inputs_and_outputs_is_proved_by_all_ways(lively):
    inputs = {name: keras.Input((4,), name=name) for name in "ab"}
    x = layers.Concatenate()(list(inputs.values()))
    y = layers.ReLU()(bn()(layers.Dense(3)(x)))
    model = lively(keras.Model(inputs, {"left": y, "right": layers.Dense(1)(y)}))
    result = bnscope.fix(model)
    assert [check.error is not None for check in result.verification] == [True] * 3
    assert result.model.output_names == model.output_names


@pytest.mark.usefixtures("quick")
def test_a_class_that_is_lost_is_said(lively):
    class Trainer(keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    inputs = keras.Input((4,))
    model = lively(Trainer(inputs, layers.ReLU()(bn()(layers.Dense(3)(inputs)))))
    assert "what Trainer adds, such as a train_step" in bnscope.fix(model).notes[0]


@pytest.mark.usefixtures("quick")
def test_overlapping_repairs_are_made_in_several_passes(lively):
    model = lively(everything_wrong())
    result = bnscope.fix(model, unsafe=True)
    codes = [one.code for one in result.applied]
    assert codes == ["BN102", "BN105", "BN203", "BN101", "BN101", "BN101"]
    assert not result.skipped
    assert result.remaining.ok
    assert error(model, result.model) < 1e-5
    effects = {one.code: one.behaviour for one in result.applied}
    assert effects["BN105"] == (
        "The outputs at inference stay as they are; training changes."
    )


def test_an_unsafe_repair_that_moves_the_outputs_says_by_how_much(lively):
    model = lively(everything_wrong())
    norm = model.get_layer("d")
    config = {**norm.get_config(), "gamma_initializer": "zeros"}
    model = apply_edits(model, [bnscope.rewriting.edits.SetConfig("d", config)])
    model.get_layer("d").gamma.assign(np.zeros(5))
    result = bnscope.fix(model, unsafe=True, select="BN201")
    (one,) = result.applied
    assert one.effect["call"] > 0.01
    assert one.behaviour.startswith("It changes model(x, training=False) by")


def test_neither_the_model_nor_its_optimizer_is_changed(lively):
    model = lively(everything_wrong())
    model.compile("adam", "mse", metrics=[keras.metrics.MeanAbsoluteError()])
    model.fit(sample(model), np.ones((6, 2)), verbose=0)
    attributes = {name: vars(model).get(name) for name in ("predict_function", "optimizer")}
    values = [np.array(v) for v in (*model.variables, *model.optimizer.variables)]
    config = model.to_json()
    result = bnscope.fix(model)
    after = [np.array(v) for v in (*model.variables, *model.optimizer.variables)]
    assert all(np.array_equal(a, b) for a, b in zip(values, after, strict=True))
    assert model.to_json() == config
    assert all(vars(model).get(name) is value for name, value in attributes.items())
    shared = {id(v) for v in model.variables} | {id(v) for v in model.optimizer.variables}
    assert not shared & {id(v) for v in result.model.variables}
    assert not shared & {id(v) for v in result.model.optimizer.variables}


def test_a_wrong_repair_is_refused_and_named(lively, monkeypatch):
    right = RedundantBias.repair

    def wrong(self, context, layer):
        edits = right(self, context, layer)
        return edits if layer != "depthwise" else edits[:1]

    monkeypatch.setattr(RedundantBias, "repair", wrong)
    with pytest.raises(
        VerificationError, match='the repair of BN101 at "depthwise" causes'
    ):
        bnscope.fix(lively(everything_wrong()))


@pytest.mark.usefixtures("quick")
def test_three_bn_in_a_row_become_one_in_two_passes(lively):
    model = lively(chain((4,), bn(), bn(), bn()))
    result = bnscope.fix(model, unsafe=True, select="BN105")
    assert len(result.applied) == 2
    assert error(model, result.model) < 1e-5
    assert result.remaining.ok


@pytest.mark.usefixtures("quick")
def test_a_repair_that_does_not_help_is_given_up(lively, monkeypatch):
    def idle(_rule, _context, layer):
        return (TransformWeights(layer, lambda _: {}),)

    monkeypatch.setattr(RedundantBias, "repair", idle)
    result = bnscope.fix(lively(chain((7,), layers.Dense(5), bn())))
    assert [one.reason for one in result.skipped] == ["It is found again after its repair."]


def test_what_cannot_be_rebuilt_is_skipped_with_its_reason():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = bn(momentum=0.1)

        def call(self, inputs, training=None):
            return self.norm(inputs, training=training)

    model = Net()
    model(np.ones((2, 3), "float32"))
    result = bnscope.fix(model, unsafe=True, select="BN203")
    assert result.model is model
    assert "is a subclassed model" in result.skipped[0].reason
    inputs = keras.Input((4, 3))
    inside = layers.TimeDistributed(bn(momentum=0.1))(inputs)
    result = bnscope.fix(keras.Model(inputs, inside), unsafe=True, select="BN203")
    assert not result.applied
    assert "lie where a model cannot be rebuilt" in result.skipped[0].reason


def test_a_result_shows_itself():
    result = bnscope.fix(chain((7,), layers.Dense(5), bn()), select="BN101")
    shown = str(result)
    assert shown.startswith("Repaired BN101 redundant-bias (safe).")
    assert "Verified by " in shown
    assert shown.index("Remaining:\n") < shown.index("nothing found")
    assert result._repr_html_() == f"<pre>{html.escape(shown)}</pre>"


def test_what_lies_in_a_class_of_the_users_remains():
    class Block(layers.Layer):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.dense = layers.Dense(4, name="dense")
            self.norm = bn(name="norm")

        def call(self, inputs):
            return keras.ops.relu(self.norm(self.dense(inputs)))

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.block = Block(name="block")

        def call(self, inputs):
            return self.block(inputs)

    inputs = keras.Input((3,))
    subclassed = Net()
    subclassed(np.ones((2, 3), "float32"))
    for model in (keras.Model(inputs, Block(name="block")(inputs)), subclassed):
        result = bnscope.fix(model, select="BN101")
        assert (result.applied, result.model) == ((), model)
        assert [each.layer for each in result.remaining] == ["block/dense"]


@pytest.mark.usefixtures("quick")
def test_findings_can_be_selected_and_ignored(lively):
    model = lively(everything_wrong())
    assert not bnscope.fix(model, ignore="BN101").applied
    result = bnscope.fix(model, unsafe=True, select=["BN203"])
    assert {one.code for one in result.applied} == {"BN203"}
    with pytest.raises(UnknownCodeError):
        bnscope.fix("missing.keras", select="BN999")


def test_data_to_verify_with_must_fit(lively):
    model = lively(everything_wrong())
    with pytest.raises(BnscopeError, match="samples of shape"):
        bnscope.fix(model, verify_data=np.ones((4, 3), "float32"))


@pytest.mark.usefixtures("quick")
def test_a_model_whose_outputs_prove_nothing_is_not_called_safe():
    inputs = keras.Input((4,))
    x = layers.ReLU()(bn(gamma_initializer="zeros")(layers.Dense(3)(inputs)))
    model = keras.Model(inputs, x)
    with pytest.raises(VerificationError, match="nothing can be verified"):
        bnscope.fix(model)
    assert bnscope.fix(model, unsafe=True).remaining.ok


# Training goes on


OPTIMIZERS = {
    "adam": lambda o: o.Adam(1e-2, amsgrad=True),
    "adamw": lambda o: o.AdamW(1e-2, weight_decay=0.1),
    "sgd": lambda o: o.SGD(1e-2, momentum=0.9, nesterov=True),
    "rmsprop": lambda o: o.RMSprop(1e-2, centered=True, momentum=0.5),
    "lion": lambda o: o.Lion(1e-2),
    "nadam": lambda o: o.Nadam(1e-2),
    "adagrad": lambda o: o.Adagrad(1e-2),
    "adadelta": lambda o: o.Adadelta(1.0),
    "adamax": lambda o: o.Adamax(1e-2),
    "ftrl": lambda o: o.Ftrl(1e-2),
    "adafactor": lambda o: o.Adafactor(1e-2),
    "lamb": lambda o: o.Lamb(1e-2),
    "muon": lambda o: o.Muon(1e-2),
    "loss scaled": lambda o: o.LossScaleOptimizer(o.Adam(1e-2), initial_scale=8.0),
    "averaged": lambda o: o.Adam(1e-2, use_ema=True, ema_overwrite_frequency=4),
    "accumulated": lambda o: o.Adam(1e-2, gradient_accumulation_steps=2),
    "scheduled": lambda o: o.SGD(o.schedules.ExponentialDecay(0.1, 2, 0.5), momentum=0.9),
    "clipped": lambda o: o.Adam(1e-2, global_clipnorm=0.1),
}


def small():
    inputs = keras.Input((6,))
    x = layers.ReLU()(bn(name="n1")(layers.Dense(5, name="d1")(inputs)))
    x = layers.ReLU()(bn(name="n2")(layers.Dense(4, name="d2")(x)))
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def batch(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(16, 6)).astype("float32"), rng.normal(size=(16, 2))


def weights_by_path(model):
    return {
        f"{layer.name}/{v.name}": np.array(v)
        for layer in model.layers
        for v in layer.variables
    }


def assert_same_step(old, new, before):
    one, other = weights_by_path(old), weights_by_path(new)
    assert set(one) - set(other) == {"d1/bias", "d2/bias"}
    for name, value in other.items():
        if name.endswith("moving_mean"):
            continue  # differs by the bias
        moved = np.max(np.abs(one[name] - before[name]))
        assert moved > 0, name
        assert np.max(np.abs(value - one[name])) <= 2e-3 * moved, name


def trained(optimizer, steps=3):
    model = small()
    model.compile(optimizer, keras.losses.MeanSquaredError(), run_eagerly=True)
    for step in range(steps):
        model.train_on_batch(*batch(step))
    return model


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_where_it_was(name):
    model = trained(OPTIMIZERS[name](keras.optimizers))
    chosen, _ = apart(repairs(live.read(model), Linter(rules=[find("BN101")]), "safe"))
    rebuilt = rebuild(model, [edit for repair in chosen for edit in repair.edits])
    new = rebuilt.model
    carried = carry_training(model, new, rebuilt.variables, rebuilt.changed)
    assert (carried.kept, carried.dropped, carried.fresh, carried.notes) == (8, 2, 0, ())
    assert carried.steps == int(
        getattr(model.optimizer, "inner_optimizer", model.optimizer).iterations
    )
    before = weights_by_path(model)
    for seed in (7, 8):
        model.train_on_batch(*batch(seed))
        new.train_on_batch(*batch(seed))
    assert_same_step(model, new, before)


def test_without_the_optimizers_state_training_would_not_go_on_where_it_was():
    model = trained(keras.optimizers.Adam(1e-2))
    new = repaired(model, "BN101")
    new.compile(keras.optimizers.Adam(1e-2), "mse", run_eagerly=True)
    before = weights_by_path(model)
    model.train_on_batch(*batch(7))
    new.train_on_batch(*batch(7))
    with pytest.raises(AssertionError):
        assert_same_step(model, new, before)


@pytest.mark.usefixtures("quick")
def test_a_file_is_fixed_with_its_optimizer_and_loads_without_a_warning(tmp_path):
    model = trained(keras.optimizers.Adam(1e-2))
    model.save(tmp_path / "model.keras")
    result = bnscope.fix(tmp_path / "model.keras")
    path = result.save(tmp_path / "fixed.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = keras.models.load_model(path)
    assert len(new.optimizer.variables) == 2 + 2 * 8
    before = weights_by_path(model)
    model.train_on_batch(*batch(7))
    new.train_on_batch(*batch(7))
    assert_same_step(model, new, before)


@pytest.mark.usefixtures("quick")
def test_mixed_precision_training_goes_on_under_any_global_policy(tmp_path):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = trained(keras.optimizers.Adam(1e-2))
        model.save(tmp_path / "model.keras")
    finally:
        keras.config.set_dtype_policy(policy)
    result = bnscope.fix(tmp_path / "model.keras")
    assert keras.config.dtype_policy() == policy
    assert result.training.steps == 3
    assert result.training.kept == 8
    result.save(tmp_path / "fixed.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new = keras.models.load_model(tmp_path / "fixed.keras")
    assert isinstance(new.optimizer, keras.optimizers.LossScaleOptimizer)
    assert int(new.optimizer.inner_optimizer.iterations) == 3


@pytest.mark.usefixtures("quick")
def test_variables_that_are_excluded_from_weight_decay_stay_so():
    model = small()
    optimizer = keras.optimizers.AdamW(1e-2, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(
        var_list=[model.get_layer("d1").kernel], var_names=["gamma"]
    )
    model.compile(optimizer, keras.losses.MeanSquaredError(), run_eagerly=True)
    model.train_on_batch(*batch(0))
    new = bnscope.fix(model).model
    before = weights_by_path(model)
    model.train_on_batch(*batch(7))
    new.train_on_batch(*batch(7))
    assert_same_step(model, new, before)


@pytest.mark.usefixtures("quick")
def test_new_values_begin_with_new_slots_and_as_their_own_average():
    inputs = keras.Input((6,))
    norm = bn(name="n", center=False, gamma_initializer="zeros")
    x = layers.ReLU()(norm(layers.Dense(5, use_bias=False)(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(x))
    model.compile(keras.optimizers.Adam(1e-2, use_ema=True), "mse", run_eagerly=True)
    model.train_on_batch(*batch(0))
    result = bnscope.fix(model, unsafe=True, select="BN102,BN201")
    assert (result.training.kept, result.training.fresh) == (3, 2)
    assert "theirs begins anew" in result.notes[0]
    new, optimizer = result.model, result.model.optimizer
    assert len(optimizer.variables) == 2 + 3 * 5
    averages = dict(
        zip(
            [variable.path for variable in new.trainable_variables],
            optimizer._model_variables_moving_average,
            strict=True,
        )
    )
    assert np.array_equal(averages["n/gamma"], np.ones(5))
    new.train_on_batch(*batch(1))


@pytest.mark.usefixtures("quick")
def test_what_cannot_be_compiled_again_is_said_and_the_model_still_fixed(tmp_path):
    def own_loss(truth, prediction):
        return keras.ops.mean(keras.ops.abs(truth - prediction))

    model = small()
    model.compile("adam", own_loss, run_eagerly=True)
    model.train_on_batch(*batch(0))
    assert bnscope.fix(model).training.compiled
    model.save(tmp_path / "model.keras")
    result = bnscope.fix(tmp_path / "model.keras")
    assert not result.training.compiled
    assert len(result.applied) == 2
    assert "not compiled" in result.notes[0]


# The command line


@pytest.fixture
def wrong_file(lively, tmp_path):
    model = lively(everything_wrong())
    model.compile("adam", keras.losses.MeanSquaredError())
    path = tmp_path / "wrong.keras"
    model.save(path)
    return path


def test_the_command_writes_a_verified_file_and_lists_what_remains(
    run_cli, wrong_file, tmp_path
):
    out = tmp_path / "fixed.keras"
    code, stdout, _ = run_cli("fix", wrong_file, "-o", out)
    assert code == 1
    assert "Repaired BN101 redundant-bias (safe) in 3 layers." in stdout
    for way in ("model(x, training=False)", "predict", "the exported function"):
        assert f"Verified by {way}: outputs differ by at most" in stdout
    assert "warning BN105 consecutive-bn" in stdout
    assert "3 findings can be repaired with --unsafe-fixes." in stdout
    assert stdout.rstrip().endswith(f"Written to {out}.")
    assert run_cli("lint", out, "--select", "BN101")[0] == 0


@pytest.mark.usefixtures("quick")
def test_unsafe_fixes_leave_nothing(run_cli, wrong_file, tmp_path):
    out = tmp_path / "fixed.h5"
    code, stdout, _ = run_cli(
        "fix", wrong_file, "-o", out, "--unsafe-fixes", "--output-format", "json"
    )
    assert code == 0
    result = json.loads(stdout)
    assert result["output"] == str(out)
    assert result["remaining"] == []
    assert [check["route"] for check in result["verification"]] == ["call"]
    assert result["verification"][0]["max_error"] < 1e-5
    original = keras.models.load_model(wrong_file, compile=False)
    assert error(original, keras.models.load_model(out, compile=False)) < 1e-5


@pytest.mark.usefixtures("quick")
def test_a_legacy_file_is_fixed(run_cli, lively, tmp_path):
    model = lively(everything_wrong())
    model.save(tmp_path / "model.h5")
    code, _, _ = run_cli("fix", tmp_path / "model.h5", "-o", tmp_path / "fixed.keras")
    assert code == 1
    assert error(model, keras.models.load_model(tmp_path / "fixed.keras")) < 1e-5


def test_an_existing_output_is_refused_before_anything_is_loaded(run_cli, tmp_path):
    out = tmp_path / "out.keras"
    out.write_bytes(b"precious")
    code, _, stderr = run_cli("fix", tmp_path / "missing.keras", "-o", out)
    assert code == 2
    assert f"{out} exists already." in stderr
    assert out.read_bytes() == b"precious"
    code, _, stderr = run_cli("fix", tmp_path / "missing.keras", "-o", out, "--overwrite")
    assert code == 2
    assert "missing.keras" in stderr
    assert out.read_bytes() == b"precious"


def test_nothing_to_fix_writes_no_file(run_cli, lively, tmp_path):
    model = lively(chain((7,), layers.Dense(5, use_bias=False), bn()))
    model.save(tmp_path / "clean.keras")
    out = tmp_path / "out.keras"
    code, stdout, _ = run_cli("fix", tmp_path / "clean.keras", "-o", out)
    assert (code, stdout) == (0, "Nothing was repaired; no file was written.\n")
    assert not out.exists()
    assert run_cli("fix", tmp_path / "clean.keras", "--diff")[:2] == (
        0,
        "Nothing to repair.\n",
    )


def test_wrong_usage_is_one_line(run_cli, wrong_file, tmp_path):
    code, _, stderr = run_cli("fix", wrong_file)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "Use -o FILE, or --diff." in stderr
    (tmp_path / "text.keras").write_text("no model")
    code, _, stderr = run_cli("fix", tmp_path / "text.keras", "-o", tmp_path / "o.keras")
    assert (code, stderr.count("\n")) == (2, 1)
    code, _, stderr = run_cli("fix", wrong_file, "--diff", "--select", "BN999")
    assert code == 2
    assert "There is no rule 'BN999'." in stderr
    code, _, stderr = run_cli("fix", wrong_file, "--diff", "-o", tmp_path / "o.keras")
    assert (code, "--diff writes nothing." in stderr) == (2, True)


def test_the_diff_shows_every_change_without_keras(wrong_file):
    code = f"""
        import sys
        for name in ("keras", "tensorflow", "jax", "torch"):
            sys.modules[name] = None  # importing it raises ImportError
        from bnscope.cli import main
        sys.exit(main(["fix", {str(wrong_file)!r}, "--diff", "--unsafe-fixes"]))
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    for text in (
        "BN105 consecutive-bn (unsafe): b\n  a (BatchNormalization)\n    - the layer is taken",
        "    - center: False\n    + center: True\n    + beta (4,)",
        "    - use_bias: True\n    + use_bias: False\n    - bias",
        "BN203 momentum-torch-convention (unsafe): c\n  in a later pass",
    ):
        assert text in done.stdout
    assert done.stdout.endswith("findings would be repaired.\n")


def test_the_diff_is_the_same_for_both_formats(run_cli, wrong_file, tmp_path):
    legacy = tmp_path / "wrong.h5"
    keras.models.load_model(wrong_file, compile=False).save(legacy)
    found = [
        json.loads(run_cli("fix", path, "--diff", "--output-format", "json")[1])
        for path in (wrong_file, legacy)
    ]
    assert found[0]["repairs"]
    assert found[0]["repairs"] == found[1]["repairs"]
    assert archive.read(legacy).layers


def test_names_from_a_file_reach_no_terminal(run_cli, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="evil\x1b[2J"),
            bn(),
            layers.ReLU(),
            layers.Dense(2),
        ]
    )
    model.save(tmp_path / "evil.h5")
    _, stdout, _ = run_cli("fix", tmp_path / "evil.h5", "--diff")
    assert "\x1b" not in stdout
    assert "evil\\x1b[2J" in stdout
