"""Callbacks that act: guard, freeze, recalibrate. Nothing here asks for a certain backend."""

from __future__ import annotations

import random
import zipfile

import keras
import numpy as np
import pytest
from keras import layers, ops

import bnscope
from bnscope.callbacks import (
    BatchNormFreeze,
    BatchNormGuard,
    BatchNormMonitor,
    BatchNormRecalibrate,
)
from bnscope.errors import BnscopeError

BATCH = 16
STEPS = 6


def on_others(test):
    """Runs always but on TensorFlow, where it is slow and the others of its kind do."""
    return pytest.mark.slow(test) if keras.backend.backend() == "tensorflow" else test


class Spy(keras.callbacks.Callback):
    """Calls functions of the model at some of the hooks."""

    def __init__(self, **hooks):
        super().__init__()
        for name, hook in hooks.items():
            setattr(self, name, self._calling(hook))

    def _calling(self, hook):
        return lambda first, logs=None: hook(self.model, first)  # noqa: ARG005  Keras names it


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(1)


def value(variable):
    return np.array(ops.convert_to_numpy(variable))


def data(rng, count=BATCH * STEPS):
    x = rng.normal(3.0, 2.0, (count, 5)).astype(np.float32)
    return x, (x[:, :1] * 0.5 - x[:, 1:2]).astype(np.float32)


def quick(*, graph=False):
    """Compiling takes TensorFlow longer than a few steps do."""
    if keras.backend.backend() != "tensorflow":
        return {}
    return {"run_eagerly": not graph, "jit_compile": False}


def make(optimizer="sgd", momentum=0.9, dropout=0.0, *, graph=False, **options):
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.BatchNormalization(name="first", momentum=momentum, **options),
            layers.Dense(7, use_bias=False, name="between"),
            layers.Dropout(dropout, seed=3),
            layers.BatchNormalization(name="second", momentum=momentum),
            layers.ReLU(),
            layers.Dense(1),
        ]
    )
    model.compile(optimizer, "mse", **quick(graph=graph))
    return model


def tiny():
    model = keras.Sequential(
        [keras.Input((5,)), layers.BatchNormalization(name="first"), layers.Dense(1)]
    )
    model.compile("sgd", "mse", **quick())
    return model


def fit(model, x, y, callbacks, **options):
    options = {"batch_size": BATCH, "verbose": 0, "shuffle": False, **options}
    return model.fit(x, y, callbacks=callbacks, **options)


def statistics(model):
    norms = [model.get_layer(name) for name in ("first", "second")]
    return [value(v) for norm in norms for v in (norm.moving_mean, norm.moving_variance)]


def affine(model):
    norms = [model.get_layer(name) for name in ("first", "second")]
    return [value(v) for norm in norms for v in (norm.gamma, norm.beta)]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def poison(name, at, *, variable="moving_mean", number=np.nan):
    """Spoils a value of a layer behind a step, counted from 1."""
    steps = iter(range(1, 10**6))

    def hook(model, _):
        if next(steps) == at:
            target = getattr(model.get_layer(name), variable)
            values = value(target)
            values[1] = number
            target.assign(values)

    return Spy(on_train_batch_end=hook)


# Freeze


@pytest.mark.parametrize("freeze_affine", [False, True])
def test_frozen_statistics_stay_and_the_rest_trains_on(freeze_affine, rng, randomized):
    x, y = data(rng)
    model = randomized(make(keras.optimizers.AdamW(0.05, weight_decay=0.1), graph=True))
    seen = {}
    slots = []
    fit(
        model,
        x,
        y,
        [
            Spy(on_epoch_begin=lambda m, _: slots.append([value(v) for v in m.optimizer.variables])),
            BatchNormFreeze(2, freeze_affine=freeze_affine),
            Spy(
                on_epoch_begin=lambda m, _: slots.append([value(v) for v in m.optimizer.variables]),
                on_epoch_end=lambda m, epoch: seen.update(
                    {epoch: (statistics(m), affine(m), value(m.get_layer("between").kernel))}
                ),
            ),
        ],
        epochs=4,
    )  # fmt: skip
    moving, held, kernels = zip(*seen.values(), strict=True)
    assert not any(same(moving[0], moving[1]) for _ in range(1))
    assert same(moving[1], moving[2])
    assert same(moving[1], moving[3])
    for before, after in [(1, 2), (2, 3)]:
        moved = [
            not np.array_equal(a, b) for a, b in zip(held[before], held[after], strict=True)
        ]
        assert not any(moved) if freeze_affine else all(moved)
        assert not np.array_equal(kernels[before], kernels[after])
    assert not same(held[0], held[1])
    # Freezing touches nothing of the optimizer, and it counts on.
    assert all(same(a, b) for a, b in zip(slots[::2], slots[1::2], strict=True))
    assert int(value(model.optimizer.iterations)) == 4 * STEPS


