"""The rules on structure and parameters: where they speak, how loud, and where they are quiet."""

from __future__ import annotations

import json
import pathlib
import tempfile

import keras
import numpy as np
import pytest
from keras import layers

import bnscope
from bnscope.bn import BatchNormState
from bnscope.rules.dead_after_relu import DeadAfterRelu
from bnscope.rules.dead_gamma import DeadGamma

BN = layers.BatchNormalization


def found(model, code):
    """The layers and severities of what a rule finds."""
    return [(f.layer, str(f.severity)) for f in bnscope.lint(model, select=code)]


def chain(*between, shape=(8,), dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *between])


@pytest.mark.parametrize(
    ("between", "severity"),
    [
        ([layers.Dropout(0.5)], "warning"),
        ([layers.GaussianDropout(0.5)], "warning"),
        ([layers.AlphaDropout(0.5)], "warning"),
        ([layers.Dropout(0.5), layers.Activation("linear")], "warning"),
        ([layers.Dropout(0.5), layers.Dense(4)], "info"),
        ([layers.Dropout(0.0)], None),
        ([layers.GaussianNoise(0.5)], None),
        ([layers.Dropout(0.5), layers.ReLU()], None),
        ([layers.Dropout(0.5), layers.Dense(4, activation="relu")], None),
        ([layers.Dropout(0.5), layers.Dense(4), layers.Dense(4)], None),
        ([layers.Dropout(0.5, noise_shape=(None, 1))], None),
    ],
    ids=range(11),
)
def test_dropout_before_bn(between, severity):
    model = chain(*between, BN(name="bn"), layers.ReLU())
    assert found(model, "BN106") == ([] if severity is None else [("bn", severity)])


def test_dropout_before_an_add_or_a_frozen_bn_is_left_alone():
    inputs = keras.Input((8,))
    x = layers.Add()([layers.Dropout(0.5)(inputs), inputs])
    assert not found(keras.Model(inputs, layers.ReLU()(BN()(x))), "BN106")
    assert not found(chain(layers.Dropout(0.5), BN(trainable=False)), "BN106")


def test_bn_after_activation_speaks_only_when_it_is_selected():
    model = chain(layers.Dense(4, activation="relu"), BN(name="bn"), layers.Dense(2))
    assert found(model, "BN107") == [("bn", "info")]
    assert "BN107" not in {finding.code for finding in bnscope.lint(model)}


@pytest.mark.parametrize(
    "name", ["gelu", "silu", "tanh", "sigmoid", "leaky_relu", "elu", "selu", "softplus"]
)
def test_bn_behind_an_activation_that_is_an_operation(name):
    inputs = keras.Input((8,))
    x = getattr(keras.activations, name)(layers.Dense(4)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(BN(name="bn")(x)))
    assert found(model, "BN107") == [("bn", "info")]
    assert found_in_json(model, "BN107") == [("bn", "info")]


def test_a_shared_bn_counts_the_calls_of_the_models_around_it():
    inner = chain(layers.Dense(4, use_bias=False), BN(name="bn"), layers.ReLU())
    outer_input = keras.Input((8,))
    outer = keras.Model(outer_input, inner(outer_input), name="outer")
    left, right = keras.Input((8,)), keras.Input((8,))
    model = keras.Model([left, right], layers.Add()([outer(left), outer(right)]))
    ((path, severity),) = found(model, "BN109")
    assert path.endswith("/bn")
    assert severity == "info"
    inner.trainable = False
    assert not found(model, "BN109")


def shared(model):
    """What BN109 says of a model, which must be the same live and saved."""
    live = found(model, "BN109")
    assert live == found_in_json(model, "BN109")
    return [severity for _, severity in live]


def found_in_json(model, code):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.json"
        path.write_text(model.to_json(), encoding="utf-8")
        return found(path, code)


def test_a_shared_tower_may_begin_with_bn():
    tower = chain(BN(), layers.Dense(4))
    left, right = keras.Input((8,)), keras.Input((8,))
    model = keras.Model([left, right], layers.Add()([tower(left), tower(right)]))
    assert shared(model) == ["info"]


def test_a_head_shared_by_different_towers_is_not_siamese():
    head, bn = layers.Dense(4, use_bias=False), BN()
    inputs = keras.Input((8,))
    levels = [bn(head(layers.Dense(5)(inputs))) for _ in range(2)]
    assert shared(keras.Model(inputs, layers.Add()(levels))) == ["warning"]


def test_a_block_called_on_its_own_output_is_not_siamese():
    dense, bn = layers.Dense(4, use_bias=False), BN()
    x = inputs = keras.Input((4,))
    for _ in range(2):
        x = bn(dense(x))
    assert shared(keras.Model(inputs, layers.ReLU()(x))) == ["warning"]


def test_a_bn_at_two_scales_of_one_trunk_is_not_siamese():
    bn = BN()
    inputs = keras.Input((8, 8, 3))
    trunk = layers.Conv2D(4, 3, use_bias=False)(inputs)
    ends = [layers.Flatten()(bn(x)) for x in (trunk, layers.MaxPooling2D(2)(trunk))]
    assert shared(keras.Model(inputs, layers.Concatenate()(ends))) == ["warning"]


