"""Random models out of the layers that folding knows, with random statistics.

Every choice is an integer that a function draws, so that hypothesis can make them and shrink
what fails. Zero is always the plainest choice.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

BN = layers.BatchNormalization
STEPS_OF = layers.TimeDistributed
START = [(7,), (6, 5), (6, 7, 4), (6, 7, 4), (5, 4, 4, 3)]
POLICIES = ["mixed_float16", "mixed_bfloat16"]


class Choices:
    """Choices out of one function that draws an integer between two bounds, both included."""

    def __init__(self, integer):
        self.integer = integer

    def chance(self, percent):
        return self.integer(0, 99) >= 100 - percent

    def flag(self):
        return self.chance(50)

    def one_of(self, options):
        return options[self.integer(0, len(options) - 1)]

    def real(self):
        return self.integer(-30, 30) / 10 or 0.5


def seeded(seed):
    """The same choices each time, without hypothesis."""
    rng = np.random.default_rng(seed)
    return Choices(lambda low, high: int(rng.integers(low, high + 1)))


def random_model(choices):
    """A Functional model of 3 to 12 steps with BN anywhere.

    It has one input or two, one output or two, and now and then a policy of mixed precision.
    """
    policy = choices.one_of(POLICIES) if choices.chance(5) else "float32"
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = _model(choices)
    finally:
        keras.config.set_dtype_policy(before)
    randomize(model, np.random.default_rng(choices.integer(0, 2**32 - 1)), choices)
    return model


def _model(choices):
    inputs = [keras.Input(choices.one_of(START))]
    if choices.chance(15):
        inputs.append(keras.Input(inputs[0].shape[1:]))
    pool = [*inputs]
    if choices.chance(10):
        inputs.append(keras.Input((5,), dtype="int32"))
        pool.append(layers.Embedding(9, 5)(inputs[-1]))
    start = len(pool)
    for _ in range(choices.integer(3, 11)):
        x = choices.one_of(pool) if choices.chance(25) else pool[-1]
        pool.append(step(x, pool, choices))
    # An input that no step took is an output by way of a BN of its own.
    pool += [_batch_norm(x, choices) for x in pool[:start] if not _is_used(x, pool)]
    loose = [t for t in pool[start:] if not _is_used(t, pool)]
    return keras.Model(inputs, loose if len(loose) > 1 else loose[0])


def randomize(model, rng, choices):
    """Variances from 1e-3 to 1e3, 30 % negative gammas, some zero; any weights and biases."""
    dead = choices.chance(20)
    for layer in model._flatten_layers():
        if isinstance(layer, BN):
            size = int(layer.moving_mean.shape[0])
            if layer.scale:
                sign = np.where(rng.random(size) < 0.3, -1.0, 1.0)
                sign[rng.random(size) < (0.3 if dead else 0.0)] = 0.0
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


def step(x, pool, choices):
    """A tensor made of one in the pool by a BN layer or one of `_STEPS`."""
    if choices.chance(40):
        return _batch_norm(x, choices)
    options = steps_for(len(x.shape))
    for _ in range(8):
        try:
            y = choices.one_of(options)(x, pool, choices)
        except ValueError:  # too small for a kernel, or other shapes
            continue
        sizes = y.shape[1:]
        if None not in sizes and min(sizes) > 0 and np.prod(sizes) < 5000:
            return y
    return layers.ReLU()(x)


def steps_for(rank):
    """The steps that a tensor of a rank may take."""
    return [*_STEPS[None], *_STEPS.get(rank, [])]


def _batch_norm(x, choices):
    axis = -1
    if len(x.shape) > 2 and choices.chance(15):
        axis = choices.integer(1, len(x.shape) - 1)
    return BN(axis=axis, scale=not choices.chance(25), center=not choices.chance(25))(x)


def _activation(choices):
    return "relu" if choices.chance(15) else None


def _padding(choices):
    return "same" if choices.chance(40) else "valid"


def _same_shape(x, pool, choices):
    return choices.one_of([t for t in pool if t.shape == x.shape])


def _resample(x, choices):
    """A tensor like x, made of x by a layer of its own."""
    return _resampler(x, choices)(x)


def _resampler(x, choices):
    width = x.shape[-1]
    if len(x.shape) == 4 and choices.flag():
        return layers.Conv2D(width, 3, padding="same", use_bias=choices.flag())
    return layers.Dense(width, use_bias=choices.flag())


def _seldom(choices):
    """Lets one in five layers through: Keras compiles these with XLA, which takes long."""
    if not choices.chance(20):
        raise ValueError
    return lambda layer: layer


def _two(x, choices):
    return [_resample(x, choices), _resample(x, choices)]


def _inner(x, choices):
    """A model of x's shape with BN in it, Functional or Sequential."""
    parts = [_resampler(x, choices), BN()] if choices.flag() else [BN()]
    if choices.flag():
        parts.append(_resampler(x, choices))
    if choices.flag():
        return keras.Sequential(parts)
    y = inputs = keras.Input(x.shape[1:])
    for part in parts:
        y = part(y)
    return keras.Model(inputs, y)


