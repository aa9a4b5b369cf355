"""Random models out of the layers that folding knows, with random statistics."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

BN = layers.BatchNormalization
START = {2: (7,), 3: (6, 5), 4: (6, 7, 4)}


def random_model(seed):
    """A Functional model of 3 to 12 calls with BN anywhere, and the seed's generator."""
    rng = np.random.default_rng(seed)
    inputs = keras.Input(START[int(rng.choice([2, 3, 4], p=[0.25, 0.25, 0.5]))])
    pool = [inputs]
    for _ in range(int(rng.integers(3, 12))):
        x = pool[-1] if rng.random() < 0.75 else pool[int(rng.integers(len(pool)))]
        pool.append(_step(x, pool, rng))
    loose = [t for t in pool[1:] if not _is_used(t, pool)]
    model = keras.Model(inputs, loose[-2:] if len(loose) > 1 else loose[0])
    randomize(model, rng)
    return model


def randomize(model, rng):
    """Variances from 1e-3 to 1e3, 30 % negative gammas, and any weights and biases."""
    for layer in model._flatten_layers():
        if isinstance(layer, BN):
            size = int(layer.moving_mean.shape[0])
            if layer.scale:
                sign = np.where(rng.random(size) < 0.3, -1.0, 1.0)
                layer.gamma.assign(sign * rng.uniform(0.5, 1.5, size))
            if layer.center:
                layer.beta.assign(rng.normal(0.0, 1.0, size))
            layer.moving_mean.assign(rng.normal(0.0, 1.0, size))
            layer.moving_variance.assign(10.0 ** rng.uniform(-3.0, 3.0, size))
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0.0, 1.0, layer.bias.shape))


def compare(model, other, seed):
    """Compares independently of bnscope's own verification."""
    x = np.random.default_rng(seed).normal(
        size=(4, *[size or 5 for size in model.input_shape[1:]])
    )
    pairs = zip(outputs(model, x), outputs(other, x), strict=True)
    for one, two in pairs:
        assert np.abs(one - two).max() <= 1e-5 * max(np.abs(one).max(), 1e-30), seed


def outputs(model, x):
    found = keras.tree.flatten(model(x.astype("float32"), training=False))
    return [keras.ops.convert_to_numpy(value) for value in found]


def _is_used(tensor, pool):
    nodes = [t._keras_history.operation._inbound_nodes for t in pool]
    return any(tensor is i for all_ in nodes for node in all_ for i in node.input_tensors)


def _step(x, pool, rng):
    if rng.random() < 0.4:
        return _batch_norm(x, rng)
    options = [*_ANY, *{2: _RANK2, 3: _RANK3, 4: _RANK4}.get(len(x.shape), [])]
    if len(x.shape) > 4 or min(x.shape[1:]) < 1:
        options = _ANY
    for _ in range(20):
        try:
            y = options[int(rng.integers(len(options)))](x, pool, rng)
        except ValueError:  # too small for a kernel, or other shapes
            continue
        known = None not in y.shape[1:]
        if known and min(y.shape[1:]) > 0 and np.prod(y.shape[1:]) < 5000:
            return y
    return layers.ReLU()(x)


def _batch_norm(x, rng):
    axis = -1
    if len(x.shape) > 2 and rng.random() < 0.15:
        axis = int(rng.integers(1, len(x.shape)))
    return BN(axis=axis, scale=rng.random() < 0.75, center=rng.random() < 0.75)(x)


def _bool(rng):
    return bool(rng.random() < 0.5)


def _activation(rng):
    return "relu" if rng.random() < 0.15 else None


def _padding(rng):
    return "same" if rng.random() < 0.4 else "valid"


def _same_shape(x, pool, rng):
    fitting = [t for t in pool if t.shape == x.shape]
    return fitting[int(rng.integers(len(fitting)))]


def _resample(x, rng):
    """A tensor like x, made of x by a layer of its own."""
    width = x.shape[-1]
    if len(x.shape) == 4 and _bool(rng):
        return layers.Conv2D(width, 3, padding="same", use_bias=_bool(rng))(x)
    return layers.Dense(width, use_bias=_bool(rng))(x)