def test_a_frozen_step_computes_what_inference_computes(rng, randomized):
    x, y = data(rng)
    model = randomized(make(keras.optimizers.SGD(0.0), graph=True))
    inference = model.evaluate(x, y, verbose=0, batch_size=BATCH)
    outputs = []
    history = fit(
        model,
        x,
        y,
        [
            BatchNormFreeze(0),
            Spy(on_epoch_end=lambda m, _: outputs.append([m(x, training=t) for t in (True, False)])),
        ],
    ).history  # fmt: skip
    assert history["loss"][0] == pytest.approx(inference, rel=1e-5)
    np.testing.assert_allclose(value(outputs[0][0]), value(outputs[0][1]), rtol=1e-6)
    # With the statistics of the batches the same weights have another loss.
    assert fit(model, x, y, []).history["loss"][0] != pytest.approx(inference, rel=1e-2)


@on_others
def test_after_fit_the_layers_are_updated_as_before(rng, randomized):
    x, y = data(rng)
    model = randomized(make(gamma_constraint="non_neg", graph=True))
    gamma = model.get_layer("first").gamma
    constraint, function = gamma.constraint, model.make_train_function
    fit(model, x, y, [BatchNormFreeze(0, freeze_affine=True)])
    assert gamma.constraint is constraint
    assert model.make_train_function == function
    before = statistics(model), affine(model)
    fit(model, x, y, [])
    assert not same(before[0], statistics(model))
    assert not same(before[1], affine(model))


def test_a_fit_that_is_interrupted_leaves_nothing_frozen(rng):
    x, y = data(rng)
    model = make(graph=True)

    def interrupt(*_):
        raise KeyboardInterrupt

    freeze = BatchNormFreeze(0)
    with pytest.raises(KeyboardInterrupt):
        fit(model, x, y, [freeze, Spy(on_train_batch_end=interrupt)])
    before = statistics(model)
    fit(model, x, y, [])
    assert not same(before, statistics(model))


def test_what_is_saved_while_frozen_is_an_ordinary_model(rng, tmp_path):
    x, y = data(rng)
    model = make()
    path = str(tmp_path / "m.keras")
    fit(
        model,
        x,
        y,
        [BatchNormFreeze(0, freeze_affine=True), keras.callbacks.ModelCheckpoint(path)],
    )
    with zipfile.ZipFile(path) as archive:
        frozen = archive.read("config.json")
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("config.json") == frozen
    loaded = keras.models.load_model(path)
    before = statistics(loaded)
    fit(loaded, x, y, [])
    assert not same(before, statistics(loaded))


@on_others
def test_freezing_counts_epochs_as_initial_epoch_does(rng, capsys):
    x, y = data(rng)
    model = make()
    before = statistics(model)
    fit(model, x, y, [BatchNormFreeze(2)], initial_epoch=3, epochs=4)
    assert same(before, statistics(model))
    assert "2 BN layers frozen from epoch 3 (counted from 0)" in capsys.readouterr().out
    fit(model, x, y, [BatchNormFreeze(2)], epochs=2)
    assert not same(before, statistics(model))
    said = "BatchNormFreeze(at_epoch=2) freezes nothing: epochs count from 0, and fit ends with epoch 1"
    assert said in capsys.readouterr().out


class Late(keras.Model):
    """A model whose layers are made when it is built."""

    def build(self, shape):
        del shape
        self.norm = layers.BatchNormalization(
            gamma_initializer=keras.initializers.Constant(-0.7),
            moving_variance_initializer=keras.initializers.Constant(2.5),
        )
        self.top = layers.Dense(1)

    def call(self, x, training=None):
        return self.top(self.norm(x, training=training))


