"""BN in a sum: another layer on the same tensor takes it up, and the branch goes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from random_models import compare

import bnscope
from bnscope.folding import make_plan
from bnscope.graph import archive

layers = keras.layers
BN = layers.BatchNormalization


@pytest.fixture
def folded(randomized, tmp_path):
    """Folds `randomized` models, compares them, and checks that files are planned alike."""

    def check(model):
        keras.utils.set_random_seed(3)
        result = bnscope.fold(randomized(model))
        compare(model, result.model, seed=4)
        model.save(tmp_path / "model.keras")
        plan = make_plan(archive.read(tmp_path / "model.keras"))
        assert plan.to_dict() == result.plan.to_dict()
        return result

    return check


def beside(make, shape=(8, 8, 4), **options):
    """`make` of the layer's input and of BN's output; the input is what a ReLU makes."""
    inputs = keras.Input(shape)
    x = layers.ReLU()(inputs)
    return keras.Model(inputs, make(x, BN(name="bn", **options)(x)))


def conv(*args, **options):
    return layers.Conv2D(4, *args, **{"padding": "same", "name": "conv", **options})


def directions(result):
    return [verdict.direction for verdict in result.verdicts]


def rep_vgg_block(x, index, *, groups=1, identity=True):
    width = x.shape[-1]
    parts = []
    for size in (3, 1):
        y = layers.Conv2D(width, size, padding="same", groups=groups, use_bias=False)(x)
        parts.append(BN()(y))
    if identity:
        parts.append(BN()(x))
    return layers.ReLU(name=f"stage{index}")(layers.Add(name=f"sum{index}")(parts))


def test_the_branches_of_rep_vgg_are_folded(folded):
    inputs = keras.Input((8, 8, 4))
    x = rep_vgg_block(inputs, 0, identity=False)
    for index, groups in ((1, 1), (2, 2), (3, 4)):
        x = rep_vgg_block(x, index, groups=groups)
    result = folded(keras.Model(inputs, x))
    assert directions(result).count("beside") == 3
    assert all(verdict.folded for verdict in result.verdicts)
    assert not [layer for layer in result.model.layers if isinstance(layer, BN)]
    sums = [len(result.model.get_layer(f"sum{i}").input) for i in range(4)]
    assert sums == [2, 2, 2, 2]


def test_a_sum_that_loses_all_but_one_operand_goes_itself(folded):
    result = folded(beside(lambda x, y: layers.ReLU()(conv(3)(x) + y)))
    assert directions(result) == ["beside"]
    assert not any("Add" in type(op).__name__ for op in result.model.operations)


def test_a_sum_that_is_the_output_keeps_its_name(folded):
    result = folded(beside(lambda x, y: layers.Add(name="total")([y, conv(3)(x)])))
    assert result.model.output_names == ["total"]


def test_a_layer_deeper_in_the_sum_is_found_through_dropout(folded):
    def make(x, y):
        other = layers.Dropout(0.3)(conv((3, 1))(layers.Dropout(0.2)(x)))
        return (other + layers.Conv2D(4, 2, padding="same")(x)) + layers.Dropout(0.1)(y)

    (verdict,) = folded(beside(make)).verdicts
    assert (verdict.direction, verdict.into) == ("beside", "conv")


def test_two_bn_beside_each_other_go_into_the_layer_before(folded):
    inputs = keras.Input((8, 8, 3))
    x = conv(3)(inputs)
    result = folded(keras.Model(inputs, layers.Add()([BN()(x), BN(scale=False)(x)])))
    assert directions(result) == ["beside", "backward"]
    assert result.verdicts[1].into == "conv"


def test_what_bn_beside_has_taken_up_goes_on_with_it(folded):
    inputs = keras.Input((8, 8, 4))
    x = BN()(layers.ReLU()(inputs))
    x = layers.Add()([BN()(x), layers.Conv2D(4, 1)(x)])
    x = BN()(x)
    result = folded(keras.Model(inputs, layers.Conv2D(3, 2)(x)))
    assert all(verdict.folded for verdict in result.verdicts)


def test_mixed_precision_keeps_its_dtypes(randomized):
    with keras.device("cpu:0"):
        keras.config.set_dtype_policy("mixed_float16")
        try:
            model = beside(lambda x, y: layers.ReLU()(conv(3)(x) + y))
        finally:
            keras.config.set_dtype_policy("float32")
    result = bnscope.fold(randomized(model))
    assert directions(result) == ["beside"]
    assert result.model.output.dtype == "float16"


def test_a_sum_next_to_a_wrapper_and_inside_one_is_found(folded):
    def make(x, y):
        inner = keras.Sequential([keras.Input((8, 4)), layers.Dense(4), BN()])
        return layers.TimeDistributed(inner)(conv(3)(x) + y)

    assert directions(folded(beside(make))) == ["beside", "backward"]
    features = keras.Input((8, 4))
    z = layers.ReLU()(features)
    inner = keras.Model(features, BN()(z) + layers.Dense(4)(z))
    inputs = keras.Input((5, 8, 4))
    steps = layers.TimeDistributed(inner)(inputs)
    assert directions(folded(keras.Model(inputs, steps))) == ["beside"]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda x, y: conv(3, activation="relu")(x) + y, id="activation"),
        pytest.param(lambda x, y: conv(2)(x) + y, id="even"),
        pytest.param(lambda x, y: conv(1, strides=2)(x) + y[:, ::2, ::2], id="strides"),
        pytest.param(lambda x, y: conv(3)(layers.Softmax()(x)) + y, id="other tensor"),
        pytest.param(lambda x, y: conv(3)(x) - y, id="difference"),
        pytest.param(lambda x, y: layers.Add()([y, conv(3)(x), y]), id="twice"),
        pytest.param(lambda x, y: (conv(3)(x) + y) * y, id="used elsewhere"),
        pytest.param(lambda x, y: layers.ReLU()(y + 1.0) + conv(3)(x), id="nonlinear"),
        pytest.param(
            lambda x, y: layers.Conv2D(1, 3, padding="same")(x) + y, id="broadcast"
        ),
        pytest.param(lambda x, y: BN()(x, training=True) + y, id="training"),
    ],
)
def test_what_is_not_exact_stays(make, folded):
    (verdict, *_) = folded(beside(make)).verdicts
    assert not verdict.folded


def test_a_layer_with_a_smaller_output_takes_nothing_up(folded):
    model = beside(lambda x, y: conv(3, padding="valid")(x) + y, shape=(3, 3, 4))
    assert not folded(model).verdicts[0].folded


def test_another_operand_may_be_smaller(folded):
    model = beside(lambda x, y: layers.Add()([conv(3)(x), y, x[:, :1, :1]]))
    assert directions(folded(model)) == ["beside"]


def test_a_layer_whose_output_is_used_elsewhere_takes_nothing_up(folded):
    def make(x, y):
        other = conv(3)(x)
        return layers.Multiply()([other, other + y])

    assert not folded(beside(make)).verdicts[0].folded


def test_bn_along_another_axis_stays(folded):
    assert not folded(beside(lambda x, y: conv(3)(x) + y, axis=1)).verdicts[0].folded


def test_a_shared_layer_takes_nothing_up(folded):
    def make(x, y):
        shared = conv(3)
        return layers.Concatenate()([shared(x) + y, shared(layers.Softmax()(x))])

    assert not folded(beside(make)).verdicts[0].folded


def test_bn_with_invalid_statistics_takes_nothing_up(randomized):
    model = randomized(beside(lambda x, y: layers.ReLU()(BN(name="other")(x) + y)))
    other = model.get_layer("other")
    other.moving_mean.assign(np.full(4, np.nan))
    verdicts = make_plan(bnscope.graph.read(model)).verdicts
    assert [verdict.folded for verdict in verdicts] == [False, False]


def test_a_sum_of_operators_hands_no_mask_on_after_it_is_gone(folded):
    inputs = keras.Input((6, 4))
    x = layers.Masking()(inputs)
    y = layers.Dense(4)(x) + BN()(x)
    model = keras.Model(inputs, layers.LSTM(3)(y))
    result = folded(model)
    assert directions(result) == ["beside"]
    data = np.random.default_rng(0).normal(size=(5, 6, 4)).astype("float32")
    data[:, 3:] = 0.0
    expected, actual = (
        keras.ops.convert_to_numpy(m(data, training=False)) for m in (model, result.model)
    )
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_a_sum_of_operators_that_is_an_output_keeps_its_name(folded, tmp_path):
    inputs = keras.Input((6, 4))
    x = layers.Masking()(inputs)
    model = keras.Model(inputs, layers.Dense(4)(x) + BN()(x))
    result = folded(model)
    assert directions(result) == ["beside"]
    assert result.model.output_names == model.output_names
    result.save(tmp_path / "folded.keras")
    compare(model, keras.models.load_model(tmp_path / "folded.keras"), seed=4)


@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_integers_that_a_sum_takes_stay_numbers(folded, dtype):
    inputs = keras.Input((4,), dtype=dtype)
    total = layers.Add()([layers.Dense(4)(inputs), BN()(inputs)])
    assert directions(folded(keras.Model(inputs, total))) == ["beside"]
