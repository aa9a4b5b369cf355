"""The rules on training state, compile configuration and folding, and what they are read from."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import bnscope
from bnscope.bn import LARGEST_INITIAL_SHARE
from bnscope.graph import read
from bnscope.graph.model import Optimizer
from bnscope.graph.optimizers import from_compile_config
from bnscope.rewriting.edits import DropTraining, SetTrainable
from bnscope.rules import find
from bnscope.rules.base import Context, Severity
from bnscope.rules.cold_stats import ColdStats
from bnscope.rules.cold_stats_at_validation import ColdStatsAtValidation


@pytest.fixture(autouse=True)
def fresh_names():
    keras.utils.clear_session()


def found(model, code):
    return [
        (finding.layer, str(finding.severity))
        for finding in bnscope.lint(model, select=code)
    ]


def found_everywhere(model, code, folder):
    """What is found live; the files must give the same, to the letter."""
    live = bnscope.lint(model, select=code).findings
    for suffix in (".keras", ".h5"):
        path = folder / f"model{suffix}"
        model.save(path)
        assert repr(bnscope.lint(path, select=code).findings) == repr(live), suffix
    return [(finding.layer, str(finding.severity)) for finding in live]


def dense_bn(bn=None, *, width=3, optimizer=None, **kwargs):
    model = keras.Sequential(
        [
            keras.Input((4,), **kwargs),
            layers.Dense(width, use_bias=False),
            bn or layers.BatchNormalization(name="bn"),
            layers.ReLU(),
        ]
    )
    if optimizer is not None:
        model.compile(optimizer, "mse")
    return model


def counted(model, steps):
    """A compiled model whose optimizer has counted so many steps."""
    if not model.compiled:
        model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(steps)
    return model


def trained(bn, steps, *, variance=(0.9, 1.5, 2.0)):
    model = counted(dense_bn(bn), steps)
    bn.moving_mean.assign([0.3, -0.2, 0.1])
    bn.moving_variance.assign(variance)
    return model


# What the rules read


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: "sgd", Optimizer("SGD")),
        (lambda: keras.optimizers.AdamW(weight_decay=0.25), Optimizer("AdamW", 0.25)),
        (
            lambda: keras.optimizers.Adam(use_ema=True, gradient_accumulation_steps=2),
            Optimizer("Adam", use_ema=True, accumulation_steps=2),
        ),
        (
            lambda: keras.optimizers.LossScaleOptimizer(
                keras.optimizers.SGD(weight_decay=0.5, gradient_accumulation_steps=2)
            ),
            Optimizer("SGD", 0.5, accumulation_steps=2),
        ),
    ],
)
def test_the_training_is_read_alike_from_a_model_and_its_files(make, expected, tmp_path):
    model = dense_bn(optimizer=make())
    model.fit(np.ones((8, 4)), np.zeros((8, 3)), batch_size=2, verbose=0)
    live = read(model).training
    assert (live.compiled, live.optimizer_steps, live.optimizer) == (True, 4, expected)
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"model{suffix}")
        assert read(tmp_path / f"model{suffix}").training == live, suffix


def test_a_model_that_is_not_compiled_has_no_optimizer(tmp_path):
    model = dense_bn()
    model.save(tmp_path / "model.keras")
    model.save(tmp_path / "model.h5")
    for source in (model, tmp_path / "model.keras", tmp_path / "model.h5"):
        training = read(source).training
        assert (training.compiled, training.optimizer) == (False, None)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"optimizer": "adam"}, Optimizer("adam")),
        ({"optimizer_config": {"class_name": "My>Lion", "config": {}}}, Optimizer("Lion")),
        (
            {
                "optimizer_config": {
                    "class_name": "SGD",
                    "config": {
                        "weight_decay": "much",
                        "use_ema": 1,
                        "gradient_accumulation_steps": float("inf"),
                    },
                }
            },
            Optimizer("SGD"),
        ),
        ({"optimizer": [1, 2]}, None),
        ({}, None),
        ("adam", None),
        (None, None),
    ],
)
def test_odd_compile_configurations_are_read_without_complaint(config, expected):
    assert from_compile_config(config) == expected


# BN206, BN406, BN407: the optimizer's settings


@pytest.mark.parametrize(
    ("code", "settings", "severity"),
    [
        ("BN206", {"weight_decay": 0.01}, "info"),
        ("BN406", {"gradient_accumulation_steps": 4}, "warning"),
        ("BN407", {"use_ema": True}, "warning"),
    ],
)
def test_an_optimizer_setting_concerns_trainable_layers_only(
    code, settings, severity, tmp_path
):
    model = dense_bn(optimizer=keras.optimizers.SGD(**settings))
    assert found_everywhere(model, code, tmp_path) == [("bn", severity)]
    frozen = layers.BatchNormalization(trainable=False)
    model = dense_bn(frozen, optimizer=keras.optimizers.SGD(**settings))
    assert found_everywhere(model, code, tmp_path) == []
    assert found(dense_bn(optimizer="sgd"), code) == []
    assert found(dense_bn(), code) == []


def test_weight_decay_names_what_it_reaches():
    decay = keras.optimizers.AdamW(weight_decay=0.02)
    bn = layers.BatchNormalization(scale=False)
    (finding,) = bnscope.lint(dense_bn(bn, optimizer=decay), select="BN206")
    assert finding.message == (
        "AdamW with weight_decay=0.02 pulls beta towards 0, unless excluded."
    )
    bn = layers.BatchNormalization(scale=False, center=False)
    decay = keras.optimizers.AdamW(weight_decay=0.02)
    assert found(dense_bn(bn, optimizer=decay), "BN206") == []


@pytest.mark.parametrize(("batch", "expected"), [(31, 1), (32, 0)])
def test_accumulation_over_large_micro_batches_is_quiet(batch, expected):
    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=2)
    model = dense_bn(optimizer=optimizer, batch_size=batch)
    assert len(found(model, "BN406")) == expected


# BN302


@pytest.mark.parametrize(
    ("momentum", "steps", "expected"),
    [
        (0.99, 298, ["warning"]),
        (0.99, 299, []),
        (0.9, 28, ["warning"]),
        (0.9, 29, []),
        (0.9997, 9000, ["info"]),
        (0.9997, 9990, []),
        (1.0, 5, []),
        (0.0, 5, []),
        (0.99, 0, []),
    ],
)
def test_statistics_are_cold_by_momentum_and_steps(momentum, steps, expected):
    model = trained(layers.BatchNormalization(momentum=momentum), steps, variance=[2, 3, 4])
    assert [severity for _, severity in found(model, "BN302")] == expected


def test_both_rules_on_cold_statistics_share_their_threshold():
    for rule in (ColdStats, ColdStatsAtValidation):
        assert rule.thresholds()["LARGEST_INITIAL_SHARE"] == LARGEST_INITIAL_SHARE


def test_the_message_says_what_is_known_and_what_is_supposed(tmp_path):
    model = trained(layers.BatchNormalization(name="bn"), 20, variance=[2.0, 3.0, 4.0])
    assert found_everywhere(model, "BN302", tmp_path) == [("bn", "warning")]
    (finding,) = bnscope.lint(model, select="BN302")
    assert finding.message == (
        "at most 82% of these statistics may still be the initial mean 0 and variance 1, if "
        "this optimizer (20 steps, 20 updates at momentum 0.99) trained this layer from "
        "scratch; 299 updates bring that below 5%."
    )


def test_a_small_variance_proves_statistics_warm_if_they_began_at_one():
    assert (
        found(trained(layers.BatchNormalization(), 20, variance=[0.04, 1, 2]), "BN302")
        == []
    )
    bn = layers.BatchNormalization(moving_variance_initializer="zeros", name="bn")
    assert found(trained(bn, 20, variance=[0.04, 1, 2]), "BN302") == [("bn", "warning")]


def test_a_variance_too_small_for_training_from_scratch_shows_a_recompile(tmp_path):
    bn = layers.BatchNormalization(name="bn")
    model = trained(bn, 20, variance=[0.5, 1.0, 2.0])
    assert found_everywhere(model, "BN302", tmp_path) == [("bn", "info")]
    (finding,) = bnscope.lint(model, select="BN302")
    assert finding.data["initial_share"] == 0.5
    assert finding.message.endswith("trained before its last compile.")


def test_training_from_scratch_is_not_taken_for_fine_tuning():
    rng = np.random.default_rng(0)
    model = dense_bn(optimizer="sgd")
    # Constant inputs drive the variances down as fast as they can go.
    model.fit(np.ones((40, 4)), rng.normal(size=(40, 3)), batch_size=2, verbose=0)
    assert found(model, "BN302") == [("bn", "warning")]


def test_a_frozen_layer_in_the_model_makes_cold_statistics_a_note():
    bn = layers.BatchNormalization(name="bn")
    model = trained(bn, 20, variance=[2, 3, 4])
    model.layers[0].trainable = False
    assert found(model, "BN302") == [("bn", "info")]
    bn.trainable = False
    assert found(model, "BN302") == []


def test_two_calls_a_step_are_two_updates():
    bn = layers.BatchNormalization(momentum=0.9, name="bn")
    inputs = keras.Input((3,))
    x = layers.ReLU()(bn(layers.Dense(3)(inputs)))
    model = keras.Model(inputs, bn(layers.Dense(3)(x)))
    bn.moving_variance.assign([2, 3, 4])
    assert found(counted(model, 14), "BN302") == [("bn", "warning")]
    assert found(counted(model, 15), "BN302") == []


@pytest.mark.parametrize(
    ("length", "steps", "expected"), [(5, 5, 1), (5, 6, 0), (None, 5, 0)]
)
def test_time_steps_count_as_updates(length, steps, expected, tmp_path):
    bn = layers.BatchNormalization(momentum=0.9)
    model = keras.Sequential(
        [
            keras.Input((length, 4)),
            layers.Dense(3, use_bias=False),
            layers.TimeDistributed(bn),
        ]
    )
    bn.moving_variance.assign([2, 3, 4])
    assert len(found_everywhere(counted(model, steps), "BN302", tmp_path)) == expected


def test_statistics_that_were_never_updated_are_reported_once():
    model = counted(dense_bn(), 20)
    assert {finding.code for finding in bnscope.lint(model, select="BN301,BN302")} == {
        "BN301"
    }


# BN401 and BN402


def base_model(kind):
    bn = layers.BatchNormalization(name="bn")
    if kind == "sequential":
        return keras.Sequential([keras.Input((4,)), layers.Dense(3), bn], name="base")
    inputs = keras.Input((4,))
    return keras.Model(inputs, bn(layers.Dense(3)(inputs)), name="base")


def around(base, training, *, compiled=True):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(base(inputs, training=training)))
    if compiled:
        model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_a_baked_value_reaches_the_leaves_of_an_inner_model(kind, tmp_path):
    model = around(base_model(kind), training=False)
    assert found_everywhere(model, "BN402", tmp_path) == [("base/bn", "error")]
    model = around(base_model(kind), training=True)
    assert found_everywhere(model, "BN401", tmp_path) == [("base/bn", "warning")]
    assert found(model, "BN402") == []


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_a_frozen_base_is_quiet_also_after_a_reload(kind, tmp_path):
    for training in (True, False):
        base = base_model(kind)
        base.trainable = False
        model = around(base, training=training)
        assert found_everywhere(model, "BN401,BN402", tmp_path) == []
        reloaded = keras.models.load_model(tmp_path / "model.keras")
        assert found(reloaded, "BN401,BN402") == []


def test_training_false_is_a_note_where_nothing_will_train(tmp_path):
    model = around(base_model("functional"), training=False, compiled=False)
    assert found_everywhere(model, "BN402", tmp_path) == [("base/bn", "info")]


def test_fit_does_update_what_bn402_reports():
    base = base_model("functional")
    model = around(base, training=False)
    before = np.array(base.get_layer("bn").moving_mean)
    model.fit(np.ones((4, 4)), np.zeros((4, 2)), verbose=0)
    assert not np.array_equal(before, np.array(base.get_layer("bn").moving_mean))


def test_a_baked_value_reaches_a_wrapped_layer(tmp_path):
    inputs = keras.Input((5, 4))
    wrapped = layers.TimeDistributed(layers.BatchNormalization(name="bn"), name="steps")
    model = keras.Model(inputs, wrapped(layers.Dense(3)(inputs), training=False))
    model.compile("sgd", "mse")
    assert found_everywhere(model, "BN402", tmp_path) == [("steps/bn", "error")]


def generator(*, dropout_training):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    x = layers.BatchNormalization(name="bn")(x, training=True)
    x = layers.Dropout(0.5)(x, training=dropout_training)
    return keras.Model(inputs, layers.Conv2D(3, 3, padding="same")(layers.ReLU()(x)))


def test_a_generator_after_pix2pix_means_its_training_mode(tmp_path):
    assert found_everywhere(generator(dropout_training=True), "BN401", tmp_path) == []
    assert found(generator(dropout_training=None), "BN401") == [("bn", "warning")]


@pytest.mark.parametrize(
    ("code", "edit"),
    [
        ("BN401", DropTraining("base/bn")),
        ("BN402", SetTrainable("base/bn", value=False)),
    ],
)
def test_an_unsafe_fix_comes_with_its_edit(code, edit):
    model = around(base_model("functional"), training=code == "BN401")
    (finding,) = bnscope.lint(model, select=code)
    assert finding.fix == "unsafe"
    assert find(code).repair(Context(read(model)), finding.layer) == (edit,)


# BN403 and BN404


@pytest.mark.parametrize(
    ("variable", "expected"),
    [(None, 1), ("gamma", 0), ("beta", 0), ("moving_mean", 0), ("moving_variance", 0)],
)
def test_frozen_is_wrong_only_where_nothing_was_learned(variable, expected):
    bn = layers.BatchNormalization(trainable=False)
    model = dense_bn(bn)
    if variable:
        getattr(bn, variable).assign([1.0, 0.5, -2.0])
    assert len(found(model, "BN403")) == expected
    bn.trainable = True
    assert found(model, "BN403") == []


def conv_bn_twice(flags):
    first, first_bn, second, second_bn = flags
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, trainable=first, name="conv1"),
            layers.BatchNormalization(trainable=first_bn, name="bn1"),
            layers.ReLU(),
            layers.SeparableConv2D(4, 3, trainable=second, name="conv2"),
            layers.BatchNormalization(trainable=second_bn, name="bn2"),
        ]
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((False, True, True, True), ["bn1"]),
        ((False, True, False, False), ["bn1"]),
        ((True, True, False, True), ["bn2"]),
        ((True, False, True, False), []),
        ((False, False, True, True), []),
        ((False, False, False, False), []),
        ((True, True, True, True), []),
        ((False, True, False, True), []),
    ],
    ids=lambda value: "".join("ft"[flag] for flag in value) if len(value) == 4 else None,
)
def test_a_trainable_bn_behind_a_frozen_convolution(flags, expected, tmp_path):
    model = conv_bn_twice(flags)
    assert [layer for layer, _ in found_everywhere(model, "BN404", tmp_path)] == expected


def test_an_activation_between_is_not_directly_behind():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu", trainable=False),
            layers.MaxPooling2D(),
            layers.BatchNormalization(),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
        ]
    )
    assert found(model, "BN404") == []


# BN405


@pytest.mark.parametrize(
    ("shape", "batch", "expected"),
    [((4,), 31, 1), ((4,), 32, 0), ((4,), None, 0), ((3, 5, 4), 2, 1), ((4, 4, 4), 2, 0)],
)
def test_a_small_batch_is_counted_in_values_a_channel(shape, batch, expected, tmp_path):
    inputs = keras.Input(shape, batch_size=batch)
    x = layers.BatchNormalization(name="bn")(layers.Dense(3, use_bias=False)(inputs))
    model = keras.Model(inputs, layers.ReLU()(x))
    model.compile("sgd", "mse")
    assert found_everywhere(model, "BN405", tmp_path) == [("bn", "warning")] * expected


def test_a_small_batch_is_a_note_without_training_and_quiet_when_frozen():
    model = dense_bn(batch_size=1)
    assert found(model, "BN405") == [("bn", "info")]
    (finding,) = bnscope.lint(model, select="BN405")
    assert "1 value;" in finding.message
    assert finding.fix is None
    frozen = layers.BatchNormalization(trainable=False)
    assert found(dense_bn(frozen, batch_size=1), "BN405") == []


# BN601


def test_what_cannot_be_folded_is_what_the_plan_keeps():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.BatchNormalization(name="kept"),
            layers.Activation("tanh"),
            layers.Dense(3, use_bias=False),
            layers.BatchNormalization(name="folded"),
        ]
    )
    (verdict,) = (v for v in Context(read(model)).fold_plan.verdicts if not v.folded)
    (finding,) = bnscope.lint(model, select="BN601")
    assert (finding.layer, finding.severity) == ("kept", Severity.INFO)
    assert finding.data == {"reason": verdict.reason}
    assert "BN601" not in {finding.code for finding in bnscope.lint(model)}


# Well-known models


def backbone():
    return keras.applications.MobileNetV2(
        (32, 32, 3), 0.35, include_top=False, weights=None
    )


def transfer(base):
    inputs = keras.Input((32, 32, 3))
    x = base(layers.Rescaling(1 / 127.5, offset=-1)(inputs), training=False)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(1)(x))


def test_keras_own_fine_tuning_recipe(randomized, tmp_path):
    base = randomized(backbone())
    base.trainable = False
    model = transfer(base)
    model.compile("adam", "mse")
    assert bnscope.lint(model).at_least(Severity.WARNING) == ()
    model.save(tmp_path / "frozen.keras")
    assert bnscope.lint(tmp_path / "frozen.keras").at_least(Severity.WARNING) == ()
    base.trainable = True
    model.compile(keras.optimizers.Adam(1e-5), "mse")
    norms = sum(isinstance(layer, layers.BatchNormalization) for layer in base.layers)
    worst = bnscope.lint(model).at_least(Severity.WARNING)
    assert [finding.code for finding in worst] == ["BN402"] * norms
    for layer in base.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    assert bnscope.lint(model).at_least(Severity.WARNING) == ()


def test_a_fresh_compiled_application_is_quiet():
    model = keras.applications.MobileNetV2((32, 32, 3), 0.35, weights=None, classes=3)
    for optimizer in ("adam", keras.optimizers.AdamW()):
        model.compile(optimizer, "categorical_crossentropy")
        assert bnscope.lint(model).at_least(Severity.WARNING) == ()
