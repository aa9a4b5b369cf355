"""What watching costs: time inside the callback over the time of a training step.

Two networks: ResNet50 on 32x32 images and a net of four convolutions (16, 32, 64 and 64
filters, each with BN, ReLU and pooling), both with batch 32 and the monitor writing events: at
its default cadence and at every step, and BatchNormGuard at its own. Beside them, on the same
steps, what else could be used: reading each variable by itself at the monitor's default cadence,
and, where TensorFlow is installed, Keras's own TensorBoard callback, with `update_freq="batch"`
and `histogram_freq=1`.

The time inside a callback is counted once the step's result is ready, so that it does not
contain the wait for the step itself, and is averaged over logged and other steps, what is done
at the epoch's end included. What is paid once a fit is printed beside it, too. The monitor
computes and writes its statistics in a thread of its own while the next steps run; that is not
inside the callback. On a machine that is busy with other things, means are of little worth; the
medians stand beside them: of the calls at the same place of the cadence, averaged over it.

The whole-run ratio compares wall time from the first step to the end of training, everything
included, the thread too. Fits with a callback stand between plain ones; the ratio of two plain
ones is the noise of the machine. Run by hand on the backend that KERAS_BACKEND names:
`python benchmarks/monitor.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

from bnscope.backend import running_values
from bnscope.callbacks import BatchNormGuard, BatchNormMonitor

BATCH = 32
# The first calls of a fit fill caches.
WARM_UP = 20
# Of the monitor, by default, and of `OneByOne`.
CADENCE = 10


def four_convolutions() -> Any:
    model = keras.Sequential([keras.Input((32, 32, 3))])
    for filters in (16, 32, 64, 64):
        model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False))
        model.add(layers.BatchNormalization(momentum=0.9))
        model.add(layers.ReLU())
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(10))
    return model


def resnet50() -> Any:
    return keras.applications.ResNet50(
        weights=None, input_shape=(32, 32, 3), classes=10, classifier_activation=None
    )


class Timer(keras.callbacks.Callback):  # type: ignore[misc]
    """Times each step and, around another callback, the time inside it, in seconds."""

    def __init__(self, inner: Any = None) -> None:
        super().__init__()
        self.inner = inner or keras.callbacks.Callback()
        self.steps: list[float] = []
        self.inside: list[float] = []
        self.at_begin = self.at_epoch_end = self.whole_run = 0.0
        self._step_begin = self._run_begin = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        self.inner.set_params(self.params)
        self.inner.set_model(self._model)
        self.at_begin = seconds(self.inner.on_train_begin)
        self._counter = running_values([self._model.optimizer.iterations], self._model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.at_begin += seconds(lambda: self.inner.on_epoch_begin(epoch))
        self._run_begin = time.perf_counter()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.inner.on_train_batch_begin(batch)
        self._step_begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # The optimizer's counter is a result of the step: reading it waits for the step.
        int(keras.ops.convert_to_numpy(self._counter()[0]))
        self.steps.append(time.perf_counter() - self._step_begin)
        self.inside.append(seconds(lambda: self.inner.on_train_batch_end(batch, logs)))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.at_epoch_end = seconds(lambda: self.inner.on_epoch_end(epoch, logs))

    def on_train_end(self, logs: Any = None) -> None:
        self.inner.on_train_end(logs)
        self.whole_run = time.perf_counter() - self._run_begin


class OneByOne(keras.callbacks.Callback):  # type: ignore[misc]
    """Reads each BN variable by itself, at the monitor's default cadence."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch % CADENCE == CADENCE - 1:
            norms = keras.layers.BatchNormalization
            for layer in self.model._flatten_layers():  # noqa: SLF001
                if isinstance(layer, norms):
                    for variable in layer.variables:
                        np.array(keras.ops.convert_to_numpy(variable))


