"""What watching costs: time inside the callback over the time of a training step.

Two networks: ResNet50 on 32x32 images and a net of four convolutions (16, 32, 64 and 64
filters, each with BN, ReLU and pooling), both with batch 32 and the callback's default cadence:
BatchNormMonitor, writing events, and on the smaller net BatchNormGuard, restoring. The time inside the callback is counted once the step's result is ready, so
that it does not contain the wait for the step itself, and is averaged over logged and other
steps, what is done at the epoch's end included. What is paid once a fit or once an epoch is
printed beside it, too.

The whole-run ratio compares wall time from the first step to the end of training, everything
included. Each watched fit stands between two plain ones; the ratio of these two is the noise
of the machine. Run by hand: `python benchmarks/monitor.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

from bnscope.callbacks import BatchNormGuard, BatchNormMonitor

BATCH = 32
# The first calls of a fit fill caches.
WARM_UP = 20


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
        self.inner = inner
        self.steps: list[float] = []
        self.inside: list[float] = []
        self.at_begin = self.at_epoch_end = self.whole_run = 0.0
        self._step_begin = self._run_begin = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        if self.inner is not None:
            self.inner.set_params(self.params)
            self.inner.set_model(self.model)
            self.at_begin = seconds(self.inner.on_train_begin)
        self._run_begin = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self.inner is not None:
            self.at_begin += seconds(lambda: self.inner.on_epoch_begin(epoch, logs))
            self._run_begin = time.perf_counter()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._step_begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # The optimizer's counter is a result of the step: reading it waits for the step.
        int(self.model.optimizer.iterations)
        self.steps.append(time.perf_counter() - self._step_begin)
        if self.inner is not None:
            self.inside.append(seconds(lambda: self.inner.on_train_batch_end(batch, logs)))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.inner is not None:
            self.at_epoch_end = seconds(lambda: self.inner.on_epoch_end(epoch, logs))

    def on_train_end(self, logs: Any = None) -> None:
        if self.inner is not None:
            self.inner.on_train_end(logs)
        self.whole_run = time.perf_counter() - self._run_begin


def seconds(action: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


@dataclass
class Costs:
    """What one round measured of a network, appended round by round."""

    step: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)
    at_begin: list[float] = field(default_factory=list)
    at_epoch_end: list[float] = field(default_factory=list)
    whole_run: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)

    def add(self, before: Timer, watched: Timer, after: Timer) -> None:
        step = statistics.median(before.steps[1:] + after.steps[1:])
        self.step.append(step)
        inside = watched.inside[WARM_UP:]
        self.share.append((sum(inside) + watched.at_epoch_end) / len(inside) / step)
        self.at_begin.append(watched.at_begin)
        self.at_epoch_end.append(watched.at_epoch_end)
        plain = (before.whole_run + after.whole_run) / 2
        self.whole_run.append(watched.whole_run / plain)
        self.noise.append(after.whole_run / before.whole_run)

    def report(self, name: str, limit: float) -> None:
        share = statistics.median(self.share)
        verdict = "within" if share < limit else "OVER"
        print(f"{name} (medians of {len(self.step)} rounds; least to most in brackets)")
        print(f"  training step             {spread(self.step, 1e3, 'ms')}")
        print(
            f"  inside the callback       {spread(self.share, 100, '% of a step', 3)}, "
            f"{verdict} {limit:.1%}"
        )
        print(f"  once a fit, at its start  {spread(self.at_begin, 1e3, 'ms')}")
        print(f"  once an epoch, at its end {spread(self.at_epoch_end, 1e3, 'ms')}")
        print(f"  whole run, with / without {spread(self.whole_run, 1, 'x', 3)}")
        print(f"  whole run, without twice  {spread(self.noise, 1, 'x', 3)}")


def spread(values: list[float], factor: float, unit: str, digits: int = 1) -> str:
    median, least, most = (
        f"{value * factor:.{digits}f}"
        for value in (statistics.median(values), min(values), max(values))
    )
    return f"{median} {unit} ({least} to {most})"


def monitor(folder: Path) -> Any:
    return BatchNormMonitor(folder)


def guard(_: Path) -> Any:
    return BatchNormGuard(action="restore")


def measure(
    build: Callable[[], Any],
    watch: Callable[[Path], Any],
    limit: float,
    options: argparse.Namespace,
) -> None:
    steps, rounds = options.steps, options.rounds
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * steps, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, BATCH * steps)
    model = build()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    costs = Costs()
    with tempfile.TemporaryDirectory() as folder:
        # Traces the step, and imports what writing events needs.
        fit(model, x[: BATCH * 12], y[: BATCH * 12], watch(Path(folder) / "trace"))
        for index in range(rounds):
            before = fit(model, x, y, None)
            watched = fit(model, x, y, watch(Path(folder) / str(index)))
            costs.add(before, watched, fit(model, x, y, None))
    costs.report(f"{build.__name__}, {watch.__name__}", limit)


def fit(model: Any, x: Any, y: Any, watching: Any) -> Timer:
    timer = Timer(watching)
    with contextlib.redirect_stdout(io.StringIO()):  # what lint says of the network
        model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[timer], shuffle=False)
    return timer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=100, help=f"a fit; more than {WARM_UP}"
    )
    options = parser.parse_args()
    if options.steps <= WARM_UP or options.rounds < 1:
        parser.error(f"--steps must be more than {WARM_UP}, and --rounds at least 1")
    measure(four_convolutions, monitor, 0.01, options)
    measure(four_convolutions, guard, 0.01, options)
    measure(resnet50, monitor, 0.005, options)


if __name__ == "__main__":
    main()
