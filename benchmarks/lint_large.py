"""How long linting takes, and how much memory, where the archive has 1 GB instead of 1 MB.

The large archive is sparse: its weights hold one data set of 1 GB that was never written, and the
zip around it is made by hand. Run by hand: `python benchmarks/lint_large.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import h5py
import numpy as np

CONFIG = {
    "class_name": "Sequential",
    "config": {
        "name": "large",
        "layers": [
            {
                "class_name": "InputLayer",
                "config": {"name": "x", "batch_shape": [None, 64]},
            },
            {"class_name": "Dense", "config": {"name": "dense", "units": 64}},
            {"class_name": "BatchNormalization", "config": {"name": "bn"}},
        ],
    },
}
PEAK = """
import contextlib, io, resource, sys
from bnscope.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    main(["lint", sys.argv[1]])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            "1 MB": save_sparse(Path(folder) / "small.keras", 1 << 20),
            "1 GB": save_sparse(Path(folder) / "large.keras", 1 << 30),
        }
        times: dict[str, list[float]] = {name: [] for name in paths}
        for round_ in range(runs + 1):
            for name, path in paths.items():
                begin = time.perf_counter()
                lint(path)
                if round_:
                    times[name].append(time.perf_counter() - begin)
        medians = {name: statistics.median(values) for name, values in times.items()}
        peaks = {name: peak(path) for name, path in paths.items()}
    for name, middle in medians.items():
        print(f"{name}: median {middle:.3f} s, peak memory {peaks[name]:.0f} MB")
    print(f"time, 1 GB / 1 MB: {medians['1 GB'] / medians['1 MB']:.2f} (at most 1.1)")
    print(f"memory, 1 GB / 1 MB: {peaks['1 GB'] / peaks['1 MB']:.2f} (at most 1.1)")


def lint(path: Path) -> None:
    command = [sys.executable, "-m", "bnscope", "lint", str(path)]
    subprocess.run(command, check=False, capture_output=True)


def peak(path: Path) -> float:
    finished = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], check=True, capture_output=True, text=True
    )
    return float(finished.stdout)


def save_sparse(path: Path, size: int) -> Path:
    """A `.keras` whose kernel has so many bytes, none of which are on the disk."""
    weights = path.with_suffix(".h5")
    with h5py.File(weights, "w") as store:
        group = store.create_group("layers/dense/vars").id
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((size // 256, 64))
        h5py.h5d.create(group, b"0", h5py.h5t.IEEE_F32LE, space, plist)
        for index in range(4):
            place = f"layers/batch_normalization/vars/{index}"
            store.create_dataset(place, data=np.linspace(0.1, 2, 64, dtype=np.float32))
    with weights.open("rb") as source, path.open("wb") as target:
        write_zip(target, json.dumps(CONFIG).encode(), source, weights.stat().st_size)
    weights.unlink()
    return path


def write_zip(target, config, source, size) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Two stored members; runs of zeros in the second one become holes."""
    entries = b""
    for name, length, check in (
        (b"config.json", len(config), zlib.crc32(config)),
        (b"model.weights.h5", size, 0),  # nobody reads all of it to compare the sum
    ):
        extra = struct.pack("<2H2Q", 1, 16, length, length)  # zip64
        fields = (45, 0, 0, 0, 0, check, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(extra))
        offset = target.tell()
        entries += struct.pack("<4sH", b"PK\x01\x02", 45) + struct.pack("<5H3L2H", *fields)
        entries += struct.pack("<3H2L", 0, 0, 0, 0, offset) + name + extra
        target.write(struct.pack("<4s5H3L2H", b"PK\x03\x04", *fields) + name + extra)
        if name == b"config.json":
            target.write(config)
        else:
            copy_sparse(source, target)
    start = target.tell()
    target.write(entries)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, len(entries), start, 0)
    target.write(end)


def copy_sparse(source, target) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    zeros = bytes(1 << 20)
    while chunk := source.read(1 << 20):
        if chunk == zeros:
            target.seek(len(chunk), 1)
        else:
            target.write(chunk)


if __name__ == "__main__":
    main()
