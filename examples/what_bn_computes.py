"""What Batch Normalization computes, checked against Keras.

With gamma, beta, epsilon and momentum of the layer, per channel:

    training     y = gamma * (x - mean(batch)) / sqrt(var(batch) + epsilon) + beta
    inference    y = gamma * (x - moving_mean) / sqrt(moving_variance + epsilon) + beta
    update       moving = moving * momentum + batch * (1 - momentum)

The variance is the biased one (divided by n, not by n - 1), in the update too. Each line of
the table compares these formulas in float64 with what the layer gives in float32.

Run it: python examples/what_bn_computes.py
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # keep TensorFlow's start-up notes quiet

import keras  # noqa: E402, TID253
import numpy as np  # noqa: E402

CHANNELS = 4
AXES = (0, 1, 2)  # batch, height, width: all but the channel axis
TOLERANCE = 1e-5  # float32 carries 7 digits, and the values here are below 10


def layer(**arguments):
    """A BN layer whose values are not the initial ones, or many mistakes would not show."""
    bn = keras.layers.BatchNormalization(**arguments)
    bn.build((None, None, None, CHANNELS))
    random = np.random.default_rng(1)
    for variable in bn.variables:
        values = random.normal(0.5, 1.0, CHANNELS)  # some gammas are negative
        variable.assign(abs(values) + 0.1 if variable.name == "moving_variance" else values)
    return bn


def values(bn):
    """The layer's variables by name, in float64."""
    return {v.name: keras.ops.convert_to_numpy(v.value).astype("float64") for v in bn.variables}


def normalize(x, mean, variance, v, epsilon):
    """The formula: without `scale` gamma is 1, without `center` beta is 0."""
    return v.get("gamma", 1.0) * (x - mean) / np.sqrt(variance + epsilon) + v.get("beta", 0.0)


def training_mode(x, **arguments):
    """`training=True`: the mean and the variance are those of this batch."""
    bn = layer(**arguments)
    expected = normalize(x, x.mean(AXES), x.var(AXES), values(bn), bn.epsilon)
    return bn(x, training=True), expected


def inference_mode(x, **arguments):
    """`training=False`, the default of a bare call: the moving values."""
    bn = layer(**arguments)
    v = values(bn)
    return bn(x), normalize(x, v["moving_mean"], v["moving_variance"], v, bn.epsilon)


def update(x, name, batch_value, steps=1):
    """What training does to a moving value."""
    bn = layer()
    expected = values(bn)[name]
    for _ in range(steps):
        bn(x, training=True)
        expected = expected * bn.momentum + batch_value * (1 - bn.momentum)
    return values(bn)[name], expected


def inference_updates_nothing(x):
    """`training=False` leaves the moving values alone."""
    bn = layer()
    before = values(bn)["moving_mean"]
    bn(x, training=False)
    return values(bn)["moving_mean"], before


def frozen(x):
    """`trainable=False` makes BN run in inference mode, whatever `training` says."""
    bn = layer()
    bn.trainable = False
    v = values(bn)
    return bn(x, training=True), normalize(
        x, v["moving_mean"], v["moving_variance"], v, bn.epsilon
    )


def initial_share(x):
    """After k steps, momentum**k of a moving value is still what it was at the start."""
    steps = 100
    bn = layer()
    start = values(bn)["moving_mean"]
    for _ in range(steps):
        bn(x, training=True)
    share = bn.momentum**steps  # 0.99**100 = 0.37: cold
    return values(bn)["moving_mean"], share * start + (1 - share) * x.mean(AXES)


def main():
    x = np.random.default_rng(0).normal(2.0, 3.0, (8, 5, 5, CHANNELS)).astype("float32")
    x64 = x.astype("float64")
    checks = [
        ("training mode", *training_mode(x)),
        ("training mode, scale=False (no gamma)", *training_mode(x, scale=False)),
        ("training mode, center=False (no beta)", *training_mode(x, center=False)),
        ("inference mode", *inference_mode(x)),
        ("inference mode, scale=False, center=False", *inference_mode(x, scale=False, center=False)),
        ("inference mode, epsilon=0.1", *inference_mode(x, epsilon=0.1)),
        ("update of the moving mean", *update(x, "moving_mean", x64.mean(AXES))),
        ("update of the moving variance", *update(x, "moving_variance", x64.var(AXES))),
        ("training=False: no update", *inference_updates_nothing(x)),
        ("trainable=False: inference mode", *frozen(x)),
        ("momentum**100 of the start is left", *initial_share(x)),
    ]
    print(f"{'what':44} {'Keras':>10} {'formula':>10} {'largest difference':>20}")
    for name, keras_value, formula in checks:
        keras_value = keras.ops.convert_to_numpy(keras_value)
        difference = abs(keras_value - formula).max()
        print(f"{name:44} {keras_value.flat[0]:10.5f} {formula.flat[0]:10.5f} {difference:20.1e}")
        if difference > TOLERANCE:
            raise SystemExit(f"{name}: Keras and the formula differ by {difference:.1e}")
    print(f"\nAll {len(checks)} agree to rounding: within {TOLERANCE:.0e}.")


if __name__ == "__main__":
    main()
