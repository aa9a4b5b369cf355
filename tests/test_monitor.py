"""BatchNormMonitor: exact mini-batch statistics, right alerts, and faults that end nothing."""

from __future__ import annotations

import inspect
import json
import warnings

import keras
import numpy as np
import pytest
from keras import layers

from bnscope.bn import batch_from_moving, recovery_error, update_moving
from bnscope.callbacks import BatchNormMonitor
from bnscope.errors import BnscopeError
from bnscope.events import read
from bnscope.statistics.channels import FIELDS, STATUSES

BATCH = 16


def data(rng, count=160, width=6, offset=3.0):
    x = rng.normal(offset, 2.0, (count, width)).astype(np.float32)
    return x, x[:, :1] * 0.5 - x[:, 1:2]


def model(momentum=0.9, **options):
    made = keras.Sequential(
        [
            keras.Input((6,)),
            layers.BatchNormalization(name="on_input", momentum=momentum, **options),
            layers.Dense(8, use_bias=False),
            layers.BatchNormalization(name="inner", momentum=momentum),
            layers.ReLU(),
            layers.Dense(1),
        ]
    )
    made.compile("adam", "mse")
    return made


def fit(made, monitor, x, y, **options):
    options = {"batch_size": BATCH, "verbose": 0, "shuffle": False, **options}
    return made.fit(x, y, callbacks=[monitor], **options)


def field(history, layer, name):
    return history.fields[:, history.layers.index(layer), FIELDS.index(name)]


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("update_freq", [1, 3])
def test_batch_statistics_are_those_of_the_batch(momentum, update_freq, rng):
    # BN on the input: its batch statistics are those of the data, known without the layer.
    x, y = data(rng)
    monitor = BatchNormMonitor(
        update_freq=update_freq, layers=["on_input"], channel_freq=None
    )
    fit(model(momentum), monitor, x, y)
    history = monitor.history
    assert list(history.steps) == sorted({*range(update_freq, 11, update_freq), 10})
    for row, step in enumerate(history.steps):
        batch = x[(step - 1) * BATCH : step * BATCH].astype(np.float64)
        mean_bound = field(history, "on_input", "mean_error")[row]
        sigma = np.sqrt(batch.var(0).max() + 1e-3) + 1
        # The batch's own mean is computed in float32 too.
        rounding = 1e-5
        for column, expected in (
            ("min", batch.mean(0).min()),
            ("max", batch.mean(0).max()),
        ):
            found = history.statistic("on_input", "batch_mean", column)[row]
            assert abs(found - expected) <= mean_bound * sigma + rounding
        found = history.statistic("on_input", "batch_variance", "max")[row]
        variance_bound = field(history, "on_input", "variance_error")[row]
        allowed = variance_bound * batch.var(0).max() * 2 + 1e-4 * batch.var(0).max()
        assert abs(found - batch.var(0).max()) <= allowed


