"""What goes wrong around BatchNormMonitor: training goes on, and it is told once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
from keras import layers

from bnscope.callbacks import BatchNormMonitor
from bnscope.events import read
from bnscope.events.background import Background
from bnscope.statistics.channels import Window
from bnscope.statistics.layout import Layout, Status
from bnscope.watching.recorder import Recorder

BATCH = 16


def data(rng, count=160):
    x = rng.normal(3.0, 2.0, (count, 6)).astype(np.float32)
    return x, x[:, :1]


def model(*names):
    norms = [layers.BatchNormalization(name=name, momentum=0.9) for name in names]
    made = keras.Sequential([keras.Input((6,)), *norms, layers.Dense(1)])
    made.compile("sgd", "mse")
    return made


def fit(made, monitor, x, y, **options):
    made.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[monitor], **options)


def test_layers_that_came_thawed_or_were_frozen_are_told_once(rng, capsys):
    x, y = data(rng)
    made = model("a", "b")
    made.get_layer("a").trainable = False
    made.compile("sgd", "mse")
    monitor = BatchNormMonitor(update_freq=5)
    fit(made, monitor, x, y)
    assert "since the last fit" not in capsys.readouterr().out
    made.get_layer("a").trainable = True
    made.get_layer("b").trainable = False
    made.compile("sgd", "mse")
    fit(made, monitor, x, y, epochs=2)
    out = capsys.readouterr().out
    assert out.count("BN layers since the last fit: a no longer frozen; b frozen") == 1
    assert list(monitor.history.steps) == [5, 10, 15, 20, 25, 30]


def test_another_model_begins_another_series(rng, tmp_path, capsys):
    x, y = data(rng)
    monitor = BatchNormMonitor(tmp_path, update_freq=5)
    fit(model("a"), monitor, x, y)
    fit(model("a", "c", "d"), monitor, x, y)
    out = capsys.readouterr().out
    assert out.count("c and 1 more added. A new series of records takes the place") == 1
    for run in (monitor.history, read(tmp_path)):
        assert run.layers == ("a", "c", "d")
        assert list(run.steps) == [15, 20]


def test_another_model_with_the_same_layers_is_cold_again(rng):
    x, y = data(rng)
    monitor = BatchNormMonitor(update_freq=5)
    counts = []
    for _ in range(2):
        fit(model("a"), monitor, x, y, epochs=6, validation_split=0.2)
        (cold,) = monitor.alerts
        counts.append(cold.count)
    assert cold.code == "BN503"
    assert 0 < counts[0] < 6
    assert counts[1] == 2 * counts[0]


class Ending(keras.callbacks.Callback):
    """Spoils BN at a step, and ends the training with an error at the next batch end."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self.step - 1:
            norm = self.model.get_layer("a")
            norm.moving_variance.assign(np.nan * norm.moving_variance)
        if batch + 1 == self.step:
            raise KeyboardInterrupt


def test_alerts_of_the_last_reading_are_kept_where_fit_ends_by_an_error(rng, capsys):
    x, y = data(rng)
    made = model("a")
    monitor = BatchNormMonitor(update_freq=5)
    with pytest.raises(KeyboardInterrupt):
        made.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[monitor, Ending(5)])
    assert [(alert.code, alert.step) for alert in monitor.alerts] == [("BN501", 5)]
    assert [alert["code"] for alert in monitor.history.alerts] == ["BN501"]
    assert "BN501" not in capsys.readouterr().out
    made.stop_training = False
    fit(made, monitor, x, y)
    assert capsys.readouterr().out.count("error BN501") == 1


def test_an_error_in_a_rule_ends_the_alerts_and_those_before_it_are_told(
    rng, capsys, monkeypatch
):
    x, y = data(rng)
    made = model("a")
    made.get_layer("a").moving_mean.assign([np.nan] * 6)
    monkeypatch.setattr(
        "bnscope.rules.collapsed_variance.CollapsedVariance.flagged_channels",
        lambda *_: 1 / 0,
    )
    monitor = BatchNormMonitor(update_freq=2)
    fit(made, monitor, x, y)
    out = capsys.readouterr().out
    assert out.count("error BN501") == 1
    assert out.count("no alerts are raised any more (division by zero)") == 1
    assert list(monitor.history.steps) == [2, 4, 6, 8, 10]