def test_a_shared_wrapper_shares_the_bn_inside():
    steps = layers.TimeDistributed(BN(name="bn"), name="steps")
    inputs = keras.Input((5, 8))
    parts = [steps(layers.Dense(4, use_bias=False)(inputs)) for _ in range(2)]
    model = keras.Model(inputs, layers.Add()(parts))
    assert shared(model) == ["warning"]
    steps.trainable = False
    assert shared(model) == []


def test_a_functional_subclass_is_read_by_its_nodes():
    class Siamese(keras.Model):
        pass

    bn = BN(name="bn")
    inputs = keras.Input((8,))
    outputs = layers.Add()([bn(layers.Dense(4)(inputs)) for _ in range(2)])
    assert found(Siamese(inputs, outputs), "BN109") == [("bn", "warning")]


def test_a_bn_of_one_call_is_not_shared_whatever_else_was_built_with_it():
    bn = BN(name="bn")
    inputs = keras.Input((8,))
    keras.Model(inputs, bn(layers.Dense(4)(inputs)))  # another model with the same layer
    model = keras.Model(inputs, bn(layers.Dense(4)(inputs)))
    assert not found(model, "BN109")


def test_time_distributed_bn_tells_the_effective_momentum():
    model = chain(layers.TimeDistributed(BN(name="bn"), name="steps"), shape=(10, 4))
    (finding,) = bnscope.lint(model, select="BN110")
    assert finding.layer == "steps/bn"
    assert "with 10 steps momentum 0.99 acts as 0.904" in finding.message
    assert finding.fix == "unsafe"
    open_ended = chain(layers.TimeDistributed(BN()), shape=(None, 4))
    (finding,) = bnscope.lint(open_ended, select="BN110")
    assert "0.99**T" in finding.message


def test_time_distributed_bn_can_be_unwrapped_only_over_the_last_axis():
    model = chain(layers.TimeDistributed(BN(axis=1)), shape=(10, 6, 4))
    (finding,) = bnscope.lint(model, select="BN110")
    assert finding.fix is None
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3), BN(name="bn")])
    (finding,) = bnscope.lint(
        chain(layers.TimeDistributed(inner), shape=(10, 4)), select="BN110"
    )
    assert finding.fix is None
    model.layers[0].trainable = False
    assert not found(model, "BN110")


@pytest.mark.parametrize(
    ("between", "lost"),
    [
        ([layers.Conv1D(4, 3)], True),
        ([layers.MaxPooling1D(2)], True),
        ([layers.Permute((2, 1))], True),
        ([layers.Dense(4)], False),
        ([layers.LSTM(4, return_sequences=True)], False),
        ([layers.LSTM(4)], False),
        ([layers.GlobalAveragePooling1D()], False),
        ([layers.LSTM(4, return_sequences=True), layers.Conv1D(4, 2)], True),
    ],
    ids=range(8),
)
@pytest.mark.filterwarnings("ignore:Layer")
def test_a_mask_that_is_lost(between, lost):
    model = chain(
        layers.Embedding(9, 4, mask_zero=True), *between, BN(name="bn"), shape=(12,)
    )
    assert found(model, "BN112") == ([("bn", "warning")] if lost else [])
    plain = chain(layers.Embedding(9, 4), layers.Conv1D(4, 3), BN(), shape=(12,))
    assert not found(plain, "BN112")


def test_a_gamma_is_useless_only_if_all_that_follows_can_scale():
    assert found(chain(BN(name="bn"), layers.Dense(2)), "BN113") == [("bn", "info")]
    assert not found(chain(BN(), layers.Activation("tanh"), layers.Dense(2)), "BN113")
    assert not found(chain(BN(), layers.ReLU(max_value=6.0), layers.Dense(2)), "BN113")
    assert not found(chain(BN(), layers.ReLU()), "BN113")


def test_a_gamma_is_useless_only_over_the_axis_that_is_mixed_behind():
    def conv(data_format):
        return layers.Conv2D(2, 3, data_format=data_format)

    assert not found(chain(BN(axis=1), layers.Dense(2), shape=(7, 5)), "BN113")
    assert found(chain(BN(axis=2), layers.Dense(2), shape=(7, 5)), "BN113")
    assert found(
        chain(BN(axis=1), layers.Flatten(), layers.Dense(2), shape=(7, 5)), "BN113"
    )
    first = chain(BN(axis=1), layers.ReLU(), conv("channels_first"), shape=(3, 8, 8))
    assert found(first, "BN113")
    assert found_in_json(first, "BN113") == found(first, "BN113")
    assert not found(chain(BN(axis=3), conv("channels_first"), shape=(3, 8, 8)), "BN113")
    pooled = chain(BN(), layers.GlobalAveragePooling2D(), layers.Dense(2), shape=(8, 8, 3))
    assert found(pooled, "BN113")


