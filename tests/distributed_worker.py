"""A process of its own for a way of training on several devices, of `test_distributed.py`.

Devices are made before the backend starts, which is why this is no test. The last line on
stdout is JSON.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

import numpy as np

BATCH, STEPS, EPOCHS = 16, 5, 2


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, (BATCH * STEPS, 6)).astype("float32")
    return x, x[:, :1]


def model():
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    together = {"synchronized": True} if keras.backend.backend() == "tensorflow" else {}
    made = keras.Sequential(
        [
            keras.Input((6,)),
            layers.BatchNormalization(name="together", momentum=0.9, **together),
            layers.Dense(4),
            layers.BatchNormalization(name="alone", momentum=0.9),
            layers.Dense(1),
        ]
    )
    made.compile("sgd", "mse")
    return made


def train(log_dir):
    from bnscope.callbacks import BatchNormMonitor

    monitor = BatchNormMonitor(log_dir, update_freq=1)
    x, y = data()
    model().fit(
        x,
        y,
        batch_size=BATCH,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[monitor],
        validation_data=(x, y),
    )
    history = monitor.history
    return {
        "steps": [int(step) for step in history.steps],
        "status": [str(status) for status in monitor._recorder.layout.statuses],
        "batch_mean": list(history.statistic("together", "batch_mean", "max")),
        "divergence_steps": [int(step) for step in history.divergence_steps],
        "divergence": {
            f"{layer} {name}": list(history.divergence(layer, name))
            for layer in history.layers
            for name in ("mean", "variance")
        },
    }


def mirrored(log_dir, *_):
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        return train(log_dir)


def multi_worker(log_dir, rank, *ports):
    workers = [f"127.0.0.1:{port}" for port in ports]
    task = {"type": "worker", "index": int(rank)}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
    import keras
    import tensorflow as tf

    keras.config.disable_traceback_filtering()
    with tf.distribute.MultiWorkerMirroredStrategy().scope():
        try:
            return train(log_dir)
        except ValueError as error:
            frames = traceback.extract_tb(error.__traceback__)
            return {"failed": [f"{frame.filename} {frame.name}" for frame in frames]}


def data_parallel(log_dir, *_):
    import keras

    keras.distribution.set_distribution(keras.distribution.DataParallel())
    return train(log_dir)


def processes(log_dir, rank, port):
    import jax
    import keras

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    keras.distribution.initialize(f"127.0.0.1:{port}", 2, int(rank))
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(auto_shard_dataset=False)
    )
    found = train(log_dir)
    return {**found, "devices": jax.device_count(), "local": jax.local_device_count()}


if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    name, folder, *rest = sys.argv[1:]
    sys.stdout.write("\n" + json.dumps(globals()[name](Path(folder), *rest)) + "\n")
