"""Recalibration: population statistics in the place of moving averages."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from conftest import randomize_batch_norms

import bnscope
from bnscope.calibration import recalibration
from bnscope.callbacks import BatchNormRecalibrate
from bnscope.errors import BnscopeError, UnsupportedModelError

layers = keras.layers
SAMPLES = 70  # the last batch of 32 is a part of one


@keras.saving.register_keras_serializable("tests")
class Seen(layers.BatchNormalization):
    """A BN layer that keeps what goes in, for a reference computed in another way."""

    kept = None

    def call(self, inputs, training=None, mask=None):
        if Seen.kept is not None:
            Seen.kept.append((self, keras.ops.convert_to_numpy(inputs), mask))
        return super().call(inputs, training=training, mask=mask)


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """A custom layer that calls BN layers inside."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.dense = layers.Dense(width)
        self.first, self.second = Seen(), Seen()

    def build(self, shape):
        self.dense.build(shape)
        self.first.build((*shape[:-1], self.width))
        self.second.build((*shape[:-1], self.width))

    def call(self, inputs, training=None):
        x = self.first(self.dense(inputs), training=training)
        return self.second(keras.ops.tanh(x), training=training)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """A model whose structure is written in its `call`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = Block(6)
        self.drop = layers.Dropout(0.5)
        self.norm = Seen()
        self.head = layers.Dense(2)

    def call(self, inputs, training=None):
        x = self.drop(self.block(inputs, training=training), training=training)
        return self.head(self.norm(keras.ops.relu(x), training=training))


@keras.saving.register_keras_serializable("tests")
class Handed(layers.Layer):
    """Calls a layer that somebody else has too."""

    def __init__(self, norm, **kwargs):
        super().__init__(**kwargs)
        self.norm = norm

    def call(self, inputs, training=None):
        return self.norm(inputs, training=training)


@keras.saving.register_keras_serializable("tests")
class TwoParents(keras.Model):
    """A BN layer that it has itself, and a block of it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = Seen()
        self.block = Handed(self.norm)
        self.head = layers.Dense(2)

    def call(self, inputs, training=None):
        return self.head(self.block(inputs, training=training))


def convolutions():
    inputs = keras.Input((8, 8, 3))
    x = layers.GaussianNoise(0.5)(inputs)
    x = layers.Conv2D(6, 3, use_bias=False)(x)
    x = Seen()(x)
    x = layers.Dropout(0.5)(layers.ReLU()(x))
    y = Seen(scale=False)(layers.Conv2D(6, 3, padding="same")(x))
    x = layers.Add()([x, y])
    x = Seen(center=False)(layers.Conv2D(5, 3, strides=2)(x))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def nested():
    inner = keras.Sequential([keras.Input((5,)), layers.Dense(4), Seen()])
    inputs = keras.Input((5,))
    middle = keras.Model(inputs, layers.ReLU()(inner(layers.Dense(5)(inputs))))
    return keras.Sequential([keras.Input((5,)), Seen(), middle, Seen(), layers.Dense(2)])


def shared_on_one_level():
    norm = Seen()
    one, other = keras.Input((4,), name="one"), keras.Input((4,), name="other")
    x = layers.Concatenate()([norm(layers.Dense(3)(one)), norm(layers.Dense(3)(other))])
    return keras.Model({"one": one, "other": other}, Seen()(layers.Dense(3)(x)))


def custom_layers():
    inputs = keras.Input((5,))
    x = Block(4)(layers.Dense(6)(inputs))
    return keras.Model(inputs, Seen()(Block(3)(layers.ReLU()(x))))


def subclassed():
    model = Subclassed()
    model(np.zeros((2, 5), "float32"))
    return model


def over_time():
    inputs = keras.Input((6, 3))
    x = layers.TimeDistributed(layers.BatchNormalization())(inputs)
    x = layers.TimeDistributed(layers.Dense(4))(x)
    x = layers.LSTM(5, return_sequences=True)(Seen()(x))
    return keras.Model(inputs, Seen()(x))


