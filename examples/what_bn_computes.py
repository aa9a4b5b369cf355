"""What Batch Normalization computes, checked against Keras.

Per channel, with the layer's gamma, beta, epsilon and momentum:

    training     y = gamma * (x - mean(batch)) / sqrt(var(batch) + epsilon) + beta
    inference    y = gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta
    update       moving = moving * momentum + batch * (1 - momentum)

The variance is the biased one (divided by n, not by n - 1), in the update too. Each line of
the table compares a formula in float64 with what the layer computes in float32.

Run it: python examples/what_bn_computes.py
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

CHANNELS = 4
AXES = (0, 1, 2)  # batch, height, width: all but the channel axis
TOLERANCE = 3e-5  # float32 carries 7 digits; over 100 updates its roundings add up


def layer(**arguments: Any) -> Any:
    """A BN layer with values other than the initial ones, which would hide mistakes."""
    bn = keras.layers.BatchNormalization(**arguments)
    bn.build((None, None, None, CHANNELS))
    random = np.random.default_rng(1)
    for variable in bn.variables:
        value = random.normal(0.5, 1.0, CHANNELS)  # some gammas are negative
        variable.assign(abs(value) + 0.1 if variable.name == "moving_variance" else value)
    return bn


def values(bn: Any) -> dict[str, Any]:
    """The layer's variables by name, in float64."""
    return {v.name: keras.ops.convert_to_numpy(v).astype("float64") for v in bn.variables}


def formula(bn: Any, x: Any, mean: Any, variance: Any) -> Any:
    """Normalize, scale, shift. Without `scale` gamma is 1, without `center` beta is 0."""
    v = values(bn)
    normalized = (x - mean) / np.sqrt(variance + bn.epsilon)
    return v.get("gamma", 1.0) * normalized + v.get("beta", 0.0)


def training_mode(x: Any, **arguments: Any) -> tuple[Any, Any]:
    """With `training=True` the mean and the variance are those of this batch."""
    bn = layer(**arguments)
    return bn(x, training=True), formula(bn, x, x.mean(AXES), x.var(AXES))


def inference_mode(x: Any, **arguments: Any) -> tuple[Any, Any]:
    """With `training=False`, the default of a bare call, they are the moving values."""
    bn = layer(**arguments)
    v = values(bn)
    return bn(x, training=False), formula(bn, x, v["moving_mean"], v["moving_variance"])


def frozen(x: Any) -> tuple[Any, Any]:
    """With `trainable=False` BN runs in inference mode, whatever `training` says."""
    bn = layer(trainable=False)
    v = values(bn)
    return bn(x, training=True), formula(bn, x, v["moving_mean"], v["moving_variance"])


def update(x: Any, name: str, batch: Any) -> tuple[Any, Any]:
    """What one training step does to a moving value, given the batch's own value."""
    bn = layer()
    old = values(bn)[name]
    bn(x, training=True)
    return values(bn)[name], old * bn.momentum + batch * (1 - bn.momentum)


def no_update(x: Any) -> tuple[Any, Any]:
    """Inference mode leaves the moving values alone."""
    bn = layer()
    old = values(bn)["moving_mean"]
    bn(x, training=False)
    return values(bn)["moving_mean"], old


def hundred_updates(x: Any) -> tuple[Any, Any]:
    """After k steps momentum**k of a moving value is still the initial one: 0.37 here."""
    bn = layer()
    start = values(bn)["moving_mean"]
    for _ in range(100):
        bn(x, training=True)
    share = bn.momentum**100
    return values(bn)["moving_mean"], share * start + (1 - share) * x.mean(AXES)


def main() -> None:
    x = np.random.default_rng(0).normal(2.0, 3.0, (8, 5, 5, CHANNELS))
    both_off = {"scale": False, "center": False}
    checks = {
        "training mode": training_mode(x),
        "training mode, scale=False (no gamma)": training_mode(x, scale=False),
        "training mode, center=False (no beta)": training_mode(x, center=False),
        "inference mode": inference_mode(x),
        "inference mode, neither gamma nor beta": inference_mode(x, **both_off),
        "inference mode, epsilon=0.1": inference_mode(x, epsilon=0.1),
        "trainable=False: inference mode": frozen(x),
        "update of the moving mean": update(x, "moving_mean", x.mean(AXES)),
        "update of the moving variance": update(x, "moving_variance", x.var(AXES)),
        "training=False: no update": no_update(x),
        "100 updates: 0.37 of the start is left": hundred_updates(x),
    }
    print(
        f"{'first value of each':40} {'Keras':>9} {'formula':>9} {'largest difference':>19}"
    )
    for name, (from_keras, expected) in checks.items():
        got = keras.ops.convert_to_numpy(from_keras)
        difference = abs(got - expected).max()
        print(f"{name:40} {got.flat[0]:9.5f} {expected.flat[0]:9.5f} {difference:19.1e}")
        if not difference < TOLERANCE:
            raise SystemExit(f"{name}: Keras and the formula differ by {difference:.1e}.")
    print(f"\nAll {len(checks)} agree to the rounding of float32 (within {TOLERANCE:.0e}).")


if __name__ == "__main__":
    main()