@pytest.mark.parametrize("momentum", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("ratio", [0.0, 10.0, 1000.0])
def test_the_error_bound_holds_and_is_no_wild_guess(momentum, ratio, rng):
    bn = layers.BatchNormalization(momentum=momentum)
    bn.build((None, 64))
    start = rng.normal(ratio, 1.0, 64).astype(np.float32)
    bn.moving_mean.assign(start)
    x = rng.normal(ratio, 1.0, (256, 64)).astype(np.float32)
    for _ in range(5):
        old = np.array(bn.moving_mean)
        bn(x, training=True)
        new = np.array(bn.moving_mean)
        error = np.abs(batch_from_moving(old, new, momentum) - x.mean(0, dtype=np.float32))
        bound = recovery_error(old, new, momentum)
        assert (error <= bound + 1e-6 * (1 + ratio)).all()
    if ratio:
        assert bound.max() < 300 * error.max()


@pytest.mark.parametrize("momentum", [0.1, 0.5, 0.9, 0.99, 0.999])
def test_the_error_bound_holds_where_the_moving_value_changes_its_sign(momentum, rng):
    # Then both products of the update are larger than what they add up to.
    one = np.float32
    old = -np.exp(rng.normal(size=200_000)).astype(one)
    batch = np.exp(rng.normal(size=200_000)) * (1 + momentum) / (1 - momentum)
    batch = batch.astype(one)
    new = old * one(momentum) + batch * one(1 - momentum)
    share = np.abs(batch_from_moving(old, new, momentum) - batch)
    share /= recovery_error(old, new, momentum)
    assert 0.2 < share.max() <= 1


def test_the_moving_average_is_inverted_exactly(rng):
    old, batch = rng.normal(size=7), rng.normal(size=7)
    np.testing.assert_allclose(
        batch_from_moving(old, update_moving(old, batch, 0.99), 0.99), batch, rtol=1e-12
    )
    twice = update_moving(update_moving(old, batch, 0.9), batch, 0.9)
    np.testing.assert_allclose(batch_from_moving(old, twice, 0.9, 2), batch, rtol=1e-12)


def test_several_steps_in_one_execution_are_a_window(rng):
    x, y = data(rng, 16 * BATCH)
    made = model(0.9)
    made.compile("adam", "mse", steps_per_execution=4)
    monitor = BatchNormMonitor(update_freq=4, layers=["on_input"])
    fit(made, monitor, x, y)
    history = monitor.history
    assert list(history.steps) == [4, 8, 12, 16]
    assert list(field(history, "on_input", "updates")) == [4, 4, 4, 4]
    weights = 0.9 ** np.arange(3, -1, -1)
    means = x[: 4 * BATCH].reshape(4, BATCH, 6).mean(1)
    expected = (weights[:, None] * means).sum(0) / weights.sum()
    found = history.statistic("on_input", "batch_mean", "max")[0]
    assert found == pytest.approx(expected.max(), abs=1e-4)


def test_accumulated_gradients_do_not_hide_updates_of_bn(rng):
    x, y = data(rng)
    made = model(0.9)
    made.compile(keras.optimizers.Adam(gradient_accumulation_steps=5), "mse")
    monitor = BatchNormMonitor(update_freq=2)
    fit(made, monitor, x, y)
    assert list(monitor.history.steps) == [2, 4, 6, 8, 10]


def test_layers_whose_batches_cannot_be_told_are_marked(rng):
    inputs = keras.Input((4, 6))
    frozen = layers.BatchNormalization(name="frozen", trainable=False)
    shared = layers.BatchNormalization(name="shared")
    timed = layers.TimeDistributed(layers.BatchNormalization(name="timed"), name="td")
    has_renorm = "renorm" in inspect.signature(layers.BatchNormalization).parameters
    renorm = layers.BatchNormalization(
        name="renorm", **({"renorm": True} if has_renorm else {})
    )
    broken = layers.BatchNormalization(name="broken", momentum=1.0)
    x = layers.Add()([shared(frozen(inputs)), shared(timed(inputs))])
    x = broken(renorm(layers.BatchNormalization(name="plain")(x)))
    made = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(x)))
    made.compile("sgd", "mse")
    monitor = BatchNormMonitor(update_freq=1, alerts=False)
    made.fit(
        rng.normal(size=(32, 4, 6)),
        rng.normal(size=(32, 1)),
        callbacks=[monitor],
        verbose=0,
    )
    history = monitor.history
    status = dict(zip(history.layers, monitor._recorder.layout.statuses, strict=True))
    assert status == {
        "frozen": "frozen",
        "shared": "shared",
        "td/timed": "time-distributed",
        "plain": "exact",
        "renorm": "renorm" if has_renorm else "exact",
        "broken": "momentum",
    }
    for layer, value in status.items():
        known = np.isfinite(history.statistic(layer, "batch_mean"))
        assert known.all() if value in {"exact", "renorm"} else not known.any()


