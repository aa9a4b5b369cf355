"""How long folding takes, and how much faster the folded model runs.

Prints ratios measured side by side in one process: each quantity is taken once per round, all
in turn, and the medians are compared. Statistics are fitted to the network and perturbed, a
third of the gammas negative; fresh BN would be folded as fast but prove nothing.

    python benchmarks/fold.py                         # ResNet50, 224 x 224
    python benchmarks/fold.py MobileNetV2 --size 96 --rounds 7
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("application", nargs="?", default="ResNet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = fitted(options.application, options.size)
    print(
        f"{options.application}, {options.size} x {options.size}, {len(batch_norms(model))} BN"
    )
    time_folding(model, options.rounds)
    time_inference(model, options.size, options.rounds * 6)


def batch_norms(model: Any) -> list[Any]:
    import keras

    kind = keras.layers.BatchNormalization
    return [layer for layer in model.layers if isinstance(layer, kind)]


def fitted(name: str, size: int) -> Any:
    """An application without weights from the net, with statistics that fit it."""
    import keras

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3), classifier_activation=None)
    for layer in batch_norms(model):
        count = int(layer.moving_mean.shape[0])
        if layer.scale:
            sign = np.where(rng.random(count) < 0.3, -1.0, 1.0)
            layer.gamma.assign(sign * rng.uniform(0.5, 1.5, count))
        layer.momentum = 0.0
    model(rng.standard_normal((4, size, size, 3)).astype("float32"), training=True)
    for layer in batch_norms(model):
        layer.momentum = 0.99
        count = int(layer.moving_mean.shape[0])
        variance = keras.ops.convert_to_numpy(layer.moving_variance)
        layer.moving_variance.assign(variance * rng.uniform(0.8, 1.25, count))
    return model


def time_folding(model: Any, rounds: int) -> None:
    """Loading the file against folding the loaded model, each once per round."""
    import keras

    import bnscope

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        loading, folding = [], []
        for _ in range(rounds):
            seconds, loaded = timed(partial(keras.models.load_model, path, compile=False))
            loading.append(seconds)
            seconds, result = timed(partial(bnscope.fold, loaded))
            folding.append(seconds)
    load, fold = statistics.median(loading), statistics.median(folding)
    before, after = result.parameters
    print(f"load     {load:6.2f} s")
    print(f"fold     {fold:6.2f} s  ({fold / load:.2f} x the load, {spread(folding)})")
    print(f"verified {result.max_error:.1e} of the scale, {result.tolerance:.1e} allowed")
    print(f"BN       {len(result.plan.folded)} folded, {len(result.plan.kept)} kept")
    print(f"params   {before:,} -> {after:,}")


def time_inference(model: Any, size: int, rounds: int) -> None:
    """One image through the original and the folded model, in turn, as TensorFlow graphs."""
    import tensorflow as tf

    import bnscope

    image = tf.random.normal((1, size, size, 3), seed=0)
    folded = bnscope.fold(model).model
    calls = [tf.function(partial(m, training=False)) for m in (model, folded)]
    for call in calls:
        call(image)
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for call, seconds in zip(calls, times, strict=True):
            seconds.append(timed(partial(run, call, image))[0])
    original, new = (statistics.median(seconds) for seconds in times)
    print(f"original {original * 1e3:6.1f} ms for one image ({spread(times[0])})")
    print(f"folded   {new * 1e3:6.1f} ms for one image ({spread(times[1])})")
    print(f"speed-up {original / new:6.2f} x")


def run(call: Callable[[Any], Any], image: Any) -> None:
    call(image).numpy()  # the result is waited for


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def spread(seconds: list[float]) -> str:
    low, high = np.percentile(seconds, [25, 75])
    return f"quartiles {low:.3f} to {high:.3f} s"


if __name__ == "__main__":
    main()