class LateWithAStepOfItsOwn(Late):
    def train_step(self, *args):
        return super().train_step(*args)


def late(kind):
    model = kind()
    model.compile(
        keras.optimizers.AdamW(0.05, weight_decay=0.1), "mse", **quick(graph=True)
    )
    return model


def test_a_model_that_fit_builds_is_frozen_from_its_first_step(rng, capsys):
    x, y = data(rng)
    model = late(Late)
    fit(model, x, y, [BatchNormFreeze(0, freeze_affine=True), BatchNormMonitor()], epochs=2)
    norm = model.norm
    for variable, number in zip(
        (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance),
        (-0.7, 0.0, 0.0, 2.5),
        strict=True,
    ):
        np.testing.assert_array_equal(value(variable), np.full(5, number, np.float32))
    out = capsys.readouterr().out
    assert "1 BN layer frozen from epoch 0" in out
    assert "although frozen" not in out
    fit(model, x, y, [])
    assert not np.array_equal(value(norm.gamma), np.full(5, -0.7, np.float32))
    assert not np.array_equal(value(norm.moving_variance), np.full(5, 2.5, np.float32))


def test_layers_that_a_step_of_the_users_builds_are_frozen_behind_it(rng, capsys):
    x, y = data(rng)
    model = late(LateWithAStepOfItsOwn)
    seen = []
    see = Spy(
        on_train_batch_end=lambda m, _: seen.append([value(v) for v in m.norm.weights])
    )
    fit(model, x, y, [see, BatchNormFreeze(0, freeze_affine=True)])
    assert all(same(seen[0], later) for later in seen[1:])
    out = capsys.readouterr().out
    if keras.backend.backend() == "tensorflow":  # Keras builds it before on the others
        assert "frozen from the second step on (the first built the model)" in out
    assert "although frozen" not in out


def test_an_interrupt_before_the_first_step_freezes_no_later_fit(rng):
    x, y = data(rng)
    model = late(Late)

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, x, y, [BatchNormFreeze(0), Spy(on_epoch_begin=interrupt)])
    fit(model, x, y, [])
    assert not np.array_equal(
        value(model.norm.moving_variance), np.full(5, 2.5, np.float32)
    )


@on_others
def test_layers_that_are_frozen_already_and_nested_ones(rng):
    x, y = data(rng)
    inner = keras.Sequential([keras.Input((5,)), layers.BatchNormalization()])
    outer = keras.Sequential([keras.Input((5,)), inner, layers.Dense(1)])
    frozen = layers.BatchNormalization(trainable=False)
    outer.add(frozen)
    outer.compile("sgd", "mse", **quick(graph=True))
    norm = inner.layers[0]
    before = value(norm.moving_mean)
    fit(outer, x, y, [BatchNormFreeze(0)])
    np.testing.assert_array_equal(value(norm.moving_mean), before)
    assert norm.trainable
    assert not frozen.trainable


@on_others
def test_who_moves_frozen_values_is_told(rng, capsys):
    x, y = data(rng)
    mover = Spy(
        on_epoch_end=lambda m, _: m.get_layer("first").moving_mean.assign(np.ones(5))
    )
    fit(make(), x, y, [mover, BatchNormFreeze(0)], epochs=2)
    out = capsys.readouterr().out
    assert out.count("values of first changed in epoch 0 although frozen") == 1


class Plain(layers.BatchNormalization):
    def call(self, inputs):
        return super().call(inputs, training=True)


def test_a_promise_that_cannot_be_kept_is_an_error_as_fit_begins(rng):
    x, y = data(rng)
    model = keras.Sequential([keras.Input((5,)), Plain(name="own"), layers.Dense(1)])
    model.compile("sgd", "mse", **quick())
    with pytest.raises(BnscopeError) as caught:
        fit(model, x, y, [BatchNormFreeze(1)])
    assert str(caught.value) == (
        '"own" cannot be frozen within fit: the call of its class Plain takes no argument '
        "`training`. Give it one, or set trainable=False, compile, and call fit again."
    )