def axis_one():
    inputs = keras.Input((4, 7))
    return keras.Model(inputs, Seen(axis=1)(layers.Dense(7)(Seen(axis=1)(inputs))))


def frozen():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Seen()(layers.Dense(3)(Seen()(inputs))))
    model.trainable = False
    return model


def baked():
    inputs = keras.Input((4,))
    x = Seen()(layers.Dense(3)(inputs), training=True)
    return keras.Model(inputs, layers.Dense(2)(Seen()(x, training=False)))


MODELS = {
    function.__name__: function
    for function in (
        convolutions,
        nested,
        shared_on_one_level,
        custom_layers,
        subclassed,
        axis_one,
        frozen,
    )
}


def made(function, rng):
    keras.utils.set_random_seed(7)
    model = function()
    randomize_batch_norms(model, rng)
    return model


def data_for(model, rng, count=SAMPLES):
    def draw(shape):
        scale = rng.uniform(0.5, 3.0, shape[1:])
        return rng.normal(rng.normal(0.0, 2.0, shape[1:]), scale, (count, *shape[1:]))

    if isinstance(model, Subclassed):
        return draw((None, 5)).astype("float32")
    drawn = {x.name: draw(x.shape).astype("float32") for x in model.inputs}
    return drawn if len(drawn) > 1 else drawn.popitem()[1]


def norms_of(model):
    kind = layers.BatchNormalization
    return [layer for layer in model._flatten_layers() if isinstance(layer, kind)]


def reference(model, data):
    """Population statistics by definition: one layer after another, all samples as one batch.

    The model is changed.
    """
    done = []
    while True:
        Seen.kept = []
        model(data, training=False)
        kept, Seen.kept = Seen.kept, None
        norm = next((norm for norm, *_ in kept if norm not in done), None)
        if norm is None:
            return [statistics_of(norm) for norm in done], done
        parts = []
        for each, given, _ in kept:
            if each is norm:
                last = np.moveaxis(given.astype("float64"), norm.axis, -1)
                parts.append(last.reshape(-1, last.shape[-1]))
        x = np.concatenate(parts)
        norm.moving_mean.assign(x.mean(0))
        norm.moving_variance.assign(x.var(0))
        done.append(norm)


def statistics_of(norm):
    values = (norm.moving_mean, norm.moving_variance)
    return [np.asarray(keras.ops.convert_to_numpy(v), "float64").copy() for v in values]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for (mean, variance), (other_mean, other_variance) in zip(found, expected, strict=True):
        sigma = np.sqrt(other_variance)
        assert np.max(np.abs(mean - other_mean) / sigma) < 1e-5
        assert np.max(np.abs(variance / other_variance - 1)) < 1e-4


@pytest.mark.parametrize("limit", [None, 500], ids=["held", "computed again"])
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_gets_the_statistics_of_its_input_when_all_before_use_theirs(
    name, limit, rng
):
    model = made(MODELS[name], rng)
    data = data_for(model, rng)
    before = [np.copy(w) for w in model.get_weights()]
    told = []
    result = recalibration(model, data, memory_limit=limit, tell=told.append)
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert all(layer.reason is None for layer in result.layers)
    assert result.samples == SAMPLES
    expected, order = reference(model, data)
    where = {id(norm): index for index, norm in enumerate(norms_of(model))}
    copied = norms_of(result.model)
    assert_same([statistics_of(copied[where[id(norm)]]) for norm in order], expected)
    assert any("passes over the data" in text for text in told) == (
        limit is not None or name in {"custom_layers", "subclassed"}
    )


@pytest.mark.parametrize("method", ["exact", "batch"])
def test_a_layer_of_two_parents_is_recalibrated_once(method, rng):
    model, data = TwoParents(), rng.normal(2.0, 3.0, (32, 5)).astype("float32")
    model(data)
    (row,) = recalibration(model, data, method=method, inplace=True).layers
    assert_same([(row.mean, row.variance)], [(data.mean(0), data.var(0))])
    assert bnscope.diagnose(model, data).layers[0].worst_shift < 1e-5


