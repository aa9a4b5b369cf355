"""How long recalibration takes, in passes of `model.predict` over the same samples.

Each quantity is taken once per round, all in turn, and the medians are compared. Predicting has
run before, so that its function is compiled; recalibration compiles its own each time.

    python benchmarks/recalibrate.py                                # 4,096 samples, 96 x 96
    python benchmarks/recalibrate.py ResNet50 --samples 1024 --rounds 5
"""

from __future__ import annotations

import argparse
import os
import statistics
from functools import partial

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
from fitted import application
from fold import interleaved, quartiles

from bnscope.calibration import recalibration

APPLICATIONS = ("MobileNetV2", "ResNet50", "EfficientNetB0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("applications", nargs="*", default=APPLICATIONS)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for name in options.applications:
        measure(name, options.size, options.samples, options.rounds)


def measure(name: str, size: int, samples: int, rounds: int) -> None:
    model = application(name, size)
    rng = np.random.default_rng(0)
    data = rng.normal(0.0, 1.0, (samples, size, size, 3)).astype(np.float32)
    model.predict(data[:64], verbose=0)
    again = partial(recalibration, model, data, inplace=True, tell=print)
    runs = {
        "predict": partial(model.predict, data, verbose=0),
        "exact": again,
        "exact, batches of 128": partial(again, batch_size=128),
        "batch": partial(again, method="batch"),
    }
    times = interleaved(runs, rounds)
    passes = statistics.median(times["predict"])
    print(f"{name}, {samples} samples of {size} x {size}")
    for what, found in times.items():
        median = statistics.median(found)
        print(
            f"  {what:<24} {median:7.1f} s {median / passes:6.2f}   {quartiles(found, 's')}"
        )


if __name__ == "__main__":
    main()
