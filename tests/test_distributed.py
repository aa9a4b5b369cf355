"""Several devices and processes: real strategies, in processes of their own.

`make test-distributed` runs this on TensorFlow and on JAX. Each process must end: a time limit
stands for a deadlock.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from distributed_worker import BATCH, EPOCHS, STEPS, data

from bnscope.events import read

pytestmark = pytest.mark.distributed

WORKER = Path(__file__).with_name("distributed_worker.py")
LIMIT = 240

on = keras.backend.backend()
tensorflow_only = pytest.mark.skipif(on != "tensorflow", reason="tf.distribute")
jax_only = pytest.mark.skipif(on != "jax", reason="keras.distribution on JAX")


def start(name, folder, *arguments):
    command = [sys.executable, WORKER, name, folder, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def results(*started):
    """What each process printed last, and all it printed."""
    found = []
    for process in started:
        try:
            out, err = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            for each in started:
                each.kill()
            raise
        assert process.returncode == 0, err[-3000:]
        found.append((json.loads(out.splitlines()[-1]), out))
    return found


def free_ports(count):
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def batch_means(share=1):
    """The largest mean of a channel, of each batch; or of the first replica's share of it."""
    x, _ = data()
    batches = x.reshape(STEPS, BATCH, -1)[:, : BATCH // share]
    return np.tile(batches.mean(1).max(-1), EPOCHS)


@tensorflow_only
def test_replicas_that_go_their_own_ways_are_shown_to_do_so(tmp_path):
    ((found, _),) = results(start("mirrored", tmp_path))
    assert found["steps"] == list(range(1, STEPS * EPOCHS + 1))
    assert found["status"] == ["exact", "replicas"]
    # What all replicas share is the whole batch's, not the first replica's part of it.
    np.testing.assert_allclose(found["batch_mean"], batch_means(), rtol=1e-4)
    assert np.abs(batch_means() - batch_means(share=2)).max() > 0.1
    assert found["divergence_steps"] == [STEPS, 2 * STEPS]
    assert found["divergence"]["together mean"] == pytest.approx([0, 0], abs=1e-6)
    for name in ("alone mean", "alone variance"):
        assert (np.array(found["divergence"][name]) > 0.01).all()
    run = read(tmp_path)
    for name in ("mean", "variance"):
        stored = run.divergence("alone", name)
        assert list(stored) == found["divergence"][f"alone {name}"]


@tensorflow_only
def test_multi_worker_strategy_fails_in_keras_itself(tmp_path):
    # When this fails, Keras is repaired: then test here that only the chief writes.
    ports = free_ports(2)
    started = [start("multi_worker", tmp_path / str(rank), rank, *ports) for rank in (0, 1)]
    for found, _ in results(*started):
        assert any(frame.endswith(" _maybe_symbolic_build") for frame in found["failed"])
        assert not any("/bnscope/" in frame for frame in found["failed"])


@jax_only
def test_devices_of_one_process_share_each_batch(tmp_path):
    ((found, _),) = results(start("data_parallel", tmp_path))
    assert found["steps"] == list(range(1, STEPS * EPOCHS + 1))
    assert found["status"] == ["exact", "exact"]
    np.testing.assert_allclose(found["batch_mean"], batch_means(), rtol=1e-4)
    assert found["divergence_steps"] == [STEPS, 2 * STEPS]
    assert set(found["divergence"]) == {
        f"{layer} {name}"
        for layer in ("together", "alone")
        for name in ("mean", "variance")
    }
    assert all(value == [0, 0] for value in found["divergence"].values())


@jax_only
def test_of_two_processes_only_the_chief_writes(tmp_path):
    (port,) = free_ports(1)
    folders = [tmp_path / "0", tmp_path / "1"]
    started = [
        start("processes", folder, rank, port) for rank, folder in enumerate(folders)
    ]
    (chief, said), (other, unsaid) = results(*started)
    assert (chief["devices"], chief["local"]) == (4, 2)
    np.testing.assert_allclose(chief["batch_mean"], batch_means(), rtol=1e-4)
    assert chief == other  # each has read the same, without the other
    assert "BN503" in said
    assert "bnscope:" not in unsaid
    assert list(read(folders[0]).steps) == chief["steps"]
    assert not folders[1].exists()