@pytest.mark.parametrize("options", [{"method": "batch"}, {"memory_limit": 65_000}])
def test_batches_of_another_size_in_the_middle(options, rng):
    model = made(convolutions, rng)
    data = data_for(model, rng, 81)
    batches = ((data[start:end],) for start, end in [(0, 32), (32, 49), (49, 81)])
    told = []
    found = recalibration(model, batches, tell=told.append, **options)
    assert len(told) == ("memory_limit" in options)  # computed again for each level
    first, expected = found.layers[0], recalibration(model, data).layers[0]
    assert_same([(first.mean, first.variance)], [(expected.mean, expected.variance)])


def test_a_model_that_gives_nan_for_some_samples_is_copied(rng):
    inputs = keras.Input((4,))
    x = layers.BatchNormalization()(inputs)
    model = keras.Model(inputs, keras.ops.log(x))
    data = data_for(model, rng)
    mean, variance = statistics_of(norms_of(bnscope.recalibrate(model, data))[0])
    assert_same([(mean, variance)], [(data.mean(0), data.var(0))])


def test_time_steps_count_as_samples(rng):
    model = made(over_time, rng)
    data = data_for(model, rng)
    result = recalibration(model, data, inplace=True)
    first = model.layers[1].layer
    assert all(layer.reason is None for layer in result.layers)
    x = data.astype("float64").reshape(-1, 3)
    assert_same([statistics_of(first)], [(x.mean(0), x.var(0))])
    found = statistics_of(model.layers[-1])
    inner = keras.Model(model.input, model.layers[-1].input)
    x = np.asarray(inner.predict(data, verbose=0), "float64").reshape(-1, 5)
    assert_same([found], [(x.mean(0), x.var(0))])


def test_masked_time_steps_do_not_count(rng):
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 3, mask_zero=True, embeddings_initializer="normal")(inputs)
    x = layers.BatchNormalization()(x)
    model = keras.Model(inputs, layers.LSTM(2)(x))
    data = rng.integers(0, 9, (50, 6)) * (rng.random((50, 6)) < 0.6)
    bnscope.recalibrate(model, data, inplace=True)
    table = np.asarray(model.layers[1].get_weights()[0], "float64")
    x = table[data[data != 0]]
    norm = norms_of(model)[0]
    assert_same([statistics_of(norm)], [(x.mean(0), x.var(0))])


def test_training_baked_into_the_graph_does_not_count(rng):
    model = made(baked, rng)
    data = data_for(model, rng)
    made_again = bnscope.recalibrate(model, data)
    first, second = (statistics_of(norm) for norm in norms_of(made_again))
    dense = model.layers[1]
    x = data.astype("float64") @ dense.get_weights()[0] + dense.get_weights()[1]
    assert_same([first], [(x.mean(0), x.var(0))])
    norm = norms_of(model)[0]
    gamma, beta = (np.asarray(w) for w in norm.get_weights()[:2])
    y = (x - first[0]) / np.sqrt(first[1] + norm.epsilon) * gamma + beta
    assert_same([second], [(y.mean(0), y.var(0))])


def test_a_layer_called_on_several_levels_is_said_not_to_be_exact(rng):
    inputs = keras.Input((4,))
    norm = layers.BatchNormalization(name="again")
    model = keras.Model(inputs, norm(layers.Dense(4)(norm(inputs))))
    with pytest.warns(UserWarning, match="again: called at several depths"):
        bnscope.recalibrate(model, data_for(model, rng), inplace=True)
    (mean, _), data = statistics_of(norm), data_for(model, rng)
    assert not np.allclose(mean, data.mean(0))


def test_renorm_statistics_go_along(rng):
    inputs = keras.Input((4,))
    try:
        norm = layers.BatchNormalization(renorm=True)
    except (TypeError, ValueError):
        pytest.skip("this Keras has no renorm")
    model = keras.Model(inputs, norm(inputs))
    data = data_for(model, rng)
    bnscope.recalibrate(model, data, inplace=True)
    sigma = np.sqrt(data.var(0) + norm.epsilon)
    for name, value in {
        "renorm_mean": data.mean(0),
        "renorm_stddev": sigma,
        "moving_stddev": sigma,
    }.items():
        got = keras.ops.convert_to_numpy(getattr(norm, name))
        np.testing.assert_allclose(got, value, rtol=1e-4)


