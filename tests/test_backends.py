"""BatchNormMonitor on the backend that KERAS_BACKEND names.

`make test` runs this on TensorFlow, `make test-backends` on JAX and PyTorch, where TensorFlow
is not installed. What the monitor tells of a mini-batch is compared with what the layer itself
saw of it.
"""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

from bnscope.callbacks import BatchNormMonitor
from bnscope.events import read
from bnscope.statistics.channels import FIELDS

BACKEND = keras.backend.backend()
BATCH = 16
STEPS = 6
WIDTH = 5

on_torch = BACKEND == "torch"


class Seen(layers.BatchNormalization):
    """BN that keeps what it saw of the last batch."""

    def build(self, shape):
        super().build(shape)
        options = {"shape": (shape[self.axis],), "trainable": False, "autocast": False}
        self.seen_mean = self.add_weight(name="seen_mean", **options)
        self.seen_variance = self.add_weight(name="seen_variance", **options)

    def _moments(self, inputs, mask):
        mean, variance = super()._moments(inputs, mask)
        self.seen_mean.assign(mean)
        self.seen_variance.assign(variance)
        return mean, variance


class Log(keras.callbacks.Callback):
    """Notes after each step what the layer kept."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.mean, self.variance = layer, [], []

    def on_train_batch_end(self, batch, logs=None):
        _ = self.model  # on JAX brings the running values into the variables
        self.mean.append(values(self.layer.seen_mean))
        self.variance.append(values(self.layer.seen_variance))


def values(variable):
    return np.array(ops.convert_to_numpy(variable), np.float64)


def data(rng, steps=STEPS):
    x = rng.normal(2.0, 1.5, (steps * BATCH, WIDTH)).astype(np.float32)
    return x, x[:, :1] - 0.5 * x[:, 1:2]


def model(rng, momentum=0.9, **options):
    seen = Seen(name="seen", momentum=momentum, **options)
    made = keras.Sequential(
        [
            keras.Input((WIDTH,)),
            layers.Dense(7, use_bias=False),
            seen,
            layers.ReLU(),
            layers.BatchNormalization(name="behind", momentum=momentum),
            layers.Dense(1),
        ]
    )
    seen.gamma.assign(rng.normal(size=7))
    seen.moving_mean.assign(rng.normal(size=7))
    if not options:  # with renorm three variables would have to fit together
        seen.moving_variance.assign(np.exp(rng.normal(size=7)))
    return made, seen


def fit(made, callbacks, x, y=None, **options):
    settings = {"batch_size": BATCH} if isinstance(x, np.ndarray) else {}
    options = {"verbose": 0, "shuffle": False, **settings, **options}
    targets = {} if y is None else {"y": y}
    return made.fit(x, **targets, callbacks=callbacks, **options)


def field(history, layer, name):
    return history.fields[:, history.layers.index(layer), FIELDS.index(name)]


def assert_told(history, log, steps):
    """The mini-batch values are what the layer saw, within the bound that stands with them."""
    columns = {"min": np.min, "max": np.max, "mean": np.mean}
    mean_bound = field(history, "seen", "mean_error")
    variance_bound = field(history, "seen", "variance_error")
    moving = history.statistic("seen", "moving_variance", "max")
    sigma = np.sqrt(moving + 1e-3)
    assert (mean_bound < 1e-3).all()
    assert (variance_bound < 1e-2).all()
    for column, reduced in columns.items():
        seen = np.array([reduced(log.mean[step - 1]) for step in steps])
        told = history.statistic("seen", "batch_mean", column)
        assert (np.abs(told - seen) <= mean_bound * sigma + 1e-6).all()
        seen = np.array([reduced(log.variance[step - 1]) for step in steps])
        told = history.statistic("seen", "batch_variance", column)
        assert (np.abs(told - seen) <= variance_bound * moving + 1e-6 * seen).all()


WAYS = {
    "by default": {},
    "eagerly": {"run_eagerly": True},
    "compiled": {"jit_compile": True},
    "with accumulated gradients": {"gradient_accumulation_steps": 4},
}


# On PyTorch that is torch.compile, which takes a C++ compiler and more than a minute.
_compiled = [pytest.mark.slow] if on_torch else []


@pytest.mark.parametrize(
    "way",
    [pytest.param(way, marks=_compiled if "jit" in str(WAYS[way]) else []) for way in WAYS],
)
def test_mini_batches_are_told_as_the_layer_saw_them(way, rng):
    made, seen = model(rng)
    options = dict(WAYS[way])
    accumulated = options.pop("gradient_accumulation_steps", None)
    optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=accumulated)
    made.compile(optimizer, "mse", **options)
    log, monitor = Log(seen), BatchNormMonitor(update_freq=2)
    fit(made, [log, monitor], *data(rng))
    assert list(monitor.history.steps) == [2, 4, 6]
    assert (field(monitor.history, "seen", "updates") == 1).all()
    assert_told(monitor.history, log, [2, 4, 6])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mini_batches_are_told_in_mixed_precision(policy, rng):
    with_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        made, seen = model(rng)
        made.compile("sgd", "mse")
        log, monitor = Log(seen), BatchNormMonitor(update_freq=1)
        fit(made, [log, monitor], *data(rng))
    finally:
        keras.config.set_dtype_policy(with_policy)
    assert list(monitor.history.steps) == list(range(1, STEPS + 1))
    assert_told(monitor.history, log, range(1, STEPS + 1))


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX keeps the values elsewhere")
def test_where_the_running_values_are_not_found_keras_is_asked(rng, monkeypatch):
    def nowhere(variables, _model):
        return [("elsewhere", 0)] * len(variables)

    monkeypatch.setattr("bnscope.backend._places", nowhere)
    made, seen = model(rng)
    made.compile("sgd", "mse")
    log, monitor = Log(seen), BatchNormMonitor(update_freq=2)
    fit(made, [monitor, log], *data(rng))
    assert_told(monitor.history, log, [2, 4, 6])


def test_renorm_is_told_from_the_moving_deviation(rng):
    made, seen = model(rng, renorm=True)
    made.compile(keras.optimizers.SGD(1e-3), "mse")
    log, monitor = Log(seen), BatchNormMonitor(update_freq=1)
    fit(made, [log, monitor], *data(rng))
    assert str(monitor._recorder.layout.statuses[0]) == "renorm"
    assert_told(monitor.history, log, range(1, STEPS + 1))


@pytest.mark.skipif(on_torch, reason="Keras has no steps_per_execution on PyTorch")
def test_several_steps_in_one_execution_are_a_window(rng):
    made, _ = model(rng)
    made.compile("sgd", "mse", steps_per_execution=4)
    monitor = BatchNormMonitor(update_freq=4)
    x, y = data(rng, 9)
    fit(made, [monitor], x, y, epochs=2)
    # 4, 4 and 1 steps in each epoch: the last 4 of the second lie behind 4 + 4 + 1 + 4.
    assert list(monitor.history.steps) == [4, 8, 13, 17, 18]
    assert list(field(monitor.history, "seen", "updates")) == [4, 4, 4, 4, 1]


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        part = slice(index * BATCH, (index + 1) * BATCH)
        return self.x[part], self.y[part]


def sources(x, y):
    """The same batches as a PyDataset, a generator of unknown length, and the backend's own."""
    batches = Batches(x, y)
    yield batches
    yield (batches[index] for index in range(STEPS))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        yield tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
    if on_torch:
        import torch

        pairs = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
        yield torch.utils.data.DataLoader(pairs, batch_size=BATCH)