def test_a_layer_deep_in_a_wrapper_is_marked_too(rng):
    inner = keras.Sequential([keras.Input((6,)), layers.BatchNormalization(name="bn")])
    inputs = keras.Input((4, 6))
    timed = layers.TimeDistributed(inner)(inputs)
    made = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(timed)))
    made.compile("sgd", "mse")
    monitor = BatchNormMonitor(update_freq=1)
    fit(made, monitor, rng.normal(size=(32, 4, 6)), rng.normal(size=(32, 1)))
    assert monitor._recorder.layout.statuses == ("time-distributed",)


class Partly(keras.Model):
    """Its first BN is told not to train, as a frozen backbone is."""

    def __init__(self):
        super().__init__()
        self.still = layers.BatchNormalization(name="still")
        self.moving = layers.BatchNormalization(name="moving")
        self.head = layers.Dense(1)

    def call(self, x, training=None):
        x = self.moving(self.still(x, training=False), training=training)
        return self.head(x)


def test_a_layer_whose_averages_stand_still_is_not_shown_with_a_batch(rng):
    made = Partly()
    made.compile(keras.optimizers.SGD(1e-3), "mse")
    monitor = BatchNormMonitor(update_freq=2)
    fit(made, monitor, *data(rng))
    history = monitor.history
    assert np.isnan(history.statistic("still", "batch_mean")).all()
    assert np.isfinite(history.statistic("moving", "batch_mean")).all()
    assert (field(history, "still", "updates") == 0).all()
    assert {STATUSES[int(each)] for each in field(history, "still", "status")} == {
        "unchanged"
    }
    assert (field(history, "moving", "updates") == 1).all()


class Whitening(keras.layers.Layer):
    """BN by its variables only: its attributes have other names."""

    def build(self, shape):
        for attribute, name, value in (
            ("mean", "moving_mean", "zeros"),
            ("square", "moving_variance", "ones"),
        ):
            weight = self.add_weight(
                name=name, shape=(shape[-1],), initializer=value, trainable=False
            )
            setattr(self, attribute, weight)

    def call(self, x):
        return (x - self.mean) / (self.square + 1e-3) ** 0.5


def test_a_normalization_with_attributes_of_its_own_is_watched(rng):
    made = keras.Sequential([keras.Input((6,)), Whitening(name="own"), layers.Dense(1)])
    made.compile("sgd", "mse")
    monitor = BatchNormMonitor(update_freq=5)
    fit(made, monitor, *data(rng))
    assert monitor.history.layers == ("own",)
    assert (monitor.history.statistic("own", "moving_variance") == 1).all()


def test_the_model_is_trained_as_without_the_monitor(rng):
    x, y = data(rng)
    results = []
    for callbacks in ([], [BatchNormMonitor(update_freq=1)]):
        keras.utils.set_random_seed(3)
        made = model()
        made.fit(x, y, batch_size=BATCH, epochs=2, callbacks=callbacks, verbose=0)
        results.append(made.get_weights())
    for plain, watched in zip(*results, strict=True):
        np.testing.assert_array_equal(plain, watched)


def test_a_healthy_run_raises_nothing(rng, capsys):
    x, y = data(rng, 640)
    monitor = BatchNormMonitor(update_freq=1)
    fit(model(0.9), monitor, x, y, epochs=2, validation_data=(x[:32], y[:32]))
    assert not monitor.alerts
    assert "BN103" in capsys.readouterr().out  # what linting says is told once


def test_cold_statistics_at_validation_are_told_once_and_counted(rng, capsys):
    x, y = data(rng)
    monitor = BatchNormMonitor()
    fit(model(0.99), monitor, x, y, epochs=3, validation_data=(x, y))
    (alert,) = monitor.alerts
    assert (alert.code, alert.step, alert.count, alert.others) == ("BN503", 10, 3, 1)
    assert alert.value == pytest.approx(0.99**10)
    out = capsys.readouterr().out
    assert out.count("BN503 cold-stats-at-validation at step 10") == 1
    assert "299 updates" in out
    assert "0.9 needs 29 updates" in out