def test_large_means_do_not_spoil_the_variance(rng):
    inputs = keras.Input((6, 6, 3))
    model = keras.Model(inputs, layers.BatchNormalization()(inputs))
    data = rng.normal((1000.0, -300.0, 0.0), (1.0, 0.1, 5.0), (90, 6, 6, 3))
    data = data.astype("float32")
    bnscope.recalibrate(model, data, inplace=True)
    x = data.astype("float64").reshape(-1, 3)
    mean, variance = statistics_of(norms_of(model)[0])
    # Of the mean no more can be asked than float32 holds.
    sigma = np.sqrt(x.var(0))
    assert np.max(np.abs(mean - x.mean(0)) / (sigma + np.abs(x.mean(0)))) < 1e-7
    np.testing.assert_allclose(variance, x.var(0), rtol=1e-4)


def test_the_batch_method_is_near_and_labelled(rng):
    model = made(convolutions, rng)
    data = data_for(model, rng, 256)
    exact = recalibration(model, data, batch_size=64)
    near = recalibration(model, data, method="batch", batch_size=64)
    assert all(layer.reason.startswith("approximate") for layer in near.layers)
    assert not any(layer["exact"] for layer in near.to_dict()["layers"])
    errors = [
        np.max(np.abs(one.mean - other.mean) / np.sqrt(one.variance))
        for one, other in zip(exact.layers, near.layers, strict=True)
    ]
    assert errors[0] < 1e-5  # nothing stands before the first layer
    assert 1e-5 < max(errors) < 0.1
    with pytest.warns(UserWarning, match="approximate"):
        bnscope.recalibrate(model, data, method="batch")


@pytest.mark.parametrize("name", ["custom_layers", "subclassed", "nested"])
def test_the_batch_method_reaches_layers_inside(name, rng):
    model = made(MODELS[name], rng)
    data = data_for(model, rng, 32)
    near = recalibration(model, data, method="batch", inplace=True)
    # One batch: what normalizes with its own statistics has the population's.
    expected, order = reference(model, data)
    assert len(order) == len(near.layers)
    assert_same([statistics_of(norm) for norm in order], expected)


def test_the_copy_is_compiled_and_the_original_stays(rng):
    model = made(convolutions, rng)
    model.compile("adam", "mse", metrics=["mae"])
    data = data_for(model, rng)
    model.fit(data, np.zeros((SAMPLES, 3)), verbose=0)
    steps = int(model.optimizer.iterations)
    result = bnscope.recalibrate(model, data)
    assert result is not model
    assert int(result.optimizer.iterations) == steps
    assert result.evaluate(data, np.zeros((SAMPLES, 3)), verbose=0)
    same = bnscope.recalibrate(model, data, inplace=True)
    assert same is model
    np.testing.assert_allclose(
        model.predict(data, verbose=0), result.predict(data, verbose=0), atol=1e-5
    )


def test_cold_statistics_are_rescued(rng):
    keras.utils.set_random_seed(3)
    model = convolutions()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    data = data_for(model, rng, 128)
    target = data.mean(axis=(1, 2))
    model.fit(data, target, epochs=2, batch_size=32, verbose=0)
    before = model.evaluate(data, target, verbose=0)
    after = bnscope.recalibrate(model, data).evaluate(data, target, verbose=0)
    assert after < before / 2