def test_data_may_come_from_anywhere(rng):
    x, y = data(rng)
    for source in sources(x, y):
        made, seen = model(rng)
        made.compile(keras.optimizers.SGD(0.01), "mse")
        log, monitor = Log(seen), BatchNormMonitor(update_freq=3)
        fit(made, [log, monitor], source)
        assert list(monitor.history.steps) == [3, 6], source
        assert_told(monitor.history, log, [3, 6])


class Stop(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


def test_the_last_step_is_recorded_and_its_batch_told_where_fit_is_stopped(rng):
    made, seen = model(rng)
    made.compile(keras.optimizers.SGD(0.01), "mse")
    log, monitor = Log(seen), BatchNormMonitor(update_freq=5, channel_freq=2)
    fit(made, [log, monitor, Stop()], *data(rng), epochs=4)
    assert list(monitor.history.steps) == [5, 10, 12]
    assert_told(monitor.history, log, [5, 10, 12])
    assert list(monitor.history.channel_steps) == [10, 12]
    held = monitor.history.channels("seen", "moving_variance")[-1]
    np.testing.assert_array_equal(held, values(seen.moving_variance))


def test_without_a_known_length_the_last_step_has_no_batch(rng):
    x, y = data(rng)
    made, seen = model(rng)
    made.compile(keras.optimizers.SGD(0.01), "mse")
    monitor = BatchNormMonitor(update_freq=5, channel_freq=None)
    fit(
        made,
        [monitor],
        (pair for pair in zip(np.split(x, STEPS), np.split(y, STEPS), strict=True)),
    )
    assert list(monitor.history.steps) == [5, 6]
    assert list(field(monitor.history, "seen", "updates")) == [1, 0]
    known = np.isfinite(monitor.history.statistic("seen", "batch_mean"))
    assert list(known) == [True, False]
    last = monitor.history.statistic("seen", "moving_variance", "max")[-1]
    assert last == np.float32(values(seen.moving_variance).max())


class OwnStep(keras.Model):
    """A `train_step` of its own, which here calls the model once."""

    if BACKEND == "jax":

        def train_step(self, state, data):
            return super().train_step(state, data)

    else:

        def train_step(self, data):
            return super().train_step(data)


def test_with_a_step_of_the_users_one_update_is_assumed(rng):
    inner, seen = model(rng)
    made = OwnStep(inner.inputs, inner.outputs)
    made.compile(keras.optimizers.SGD(0.01), "mse")
    log, monitor = Log(seen), BatchNormMonitor(update_freq=2)
    fit(made, [log, monitor], *data(rng))
    assert {str(each) for each in monitor._recorder.layout.statuses} == {"assumed"}
    assert_told(monitor.history, log, [2, 4, 6])


class Twice(keras.Model):
    def __init__(self):
        super().__init__()
        self.once = layers.BatchNormalization(name="once")
        self.twice = layers.BatchNormalization(name="twice")
        self.head = layers.Dense(1)

    def call(self, x, training=None):
        x = self.once(x, training=training)
        x = self.twice(self.twice(x, training=training), training=training)
        return self.head(x)


def test_a_layer_called_twice_in_a_subclassed_model_is_marked(rng):
    made = Twice()
    made.compile("sgd", "mse")
    monitor = BatchNormMonitor(update_freq=2)
    fit(made, [monitor], *data(rng))
    found = dict(
        zip(monitor.history.layers, monitor._recorder.layout.statuses, strict=True)
    )
    assert found == {"once": "exact", "twice": "shared"}
    assert np.isfinite(monitor.history.statistic("once", "batch_mean")).all()
    assert np.isnan(monitor.history.statistic("twice", "batch_mean")).all()


def test_layers_that_cannot_be_told_are_marked(rng):
    inputs = keras.Input((3, WIDTH))
    shared = layers.BatchNormalization(name="shared")
    timed = layers.TimeDistributed(layers.BatchNormalization(name="timed"), name="td")
    inner = keras.Sequential(
        [keras.Input((3, WIDTH)), layers.BatchNormalization(name="bn")]
    )
    frozen = layers.BatchNormalization(name="frozen", trainable=False)
    x = inner(frozen(shared(timed(shared(inputs)))))
    made = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(x)))
    made.compile("sgd", "mse")
    monitor = BatchNormMonitor(update_freq=1)
    x = rng.normal(size=(2 * BATCH, 3, WIDTH)).astype(np.float32)
    fit(made, [monitor], x, x[:, 0, :1])
    history = monitor.history
    status = dict(zip(history.layers, monitor._recorder.layout.statuses, strict=True))
    nested = f"{inner.name}/bn"
    assert status == {
        "shared": "shared",
        "td/timed": "time-distributed",
        "frozen": "frozen",
        nested: "exact",
    }
    for layer, value in status.items():
        known = np.isfinite(history.statistic(layer, "batch_mean"))
        assert known.all() if value == "exact" else not known.any()


