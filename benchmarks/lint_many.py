"""How long `bnscope lint` takes on a thousand saved models, with one process and with two.

The models are varied copies of a few that Keras saves once: 20 to 50 layers, other names and
settings in each. Whole processes, interleaved. Run by hand: `python benchmarks/lint_many.py`.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

TARGET = 15.0
MAKE = """
import sys
import keras
from keras import layers

for blocks in (6, 10, 14):
    inputs = keras.Input((32, 32, 3))
    x = inputs
    for index in range(blocks):
        x = layers.Conv2D(8 + index % 3, 3, padding="same", use_bias=index % 4 == 0)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU()(x)
    x = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x, name=f"net_{blocks}")
    model.compile("adam", "mse")
    model.save(f"{sys.argv[1]}/{len(model.layers)}_layers.keras")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        make_models(models, options.files)
        times = measure(models, options.runs)
        print(f"{options.files} models, {options.runs} interleaved runs")
        for jobs, values in times.items():
            low, middle, high = min(values), statistics.median(values), max(values)
            print(f"--jobs {jobs}   median {middle:.2f} s ({low:.2f} to {high:.2f})")
        print(f"target with --jobs 2: under {TARGET * options.files / 1000:.1f} s")


def make_models(folder: Path, files: int) -> None:
    """Saves a few models with Keras, and writes varied copies of them."""
    folder.mkdir()
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, "-c", MAKE, place], check=True, capture_output=True)
        originals = sorted(Path(place).iterdir())
        numbers = random.Random(20260101)  # noqa: S311  variety, no secret
        for index in range(files):
            original = originals[index % len(originals)]
            copy = folder / f"run_{index % 10}" / f"epoch_{index // 10}.keras"
            copy.parent.mkdir(exist_ok=True)
            vary(original, copy, numbers)


def vary(original: Path, copy: Path, numbers: random.Random) -> None:
    """A copy with another momentum and another name; the weights stay."""
    momentum = numbers.choice(["0.9", "0.99", "0.1", "0.997"])
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(copy, "w") as target:
        for info in source.infolist():
            with source.open(info) as member, target.open(info.filename, "w") as out:
                if info.filename == "config.json":
                    text = member.read().decode()
                    text = text.replace('"momentum": 0.9', f'"momentum": {momentum}')
                    name = f'"net_{numbers.randrange(10**6)}_'
                    out.write(text.replace('"net_', name).encode())
                else:
                    shutil.copyfileobj(member, out)


def measure(folder: Path, runs: int) -> dict[int, list[float]]:
    """Seconds of each run, one after the other in each round; the first round warms up."""
    times: dict[int, list[float]] = {1: [], 2: []}
    # Compiled modules are kept, as they are after an installation.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    for round_ in range(runs + 1):
        for jobs, values in times.items():
            command = [sys.executable, "-m", "bnscope", "lint", str(folder), "--isolated"]
            begin = time.perf_counter()
            result = subprocess.run(
                [*command, "--jobs", str(jobs)],
                capture_output=True,
                check=False,
                env=environment,
            )
            if result.returncode != 1:
                raise SystemExit(f"lint ended with {result.returncode}: {result.stderr!r}")
            if round_:
                values.append(time.perf_counter() - begin)
    return times


if __name__ == "__main__":
    main()