def test_a_gamma_is_left_out_only_while_it_is_one(randomized):
    model = chain(
        layers.Dense(4, use_bias=False), BN(name="bn"), layers.ReLU(), layers.Dense(2)
    )
    bn = model.get_layer("bn")
    bn.moving_mean.assign([0.3, -0.2, 0.1, 1.0])
    bn.beta.assign([0.3, -0.2, 0.1, 1.0])
    result = bnscope.fix(model, select="BN113", unsafe=True)
    assert [fix.code for fix in result.applied] == ["BN113"]
    assert result.model.layers[1].gamma is None
    x = np.random.default_rng(1).normal(size=(5, 8)).astype("float32")
    np.testing.assert_allclose(result.model(x), model(x), rtol=1e-5, atol=1e-6)
    (finding,) = bnscope.lint(randomized(model), select="BN113")
    assert finding.fix is None


def test_epsilons():
    def with_epsilons(*values):
        parts = [
            (layers.Dense(3), BN(epsilon=e, name=f"bn{i}")) for i, e in enumerate(values)
        ]
        return chain(*(layer for pair in parts for layer in pair))

    assert found(with_epsilons(1e-7), "BN204") == [("bn0", "info")]
    assert found(with_epsilons(1e-5, 1e-5, 1e-4), "BN204") == [("bn2", "info")]
    assert not found(with_epsilons(1e-5, 1e-5), "BN204")
    assert not found(with_epsilons(1.001e-5, 1e-3), "BN204")
    (finding,) = bnscope.lint(with_epsilons(0.0), select="BN204")
    assert "protects nothing" in finding.message


def test_penalties_on_gamma_and_beta():
    both = keras.regularizers.L1L2(l1=1e-4, l2=1e-3)
    bn = BN(gamma_regularizer=both, beta_regularizer="l2", name="bn")
    (finding,) = bnscope.lint(chain(bn), select="BN205")
    assert finding.data == {"gamma": 1e-3, "beta": 0.01}
    assert not found(chain(BN(gamma_regularizer="l2", trainable=False)), "BN205")


@pytest.mark.parametrize("factor", [-1.0, 0.0, float("nan"), 10**400, "much", None])
def test_a_factor_that_is_no_penalty_is_passed_over(factor, tmp_path):
    model = json.loads(chain(BN(name="bn", gamma_regularizer="l2")).to_json())
    bn = model["config"]["layers"][-1]["config"]
    bn["gamma_regularizer"]["config"]["l2"] = factor
    (tmp_path / "model.json").write_text(json.dumps(model))
    assert not found(tmp_path / "model.json", "BN205")


def test_a_momentum_out_of_range_has_no_effective_momentum():
    model = chain(layers.TimeDistributed(BN(momentum=1.5)), shape=(10_000, 4))
    (finding,) = bnscope.lint(model, select="BN110")
    assert "1.5**T" in finding.message


@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_half_precision_statistics_are_an_error(policy):
    model = chain(layers.Dense(3), BN(dtype=policy, name="bn"))
    assert found(model, "BN207") == [("bn", "error")]
    assert not found(chain(BN(dtype=f"mixed_{policy}")), "BN207")


def state(**changes):
    values = {
        "gamma": np.array([1.0, -0.5, 2.0, 0.7]),
        "beta": np.array([0.1, 0.0, -0.3, 0.2]),
        "moving_mean": np.array([0.5, -1.0, 3.0, 0.0]),
        "moving_variance": np.array([0.5, 2.0, 1e-2, 1.0]),
    }
    values.update({name: np.array(value) for name, value in changes.items()})
    return BatchNormState(**values)


def test_dead_gammas_are_told_where_they_are_many():
    (problem,) = DeadGamma().check_state(state(gamma=[1.0, -1e-6, 2.0, 0.0]))
    assert problem.channels == (3, 1)
    assert not DeadGamma().check_state(state())
    many = {
        "gamma": [0.0] + [1.0] * 19,
        "beta": [0.0] * 20,
        "moving_mean": [1.0] * 20,
        "moving_variance": [2.0] * 20,
    }
    assert not DeadGamma().check_state(state(**many))
    without = BatchNormState(None, None, np.ones(2), np.ones(2))
    assert not DeadGamma().check_state(without)


def test_channels_that_no_relu_lets_through():
    (problem,) = DeadAfterRelu().check_state(state(beta=[-4.0, -1.4, -9.0, -2.2]))
    assert problem.channels == (2, 0, 3)
    assert problem.value == -9.0
    without_gamma = BatchNormState(None, np.array([-2.9, -3.1]), np.ones(2), np.ones(2))
    (problem,) = DeadAfterRelu().check_state(without_gamma)
    assert problem.channels == (1,)


def test_a_channel_far_below_zero_is_dead_only_before_a_relu():
    def model(activation):
        bn = BN(name="bn", beta_initializer=keras.initializers.Constant(-4.0))
        return chain(layers.Dense(3), bn, layers.Activation(activation), layers.Dense(2))

    assert found(model("relu"), "BN306") == [("bn", "info")]
    assert not found(model("tanh"), "BN306")