@pytest.mark.parametrize("kind", ["list", "generator", "dataset", "pairs"])
def test_whatever_fit_takes(kind, rng):
    model = made(convolutions, rng)
    data = data_for(model, rng, 64)
    expected = recalibration(model, data)

    class Samples(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return data[16 * index : 16 * index + 16], np.zeros((16, 3))

    def batches():
        for start in range(0, 64, 16):
            yield (data[start : start + 16], np.zeros((16, 3)))

    given = {
        "list": [data],
        "generator": batches(),
        "dataset": Samples(),
        "pairs": ((data[i : i + 16],) for i in range(0, 64, 16)),
    }[kind]
    found = recalibration(model, given)
    assert found.samples == 64
    for one, other in zip(found.layers, expected.layers, strict=True):
        np.testing.assert_allclose(one.mean, other.mean, rtol=1e-4, atol=1e-6)


def test_steps_end_an_endless_generator(rng):
    model = made(convolutions, rng)
    data = data_for(model, rng, 16)

    def endless():
        while True:
            yield (data,)

    assert recalibration(model, endless(), steps=3).samples == 48
    assert recalibration(model, data_for(model, rng), steps=2).samples == 64
    with pytest.raises(BnscopeError, match="steps="):
        recalibration(model, endless(), memory_limit=100_000)


def test_errors_are_clear_and_nothing_is_changed(rng):
    model = made(convolutions, rng)
    data = data_for(model, rng)
    before = [np.copy(w) for w in model.get_weights()]
    broken = data.copy()
    broken[3, 2, 2, 1] = np.nan
    cases = [
        (broken, {}, "is not finite"),
        (data[:, :, :, :2], {}, "does not run on the data"),
        (data[:0], {}, "no sample"),
        ("text", {}, "cannot be read"),
        (np.array(["a", "b"]), {}, "The inputs have dtype <U1, and numbers are expected"),
        ({}, {}, "There are no data"),
        (data, {"method": "precise"}, "no method"),
        (data, {"batch_size": 0}, "batch_size must be"),
    ]
    for x, options, text in cases:
        with pytest.raises(BnscopeError, match=text):
            bnscope.recalibrate(model, x, inplace=True, **options)
        for weight, old in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(weight, old)
    plain = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    with pytest.raises(UnsupportedModelError, match="no BatchNormalization"):
        bnscope.recalibrate(plain, np.zeros((4, 3)))
    with pytest.raises(UnsupportedModelError, match="not built"):
        bnscope.recalibrate(Subclassed(), np.zeros((4, 5)))


def over_images(*shape):
    """A network that runs on images of any size, whatever its input says."""
    inputs = keras.Input(shape, name="image")
    x = Seen()(layers.Conv2D(4, 3)(inputs))
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize(
    ("wanted", "given", "text"),
    [
        ((8, 8, 3), (6, 8, 3), r"\(8, 8, 3\), and these have \(6, 8, 3\)"),
        ((None, 8, 3), (6, 9, 3), r"\(any, 8, 3\), and these have \(6, 9, 3\)"),
        ((8, 8, 3), (8, 3), r"\(8, 8, 3\), and these have \(8, 3\)"),
        ((None, None, 3), (6, 6, 3, 5), r"\(any, any, 3\), and these have \(6, 6, 3, 5\)"),
        ((None, 8, 3), (6, 8, 3), None),
        ((8, 8, 1), (8, 8), None),
        ((8, 8, 3), (8, 8, 3, 1), None),
    ],
)
def test_samples_fit_where_predict_takes_them(wanted, given, text, rng):
    model = over_images(*wanted)
    data = rng.normal(size=(9, *given)).astype("float32")
    if text is None:
        model.predict(data, verbose=0)
        assert recalibration(model, data).samples == 9
        return
    with pytest.raises(ValueError, match=r"shape"):
        model.predict(data, verbose=0)
    before = model.get_weights()
    for options in ({}, {"inplace": True}, {"method": "batch", "inplace": True}):
        with pytest.raises(BnscopeError, match='"image" takes samples of shape ' + text):
            bnscope.recalibrate(model, data, **options)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_samples_of_another_shape_end_no_training(rng, capsys):
    model = over_images(8, 8, 3)
    model.compile("sgd", "mse")
    data = rng.normal(size=(16, 8, 8, 3)).astype("float32")
    recalibrate = BatchNormRecalibrate(data[:, :6])
    given = data, np.zeros((16, 2))
    model.fit(*given, validation_data=given, verbose=0, callbacks=[recalibrate])
    assert recalibrate.last is None
    out = capsys.readouterr().out
    assert (
        'BN keeps its moving statistics: The model does not run on the data: the input "image"'
        in out
    )


@pytest.mark.parametrize(
    ("pick", "text"),
    [
        (lambda data: data["one"], r"takes 2 inputs \(one, other\), and 1 array came"),
        (
            lambda data: {"one": data["one"]},
            r'"other" is missing of its inputs \(one, other\)',
        ),
    ],
)
def test_a_missing_input_is_named(pick, text, rng):
    model = made(shared_on_one_level, rng)
    with pytest.raises(BnscopeError, match=text):
        bnscope.recalibrate(model, pick(data_for(model, rng)))


def said(recorded):
    """Warnings, without the deprecations of the backend."""
    return [each for each in recorded if each.category is UserWarning]


def test_warnings_point_at_the_line_that_called(rng, recwarn):
    model = made(custom_layers, rng)
    bnscope.recalibrate(model, data_for(model, rng, 4), memory_limit=100)
    found = said(recwarn)
    assert {warning.filename for warning in found} == {__file__}
    texts = [str(warning.message) for warning in found]
    assert "those of 4 samples alone" in texts[0]
    assert any("passes over the data" in text for text in texts[1:])


def test_one_is_not_written_as_several(rng, recwarn):
    inputs = keras.Input((5,))
    x = Handed(Seen())(layers.Dense(4)(inputs))
    model = made(lambda: keras.Model(inputs, layers.Dense(2)(x)), rng)
    bnscope.recalibrate(model, data_for(model, rng), inplace=True, memory_limit=1)
    (text,) = [str(warning.message) for warning in said(recwarn)]
    assert "around 1 BN layer is" in text
    assert "1 pass over" in text


def test_a_model_that_cannot_be_copied_is_changed_in_place_only(rng):
    class Forgetful(layers.Layer):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def call(self, inputs):
            return inputs * self.factor

    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.BatchNormalization()(Forgetful(2.0)(inputs)))
    data = data_for(model, rng)
    with pytest.raises(UnsupportedModelError, match="cannot be copied"):
        bnscope.recalibrate(model, data)
    bnscope.recalibrate(model, data, inplace=True)
    mean, _ = statistics_of(norms_of(model)[0])
    np.testing.assert_allclose(mean, 2.0 * data.mean(0), rtol=1e-4)