def test_statistics_of_a_trained_model_are_not_called_cold(rng, randomized):
    x, y = data(rng)
    monitor = BatchNormMonitor()
    fit(randomized(model(0.99)), monitor, x, y, validation_data=(x, y))
    assert not monitor.alerts


class Spoil(keras.callbacks.Callback):
    """Spoils statistics after a step, as an overflow would."""

    def __init__(self, step, **values):
        super().__init__()
        self.step, self.values, self.count = step, values, 0

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1
        if self.count == self.step:
            for name, (variable, channel, value) in self.values.items():
                target = getattr(self.model.get_layer(name), variable)
                spoiled = np.array(target)
                spoiled[channel] = value
                target.assign(spoiled)


def test_the_first_layer_that_went_bad_is_named_with_channel_and_step(rng):
    x, y = data(rng)
    spoil = Spoil(
        4,
        inner=("moving_mean", 2, np.nan),
        on_input=("moving_variance", 5, np.inf),
    )
    monitor = BatchNormMonitor(update_freq=1)
    model(0.9).fit(x, y, batch_size=BATCH, callbacks=[spoil, monitor], verbose=0)
    alert = next(alert for alert in monitor.alerts if alert.code == "BN501")
    assert (alert.layer, alert.channel, alert.step, alert.others) == ("on_input", 5, 4, 1)
    assert alert.message.startswith("moving_variance is inf")
    assert sum(alert.code == "BN501" for alert in monitor.alerts) == 1
    assert monitor.history.statistic("inner", "moving_mean", "nonfinite")[3] == 1
    assert np.isfinite(monitor.history.statistic("inner", "moving_mean", "q50")[3])


def test_readings_are_counted_not_layers(rng):
    x, y = data(rng)
    spoil = Spoil(4, inner=("moving_mean", 2, np.nan), on_input=("moving_mean", 5, np.nan))
    monitor = BatchNormMonitor(update_freq=1)
    model(0.9).fit(x, y, batch_size=BATCH, callbacks=[spoil, monitor], verbose=0)
    assert [(a.code, a.count) for a in monitor.alerts] == [("BN501", 7)]  # steps 4 to 10


def test_channels_that_die_one_by_one_are_told_at_each_doubling(rng):
    class Kill(keras.callbacks.Callback):
        count = 0

        def on_train_batch_end(self, batch, logs=None):
            variance = self.model.get_layer("inner").moving_variance
            values = np.array(variance)
            values[: self.count] = 1e-9
            variance.assign(values)
            self.count += 1

    x, y = data(rng)
    monitor = BatchNormMonitor(update_freq=1)
    model(0.9).fit(x, y, batch_size=BATCH, callbacks=[Kill(), monitor], verbose=0)
    told = [
        (a.step, a.channel, len(a.channels)) for a in monitor.alerts if a.layer == "inner"
    ]
    assert told == [(2, 0, 1), (3, 1, 2), (5, 2, 4), (9, 4, 8)]


def test_a_collapsed_channel_is_named_and_a_second_one_too(rng):
    x, y = data(rng)
    x[:, 4] = 7.0  # a constant column: its variance decays from 1 to 0
    monitor = BatchNormMonitor(update_freq=1)
    fit(model(0.5), monitor, x, y, epochs=3)
    collapsed = [alert for alert in monitor.alerts if alert.code == "BN304"]
    assert [(alert.layer, alert.channels) for alert in collapsed] == [("on_input", (4,))]
    assert collapsed[0].step == 14  # 0.5**14 is below epsilon / 10
    assert collapsed[0].count > 1


