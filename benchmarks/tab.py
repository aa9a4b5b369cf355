"""How fast the tab "BN Scope" is, and how much memory TensorBoard takes for it.

Writes runs of the widths of ResNet50 (two, 1,000 logged steps and 100 epochs of every channel),
of ResNet152 (one, the same) and a long one of ResNet50 (100,000 steps, every tenth read, with an
extreme at step 70,000 and NaN from 95,000 on), by the recorder that the monitor uses, out of
random values. Starts TensorBoard on a free port and opens the tab in Chromium (Debian's
`chromium`), which nobody drives or debugs.

The time of the first view runs from when TensorBoard opens the tab's frame to when all its
figures are drawn; that of another view from the click. The server is fresh for each kind of
run. Memory is that of the Python process, at its peak while the views are drawn and afterwards,
over that before the tab is opened; what the data server holds (a process of its own) is not
counted with the default loader. Times mean little where a core has a load above 1. Run by hand: `python benchmarks/tab.py`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bnscope.statistics.channels import Window
from bnscope.statistics.layout import Layout, Status
from bnscope.watching.recorder import Recorder

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "browser"))

from browser import TensorBoard  # type: ignore[import-not-found]
from chromium import Chromium


def resnet(blocks: tuple[int, ...]) -> Layout:
    """The layout of a ResNet of bottleneck blocks."""
    names, widths = ["conv1_bn"], [64]
    for stage, count in enumerate(blocks):
        for block in range(count):
            width = 64 * 2**stage
            parts = [("0", 4 * width)] if block == 0 else []
            parts += [("1", width), ("2", width), ("3", 4 * width)]
            for part, channels in parts:
                names.append(f"conv{stage + 2}_block{block + 1}_{part}_bn")
                widths.append(channels)
    count = len(names)
    return Layout(
        paths=tuple(names),
        widths=tuple(widths),
        momentum=(0.99,) * count,
        epsilon=(1.001e-5,) * count,
        statuses=(Status.EXACT,) * count,
        has_gamma=(True,) * count,
        has_beta=(True,) * count,
    )


def write(folder: Path, layout: Layout, steps: range, epochs: int, seed: int) -> None:
    """Writes a run of random values that drift."""
    rng = np.random.default_rng(seed)
    recorder = Recorder(layout, folder, details=False, failed=fail)
    recorder.open()
    rows = [
        {"layer": name, "channels": width, "momentum": 0.99, "epsilon": 1.001e-5}
        for name, width in zip(layout.paths, layout.widths, strict=True)
    ]
    recorder.start(0, {"version": 1, "model": folder.name, "layers": rows}, "")
    values = rng.normal(size=(4, layout.channels))
    values[3] = np.exp(values[3])
    every = max(1, len(steps) // epochs)
    for count, step in enumerate(steps):
        before = values.copy()
        values += rng.normal(scale=0.01, size=(4, 1)) * values
        values[2] = 0.99 * before[2] + 0.01 * rng.normal(size=layout.channels)
        shown = values
        if step == 70_000:
            shown = np.where(np.arange(4)[:, None] == 3, values * 1e9, values)
        if step >= 95_000:
            shown = values.copy()
            shown[2, :32] = np.nan
        recorder.step(step, shown, Window(before[2:], shown[2:], 1), warm=frozenset())
        if count % every == every - 1:
            recorder.channels(step, shown)
    recorder.close()


def fail(reason: str) -> None:
    raise OSError(reason)


class Memory(threading.Thread):
    """Watches the resident memory of a process, in MB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._path = Path(f"/proc/{pid}/statm")
        self.before = self.peak = self.now()
        self._done = threading.Event()

    def now(self) -> float:
        pages = int(self._path.read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def run(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, self.now())

    def stop(self) -> None:
        self._done.set()
        self.join()


@contextmanager
def watched(pid: int) -> Iterator[Memory]:
    memory = Memory(pid)
    memory.start()
    try:
        yield memory
    finally:
        memory.stop()


def measure(title: str, folder: Path, arguments: list[str], rounds: int) -> None:
    print(f"{title}, {' '.join(arguments)} (limits: first view 2 s, others 1 s, 200 MB)")
    with TensorBoard(folder, *arguments) as server, Chromium() as browser:
        with watched(server.pid) as memory:
            for _ in range(rounds):
                first = browser.open(server.url)
                others = {
                    view: browser.timed_view(view)
                    for view in ("layers", "layer", "compare", "model", "overview")
                }
                times = ", ".join(f"{view} {took:.2f}" for view, took in others.items())
                load = os.getloadavg()[0] / (os.cpu_count() or 1)
                print(f"  first view {first:.2f} s; {times} s; load of a core {load:.1f}")
        print(
            f"  memory of the server: {memory.before:.0f} MB before, "
            f"{memory.peak - memory.before:+.0f} at the peak, "
            f"{memory.now() - memory.before:+.0f} MB afterwards"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3, help="how often the tab is opened")
    parser.add_argument("--load-fast", choices=["true", "false"], default="true")
    parser.add_argument("--only", choices=["resnet50", "resnet152", "long"])
    options = parser.parse_args()
    kinds: dict[str, Any] = {
        "resnet50": ((3, 4, 6, 3), range(1, 1001), 100, 2),
        "resnet152": ((3, 8, 36, 3), range(1, 1001), 100, 1),
        "long": ((3, 4, 6, 3), range(10, 100_001, 10), 100, 1),
    }
    for name, (blocks, steps, epochs, count) in kinds.items():
        if options.only not in {None, name}:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(count):
                write(Path(folder) / f"{name}-{seed}", resnet(blocks), steps, epochs, seed)
            arguments = ["--load_fast", options.load_fast]
            measure(f"{count} x {name}", Path(folder), arguments, options.rounds)


if __name__ == "__main__":
    main()
