"""Planted causes of a gap between training and inference: real trainings on real data."""

from __future__ import annotations

from functools import cache

import keras
import numpy as np

layers = keras.layers


@cache
def digits():
    """The digits of scikit-learn in random order: training and validation data."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    x = (bunch.data[order] / 16.0).astype("float32")
    y = bunch.target[order].astype("int32")
    return x[:1400], y[:1400], x[1400:], y[1400:]


def mlp(*, widths=(64, 64), momentum=0.9, dropout=0.0, **options):
    parts = [keras.Input((64,))]
    for width in widths:
        parts += [
            layers.Dense(width, use_bias=False),
            layers.BatchNormalization(momentum=momentum, **options),
            layers.ReLU(),
            layers.Dropout(dropout),
        ]
    return keras.Sequential([*parts, layers.Dense(10)], name="mlp")


def convnet(momentum=0.9):
    parts = [keras.Input((64,)), layers.Reshape((8, 8, 1))]
    for width in (16, 24):
        parts += [
            layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=momentum),
            layers.ReLU(),
        ]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(10)]
    return keras.Sequential([*parts, *head], name="convnet")


def trained(model, *, epochs, batch_size=32, rate=1e-3, data=None, **options):
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    x, y, _, _ = digits() if data is None else data
    model.fit(x, y, epochs=epochs, batch_size=batch_size, verbose=0, **options)
    return model


def on_digits(model, batch_size=32, data=None):
    x, y, x_val, y_val = digits() if data is None else data
    return model, (x, y), {"validation_data": (x_val, y_val), "batch_size": batch_size}


def cold_convolutions():
    """Two epochs at Keras's default momentum."""
    return on_digits(trained(convnet(momentum=0.99), epochs=2, rate=1e-2))


def cold_dense():
    """Trained and diagnosed without a compiled loss."""
    x, y, _, _ = digits()
    model = mlp(momentum=0.99)
    optimizer = keras.optimizers.Adam(3e-3)
    twin = keras.Model(model.inputs, model.outputs)
    twin.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    twin.fit(x, y, epochs=2, batch_size=64, verbose=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return model, (x, y), {"loss": loss, "batch_size": 64}


def never_updated():
    """Statistics put back, as by a training loop that drops what BN assigns."""
    model = trained(mlp(), epochs=5)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_mean.assign(np.zeros(64))
            layer.moving_variance.assign(np.ones(64))
    return on_digits(model)


def momentum_too_high():
    """Long enough for the default momentum, by far too short for this one."""
    return on_digits(trained(convnet(momentum=0.9995), epochs=9, rate=1e-2))


def momentum_of_one():
    return on_digits(trained(mlp(momentum=1.0), epochs=5))


def momentum_too_low():
    """Keras's momentum taken for PyTorch's: the last two batches are what is remembered."""
    return on_digits(trained(mlp(momentum=0.1), epochs=5, batch_size=8), batch_size=8)


def lag():
    """Warm by the count of updates, but the weights moved faster than this average follows."""
    return on_digits(trained(convnet(momentum=0.99), epochs=7, rate=3e-2))


def dropout_before():
    """Dropout of a half before each BN layer."""
    parts = [keras.Input((64,))]
    for _ in range(3):
        parts += [
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.5),
            layers.BatchNormalization(momentum=0.9),
        ]
    return on_digits(trained(keras.Sequential([*parts, layers.Dense(10)]), epochs=10))


def small_batch():
    return on_digits(
        trained(mlp(widths=(48, 48, 48)), epochs=4, batch_size=2), batch_size=2
    )


def small_batch_3():
    return on_digits(trained(mlp(momentum=0.99), epochs=4, batch_size=3), batch_size=3)


def small_batch_4():
    return on_digits(
        trained(mlp(widths=(48, 48, 48)), epochs=4, batch_size=4, rate=3e-3), batch_size=4
    )


def shift_contrast():
    """Validation images from a paler scanner."""
    x, y, x_val, y_val = digits()
    return on_digits(
        trained(convnet(), epochs=10, rate=1e-2), data=(x, y, 0.3 * x_val + 0.5, y_val)
    )


def shift_scaling():
    """Validation images that nobody divided by 16."""
    x, y, x_val, y_val = digits()
    return on_digits(trained(mlp(), epochs=8), data=(x, y, 16 * x_val, y_val))


