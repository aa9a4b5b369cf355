"""Runs, TensorBoards and a browser for the tests of the tab."""

from __future__ import annotations

import numpy as np
import pytest
from browser import Browser, TensorBoard, missing

from bnscope.statistics.channels import Window
from bnscope.statistics.layout import Layout, Status
from bnscope.watching.alerts import Watch
from bnscope.watching.recorder import Recorder

LAYERS = ("stem_bn", "block/one_bn", "block/two_bn", "a<b>bold</b>&amp;_bn")
WIDTHS = (4, 6, 6, 8)
DEAD_LAYER, DEAD_CHANNEL, DEAD_SINCE = "block/one_bn", 3, 30


def pytest_collection_modifyitems(items):
    absent = missing()
    for item in items:
        if "browser" in item.path.parts:
            item.add_marker(pytest.mark.browser)
            if absent:
                item.add_marker(pytest.mark.skip(reason=f"missing: {'; '.join(absent)}"))


class Training:
    """Writes a run as the monitor does, step by step, so that a test says when.

    Args:
        folder: the log directory.
        seed: of its values.
    """

    def __init__(self, folder, seed=0):
        self.layout = Layout(
            paths=LAYERS,
            widths=WIDTHS,
            momentum=(0.9,) * 4,
            epsilon=(1e-3,) * 4,
            statuses=(Status.EXACT, Status.EXACT, Status.EXACT, Status.FROZEN),
            has_gamma=(True,) * 4,
            has_beta=(True,) * 4,
        )
        self.rng = np.random.default_rng(seed)
        self.values = self.rng.normal(size=(4, self.layout.channels))
        self.values[3] = np.exp(self.values[3])
        self.watch = Watch(self.layout)
        self.step = 0

        def failed(reason):
            raise OSError(reason)

        self.recorder = Recorder(self.layout, folder, details=False, failed=failed)
        self.recorder.open()
        rows = [
            {
                "layer": name,
                "fed_by": [f'Conv2D "{name}_conv"'],
                "feeds": [f'ReLU "{name}_relu"'],
                "channels": width,
                "momentum": 0.9,
                "epsilon": 1e-3,
                "trainable": name != LAYERS[3],
                "calls": 1,
                "folds_into": f"{name}_conv" if name != LAYERS[2] else None,
                "reason": None if name != LAYERS[2] else "branches",
                "detail": "",
            }
            for name, width in zip(LAYERS, WIDTHS, strict=True)
        ]
        finding = {
            "code": "BN101",
            "name": "redundant-bias",
            "severity": "warning",
            "layer": LAYERS[3],
            "message": 'Conv2D has a bias that "<img src=x onerror=alert(1)>" cancels.',
        }
        record = {"version": 1, "model": "net", "layers": rows, "findings": [finding]}
        self.recorder.start(0, record, "# net")

    def go_on(self, steps, epoch=10):
        for _ in range(steps):
            self.step += 1
            before = self.values.copy()
            self.values[:2] += 0.02 * self.rng.normal(size=(2, self.layout.channels))
            batch = self.rng.normal(size=(2, self.layout.channels))
            batch[1] = np.exp(batch[1])
            self.values[2:] = 0.9 * before[2:] + 0.1 * batch
            if self.step >= DEAD_SINCE:
                self.values[3, WIDTHS[0] + DEAD_CHANNEL] = 1e-12
            for alert in self.watch.reading(self.step, self.values):
                self.recorder.alert(alert)
            window = Window(before[2:], self.values[2:], 1)
            self.recorder.step(self.step, self.values, window, warm=frozenset())
            if self.step % epoch == 0:
                self.recorder.channels(self.step, self.values)
        return self

    def close(self):
        self.recorder.close()


@pytest.fixture(scope="session")
def logs(tmp_path_factory):
    """Two runs, one of them with a name that must be escaped everywhere."""
    folder = tmp_path_factory.mktemp("logs")
    for seed, name in enumerate(("first", "odd & näme #2 <i>")):
        Training(folder / name, seed).go_on(60).close()
    return folder


@pytest.fixture(scope="session")
def server(logs):
    with TensorBoard(logs) as started:
        yield started


@pytest.fixture(scope="session")
def slow_loader(logs):
    with TensorBoard(logs, "--load_fast", "false") as started:
        yield started


@pytest.fixture(scope="session")
def chromium():
    with Browser() as opened:
        yield opened


@pytest.fixture
def browser(chromium):
    """The browser, without what earlier tests left; its faults fail the test."""
    chromium.driver.get("about:blank")
    chromium.faults()
    yield chromium
    assert chromium.faults() == []