@pytest.mark.parametrize("at_epoch", [-1, 1.5, None, True, "3"])
def test_an_epoch_that_is_none_is_an_error(at_epoch):
    with pytest.raises(
        BnscopeError, match="at_epoch must be a whole number, at least 0, got"
    ):
        BatchNormFreeze(at_epoch)


@on_others
def test_the_monitor_marks_frozen_layers(rng):
    x, y = data(rng)
    monitor = BatchNormMonitor(update_freq=1)
    fit(make(), x, y, [monitor, BatchNormFreeze(1)], epochs=2)
    mark = monitor.history.marks[0]
    assert (mark["act"], mark["step"], mark["layers"]) == (
        "freeze",
        STEPS,
        ["first", "second"],
    )
    batch = monitor.history.statistic("first", "batch_mean")
    assert np.isfinite(batch[:STEPS]).all()
    assert np.isnan(batch[STEPS:]).all()


# Recalibrate


def test_validation_uses_the_statistics_of_the_population(rng, randomized):
    x, y = data(rng)
    held_out = data(rng, 48)
    model = randomized(make(dropout=0.3, graph=True))
    expected = []

    def reference(model, _):
        copy = bnscope.recalibrate(model, x)
        expected.append((statistics(copy), copy.evaluate(*held_out, verbose=0)))

    found = []
    recalibrate = BatchNormRecalibrate(x)
    history = fit(
        model,
        x,
        y,
        [
            Spy(on_test_begin=reference),
            recalibrate,
            Spy(on_test_begin=lambda m, _: found.append(statistics(m))),
        ],
        validation_data=held_out,
        epochs=2,
    ).history
    for epoch in range(2):
        for one, other in zip(expected[epoch][0], found[epoch], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        assert history["val_loss"][epoch] == pytest.approx(expected[epoch][1], rel=1e-4)
    assert recalibrate.last.samples == len(x)
    # Training went on with them: what it moved is the average of them and a batch.
    mean = x.astype(np.float64).mean(0)
    np.testing.assert_allclose(found[1][0], mean, rtol=1e-5)


@pytest.mark.parametrize(
    "first", ["monitor", pytest.param("recalibrate", marks=pytest.mark.slow)]
)
def test_the_monitor_does_not_take_the_jump_for_a_batch(first, rng, tmp_path):
    x, y = data(rng)
    monitor = BatchNormMonitor(tmp_path, update_freq=1, layers=["first"])
    callbacks = [monitor, BatchNormRecalibrate(x)]
    fit(
        make(momentum=0.99),
        x,
        y,
        callbacks if first == "monitor" else callbacks[::-1],
        validation_data=(x[:BATCH], y[:BATCH]),
        epochs=2,
    )
    history = bnscope.events.read(tmp_path)
    # The first layer's batches are those of the data.
    batches = x.reshape(2 * STEPS // 2, BATCH, 5).mean(1)
    for row, step in enumerate(history.steps):
        batch = batches[(step - 1) % STEPS]
        for column, expected in (("min", batch.min()), ("max", batch.max())):
            found = history.statistic("first", "batch_mean", column)[row]
            assert found == pytest.approx(expected, rel=1e-3)
    assert [mark["step"] for mark in history.marks] == [STEPS, 2 * STEPS]
    assert {mark["act"] for mark in history.marks} == {"recalibrate"}
    assert history.marks == monitor.history.marks
    # They were cold, and no validation ran on them.
    assert [alert.code for alert in monitor.alerts] == []


def test_recalibration_leaves_the_rest_of_fit_alone(rng):
    x, y = data(rng)
    model = make(dropout=0.5)
    state = []

    def note(model, _):
        norms = {id(v) for n in ("first", "second") for v in model.get_layer(n).variables}
        rest = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
        generators = [g.state for g in model.get_layer(index=2)._seed_generators]
        state.append(
            (
                [value(v) for v in [*rest, *generators] if id(v) not in norms],
                model.train_function,
                model.stop_training,
                np.random.get_state()[1].tolist(),  # noqa: NPY002  the state that must stay
                random.getstate(),
            )
        )

    class Drawing(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            random.random()  # noqa: S311
            return x[np.random.permutation(len(x))[:BATCH]], y[:BATCH]  # noqa: NPY002

    spies = [Spy(on_test_begin=note) for _ in range(2)]
    recalibrate = BatchNormRecalibrate(Drawing())
    fit(
        model,
        x,
        y,
        [spies[0], recalibrate, spies[1]],
        validation_data=(x[:BATCH], y[:BATCH]),
        epochs=2,
    )
    for before, after in zip(state[::2], state[1::2], strict=True):
        assert same(before[0], after[0])
        assert before[1] is after[1]
        assert before[2:] == after[2:]
    assert recalibrate.last.samples == 3 * BATCH


@pytest.mark.slow
def test_weights_train_as_without_recalibration(rng):
    x, y = data(rng)
    kernels = []
    for callbacks in ([], [BatchNormRecalibrate(x)]):
        keras.utils.set_random_seed(1)
        model = make(dropout=0.5)
        fit(model, x, y, callbacks, validation_data=(x[:BATCH], y[:BATCH]), epochs=2)
        kernels.append(value(model.get_layer("between").kernel))
    np.testing.assert_array_equal(*kernels)


def test_at_the_end_of_training(rng, tmp_path, capsys):
    x, y = data(rng)
    model = make()
    monitor = BatchNormMonitor(tmp_path)
    fit(model, x, y, [monitor, BatchNormRecalibrate(x, when="train_end")])
    np.testing.assert_allclose(statistics(model)[0], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics(model)[1], x.var(0), rtol=1e-4)
    # The monitor, which stands first, had closed its file.
    assert [mark["step"] for mark in bnscope.events.read(tmp_path).marks] == [STEPS]
    assert "2 BN layers recalibrated on 96 samples\n" in capsys.readouterr().out
    before = statistics(model)
    model.evaluate(x, y, verbose=0, callbacks=[BatchNormRecalibrate(x * 2)])
    assert same(before, statistics(model))


def test_frozen_layers_keep_their_statistics(rng, randomized):
    x, y = data(rng)
    model = randomized(make())
    model.get_layer("first").trainable = False
    model.compile("adam", "mse", **quick())
    before = statistics(model)
    recalibrate = BatchNormRecalibrate(x)
    fit(model, x, y, [recalibrate], validation_data=(x[:BATCH], y[:BATCH]))
    after = statistics(model)
    assert same(before[:2], after[:2])
    # Exact for what the frozen layer makes of the data.
    seen = keras.Model(model.inputs, model.get_layer("between").output)(x)
    np.testing.assert_allclose(after[2], value(seen).mean(0), rtol=1e-4, atol=1e-5)
    assert [row.reason for row in recalibrate.last.layers] == [
        "frozen: kept as it was",
        None,
    ]


class Idle(keras.Model):
    """Has a BN layer that it does not call."""

    def __init__(self):
        super().__init__()
        self.used = layers.BatchNormalization(name="used")
        self.idle = layers.BatchNormalization(name="idle")
        self.idle.build((None, 5))
        self.head = layers.Dense(1)

    def call(self, inputs, training=None):
        return self.head(self.used(inputs, training=training))


def test_a_layer_that_could_not_be_recalibrated_stays_cold(rng, capsys):
    x, y = data(rng)
    model = Idle()
    model.compile("sgd", "mse", **quick())
    guard, monitor = BatchNormGuard("BN503"), BatchNormMonitor()
    callbacks = [monitor, BatchNormRecalibrate(x), guard]
    fit(model, x, y, callbacks, validation_data=(x[:BATCH], y[:BATCH]))
    assert "1 BN layer recalibrated on 96 samples" in capsys.readouterr().out
    assert monitor.history.marks[0]["layers"] == ["used"]
    assert [(alert.layer, alert.others) for alert in guard.alerts] == [("idle", 0)]


def test_two_recalibrations_in_one_fit(rng):
    x, y = data(rng)
    guard = BatchNormGuard("BN503")
    recalibrations = [BatchNormRecalibrate(x), BatchNormRecalibrate(x, when="train_end")]
    validation = {"validation_data": (x[:BATCH], y[:BATCH])}
    fit(tiny(), x, y, [guard, *recalibrations], **validation)
    assert guard.alerts == []


@on_others
def test_freeze_keeps_what_recalibration_found(rng, capsys):
    x, y = data(rng)
    model = make()
    seen = []
    fit(
        model,
        x,
        y,
        [
            BatchNormRecalibrate(x),
            BatchNormFreeze(1),
            Spy(on_epoch_end=lambda m, _: seen.append(statistics(m))),
        ],
        validation_data=(x[:BATCH], y[:BATCH]),
        epochs=3,
    )
    assert same(seen[0], seen[2])
    assert "there is no BN layer to recalibrate" in capsys.readouterr().out


@on_others
def test_data_are_read_anew_each_time_and_generators_once(rng):
    x, y = data(rng)
    reads = []

    class Counted(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            reads.append(index)
            return x[index * BATCH :][:BATCH], y[:BATCH]

    def batches():
        for index in range(2):
            reads.append(index)
            yield (x[index * BATCH :][:BATCH],)

    for source, times in ((Counted(), 2), (batches(), 1)):
        reads.clear()
        recalibrate = BatchNormRecalibrate(source)
        fit(tiny(), x, y, [recalibrate], validation_data=(x[:BATCH], y[:BATCH]), epochs=2)
        assert len(reads) == 2 * times
        assert recalibrate.last.samples == 2 * BATCH


def broken(x):
    yield (x[:BATCH],)
    raise RuntimeError("the disk is gone")


def spoiled(x):
    x = x.copy()
    x[3, 2] = np.nan
    return x


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (broken, "the disk is gone; training goes on"),
        (spoiled, 'What goes into "first" is not finite on these data'),
        pytest.param(
            lambda x: x[:, :3],
            "The model does not run on the data",
            marks=pytest.mark.slow,
        ),
        pytest.param(lambda x: x[:0], "The data hold no sample", marks=pytest.mark.slow),
    ],
)
def test_data_that_cannot_be_used_end_no_training(source, said, rng, capsys):
    x, y = data(rng)
    seen = []
    spy = Spy(on_test_begin=lambda m, _: seen.append(value(m.layers[0].moving_mean)))
    callbacks = [spy, BatchNormRecalibrate(source(x)), spy]
    history = fit(
        tiny(), x, y, callbacks, validation_data=(x[:BATCH], y[:BATCH]), epochs=2
    ).history
    np.testing.assert_array_equal(seen[0], seen[1])
    assert np.isfinite(history["val_loss"]).all()
    out = capsys.readouterr().out
    assert out.count("BN keeps its moving statistics: ") == 1, out
    assert said in out
    assert "BN could not be recalibrated at 2 validations" in out


@on_others
def test_without_validation_it_says_that_nothing_was_done(rng, capsys):
    x, y = data(rng)
    fit(make(), x, y, [BatchNormRecalibrate(x)])
    assert "BN was not recalibrated, since fit ran no validation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"when": "always"}, "There is no time 'always'"),
        ({"method": "some"}, "There is no method 'some'"),
        ({"steps": 0}, "steps must be a whole number, at least 1, got 0"),
        ({"data": "train.npz"}, "data must be samples, got 'train.npz'"),
    ],
)
def test_arguments_of_recalibration_without_a_meaning(options, said):
    with pytest.raises(BnscopeError, match=said):
        BatchNormRecalibrate(**{"data": np.zeros((2, 5)), **options})