def test_the_model_is_trained_as_without_the_monitor(rng):
    x, y = data(rng)
    results = []
    for callbacks in ([], [BatchNormMonitor(update_freq=1)]):
        keras.utils.set_random_seed(3)
        made, _ = model(np.random.default_rng(1))
        made.compile("sgd", "mse")
        fit(made, callbacks, x, y, epochs=2, validation_data=(x, y))
        results.append(made.get_weights())
    for plain, watched in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, watched)


def test_a_run_goes_on_in_another_process(rng, tmp_path):
    # With other objects, as there: the model out of a file, a monitor that knows of nothing.
    x, y = data(rng)
    made, seen = model(rng)
    made.compile("sgd", "mse")
    fit(made, [BatchNormMonitor(tmp_path / "logs", update_freq=2)], x, y, epochs=2)
    made.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", custom_objects={"Seen": Seen})
    seen = again.get_layer("seen")
    log, monitor = Log(seen), BatchNormMonitor(tmp_path / "logs", update_freq=2)
    fit(again, [log, monitor], x, y, initial_epoch=2, epochs=3)
    assert list(monitor.history.steps) == [14, 16, 18]
    assert_told(monitor.history, log, [2, 4, 6])
    run = read(tmp_path / "logs")
    assert list(run.steps) == list(range(2, 20, 2))
    assert list(run.channel_steps) == [6, 12, 18]
    assert len(run.starts) == 2