def test_events_hold_what_the_history_holds(rng, tmp_path):
    x, y = data(rng)
    monitor = BatchNormMonitor(tmp_path, update_freq=2)
    fit(model(0.99), monitor, x, y, epochs=3, validation_data=(x, y))
    run, history = read(tmp_path), monitor.history
    np.testing.assert_array_equal(run.steps, history.steps)
    np.testing.assert_array_equal(run.statistics, history.statistics)
    np.testing.assert_array_equal(run.fields, history.fields)
    np.testing.assert_array_equal(run.channel_steps, [10, 20, 30])
    np.testing.assert_array_equal(
        run.channels("inner", "moving_variance"),
        history.channels("inner", "moving_variance"),
    )
    assert [alert["code"] for alert in run.alerts] == ["BN503"]
    (start,) = run.starts
    assert start["version"] == 1
    assert [row["layer"] for row in start["layers"]] == ["on_input", "inner"]
    assert [verdict["layer"] for verdict in start["verdicts"]] == ["on_input", "inner"]
    assert "BN103" in {finding["code"] for finding in start["findings"]}
    json.dumps(start, allow_nan=False)


def test_the_last_channel_record_is_what_the_model_holds(rng):
    x, y = data(rng)
    made, monitor = model(), BatchNormMonitor()
    fit(made, monitor, x, y)
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        found = monitor.history.channels("inner", name)[-1]
        np.testing.assert_array_equal(
            found, np.array(getattr(made.get_layer("inner"), name))
        )


def test_a_second_fit_continues_the_steps(rng, tmp_path):
    x, y = data(rng)
    made, monitor = model(), BatchNormMonitor(tmp_path, update_freq=5)
    fit(made, monitor, x, y)
    fit(made, monitor, x, y)
    assert list(monitor.history.steps) == [5, 10, 15, 20]
    assert list(read(tmp_path).steps) == [5, 10, 15, 20]
    assert len(read(tmp_path).starts) == 2


def test_a_layer_frozen_between_two_fits_is_marked(rng):
    x, y = data(rng)
    made, monitor = model(), BatchNormMonitor(update_freq=1)
    fit(made, monitor, x, y)
    made.get_layer("inner").trainable = False
    made.compile("adam", "mse")
    fit(made, monitor, x, y)
    known = np.isfinite(monitor.history.statistic("inner", "batch_mean"))
    assert known[:10].all()
    assert not known[10:].any()


def test_a_log_directory_without_meaning_ends_nothing(rng, capsys):
    fit(model(), BatchNormMonitor("logs\0"), *data(rng))
    assert "embedded null byte); training goes on" in capsys.readouterr().out


def test_what_cannot_be_read_ends_nothing(rng, capsys, monkeypatch):
    def fail(*_):
        raise TypeError("no such node")

    monkeypatch.setattr("bnscope.graph.live.read_with_layers", fail)
    monitor = BatchNormMonitor()
    fit(model(), monitor, *data(rng))
    assert not monitor.history.layers
    assert "the model cannot be watched (no such node)" in capsys.readouterr().out


