"""Alerts in `fit`: planted faults raise theirs, and healthy runs none but cold statistics."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from bnscope.callbacks import BatchNormMonitor
from bnscope.graph import read
from bnscope.statistics.layout import VARIABLES
from bnscope.watching.alerts import Watch
from bnscope.watching.layers import make_layout, readable_layers


@pytest.fixture(autouse=True)
def fresh_names():
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)


def data(rng, count=160):
    x = rng.normal(0.0, 1.0, (count, 6)).astype(np.float32)
    return x, x[:, :1] * 0.5 - x[:, 1:2]


def network(momentum=0.5, optimizer="sgd", **options):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, use_bias=False, name="filters"),
            layers.BatchNormalization(name="first", momentum=momentum),
            layers.ReLU(),
            layers.Dense(8, use_bias=False),
            layers.BatchNormalization(name="second", momentum=momentum),
            layers.Dense(1),
        ]
    )
    model.compile(optimizer, "mse", **options)
    return model


def fit(model, x, y, *, before=(), after=(), **options):
    """Trains with the monitor between other callbacks; returns its alerts."""
    monitor = BatchNormMonitor(update_freq=2)
    options = {"batch_size": 32, "verbose": 0, **options}
    model.fit(x, y, callbacks=[*before, monitor, *after], **options)
    return monitor.alerts


def told(alerts):
    return [(alert.code, alert.layer, alert.step, alert.others) for alert in alerts]


def watch_of(model, **options):
    """A watch of a model, as the monitor makes it, without a `fit`."""
    graph = read(model)
    layout = make_layout(graph, readable_layers(graph))
    watch = Watch(layout)
    watch.begin(
        layout, 0, np.ones((len(VARIABLES), layout.channels)), graph=graph, **options
    )
    return watch


# BN405 and BN408: few values


def convolutional(size=8, **options):
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            layers.Conv2D(4, 3, padding="same", name="conv"),
            layers.BatchNormalization(name="map", **options),
            layers.GlobalAveragePooling2D(),
            layers.BatchNormalization(name="vector", **options),
        ]
    )


def test_small_batches_are_told_from_the_first_step(rng):
    alerts = fit(network(), *data(rng, 32), batch_size=4)
    assert told(alerts) == [("BN405", "first", 1, 1)]
    assert (alerts[0].value, alerts[0].threshold) == (4, 8)


@pytest.mark.parametrize(
    ("size", "batch", "options", "expected"),
    [
        (8, 7, {}, [("BN405", "vector")]),
        (8, 8, {}, []),
        (2, 1, {}, [("BN405", "map")]),
        (3, 1, {}, [("BN405", "vector")]),
        (8, 1, {"trainable": False}, []),
        (8, 1, {"axis": 1}, []),  # the axis is no channel axis of the vector's inputs
    ],
)
def test_values_a_channel_are_counted_over_the_map(size, batch, options, expected):
    if "axis" in options:
        model = keras.Sequential(
            [keras.Input((4, 8)), layers.BatchNormalization(axis=1, name="bn")]
        )
    else:
        model = convolutional(size, **options)
    alerts = watch_of(model).batch_size(1, batch)
    assert [(alert.code, alert.layer) for alert in alerts] == expected


def test_one_value_a_channel_is_told_as_such_and_not_as_a_dead_input(rng):
    # The variance of one value is 0: after 35 steps the moving one is below epsilon / 10.
    alerts = fit(network(0.8), *data(rng, 60), batch_size=1)
    assert told(alerts) == [("BN405", "first", 1, 1)]
    assert alerts[0].value == 1


@pytest.mark.parametrize(("batch", "replicas"), [(1, 1), (4, 4)])
def test_with_one_value_a_channel_an_exploded_variance_is_still_told(batch, replicas):
    watch = watch_of(network(), replicas=replicas)
    list(watch.batch_size(1, batch))
    values = np.ones((4, 16))
    values[3, 3], values[3, 9] = 0.0, 1e7
    found = [(each.code, each.layer) for each in watch.reading(2, values)]
    assert found == [("BN304", "second")]


@pytest.mark.parametrize(
    ("batch", "replicas", "options", "expected"),
    [
        (124, 4, {}, [("BN408", "vector")]),
        (128, 4, {}, []),
        (124, 1, {}, []),
        (124, 4, {"synchronized": True}, []),
        (124, 4, {"trainable": False}, []),
    ],
)
def test_each_replica_needs_values_of_its_own(batch, replicas, options, expected):
    watch = watch_of(convolutional(**options), replicas=replicas)
    alerts = list(watch.batch_size(1, batch))
    assert [(alert.code, alert.layer) for alert in alerts] == expected
    if alerts:
        assert alerts[0].code == "BN408"
        assert "split over 4 replicas" in alerts[0].message
        assert (alerts[0].value, alerts[0].threshold) == (31, 32)


# BN504


@pytest.mark.parametrize("validated", [True, False])
def test_one_sample_left_over_is_told_at_the_end_of_the_epoch(validated, rng):
    x, y = data(rng, 65)
    options = {"validation_data": (x, y)} if validated else {}
    alerts = fit(network(), x, y, batch_size=64, epochs=3, **options)
    found = [alert for alert in alerts if alert.code == "BN504"]
    assert told(found) == [("BN504", "first", 2, 1)]
    assert found[0].value == pytest.approx((1 - 0.5) / (1 - 0.5**2))
    assert "has 1 sample, the others have 64" in found[0].message


def test_a_length_that_is_not_known_is_learned_in_the_first_epoch(rng):
    x, y = data(rng, 65)

    def batches():
        for _ in range(3):
            yield x[:64], y[:64]
            yield x[64:], y[64:]

    import tensorflow as tf

    kinds = tuple(tf.TensorSpec((None, *each.shape[1:]), tf.float32) for each in (x, y))
    one_epoch = tf.data.Dataset.from_generator(batches, output_signature=kinds).take(2)
    alerts = fit(network(), one_epoch, None, batch_size=None, epochs=3)
    assert told(alerts) == [("BN504", "first", 4, 1)]


class Uncounted(keras.Sequential):
    """Its own `train_step` does not count in the loss of the model."""

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"own_loss": loss}


def test_where_nothing_counts_nothing_is_told_of_batches(rng):
    model = Uncounted([keras.Input((6,)), layers.BatchNormalization(), layers.Dense(1)])
    model.compile("sgd", "mse")
    assert fit(model, *data(rng, 65), batch_size=2, epochs=2) == []


@pytest.mark.parametrize(
    ("last", "batches", "momentum", "expected"),
    [
        (1, 100, 0.99, 2),  # one value says nothing, however rare
        (5, 57, 0.99, 0),  # the digits in batches of 32
        (3, 4, 0.99, 2),
        (3, 60, 0.99, 0),
        (16, 2, 0.5, 0),
    ],
)
def test_a_last_batch_matters_by_its_weight(last, batches, momentum, expected):
    alerts = list(watch_of(network(momentum)).last_batch(batches, last, 32, batches))
    assert sum(1 + alert.others for alert in alerts) == expected


def test_a_last_batch_counts_the_values_of_its_map():
    large = watch_of(convolutional(8, momentum=0.5))
    (alert,) = large.last_batch(2, 1, 64, 2)
    assert (alert.layer, alert.others) == ("vector", 0)


# BN409


def test_a_layer_frozen_without_compile_is_told(rng):
    model, (x, y) = network(), data(rng)
    model.fit(x, y, verbose=0)
    model.get_layer("second").trainable = False
    alerts = fit(model, x, y)
    assert told(alerts) == [("BN409", "second", 2, 0)]  # as soon as it has moved
    assert "is still trained" in alerts[0].message
    assert alerts[0].severity == "error"
    model.compile("sgd", "mse")
    assert fit(model, x, y) == []


def test_a_layer_thawed_without_compile_is_told_and_stands_still(rng):
    model, (x, y) = network(), data(rng)
    model.get_layer("first").trainable = False
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0)
    model.get_layer("first").trainable = True
    alerts = fit(model, x, y)
    assert told(alerts) == [("BN409", "first", 0, 0), ("BN506", "first", 5, 0)]
    assert "is still frozen" in alerts[0].message


def test_a_flag_changed_in_the_middle_of_fit_is_told(rng):
    class Freeze(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.get_layer("second").trainable = epoch == 0

    alerts = fit(network(), *data(rng), before=[Freeze()], epochs=2)
    assert told(alerts) == [("BN409", "second", 6, 0)]


def test_flags_that_fit_takes_up_are_no_fault(rng, tmp_path):
    model, (x, y) = network(), data(rng)
    model.get_layer("second").trainable = False  # after compile, before the first fit
    assert fit(model, x, y) == []
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.get_layer("first").trainable = False
    assert fit(loaded, x, y) == []
    assert fit(loaded, x, y) == []  # another monitor, which has not seen the first fit


def test_a_gan_trains_its_discriminator_with_the_flags_of_compile(rng):
    model, (x, y) = network(), data(rng)
    model.fit(x, y, verbose=0)
    model.trainable = False
    assert fit(model, x, y) == []


# BN506


class Still(keras.Model):
    """Its first BN is told not to train."""

    def __init__(self):
        super().__init__()
        self.still = layers.BatchNormalization(name="still")
        self.moving = layers.BatchNormalization(name="moving")
        self.head = layers.Dense(1)

    def call(self, x, training=None):
        return self.head(self.moving(self.still(x, training=False), training=training))


@pytest.mark.parametrize(("warm", "severity"), [(False, "error"), (True, "warning")])
def test_statistics_that_stand_still_for_an_epoch_are_told(warm, severity, rng, randomized):
    model, (x, y) = Still(), data(rng)
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    model(x[:2])
    if warm:
        randomized(model)
    alerts = [alert for alert in fit(model, x, y, epochs=2) if alert.code == "BN506"]
    assert told(alerts) == [("BN506", "still", 5, 0)]
    assert (alerts[0].severity, alerts[0].count) == (severity, 2)
    model.still.trainable = False
    model.compile("sgd", "mse")
    assert "BN506" not in {alert.code for alert in fit(model, x, y)}


def test_statistics_that_moved_once_may_stop(rng):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.get_layer("first").momentum = 1.0
                self.model.make_train_function(force=True)

    model = network()
    alerts = fit(model, *data(rng), before=[Stop()], epochs=3)
    assert alerts == []


# BN407


@pytest.mark.parametrize(
    ("swap_on_epoch", "first"),
    [
        (True, False),
        (False, True),
        pytest.param(True, True, marks=pytest.mark.slow),
        pytest.param(False, False, marks=pytest.mark.slow),
    ],
)
def test_averaged_weights_are_told_where_they_come(swap_on_epoch, first, rng):
    model = network(optimizer=keras.optimizers.SGD(1e-2, use_ema=True))
    x, y = data(rng)
    swap = [keras.callbacks.SwapEMAWeights(swap_on_epoch=swap_on_epoch)]
    order = {"before": swap} if first else {"after": swap}
    validation = {} if swap_on_epoch else {"validation_data": (x, y)}
    alerts = fit(model, x, y, epochs=3, **order, **validation)
    (alert,) = [alert for alert in alerts if alert.code == "BN407"]
    assert (alert.layer, alert.step, alert.others) == ("first", 5, 1)
    where = "Between two epochs" if swap_on_epoch else "At a validation"
    assert alert.message.startswith(where)


def test_averaged_weights_at_the_end_are_told_unless_statistics_follow(rng):
    class Renew(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            bn = self.model.get_layer("first")
            bn.moving_mean.assign(bn.moving_mean + 0.1)

    x, y = data(rng)
    for before, expected in (([], [("BN407", "first", 10, 1)]), ([Renew()], [])):
        model = network(optimizer=keras.optimizers.SGD(1e-2, use_ema=True))
        assert told(fit(model, x, y, before=before, epochs=2)) == expected


# BN502 and BN505 in a real fit; test_windows.py has their many cases


def test_a_model_of_other_data_has_a_gap(rng):
    model, (x, y) = network(0.99), data(rng)
    for name in ("first", "second"):  # as if trained on data of another scale
        model.get_layer(name).moving_mean.assign(rng.normal(0, 40, 8))
        model.get_layer(name).moving_variance.assign(rng.uniform(200, 400, 8))
    alerts = fit(model, x, y, epochs=3)
    assert [told[:1] + told[2:] for told in told(alerts)] == [("BN502", 10, 1)]
    assert alerts[0].value > 10


def test_a_filter_that_dies_is_seen_dying_then_dead(rng):
    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 4:
                dense = self.model.get_layer("filters")
                kernel = np.array(dense.kernel.numpy())
                kernel[:, 5] = 0.0
                dense.kernel.assign(kernel)
                dense.trainable = False
                self.model.make_train_function(force=True)

    model = network(0.8)
    alerts = fit(model, *data(rng), before=[Kill()], epochs=16)
    assert [(a.code, a.layer, a.channel) for a in alerts] == [
        ("BN505", "first", 5),
        ("BN304", "first", 5),
    ]
    assert alerts[0].step < 40
    assert alerts[1].step > 50


# Healthy runs


def digits():
    sklearn = pytest.importorskip("sklearn.datasets")
    x, y = sklearn.load_digits(return_X_y=True)
    return (x.reshape(-1, 8, 8, 1) / 16).astype(np.float32), y


def classifier(momentum, width=16):
    parts = [keras.Input((8, 8, 1))]
    for strides in (1, 2):
        parts += [
            layers.Conv2D(width, 3, strides=strides, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=momentum),
            layers.ReLU(),
        ]
    model = keras.Sequential([*parts, layers.Flatten(), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def test_a_network_that_learns_the_digits_raises_nothing_once_warm():
    x, y = digits()
    monitor = BatchNormMonitor(update_freq=1)
    history = classifier(0.9).fit(
        x, y, batch_size=32, epochs=2, verbose=0, validation_split=0.2, callbacks=[monitor]
    )
    assert history.history["val_accuracy"][-1] > 0.8
    assert monitor.alerts == []


@pytest.mark.slow
@pytest.mark.parametrize("update_freq", [1, 10])
@pytest.mark.parametrize("momentum", [0.9, 0.99, 0.999])
def test_longer_healthy_runs_raise_only_cold_statistics(momentum, update_freq):
    x, y = digits()
    monitor = BatchNormMonitor(update_freq=update_freq)
    options = {"validation_split": 0.2, "callbacks": [monitor], "verbose": 0}
    classifier(momentum, 32).fit(x, y, batch_size=32, epochs=30, **options)
    cold = momentum**45 >= 0.05  # after the first epoch
    assert [alert.code for alert in monitor.alerts] == ["BN503"] * cold


@pytest.mark.slow
@pytest.mark.parametrize("update_freq", [1, 10])
@pytest.mark.parametrize(
    ("build", "size"),
    [
        (keras.applications.MobileNetV2, 64),
        (keras.applications.EfficientNetB0, 32),
        (keras.applications.ResNet50V2, 32),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_fresh_applications_raise_only_cold_statistics(build, size, update_freq):
    x, y = digits()
    scale = 255 if build is keras.applications.EfficientNetB0 else 1
    x = np.repeat(keras.ops.image.resize(x, (size, size)), 3, -1) * scale
    model = build(input_shape=(size, size, 3), weights=None, classes=10)
    model.compile("adam", "sparse_categorical_crossentropy")
    monitor = BatchNormMonitor(update_freq=update_freq)
    validation = (x[-32:], y[-32:])
    options = {"callbacks": [monitor], "validation_data": validation, "verbose": 0}
    model.fit(x[:320], y[:320], batch_size=16, epochs=3, **options)
    assert [alert.code for alert in monitor.alerts] == ["BN503"]