def test_an_error_in_recording_is_told_once_and_the_thread_ends(
    rng, tmp_path, capsys, monkeypatch
):
    x, y = data(rng)
    monitor = BatchNormMonitor(tmp_path, update_freq=2)
    monkeypatch.setattr("bnscope.watching.recorder.summarize", lambda *_: 1 / 0)
    fit(model("a"), monitor, x, y)
    assert capsys.readouterr().out.count("the model cannot be watched") == 1
    assert not [t for t in threading.enumerate() if t.name.startswith("bnscope")]


def test_a_hook_that_breaks_ends_the_watching_and_not_the_training(
    rng, capsys, monkeypatch
):
    x, y = data(rng)
    monitor = BatchNormMonitor(update_freq=2)
    reads = []

    def fail(*_):
        reads.append(1)
        raise RuntimeError("Array has been deleted.")

    monkeypatch.setattr("bnscope.callbacks.reader.Reader.averages", fail)
    made = model("a")
    fit(made, monitor, x, y, epochs=2)
    assert int(made.optimizer.iterations) == 20
    assert len(reads) == 1
    expected = "the model cannot be watched (Array has been deleted); training goes on"
    assert capsys.readouterr().out.count(expected) == 1


def test_a_directory_without_permission_ends_nothing(rng, tmp_path, capsys):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    monitor = BatchNormMonitor(tmp_path / "logs", update_freq=2)
    fit(model("a"), monitor, *data(rng))
    assert len(monitor.history.steps) == 5
    assert capsys.readouterr().out.count("no events are written") == 1


def test_errors_in_the_background_come_back_and_order_is_kept():
    background = Background("test", 2)
    seen = []
    for number in range(20):
        background.add(seen.append, number)
    background.wait()
    assert seen == list(range(20))
    background.add(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        background.wait()
    background.add(seen.append, 20)
    background.close()
    background.add(seen.append, 21)
    background.close()
    assert seen[20:] == [20, 21]


KILLED = """
import sys
import keras, numpy as np
from keras import layers
from bnscope.callbacks import BatchNormMonitor

class Tell(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        print("epoch", epoch, flush=True)

model = keras.Sequential([keras.Input((6,)), layers.BatchNormalization(), layers.Dense(1)])
model.compile("sgd", "mse")
x = np.random.default_rng(0).normal(size=(160, 6))
monitor = BatchNormMonitor(sys.argv[1], update_freq=1)
model.fit(x, x[:, :1], batch_size=16, epochs=10**6, verbose=0, callbacks=[monitor, Tell()])
"""


@pytest.mark.slow
def test_of_a_killed_run_what_was_flushed_is_read(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.strip() == "epoch 20":
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = read(tmp_path)
    steps = list(run.steps)
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= 200  # 20 epochs of 10 steps; what was waiting is the rest
    assert len(run.channel_steps) >= 20
    assert np.isfinite(run.statistics[:, :, :4, 3]).all()


@pytest.mark.slow
def test_a_hundred_thousand_logged_steps_stay_small(tmp_path, rng):
    resource = pytest.importorskip("resource")
    widths = (16, 32)
    count = len(widths)
    layout = Layout(
        ("a", "b"),
        widths,
        (0.9,) * count,
        (1e-3,) * count,
        (Status.EXACT,) * count,
        (True,) * count,
        (True,) * count,
    )
    recorder = Recorder(layout, tmp_path, details=False, failed=pytest.fail)
    recorder.open()
    background = Background("test", 8)
    values = np.exp(rng.normal(size=(4, layout.channels)))
    window = Window(values[2:] * 1.01, values[2:], 1)
    memory, disk = {}, {}
    (path,) = (tmp_path / "bnscope").iterdir()
    for step in range(1, 100_001):
        background.add(recorder.step, step, values, window, warm=frozenset())
        if step % 1000 == 0:
            background.add(recorder.channels, step, values)
        if step in {25_000, 50_000, 100_000}:
            background.wait()
            memory[step] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            disk[step] = path.stat().st_size
    background.add(recorder.close)
    background.close()
    # In memory at most 4,000 records; on disk 2,000 more for each doubling of the run.
    assert memory[100_000] < 1.03 * memory[25_000]
    assert disk[100_000] - disk[50_000] == pytest.approx(
        disk[50_000] - disk[25_000], rel=0.2
    )
    assert disk[100_000] < 2 * disk[25_000]
    assert read(tmp_path).steps[-1] == 100_000