def seconds(action: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


@dataclass
class Costs:
    """What was measured of one callback, appended round by round."""

    share: list[float] = field(default_factory=list)
    typical: list[float] = field(default_factory=list)
    at_begin: list[float] = field(default_factory=list)
    at_epoch_end: list[float] = field(default_factory=list)
    whole_run: list[float] = field(default_factory=list)

    def add(self, plain: Timer, watched: Timer) -> None:
        inside = watched.inside[WARM_UP:]
        step = statistics.median(plain.steps[1:])
        self.share.append((sum(inside) + watched.at_epoch_end) / len(inside) / step)
        cadence = [statistics.median(inside[place::CADENCE]) for place in range(CADENCE)]
        self.typical.append(statistics.mean(cadence) / step)
        self.at_begin.append(watched.at_begin)
        self.at_epoch_end.append(watched.at_epoch_end)
        self.whole_run.append(watched.whole_run / plain.whole_run)

    def report(self, name: str, limit: float | None) -> None:
        verdict = ""
        if limit is not None:
            within = statistics.median(self.share) <= limit
            verdict = f", {'within' if within else 'OVER'} {limit:.1%}"
        print(f"  {name}")
        print(f"    inside, share of a step {spread(self.share, 100, '%', 3)}{verdict}")
        print(f"    the same, of medians    {spread(self.typical, 100, '%', 3)}")
        print(f"    once a fit, its start   {spread(self.at_begin, 1e3, 'ms')}")
        print(f"    once an epoch, its end  {spread(self.at_epoch_end, 1e3, 'ms')}")
        print(f"    whole run, with/without {spread(self.whole_run, 1, 'x', 3)}")


def spread(values: list[float], factor: float, unit: str, digits: int = 1) -> str:
    median, least, most = (
        f"{value * factor:.{digits}f}"
        for value in (statistics.median(values), min(values), max(values))
    )
    return f"{median} {unit} ({least} to {most})"


def candidates(folder: Path, limit: float) -> dict[str, tuple[Callable[[], Any], Any]]:
    """What is measured: how each callback is made, and its limit."""
    count = itertools.count()

    def fresh() -> Path:
        return folder / str(next(count))

    found: dict[str, tuple[Callable[[], Any], Any]] = {
        "BatchNormMonitor": (lambda: BatchNormMonitor(fresh()), limit),
        "BatchNormMonitor(update_freq=1)": (
            lambda: BatchNormMonitor(fresh(), update_freq=1),
            0.03,
        ),
        "BatchNormGuard": (lambda: BatchNormGuard(action="restore"), limit),
        "one variable after another": (OneByOne, None),
    }
    if importlib.util.find_spec("tensorflow") is not None:
        board = keras.callbacks.TensorBoard
        found['TensorBoard(update_freq="batch")'] = (
            lambda: board(str(fresh()), update_freq="batch"),
            None,
        )
        found["TensorBoard(histogram_freq=1)"] = (
            lambda: board(str(fresh()), histogram_freq=1),
            None,
        )
    return found


def measure(name: str, build: Callable[[], Any], limit: float, options: Any) -> None:
    steps, rounds = options.steps, options.rounds
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * steps, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, BATCH * steps)
    model = build()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    step: list[float] = []
    noise: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        made = {
            label: each
            for label, each in candidates(Path(folder), limit).items()
            if fnmatchcase(label, options.only)
        }
        costs = {label: Costs() for label in made}
        few = slice(BATCH * 12)
        for make, _ in made.values():  # traces, and imports what writing needs
            fit(model, x[few], y[few], make())
        for _ in range(rounds):
            plain = fit(model, x, y, None)
            first = plain.whole_run
            for label, (make, _) in made.items():
                costs[label].add(plain, fit(model, x, y, make()))
                plain = fit(model, x, y, None)
            step.append(statistics.median(plain.steps[1:]))
            noise.append(plain.whole_run / first)
    print(f"{name}, {keras.backend.backend()} (medians of {rounds} rounds; least to most)")
    print(f"  training step             {spread(step, 1e3, 'ms')}")
    print(f"  whole run, without twice  {spread(noise, 1, 'x', 3)}")
    for label, (_, most) in made.items():
        costs[label].report(label, most)


def fit(model: Any, x: Any, y: Any, callback: Any) -> Timer:
    timer = Timer(callback)
    with contextlib.redirect_stdout(io.StringIO()):  # what lint says of the network
        model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[timer], shuffle=False)
    return timer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--network", choices=("conv", "resnet50", "both"), default="both")
    parser.add_argument(
        "--steps", type=int, default=100, help=f"a fit; more than {WARM_UP}"
    )
    parser.add_argument("--only", default="*", help='callbacks: "BatchNormMonitor*"')
    options = parser.parse_args()
    if options.steps <= WARM_UP or options.rounds < 1:
        parser.error(f"--steps must be more than {WARM_UP}, and --rounds at least 1")
    if options.network != "resnet50":
        measure("four convolutions", four_convolutions, 0.01, options)
    if options.network != "conv":
        measure("ResNet50", resnet50, 0.005, options)


if __name__ == "__main__":
    main()