@pytest.fixture
def saved(tmp_path, rng):
    """A compiled and trained model, and samples, as files."""
    model = made(convolutions, rng)
    model.compile("adam", "mse")
    data = data_for(model, rng)
    model.fit(data, np.zeros((SAMPLES, 3)), verbose=0)
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=data, y=np.zeros((SAMPLES, 3)))
    return model, data


def test_the_command_writes_a_model_that_trains_on(saved, tmp_path, run_cli):
    model, data = saved
    path, out = tmp_path / "model.keras", tmp_path / "out.keras"
    given = ["recalibrate", path, "--data", tmp_path / "data.npz", "-o", out]
    code, text, errors = run_cli(*given)
    assert (code, errors) == (0, "")
    assert "3 BN layers recalibrated on 70 samples" in text
    found = keras.models.load_model(out)
    assert int(found.optimizer.iterations) == int(model.optimizer.iterations)
    expected = bnscope.recalibrate(model, data)
    assert_same(*([statistics_of(n) for n in norms_of(m)] for m in (found, expected)))
    code, _, errors = run_cli(*given)
    assert code == 2
    assert "exists already" in errors
    code, text, errors = run_cli(
        *given, "--overwrite", "--memory", "1e-6", "--output-format", "json", "--steps", "1"
    )
    assert code == 0
    assert "3 passes over the data" in errors
    result = json.loads(text)
    assert (result["samples"], result["passes"], len(result["layers"])) == (32, 3, 3)