def _nested_twice(x, choices):
    model = _inner(x, choices)
    return layers.Add()([model(x), model(layers.ReLU()(x))])


def _shared(x, choices):
    """One layer called twice, and BN layers behind its calls: one for both, or one for each."""
    layer, one = _resampler(x, choices), BN()
    other = BN() if choices.flag() else one
    return layers.Add()([one(layer(x)), other(layer(layers.ReLU()(x)))])


def _rep_vgg(x, choices):
    """Branches that are summed up behind BN layers of their own."""
    return layers.Add()([BN()(part) for part in (*_two(x, choices), x)])


def _mirrored(x):
    if min(x.shape[1:3]) < 2:
        raise ValueError
    return ops.pad(x, ((0, 0), (1, 1), (1, 0), (0, 0)), mode="reflect")


def _recurrent(choices):
    kind = choices.one_of([layers.SimpleRNN, layers.GRU, layers.LSTM])
    extra = {"reset_after": choices.flag()} if kind is layers.GRU else {}
    return kind(
        3,
        use_bias=choices.flag(),
        return_sequences=choices.flag(),
        go_backwards=choices.chance(20),
        **extra,
    )


def _model_of_steps(x):
    inside = [layers.Dense(3), BN(), layers.LeakyReLU(0.3), BN(), layers.Dense(4)]
    return keras.Sequential([keras.Input(x.shape[2:]), *inside])