def test_a_run_goes_on_where_a_backup_was_restored(rng, tmp_path):
    x, y = data(rng)

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    for more in ([Interrupt()], []):
        keras.utils.set_random_seed(3)
        made, _ = model(np.random.default_rng(1))
        made.compile("sgd", "mse")
        monitor = BatchNormMonitor(tmp_path / "logs", update_freq=2)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        try:
            fit(made, [monitor, backup, *more], x, y, epochs=3)
        except KeyboardInterrupt:
            monitor._recorder.close()  # as the end of the process does
    assert list(monitor.history.steps) == [14, 16, 18]
    run = read(tmp_path / "logs")
    assert list(run.steps) == list(range(2, 20, 2))
    # The first reading was taken after the restored values had come in.
    assert run.statistic("seen", "distance", "max")[6] < 3


def test_events_and_history_hold_the_same_without_tensorflow(rng, tmp_path):
    x, y = data(rng)
    made, seen = model(rng)
    made.compile("sgd", "mse")
    monitor = BatchNormMonitor(tmp_path, update_freq=2)
    fit(made, [monitor], x, y, epochs=2, validation_data=(x, y))
    run = read(tmp_path)
    np.testing.assert_array_equal(run.statistics, monitor.history.statistics)
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        found = monitor.history.channels("seen", name)[-1]
        np.testing.assert_array_equal(found, values(getattr(seen, name)))
    assert ("tensorflow" in sys.modules) == (BACKEND == "tensorflow")


def test_nan_everywhere_ends_nothing(rng, capsys):
    x, y = data(rng)
    x[BATCH:] = np.nan
    made, _ = model(rng)
    made.compile("sgd", "mse")
    monitor = BatchNormMonitor(update_freq=1)
    fit(made, [monitor], x, y, epochs=2)
    assert list(monitor.history.steps) == list(range(1, 2 * STEPS + 1))
    (alert,) = [each for each in monitor.alerts if each.code == "BN501"]
    assert (alert.layer, alert.step, alert.others) == ("seen", 2, 1)
    assert (monitor.history.statistic("seen", "moving_mean", "nonfinite")[1:] == 7).all()
    assert capsys.readouterr().out.count("BN501 nan-statistics at") == 1