def frozen_untrained():
    """A backbone frozen with random weights, as if the weights had been loaded."""
    base = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(64, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(64, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ],
        name="base",
    )
    base.trainable = False
    model = keras.Sequential([keras.Input((64,)), base, layers.Dense(10)])
    return on_digits(trained(model, epochs=6, rate=1e-2))


def shared_calls():
    """Two views of the input, one inverted and darker, through one BN layer."""
    inputs = keras.Input((64,))
    norm = layers.BatchNormalization(momentum=0.9)
    other = layers.Rescaling(-3.0, offset=4.0)(inputs)
    views = [layers.Dense(32, use_bias=False)(view) for view in (inputs, other)]
    parts = [layers.ReLU()(norm(view)) for view in views]
    model = keras.Model(inputs, layers.Dense(10)(layers.Concatenate()(parts)))
    return on_digits(trained(model, epochs=10, rate=3e-3))


def shared_domains():
    """Batches from two domains in turn through the same BN layers."""
    import tensorflow as tf

    x, y, x_val, y_val = digits()

    def batches():
        for start in range(0, 1400, 50):
            part = slice(start, start + 50)
            yield x[part], y[part]
            yield 3.0 - 2.0 * x[part], y[part]

    signature = (tf.TensorSpec((None, 64)), tf.TensorSpec((None,), tf.int32))
    data = tf.data.Dataset.from_generator(batches, output_signature=signature)
    model = mlp()
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(data, epochs=8, verbose=0)
    return model, (data,), {"validation_data": (x_val, y_val)}


def baked_false():
    """The transfer-learning guide's training=False, on a base that is trainable."""
    x, y, x_val, y_val = digits()
    base = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(64, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(64, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ],
        name="base",
    )
    warm = keras.Sequential([keras.Input((64,)), base, layers.Dense(10)])
    trained(warm, epochs=10)
    inputs = keras.Input((64,))
    outputs = layers.Dense(10)(base(inputs, training=False))
    model = keras.Model(inputs, outputs)
    data = (4.0 - 3.0 * x, y, 4.0 - 3.0 * x_val, y_val)
    return on_digits(trained(model, epochs=2, rate=3e-3, data=data), data=data)


def baked_true():
    inputs = keras.Input((64,))
    x = layers.Dense(64, use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x, training=True))
    x = layers.Dense(64, use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x, training=True))
    return on_digits(trained(keras.Model(inputs, layers.Dense(10)(x)), epochs=2, rate=3e-3))


def healthy():
    return on_digits(trained(convnet(), epochs=15, rate=1e-2))


def healthy_dropout():
    return on_digits(trained(mlp(dropout=0.3), epochs=10))


def healthy_default():
    return on_digits(trained(mlp(momentum=0.99), epochs=20))


def overfit():
    """Sixty samples learned by heart."""
    x, y, x_val, y_val = digits()
    data = (x[:60], y[:60], x_val, y_val)
    return on_digits(
        trained(mlp(widths=(128, 128)), epochs=60, batch_size=20, data=data),
        data=data,
        batch_size=20,
    )


def overfit_noise():
    """Labels of noise."""
    x, y, x_val, y_val = digits()
    noisy = np.random.default_rng(3).permutation(y)
    data = (x, noisy, x_val, y_val)
    return on_digits(
        trained(mlp(widths=(128, 128)), epochs=20, data=data, rate=3e-3), data=data
    )


def underfit():
    return on_digits(trained(mlp(widths=(4,)), epochs=10, batch_size=64), batch_size=64)


CASES = {
    "cold_statistics": [cold_convolutions, cold_dense, never_updated],
    "momentum": [momentum_too_high, momentum_of_one, momentum_too_low, lag],
    "small_batch": [small_batch, small_batch_3, small_batch_4],
    "data_shift": [shift_contrast, shift_scaling],
    "frozen_untrained": [frozen_untrained],
    "shared_across_domains": [shared_calls, shared_domains],
    "baked_training": [baked_false, baked_true],
    "dropout_before_bn": [dropout_before],
    "not_batch_norm": [
        healthy,
        healthy_dropout,
        healthy_default,
        overfit,
        overfit_noise,
        underfit,
    ],
}