_ANY = [
    lambda x, _, choices: layers.Dense(
        choices.integer(2, 6), use_bias=choices.flag(), activation=_activation(choices)
    )(x),
    lambda x, *_: layers.Dropout(0.3)(x),
    lambda x, *_: layers.Activation("linear")(x),
    lambda x, *_: layers.ReLU()(x),
    lambda x, _, choices: x * choices.real() + choices.real(),
    lambda x, _, choices: choices.real() - x,
    lambda x, *_: layers.Rescaling(-0.5, offset=0.7)(x),
    lambda x, pool, choices: layers.Add()([x, _same_shape(x, pool, choices)]),
    lambda x, _, choices: layers.Add()(_two(x, choices)),
    lambda x, _, choices: layers.Average()(_two(x, choices)),
    lambda x, _, choices: layers.Subtract()(_two(x, choices)),
    lambda x, _, choices: layers.Maximum()(_two(x, choices)),
    lambda x, pool, choices: layers.Concatenate()([x, _same_shape(x, pool, choices)]),
    lambda x, _, choices: layers.Concatenate()(_two(x, choices)),
    lambda x, _, choices: layers.Concatenate(axis=1)(_two(x, choices)),
    lambda x, _, choices: _inner(x, choices)(x),
    lambda x, _, choices: _nested_twice(x, choices),
    lambda x, _, choices: _shared(x, choices),
    lambda x, _, choices: _rep_vgg(x, choices),
    lambda x, *_: x[:, ::-1],
]
_RANK2 = [
    lambda x, *_: layers.Reshape((1, x.shape[-1]))(x),
    lambda x, *_: layers.RepeatVector(3)(x),
    lambda x, _, choices: layers.Reshape((2, 3, 4))(
        layers.Dense(24, use_bias=choices.flag())(x)
    ),
]
_RANK3 = [
    lambda x, _, choices: _seldom(choices)(
        layers.Conv1D(
            choices.integer(1, 5), choices.integer(1, 3), data_format="channels_first"
        )
    )(x),
    lambda x, *_: layers.AveragePooling1D(2, data_format="channels_first")(x),
    lambda x, *_: layers.Embedding(x.shape[-1], 4)(
        ops.cast(ops.argmax(x, axis=-1), "int32")
    ),
    lambda x, _, choices: layers.Conv1D(
        choices.integer(1, 5),
        choices.integer(1, 3),
        padding=choices.one_of(["valid", "same", "causal"]),
        use_bias=choices.flag(),
    )(x),
    lambda x, _, choices: layers.Conv1DTranspose(
        4, choices.integer(1, 3), strides=choices.integer(1, 2)
    )(x),
    lambda x, *_: layers.DepthwiseConv1D(2, depth_multiplier=2)(x),
    lambda x, *_: layers.SeparableConv1D(4, 2)(x),
    lambda x, *_: layers.Permute((2, 1))(x),
    lambda x, *_: layers.Flatten()(x),
    lambda x, *_: layers.GlobalAveragePooling1D()(x),
    lambda x, *_: layers.GlobalMaxPooling1D()(x),
    lambda x, _, choices: layers.AveragePooling1D(2, padding=_padding(choices))(x),
    lambda x, *_: layers.UpSampling1D(2)(x),
    lambda x, *_: layers.Cropping1D((1, 0))(x),
    lambda x, *_: layers.ZeroPadding1D(1)(x),
    lambda x, *_: layers.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d")(x),
    lambda x, *_: layers.EinsumDense("abc,cde->abde", (None, 2, 3))(x),
    lambda x, *_: ops.mean(x, axis=1),
    lambda x, *_: ops.transpose(x, (0, 2, 1)),
    lambda x, *_: x[:, ::-1],
    lambda x, *_: ops.expand_dims(x, 2),
    lambda x, _, choices: _seldom(choices)(_recurrent(choices))(x),
    lambda x, _, choices: _seldom(choices)(layers.Bidirectional(_recurrent(choices)))(x),
    lambda x, _, choices: layers.MultiHeadAttention(2, 3, use_bias=choices.flag())(x, x),
    lambda x, _, choices: layers.GroupQueryAttention(2, 4, 2, use_bias=choices.flag())(
        x, x
    ),
    lambda x, _, choices: layers.EinsumDense(
        "abc,cd->ad", 3, bias_axes="d" if choices.flag() else None
    )(x),
    lambda x, *_: layers.EinsumDense("...x,xy->...y", 3)(x),
    lambda x, _, choices: STEPS_OF(layers.Dense(4, use_bias=choices.flag()))(x),
    lambda x, _, choices: STEPS_OF(BN(scale=choices.flag()))(x),
    lambda x, *_: STEPS_OF(_model_of_steps(x))(x),
]
_RANK4 = [
    lambda x, _, choices: layers.Conv2D(
        2 * choices.integer(1, 3),
        choices.integer(1, 3),
        strides=choices.integer(1, 2),
        padding=_padding(choices),
        use_bias=choices.flag(),
        activation=_activation(choices),
    )(x),
    lambda x, _, choices: _seldom(choices)(
        layers.Conv2D(4, 3, groups=2, padding=_padding(choices))
    )(x),
    lambda x, _, choices: layers.Conv2D(3, 2, dilation_rate=2, padding=_padding(choices))(
        x
    ),
    lambda x, _, choices: layers.DepthwiseConv2D(
        choices.integer(1, 3),
        depth_multiplier=choices.integer(1, 2),
        padding=_padding(choices),
        use_bias=choices.flag(),
    )(x),
    lambda x, _, choices: layers.SeparableConv2D(
        4, choices.integer(1, 3), padding=_padding(choices), use_bias=choices.flag()
    )(x),
    lambda x, _, choices: layers.Conv2DTranspose(
        3,
        choices.integer(1, 3),
        strides=choices.integer(1, 2),
        padding=_padding(choices),
        use_bias=choices.flag(),
    )(x),
    lambda x, _, choices: layers.AveragePooling2D(2, padding=_padding(choices))(x),
    lambda x, _, choices: layers.MaxPooling2D(2, padding=_padding(choices))(x),
    lambda x, _, choices: layers.GlobalAveragePooling2D(keepdims=choices.flag())(x),
    lambda x, *_: layers.GlobalMaxPooling2D()(x),
    lambda x, *_: layers.UpSampling2D(2, interpolation="bilinear")(x),
    lambda x, *_: layers.Resizing(5, 4)(x),
    lambda x, *_: layers.ZeroPadding2D(1)(x),
    lambda x, *_: layers.Cropping2D(((0, 1), (1, 0)))(x),
    lambda x, *_: layers.Flatten()(x),
    lambda x, *_: layers.Flatten(data_format="channels_first")(x),
    lambda x, *_: layers.GlobalAveragePooling2D(data_format="channels_first")(x),
    lambda x, *_: layers.Permute((2, 3, 1))(x),
    lambda x, *_: layers.Reshape((-1, x.shape[-1]))(x),
    lambda x, *_: ops.mean(x, axis=(1, 2), keepdims=True),
    lambda x, *_: ops.max(x, axis=1),
    lambda x, *_: x[:, 1:, :, :2],
    lambda x, *_: _mirrored(x),
    lambda x, _, choices: STEPS_OF(
        layers.Conv1D(3, 2, padding=_padding(choices), use_bias=choices.flag())
    )(x),
    lambda x, *_: STEPS_OF(layers.GlobalAveragePooling1D())(x),
    lambda x, *_: STEPS_OF(layers.MaxPooling1D(2))(x),
    lambda x, *_: STEPS_OF(layers.Flatten())(x),
    lambda x, *_: STEPS_OF(layers.Permute((2, 1)))(x),
    lambda x, _, choices: STEPS_OF(BN(axis=choices.integer(1, 2)))(x),
    lambda x, *_: STEPS_OF(STEPS_OF(layers.Dense(3)))(x),
    lambda x, _, choices: _seldom(choices)(
        layers.ConvLSTM1D(3, 2, padding=_padding(choices), use_bias=choices.flag())
    )(x),
]
_RANK5 = [
    lambda x, _, choices: layers.Conv3D(
        choices.integer(1, 4), choices.integer(1, 3), padding=_padding(choices)
    )(x),
    lambda x, _, choices: layers.Conv3DTranspose(
        2, choices.integer(1, 2), strides=choices.integer(1, 2)
    )(x),
    lambda x, *_: layers.AveragePooling3D(2)(x),
    lambda x, *_: layers.MaxPooling3D(2)(x),
    lambda x, *_: layers.GlobalAveragePooling3D()(x),
    lambda x, *_: layers.ZeroPadding3D(1)(x),
    lambda x, *_: layers.Cropping3D(((1, 0), (0, 1), (0, 0)))(x),
    lambda x, *_: layers.UpSampling3D((1, 2, 1))(x),
    lambda x, *_: layers.Reshape((-1, *x.shape[3:]))(x),
]
# What a tensor may go through, by its number of dimensions; None: any. A step takes the tensor,
# the tensors there are, and the choices; ValueError means that it does not fit.
_STEPS = {None: _ANY, 2: _RANK2, 3: _RANK3, 4: _RANK4, 5: _RANK5}
