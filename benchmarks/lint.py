"""How long `bnscope lint` takes on a ResNet50 of 103 MB, and how much memory.

Whole processes, interleaved: linting, importing what it needs, and loading the model in Keras.
Run by hand: `python benchmarks/lint.py`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = {
    "lint": [sys.executable, "-m", "bnscope", "lint", "--ignore", "BN101", "{path}"],
    "import numpy, h5py, rich": [sys.executable, "-c", "import numpy, h5py, rich"],
    "keras.saving.load_model": [
        sys.executable,
        "-c",
        "import sys, keras; keras.saving.load_model(sys.argv[1])",
        "{path}",
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet50.keras"
        save_resnet50(path)
        times = measure(path, runs)
        print(f"ResNet50, {path.stat().st_size / 1e6:.0f} MB, {runs} interleaved runs")
        for name, values in times.items():
            low, middle, high = min(values), statistics.median(values), max(values)
            print(f"{name:26} median {middle:.3f} s ({low:.3f} to {high:.3f})")
        report(
            "lint / import",
            ratios(times, "lint", "import numpy, h5py, rich"),
            "at most 1.6",
        )
        report(
            "load / lint", ratios(times, "keras.saving.load_model", "lint"), "at least 15"
        )
        print(f"peak memory of lint: {peak_memory(path):.0f} MB (at most 150)")


def save_resnet50(path: Path) -> None:
    code = "import sys, keras; keras.applications.ResNet50(weights=None).save(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True)


def measure(path: Path, runs: int) -> dict[str, list[float]]:
    """Seconds of each command, one after the other in each round; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for round_ in range(runs + 1):
        for name, command in COMMANDS.items():
            begin = time.perf_counter()
            run(command, path)
            if round_:
                times[name].append(time.perf_counter() - begin)
    return times


def run(command: list[str], path: Path) -> None:
    # Compiled modules are kept, as they are after an installation.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(
        [part.format(path=path) for part in command],
        check=True,
        capture_output=True,
        env=environment,
    )


def ratios(times: dict[str, list[float]], over: str, under: str) -> list[float]:
    return [a / b for a, b in zip(times[over], times[under], strict=True)]


def report(name: str, values: list[float], target: str) -> None:
    middle = statistics.median(values)
    print(
        f"{name:26} median {middle:.2f} ({min(values):.2f} to {max(values):.2f}), {target}"
    )


def peak_memory(path: Path) -> float:
    """Megabytes that the linting process had in memory at most."""
    code = (
        "import sys, resource; from bnscope.cli import main; main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "lint", str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return int(result.stderr.split()[-1]) / unit


if __name__ == "__main__":
    main()
