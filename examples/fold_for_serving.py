"""Fold a model for serving: the same outputs, without its Batch Normalization layers.

Without an argument it trains a small network on scikit-learn's handwritten digits; with one
it folds a model of yours. Either way: fold, verify, save, reload, export a SavedModel, then
compare the outputs and the time of all of them.

Run it: python examples/fold_for_serving.py [MODEL.keras] [--output FOLDER] [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import bnscope


def digits_network() -> Any:
    """Separable convolutions as in mobile networks, each followed by BN and ReLU."""
    x = inputs = keras.Input((8, 8, 1))
    for filters in (64, 128, 128):
        x = keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
        x = keras.layers.Conv2D(filters, 1, use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))


def trained(epochs: int) -> tuple[Any, Any]:
    """The network after some training, and images it has not seen."""
    keras.utils.set_random_seed(0)
    images, digits = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
    model = digits_network()
    model.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images[:1500], digits[:1500], epochs=epochs, verbose=0)
    accuracy = model.evaluate(images[1500:], digits[1500:], verbose=0)[1]
    print(f"accuracy on images it has not seen: {accuracy:.1%}")
    return model, images[1500:]


def loaded(path: str) -> tuple[Any, Any]:
    """A model of yours, and random input of its shape (64 where the size is free)."""
    model = keras.models.load_model(path)
    shape = [64 if size is None else size for size in model.input_shape[1:]]
    return model, np.random.default_rng(0).normal(size=(32, *shape)).astype("float32")


def served(model: Any, folder: Path) -> Callable[[Any], Any]:
    """Exports a SavedModel, loads it as a server would, and returns its function."""
    model.export(folder, verbose=False)
    artifact = tf.saved_model.load(folder)
    return lambda x: np.asarray(artifact.serve(x))


def medians(functions: list[Callable[[Any], Any]], x: Any, repeats: int) -> list[float]:
    """Median milliseconds of each function; they take turns, so that load hits all alike."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, row in zip(functions, times, strict=True):
            start = time.perf_counter()
            function(x)
            row.append(1000 * (time.perf_counter() - start))
    return [statistics.median(row) for row in times]


def main() -> None:
    parser = argparse.ArgumentParser(description="Fold a model for serving.")
    parser.add_argument("model", nargs="?", help="a .keras file (default: train one)")
    parser.add_argument("--output", help="folder to write into (default: a temporary one)")
    parser.add_argument("--quick", action="store_true", help="train and time briefly")
    options = parser.parse_args()
    output = Path(options.output or tempfile.mkdtemp(prefix="bnscope-"))
    if (output / "folded.keras").exists():
        raise SystemExit(f"{output / 'folded.keras'} exists. Name another --output.")
    output.mkdir(parents=True, exist_ok=True)
    model, x = (
        loaded(options.model) if options.model else trained(1 if options.quick else 10)
    )

    result = bnscope.fold(model)  # verified before it is returned; `model` is not changed
    for verdict in result.verdicts:
        fate = f"into {verdict.into}" if verdict.folded else f"kept: {verdict.detail}"
        print(f"  {verdict.layer:24} {fate}")
    print(f"largest difference found while verifying: {result.max_error:.1e}\n")

    result.model.save(output / "folded.keras")
    reloaded = keras.models.load_model(output / "folded.keras")
    original = served(model, output / "original")
    folded = served(result.model, output / "folded")

    expected = model.predict(x, verbose=0)
    for name, got in (
        ("folded", result.model.predict(x, verbose=0)),
        ("folded, saved, reloaded", reloaded.predict(x, verbose=0)),
        ("folded, exported, served", folded(x)),
    ):
        print(f"{name:26} differs from the original by {abs(got - expected).max():.1e}")

    for batch in (1, 32):
        repeats = 10 if options.quick else 100
        before, after = medians([original, folded], x[:batch], repeats)
        print(
            f"served, {batch:2} at a time: {before:6.2f} ms, folded {after:6.2f} ms", end=""
        )
        print(f", {before / after:.2f} times as fast")
    print(
        f"\nWritten to {output}: folded.keras, and the SavedModels original/ and folded/."
    )


if __name__ == "__main__":
    main()