# Guard


def test_it_warns_once_and_beside_the_monitor_too(rng, capsys):
    x, y = data(rng)
    monitor, guard = BatchNormMonitor(update_freq=2), BatchNormGuard(update_freq=2)
    fit(make(), x, y, [poison("second", 3), monitor, guard])
    assert [(a.code, a.layer, a.step) for a in guard.alerts] == [("BN501", "second", 4)]
    assert capsys.readouterr().out.count("error BN501 nan-statistics at step 4") == 1


def test_the_monitor_and_the_guard_read_once(rng, monkeypatch):
    from bnscope.callbacks.reader import Reader

    reads = []
    original = Reader.__init__

    def counting(self, model):
        original(self, model)
        read = self._read
        self._read = lambda: (reads.append(1), read())[1]

    monkeypatch.setattr(Reader, "__init__", counting)
    counts = []
    for callbacks in ([], [BatchNormMonitor(update_freq=2, channel_freq=None)]):
        reads.clear()
        fit(make(), *data(rng), [*callbacks, BatchNormGuard(update_freq=2)])
        counts.append(len(reads))
    assert counts == [1 + STEPS // 2] * 2  # as training begins, and every second step


def test_it_stops_the_training_and_says_why(rng, capsys):
    x, y = data(rng)
    steps = []
    guard = BatchNormGuard(action="stop", update_freq=1)
    fit(
        make(),
        x,
        y,
        [Spy(on_train_batch_end=lambda _, b: steps.append(b)), poison("first", 3), guard],
        epochs=2,
    )
    assert len(steps) == 3
    out = capsys.readouterr().out
    assert "training stops here, as BatchNormGuard is to on BN501 nan-statistics" in out
    fit(make(), x, y, [poison("first", 2), guard])  # in the next fit it stops again
    assert [alert.step for alert in guard.alerts] == [3, 5]


@pytest.mark.parametrize(
    ("on", "codes"),
    [
        ("error", ["BN501"]),
        pytest.param("BN503", ["BN503"], marks=pytest.mark.slow),
        (["BN304", "cold-stats-at-validation"], ["BN304", "BN503"]),
        pytest.param("warning", ["BN304", "BN501", "BN503"], marks=pytest.mark.slow),
    ],
)
def test_it_acts_on_what_it_was_given(on, codes, rng):
    x, y = data(rng)
    guard = BatchNormGuard(on, update_freq=1)
    spoilers = [
        poison("first", 2, variable="moving_variance", number=0.0),
        poison("second", 4),
    ]
    fit(make(), x, y, [*spoilers, guard], validation_data=(x[:BATCH], y[:BATCH]))
    assert sorted(alert.code for alert in guard.alerts) == codes


@pytest.mark.parametrize(
    ("variable", "number"),
    [("moving_mean", np.nan), ("moving_variance", -1.0), ("gamma", np.inf)],
)
def test_it_restores_the_channels_that_went_bad(variable, number, rng, randomized):
    x, y = data(rng)
    model = randomized(make(keras.optimizers.SGD(0.0)))
    seen = []
    guard = BatchNormGuard(action="restore", update_freq=1)
    spy = Spy(on_train_batch_end=lambda m, _: seen.append([*statistics(m), *affine(m)]))
    monitor = BatchNormMonitor(update_freq=1)
    fit(model, x, y, [spy, poison("second", 4, variable=variable, number=number), monitor, guard, spy])  # fmt: skip
    assert guard.restored == [4]
    third, spoiled, restored = seen[5], seen[6], seen[7]
    rows = {"gamma": [6], "moving_mean": [2, 3], "moving_variance": [2, 3]}[variable]
    for row, (old, bad, new) in enumerate(zip(third, spoiled, restored, strict=True)):
        if row in rows:
            assert new[1] == old[1]  # mean and variance of a channel go together
            new[1] = bad[1]
        np.testing.assert_array_equal(new, bad)  # the other channels stay
    mark = monitor.history.marks[0]
    assert (mark["act"], mark["step"], mark["layers"]) == ("restore", 4, ["second"])
    # The step behind it is told from the restored values.
    batch = monitor.history.statistic("second", "batch_variance", "min")
    assert (batch[[0, 1, 2, 5]] > 0).all()


@on_others
def test_each_fit_says_once_that_it_restores(rng, capsys):
    x, y = data(rng)
    guard = BatchNormGuard(action="restore", update_freq=1)
    for _ in range(2):
        spoilers = [poison("first", 2), poison("second", 4)]
        fit(make(), x, y, [*spoilers, guard])
        out = capsys.readouterr().out
        assert out.count("restored to the last finite values") == 1
        assert "BN was restored at 2 readings, the last at step" in out
    assert guard.restored == [2, 4, STEPS + 2, STEPS + 4]


def test_each_model_is_new_to_the_guard(rng, randomized):
    x, y = data(rng)
    guard = BatchNormGuard("BN503")
    # Cold after 6 steps but not after 12; then models that come with statistics.
    models = [
        make(momentum=0.7),
        make(momentum=0.7),
        randomized(make()),
        randomized(tiny()),
    ]
    for model in models:
        fit(model, x, y, [guard], validation_data=(x[:BATCH], y[:BATCH]))
    assert [alert.step for alert in guard.alerts] == [STEPS, 2 * STEPS]


def test_what_is_written_behind_the_last_step_stays(rng):
    # Where the data end unannounced, JAX's trainer falls back on a state of its own.
    x, y = data(rng)

    def batches():
        for index in range(STEPS):
            part = slice(index * BATCH, (index + 1) * BATCH)
            yield x[part], y[part]

    model = make(graph=True)
    guard = BatchNormGuard(action="restore", update_freq=STEPS)
    spoiler = poison("second", STEPS - 1)
    model.fit(batches(), callbacks=[spoiler, guard], verbose=0, shuffle=False)
    assert guard.restored == [STEPS]
    assert all(np.isfinite(part).all() for part in statistics(model))


def test_one_overflowing_batch_under_mixed_precision_is_survived(rng):
    x, y = data(rng)
    x[BATCH * 2] = 1e5  # infinite in float16
    keras.config.set_dtype_policy("mixed_float16")
    try:
        models = [make(), make()]
    finally:
        keras.config.set_dtype_policy("float32")
    guard = BatchNormGuard(action="restore", update_freq=2)
    losses = [
        fit(model, x, y, callbacks, validation_data=(x[:16], y[:16])).history["val_loss"][0]
        for model, callbacks in zip(models, [[], [guard]], strict=True)
    ]
    assert np.isnan(losses[0])
    assert np.isfinite(losses[1])
    assert guard.restored


@on_others
def test_renorm_is_restored_as_a_whole(rng):
    x, y = data(rng)
    model = make(renorm=True)
    guard = BatchNormGuard(action="restore", update_freq=1)
    spoilers = [poison("first", 3, variable=v) for v in ("moving_mean", "renorm_stddev")]
    fit(model, x, y, [*spoilers, guard])
    assert guard.restored == [3]
    assert all(np.isfinite(value(v)).all() for v in model.get_layer("first").variables)


def test_nothing_is_restored_where_that_would_not_help(rng, capsys):
    x, y = data(rng)
    x[40] = np.nan
    guard = BatchNormGuard(action="restore", update_freq=2)
    fit(make(), x, y, [guard], epochs=2)
    assert not guard.restored
    out = capsys.readouterr().out
    assert out.count("BN is not restored: ") == 1
    assert "of the model or its optimizer (" in out
    assert "between/kernel first), and would spoil it again" in out
    assert "Go on from a checkpoint" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on": "BN9"}, "There is no rule 'BN9'"),
        ({"on": "BN101"}, "No alert while training has a code of 'BN101'"),
        ({"on": 3}, "`on` must be a severity, a code or a list of such, got 3"),
        ({"on": []}, "No alert while training has a code of"),
        ({"action": "explode"}, "There is no action 'explode'"),
        ({"update_freq": 0}, "update_freq must be a number of steps, at least 1, got 0"),
        (
            {"on": "BN503", "action": "restore"},
            "BN501 tells of; on='BN503' leaves that out",
        ),
    ],
)
def test_arguments_of_the_guard_without_a_meaning(options, said):
    with pytest.raises(BnscopeError, match=said.replace("(", r"\(")):
        BatchNormGuard(**options)


@pytest.mark.parametrize(
    "callback",
    [BatchNormGuard(action="restore"), BatchNormFreeze(0, freeze_affine=True), BatchNormRecalibrate(np.zeros((4, 5), np.float32))],
    ids=lambda callback: type(callback).__name__,
)  # fmt: skip
def test_a_model_without_bn_trains(callback, rng, capsys):
    x, y = data(rng)
    model = keras.Sequential([keras.Input((5,)), layers.Dense(1)])
    model.compile("sgd", "mse", **quick())
    fit(model, x, y, [callback], validation_data=(x[:BATCH], y[:BATCH]), epochs=2)
    assert capsys.readouterr().out.count("bnscope: ") == 1
