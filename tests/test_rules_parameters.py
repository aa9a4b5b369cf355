"""The rules on parameters and weights at their edges: odd files, repairs, and what they leave."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras import layers

import bnscope
from bnscope.rules.base import Severity

BN = layers.BatchNormalization


def chain(*parts, shape=(8,)):
    return keras.Sequential([keras.Input(shape), *parts])


def found(model, code):
    """The layers and severities of what a rule finds."""
    return [(f.layer, str(f.severity)) for f in bnscope.lint(model, select=code)]


@pytest.fixture
def with_bn_config(tmp_path):
    """A saved configuration of a model, with entries that its BN layer does not have live."""

    def write(**entries):
        model = chain(layers.Dense(4, use_bias=False), BN(name="bn"), layers.ReLU())
        config = json.loads(model.to_json())
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "BatchNormalization":
                layer["config"].update(entries)
        path = tmp_path / "model.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        return path

    return write


# BN201 and BN306: what counts as a ReLU


def zero_gamma(relu):
    return chain(
        layers.Dense(3), BN(name="bn", gamma_initializer="zeros"), relu, layers.Dense(2)
    )


def far_below_zero(relu):
    beta = keras.initializers.Constant(-4.0)
    return chain(
        layers.Dense(3), BN(name="bn", beta_initializer=beta), relu, layers.Dense(2)
    )


@pytest.mark.parametrize("options", [{}, {"max_value": 6.0}, {"threshold": 1.0}])
def test_a_relu_that_clips_passes_nothing_below_zero(options):
    assert found(zero_gamma(layers.ReLU(**options)), "BN201") == [("bn", "error")]
    assert found(far_below_zero(layers.ReLU(**options)), "BN306") == [("bn", "info")]


def test_a_relu_with_a_slope_passes_what_is_below_zero():
    assert found(zero_gamma(layers.ReLU(negative_slope=0.2)), "BN201") == [
        ("bn", "warning")
    ]
    assert not found(far_below_zero(layers.ReLU(negative_slope=0.2)), "BN306")


# BN204


@pytest.mark.parametrize("values", [(1e-5, 1e-3), (1e-3, 1e-5)])
def test_which_epsilon_is_odd_does_not_depend_on_the_order(values):
    parts = [BN(epsilon=value, name=f"bn{value:g}") for value in values]
    model = chain(layers.Dense(3), parts[0], layers.Dense(3), parts[1])
    assert found(model, "BN204") == [("bn1e-05", "info")]


# BN205


def regularized(**options):
    return chain(layers.Dense(4, use_bias=False), BN(name="bn", **options), layers.ReLU())


def test_the_repair_takes_l2_away_and_leaves_l1_and_the_outputs(randomized):
    both = keras.regularizers.L1L2(l1=1e-4, l2=1e-3)
    model = randomized(regularized(gamma_regularizer=both, beta_regularizer="l2"))
    result = bnscope.fix(model, select="BN205", unsafe=True)
    bn = result.model.layers[1]
    assert float(bn.gamma_regularizer.l1) == pytest.approx(1e-4)
    assert float(bn.gamma_regularizer.l2) == 0.0
    assert bn.beta_regularizer is None
    assert not result.remaining.findings
    x = np.random.default_rng(1).normal(size=(5, 8)).astype("float32")
    np.testing.assert_array_equal(result.model(x), model(x))


def test_the_repair_of_a_penalty_is_not_called_safe():
    model = regularized(gamma_regularizer="l2")
    assert [finding.fix for finding in bnscope.lint(model, select="BN205")] == ["unsafe"]
    assert not bnscope.fix(model, select="BN205").applied


@pytest.mark.parametrize(
    "factor", [10**400, float("nan"), -1.0, 0.0, "0.1", None], ids=range(6)
)
def test_a_factor_that_is_no_penalty_is_passed_over(with_bn_config, factor):
    regularizer = {"class_name": "L2", "config": {"l2": factor}}
    assert not found(with_bn_config(gamma_regularizer=regularizer), "BN205")


# BN207


def test_statistics_are_made_float32_and_keep_their_values():
    model = chain(
        layers.Dense(4, use_bias=False, dtype="float16"),
        BN(name="bn", dtype="float16"),
        layers.ReLU(dtype="float16"),
    )
    model.layers[1].moving_mean.assign([0.5, -0.25, 0.0, 2.0])
    result = bnscope.fix(model, select="BN207", unsafe=True)
    bn = result.model.layers[1]
    assert {variable.dtype for variable in bn.variables} == {"float32"}
    np.testing.assert_array_equal(bn.moving_mean, [0.5, -0.25, 0.0, 2.0])
    assert not result.remaining.findings


# BN209


@pytest.mark.parametrize("value", [None, False, True])
@pytest.mark.parametrize("name", ["fused", "virtual_batch_size", "adjustment", "mode"])
def test_an_argument_that_is_gone_is_found_whatever_its_value(with_bn_config, name, value):
    (finding,) = bnscope.lint(with_bn_config(**{name: value}), select="BN209")
    assert finding.message.endswith(f"{name}={value}.")
    with pytest.raises(TypeError, match=name):
        BN.from_config({**BN().get_config(), name: value})


@pytest.mark.parametrize(
    "entries",
    [
        {"fused": "x" * 100_000},
        {"axis": [1] * 50_000},
        {"axis": ["x" * 100_000]},
        {"axis": [10**4000]},
        {"mode": 10**4000},
    ],
    ids=range(5),
)
def test_a_message_stays_short_whatever_the_file_holds(with_bn_config, entries):
    (finding,) = bnscope.lint(with_bn_config(**entries), select="BN209")
    assert len(finding.message) < 100


def test_a_list_of_one_axis_is_found_and_means_that_axis(with_bn_config):
    path = with_bn_config(axis=[1])
    assert found(path, "BN209") == [("bn", "info")]
    assert not found(path, "BN108")


# BN305


def pruned(regularizer):
    bn = BN(name="bn", gamma_regularizer=regularizer)
    model = chain(layers.Dense(4, use_bias=False), bn, layers.ReLU())
    bn.gamma.assign([1.0, 0.0, -1e-6, 0.5])
    bn.moving_mean.assign([1.0, 2.0, 3.0, 4.0])
    return model


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_gammas_pruned_by_l1_are_left_alone(suffix, tmp_path):
    l1 = keras.regularizers.L1L2(l1=1e-4, l2=1e-3)
    for regularizer, expected in (("l1", []), (l1, []), ("l2", [("bn", "warning")])):
        model = pruned(regularizer)
        assert found(model, "BN305") == expected
        model.save(tmp_path / f"model{suffix}")
        assert found(tmp_path / f"model{suffix}", "BN305") == expected


# Together


def test_a_zero_gamma_resnet_block_is_not_dead_before_it_is_trained():
    inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(BN()(x))
    x = layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
    x = layers.Add()([inputs, BN(gamma_initializer="zeros")(x)])
    model = keras.Model(inputs, layers.ReLU()(x))
    assert not bnscope.lint(model).at_least(Severity.WARNING)