def test_a_full_disk_ends_nothing(rng, tmp_path, capsys):
    resource = pytest.importorskip("resource")
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    monitor = BatchNormMonitor(tmp_path, update_freq=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, most))
    try:
        fit(model(), monitor, *data(rng), epochs=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert len(monitor.history.steps) == 30
    assert 0 < len(read(tmp_path).steps) < 30
    out = capsys.readouterr().out
    assert out.count("no more events are written") == 1
    assert "no events are written" not in out
    assert "the events are incomplete" in out


def test_what_thinning_held_back_is_recorded_at_the_end(rng, tmp_path, monkeypatch):
    monkeypatch.setattr("bnscope.watching.recorder.MAX_RECORDS", 4)
    monkeypatch.setattr("bnscope.watching.recorder.MAX_CHANNEL_RECORDS", 2)
    monitor = BatchNormMonitor(tmp_path, update_freq=1)
    fit(model(), monitor, *data(rng), epochs=3)
    run = read(tmp_path)
    for found in (run, monitor.history):
        assert (found.steps[-1], found.channel_steps[-1]) == (30, 30)
    assert len(run.steps) < 15


def test_values_beyond_float32_make_no_noise(rng, capsys):
    class Explode(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.model.get_layer("inner").moving_variance.assign(np.full(8, 3e38))

    x, y = data(rng)
    monitor = BatchNormMonitor(update_freq=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        model(0.999).fit(
            x,
            y,
            batch_size=BATCH,
            callbacks=[Explode(), monitor],
            verbose=0,
        )
    # A warning in the monitor would be an error there, which ends the alerts or the watching.
    assert "any more" not in capsys.readouterr().out
    assert len(monitor.history.steps) == len(x) // BATCH


def test_a_log_directory_that_cannot_be_written_ends_nothing(rng, tmp_path, capsys):
    (tmp_path / "file").write_text("no directory")
    x, y = data(rng)
    monitor = BatchNormMonitor(tmp_path / "file" / "logs")
    fit(model(), monitor, x, y)
    out = capsys.readouterr().out
    assert out.count("no events are written") == 1
    assert "incomplete" not in out
    assert len(monitor.history.steps) == 1


def test_a_log_directory_removed_in_mid_run_ends_nothing(rng, tmp_path, capsys):
    import shutil

    class Remove(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                shutil.rmtree(tmp_path / "logs")

    x, y = data(rng)
    monitor = BatchNormMonitor(tmp_path / "logs", update_freq=1)
    model().fit(x, y, epochs=3, batch_size=BATCH, callbacks=[Remove(), monitor], verbose=0)
    assert len(monitor.history.steps) == 30
    out = capsys.readouterr().out
    assert out.count("no more events are written") == 1
    assert "Traceback" not in out


def test_a_model_without_bn_is_told_once(rng, capsys):
    made = keras.Sequential([keras.Input((6,)), layers.Dense(1)])
    made.compile("sgd", "mse")
    fit(made, BatchNormMonitor(), *data(rng), epochs=2)
    assert capsys.readouterr().out.count("no BN layer") == 1


class Unbuilt(keras.Sequential):
    def __init__(self):
        norm = layers.BatchNormalization(name="bn")
        super().__init__([layers.Dense(4), norm, layers.Dropout(0.4), layers.Dense(1)])
        self.compile("adam", "mse")


class UnbuiltWithAStepOfItsOwn(Unbuilt):
    def train_step(self, data):
        return super().train_step(data)


def test_a_model_that_fit_builds_is_watched_from_its_first_step(rng, capsys):
    x, y = data(rng)
    weights = []
    for callbacks in ([], [BatchNormMonitor(update_freq=1)]):
        keras.utils.set_random_seed(1)
        made = Unbuilt()
        made.fit(x, y, batch_size=BATCH, verbose=0, callbacks=callbacks)
        weights.append(made.get_weights())
    history = callbacks[0].history
    assert list(history.steps) == list(range(1, 11))
    assert np.isfinite(history.statistic("bn", "batch_mean")).all()
    out = capsys.readouterr().out
    assert "lint before training: BN101 redundant-bias x1" in out
    assert "BN302" not in out
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_that_only_its_own_step_builds_is_linted_behind_it(rng, capsys):
    monitor = BatchNormMonitor(update_freq=1)
    fit(UnbuiltWithAStepOfItsOwn(), monitor, *data(rng))
    known = np.isfinite(monitor.history.statistic("bn", "batch_mean"))
    assert list(monitor.history.steps) == list(range(1, 11))
    assert list(known) == [False] + [True] * 9
    out = capsys.readouterr().out
    assert "lint after 1 step, which built the model: BN101 redundant-bias x1" in out
    assert "BN302" not in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"update_freq": 0}, "update_freq must be a number of steps, at least 1, got 0"),
        ({"update_freq": True}, "update_freq must be"),
        ({"log_dir": 3}, "log_dir must be the path of a directory or None, got 3"),
        ({"log_dir": b"logs"}, "log_dir must be"),
        ({"channel_freq": "batch"}, "channel_freq must be"),
        ({"layers": "bn*"}, r"layers must be a list of globs, got the text 'bn\*'"),
    ],
)
def test_arguments_without_meaning_are_refused(options, message):
    with pytest.raises(BnscopeError, match=message):
        BatchNormMonitor(**options)