def test_the_command_takes_inputs_by_name_and_leaves_the_rest(tmp_path, run_cli, rng):
    model = made(shared_on_one_level, rng)
    model.save(tmp_path / "model.keras")
    data = data_for(model, rng)
    others = {
        "one_val": data["one"][:9],
        "other_val": data["other"][:9],
        "target": data["one"],
    }
    np.savez(tmp_path / "data.npz", **data, **others)
    out = tmp_path / "out.keras"
    given = "--data", tmp_path / "data.npz", "-o", out
    code, _, errors = run_cli("recalibrate", tmp_path / "model.keras", *given)
    assert (code, errors) == (0, "")
    found, expected = keras.models.load_model(out), bnscope.recalibrate(model, data)
    assert_same(*([statistics_of(n) for n in norms_of(m)] for m in (found, expected)))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--data", "data.npz"], "-o FILE is missing"),
        (["-o", "out.keras"], "--data FILE is missing"),
        (["-o", "out.keras", "--data", "no.npz"], "does not exist"),
        (["-o", "out.keras", "--data", "model.keras"], "cannot be read as .npz"),
        (["-o", "out.keras", "--data", "wide.npz"], "does not run on the data"),
        (
            ["-o", "out.keras", "--data", "y.npz"],
            "y.npz holds y, but no input of the model",
        ),
        (
            ["-o", "out.keras", "--data", "data.npz", "--batch-size", "0"],
            "argument --batch-size: expected a whole number of at least 1, got '0'",
        ),
        (
            ["-o", "out.keras", "--data", "data.npz", "--memory", "-1"],
            "argument --memory: expected a number of GiB above 0, got '-1'",
        ),
        (
            ["-o", "out.keras", "--data", "data.npz", "--memory", "nan"],
            "argument --memory",
        ),
        (["-o", "out.keras", "--data", "data.npz", "--steps", "x"], "argument --steps"),
    ],
)
@pytest.mark.usefixtures("saved")
def test_errors_of_the_command_are_one_line_and_write_nothing(
    run_cli, arguments, text, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    np.savez("wide.npz", x=np.zeros((4, 8, 8, 5), "float32"))
    np.savez("y.npz", y=np.zeros(4))
    code, out, errors = run_cli("recalibrate", "model.keras", *arguments)
    assert (code, out) == (2, "")
    assert text in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out.keras").exists()


@keras.saving.register_keras_serializable("tests")
class Cell(layers.Layer):
    """A recurrent cell with BN inside."""

    state_size = 3

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.norm = layers.Dense(3), layers.BatchNormalization()

    def build(self, shape):
        self.dense.build((shape[0], 3 + shape[-1]))
        self.norm.build((shape[0], 3))

    def call(self, inputs, states, training=None):
        x = self.dense(keras.ops.concatenate([inputs, states[0]], axis=-1))
        x = keras.ops.tanh(self.norm(x, training=training))
        return x, [x]


def recurrent_cell():
    inputs = keras.Input((5, 2))
    return keras.Model(inputs, Seen()(layers.RNN(Cell())(inputs)))


def model_over_time():
    inner = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4), layers.BatchNormalization()]
    )
    inputs = keras.Input((6, 3))
    return keras.Model(inputs, Seen()(layers.TimeDistributed(inner)(inputs)))


@pytest.mark.parametrize("method", ["exact", "batch"])
@pytest.mark.parametrize("function", [recurrent_cell, model_over_time])
def test_a_layer_inside_a_loop_is_said_not_to_be_exact(function, method, rng):
    model = made(function, rng)
    data = data_for(model, rng)
    result = recalibration(model, data, method=method)
    inside, behind = result.layers
    assert inside.reason is not None
    if method == "batch":
        return
    assert behind.reason is None  # with what the one inside has now
    where = keras.Model(result.model.input, result.model.layers[-1].input)
    x = np.asarray(where.predict(data, verbose=0), "float64")
    x = x.reshape(-1, x.shape[-1])
    assert_same([(behind.mean, behind.variance)], [(x.mean(0), x.var(0))])