_ANY = [
    lambda x, _, rng: layers.Dense(
        int(rng.integers(2, 7)), use_bias=_bool(rng), activation=_activation(rng)
    )(x),
    lambda x, *_: layers.Dropout(0.3)(x),
    lambda x, *_: layers.Activation("linear")(x),
    lambda x, *_: layers.ReLU()(x),
    lambda x, _, rng: x * float(rng.normal()) + float(rng.normal()),
    lambda x, _, rng: float(rng.normal()) - x,
    lambda x, *_: layers.Rescaling(-0.5, offset=0.7)(x),
    lambda x, pool, rng: layers.Add()([x, _same_shape(x, pool, rng)]),
    lambda x, _, rng: layers.Add()([_resample(x, rng), _resample(x, rng)]),
    lambda x, _, rng: layers.Average()([_resample(x, rng), _resample(x, rng)]),
    lambda x, _, rng: layers.Subtract()([_resample(x, rng), _resample(x, rng)]),
    lambda x, _, rng: layers.Maximum()([_resample(x, rng), _resample(x, rng)]),
    lambda x, pool, rng: layers.Concatenate()([x, _same_shape(x, pool, rng)]),
    lambda x, _, rng: layers.Concatenate()([_resample(x, rng), _resample(x, rng)]),
]
_RANK2 = [
    lambda x, *_: layers.Reshape((1, x.shape[-1]))(x),
    lambda x, *_: layers.RepeatVector(3)(x),
    lambda x, _, rng: layers.Reshape((2, 3, 4))(layers.Dense(24, use_bias=_bool(rng))(x)),
]
_RANK3 = [
    lambda x, _, rng: layers.Conv1D(
        int(rng.integers(1, 6)),
        int(rng.integers(1, 4)),
        padding=str(rng.choice(["valid", "same", "causal"])),
        use_bias=_bool(rng),
    )(x),
    lambda x, _, rng: layers.Conv1DTranspose(
        4, int(rng.integers(1, 4)), strides=int(rng.integers(1, 3))
    )(x),
    lambda x, *_: layers.DepthwiseConv1D(2, depth_multiplier=2)(x),
    lambda x, *_: layers.SeparableConv1D(4, 2)(x),
    lambda x, *_: layers.Permute((2, 1))(x),
    lambda x, *_: layers.Flatten()(x),
    lambda x, *_: layers.GlobalAveragePooling1D()(x),
    lambda x, *_: layers.GlobalMaxPooling1D()(x),
    lambda x, _, rng: layers.AveragePooling1D(2, padding=_padding(rng))(x),
    lambda x, *_: layers.UpSampling1D(2)(x),
    lambda x, *_: layers.Cropping1D((1, 0))(x),
    lambda x, *_: layers.ZeroPadding1D(1)(x),
    lambda x, *_: layers.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d")(x),
    lambda x, *_: layers.EinsumDense("abc,cde->abde", (None, 2, 3))(x),
    lambda x, *_: ops.mean(x, axis=1),
    lambda x, *_: ops.transpose(x, (0, 2, 1)),
    lambda x, *_: x[:, ::-1],
    lambda x, *_: ops.expand_dims(x, 2),
]
_RANK4 = [
    lambda x, _, rng: layers.Conv2D(
        2 * int(rng.integers(1, 4)),
        int(rng.integers(1, 4)),
        strides=int(rng.integers(1, 3)),
        padding=_padding(rng),
        use_bias=_bool(rng),
        activation=_activation(rng),
    )(x),
    lambda x, _, rng: layers.Conv2D(4, 3, groups=2, padding=_padding(rng))(x),
    lambda x, _, rng: layers.Conv2D(3, 2, dilation_rate=2, padding=_padding(rng))(x),
    lambda x, _, rng: layers.DepthwiseConv2D(
        int(rng.integers(1, 4)),
        depth_multiplier=int(rng.integers(1, 3)),
        padding=_padding(rng),
        use_bias=_bool(rng),
    )(x),
    lambda x, _, rng: layers.SeparableConv2D(
        4, int(rng.integers(1, 4)), padding=_padding(rng), use_bias=_bool(rng)
    )(x),
    lambda x, _, rng: layers.Conv2DTranspose(
        3,
        int(rng.integers(1, 4)),
        strides=int(rng.integers(1, 3)),
        padding=_padding(rng),
        use_bias=_bool(rng),
    )(x),
    lambda x, _, rng: layers.AveragePooling2D(2, padding=_padding(rng))(x),
    lambda x, _, rng: layers.MaxPooling2D(2, padding=_padding(rng))(x),
    lambda x, _, rng: layers.GlobalAveragePooling2D(keepdims=_bool(rng))(x),
    lambda x, *_: layers.GlobalMaxPooling2D()(x),
    lambda x, *_: layers.UpSampling2D(2, interpolation="bilinear")(x),
    lambda x, *_: layers.Resizing(5, 4)(x),
    lambda x, *_: layers.ZeroPadding2D(1)(x),
    lambda x, *_: layers.Cropping2D(((0, 1), (1, 0)))(x),
    lambda x, *_: layers.Flatten()(x),
    lambda x, *_: layers.Permute((2, 3, 1))(x),
    lambda x, *_: layers.Reshape((-1, x.shape[-1]))(x),
    lambda x, *_: ops.mean(x, axis=(1, 2), keepdims=True),
    lambda x, *_: ops.max(x, axis=1),
    lambda x, *_: x[:, 1:, :, :2],
    lambda x, *_: ops.pad(x, ((0, 0), (1, 1), (1, 0), (0, 0)), mode="reflect"),
]
