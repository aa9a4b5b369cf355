"""What BatchNormMonitor costs: time inside the callback over the time of a training step.

Two networks: ResNet50 on 32x32 images and a net of four convolutions (16, 32, 64 and 64
filters, each with BN and ReLU), both with batch 32. The time inside the callback is counted
once the step's result is ready, so that it does not contain the wait for the step itself.
Fits with and without the monitor alternate, and the whole-run difference is printed beside
with its spread. Run by hand: `python benchmarks/monitor.py`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

from bnscope.callbacks import BatchNormMonitor

BATCH = 32


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
    """Times each step and, around another callback, the time inside it."""

    def __init__(self, inner: Any = None) -> None:
        super().__init__()
        self.inner = inner
        self.inside: list[float] = []
        self.steps: list[float] = []
        self._begin = 0.0

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        if self.inner:
            self.inner.set_model(model)

    def set_params(self, params: Any) -> None:
        super().set_params(params)
        if self.inner:
            self.inner.set_params(params)

    def on_train_begin(self, logs: Any = None) -> None:
        if self.inner:
            self.inner.on_train_begin(logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # The optimizer's counter is assigned last: reading it waits for the step.
        int(self.model.optimizer.iterations)
        ready = time.perf_counter()
        self.steps.append(ready - self._begin)
        if self.inner:
            self.inner.on_train_batch_end(batch, logs)
            self.inside.append(time.perf_counter() - ready)

    def on_train_end(self, logs: Any = None) -> None:
        if self.inner:
            self.inner.on_train_end(logs)


def measure(
    name: str, build: Callable[[], Any], steps: int, rounds: int, limit: float
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * steps, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, BATCH * steps)
    model = build()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fit(model, x[: BATCH * 12], y[: BATCH * 12], None)  # traces the step
    shares, differences, step_times = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(rounds):
            plain = fit(model, x, y, None)
            log_dir = Path(folder) / str(index)
            watched = fit(model, x, y, BatchNormMonitor(log_dir, alerts=True))
            step = statistics.median(plain.steps[1:])
            step_times.append(step)
            # The first logged step compiles nothing, but fills caches: left out.
            inside = watched.inside[20:]
            shares.append(sum(inside) / len(inside) / step)
            differences.append(
                statistics.fmean(watched.steps) / statistics.fmean(plain.steps)
            )
    share = statistics.median(shares)
    print(
        f"{name}: step {statistics.median(step_times) * 1e3:.1f} ms (median of {rounds} runs)"
    )
    print(
        f"  inside the callback: {share:.2%} of a step "
        f"({min(shares):.2%} to {max(shares):.2%}; at most {limit:.1%})"
    )
    print(
        f"  whole run with / without: {statistics.median(differences):.3f} "
        f"({min(differences):.3f} to {max(differences):.3f})"
    )


def fit(model: Any, x: Any, y: Any, monitor: Any) -> Timer:
    timer = Timer(monitor)
    model.fit(x, y, batch_size=BATCH, epochs=1, verbose=0, callbacks=[timer], shuffle=False)
    return timer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    measure("four convolutions", four_convolutions, options.steps, options.rounds, 0.01)
    measure("ResNet50", resnet50, options.steps, options.rounds, 0.005)


if __name__ == "__main__":
    main()
