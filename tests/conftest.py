"""What several tests share."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# Without these kernels TensorFlow convolves no channels_first on a CPU; it takes them by itself
# on some CPUs only.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(20260101)


def randomize_batch_norms(model, rng):
    """Random statistics with 30 % negative gammas: fresh BN hides every mistake."""
    import keras

    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization) and layer.built:
            size = int(layer.moving_mean.shape[0])
            if layer.scale:
                signs = np.where(rng.random(size) < 0.3, -1.0, 1.0)
                layer.gamma.assign(signs * rng.uniform(0.5, 1.5, size))
            if layer.center:
                layer.beta.assign(rng.normal(0.0, 0.5, size))
            layer.moving_mean.assign(rng.normal(0.0, 0.5, size))
            layer.moving_variance.assign(np.exp(rng.uniform(-1.0, 1.0, size)))


@pytest.fixture
def randomized(rng):
    def randomize(model):
        randomize_batch_norms(model, rng)
        return model

    return randomize


@pytest.fixture
def run_cli(capsys):
    """Runs the command line in this process: exit code, stdout, stderr."""
    from bnscope.cli import main

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
