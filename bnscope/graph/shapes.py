"""Shapes of what layers return, for files that do not write them down.

Keras 3 saves the shape of every tensor; Keras 2 saves none. Only layers whose rule is plain
are here: where a shape cannot be told, it stays unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bnscope.graph import kinds
from bnscope.graph.batchnorm import KINDS as BATCH_NORM
from bnscope.graph.limits import MAX_RANK, MAX_SIZE
from bnscope.graph.model import Layer, Shape

Config = Mapping[str, Any]

_SAME_SHAPE = (
    BATCH_NORM
    | kinds.DROPOUT
    | kinds.IDENTITY
    | kinds.RELU
    | kinds.OUTPUT_ACTIVATIONS
    | kinds.INPUT_SCALING
    | {
        "Activation",
        "LeakyReLU",
        "PReLU",
        "ELU",
        "ThresholdedReLU",
        "LayerNormalization",
        "GroupNormalization",
        "UnitNormalization",
        "Masking",
    }
)


def infer_layer(layer: Layer, inputs: Sequence[Shape | None]) -> Shape | None:
    """The shape of what a layer returns, a `TimeDistributed` from the layer inside it.

    Args:
        layer: the layer.
        inputs: shapes of its inputs; None for an unknown one.

    Returns:
        The shape, batch first, or None where it cannot be told.
    """
    if not inputs or inputs[0] is None or not layer.children:
        return infer(layer.kind, layer.config, inputs)
    if layer.kind == kinds.TIME_DISTRIBUTED:
        return _distributed(layer, inputs[0])
    inner = layer.children[0]
    if layer.kind == "Bidirectional":
        found = infer_layer(inner, inputs)
        both = layer.config.get("merge_mode", "concat") == "concat"
        return (*found[:-1], 2 * (found[-1] or 0) or None) if found and both else found
    if layer.kind == "RNN" and "units" in inner.config:
        config = {**layer.config, "units": inner.config["units"]}
        return infer("LSTM", config, inputs)
    return infer(layer.kind, layer.config, inputs)


def _distributed(layer: Layer, shape: Shape) -> Shape | None:
    if len(shape) < 2:  # noqa: PLR2004
        return None
    batch, steps, *rest = shape
    if layer.inside is not None:
        inner = layer.inside.outputs[0].shape if layer.inside.outputs else None
    else:
        inner = infer_layer(layer.children[0], [(batch, *rest)])
    return inner and (batch, steps, *inner[1:])


def infer(kind: str, config: Config, inputs: Sequence[Shape | None]) -> Shape | None:
    """The shape of what a layer returns.

    Args:
        kind: the layer's kind.
        config: its configuration.
        inputs: shapes of its inputs; None for an unknown one.

    Returns:
        The shape, batch first, or None where it cannot be told.
    """
    if not inputs or inputs[0] is None:
        return None
    try:
        shape = _infer(
            kind, config, [shape for shape in inputs if shape is not None], inputs
        )
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError):
        return None  # a malformed configuration has no shape
    return shape if shape is None or is_plausible(shape) else None


def is_plausible(shape: Sequence[object]) -> bool:
    """Whether these are the sizes of a tensor."""
    return len(shape) <= MAX_RANK and all(
        size is None or (type(size) is int and 0 <= size <= MAX_SIZE) for size in shape
    )


def _infer(
    kind: str, config: Config, known: list[Shape], inputs: Sequence[Shape | None]
) -> Shape | None:
    shape = known[0]
    if kind in _SAME_SHAPE:
        return shape
    if kind in kinds.MERGE:
        return _merged(kind, config, known) if len(known) == len(inputs) else None
    for members, rule in _RULES:
        if kind in members:
            return rule(kind, config, shape)
    return None


def _dense(_kind: str, config: Config, shape: Shape) -> Shape:
    return (*shape[:-1], config["units"])


def _embedding(_kind: str, config: Config, shape: Shape) -> Shape:
    return (*shape, config["output_dim"])


def _conv(kind: str, config: Config, shape: Shape) -> Shape:
    space, channels = _split(config, shape)
    if kind in kinds.DEPTHWISE_CONV:
        filters = None if channels is None else channels * config.get("depth_multiplier", 1)
    else:
        filters = config["filters"]
    count = len(space)
    kernel = _tuple(config["kernel_size"], count)
    strides = _tuple(config.get("strides", 1), count)
    dilation = _tuple(config.get("dilation_rate", 1), count)
    size = _transposed_size if kind in kinds.CONV_TRANSPOSE else _window_size
    padding = config.get("padding", "valid")
    sizes = [
        size(n, k, s, d, padding)
        for n, k, s, d in zip(space, kernel, strides, dilation, strict=True)
    ]
    return _join(config, shape, sizes, filters)


def _pool(kind: str, config: Config, shape: Shape) -> Shape | None:
    space, channels = _split(config, shape)
    if kind.startswith("Adaptive"):
        return _join(
            config, shape, list(_tuple(config["output_size"], len(space))), channels
        )
    if kind.startswith("Global"):
        if config.get("keepdims"):
            return _join(config, shape, [1] * len(space), channels)
        return (shape[0], channels)
    window = _tuple(config["pool_size"], len(space))
    strides = _tuple(config.get("strides") or window, len(space))
    padding = config.get("padding", "valid")
    sizes = [
        _window_size(n, k, s, 1, padding)
        for n, k, s in zip(space, window, strides, strict=True)
    ]
    return _join(config, shape, sizes, channels)


def _upsample(_kind: str, config: Config, shape: Shape) -> Shape:
    space, channels = _split(config, shape)
    factors = _tuple(config["size"], len(space))
    sizes = [None if n is None else n * f for n, f in zip(space, factors, strict=True)]
    return _join(config, shape, sizes, channels)


def _pad_or_crop(kind: str, config: Config, shape: Shape) -> Shape:
    space, channels = _split(config, shape)
    sign, key = (1, "padding") if kind in kinds.ZERO_PADDING else (-1, "cropping")
    amounts = config[key]
    if len(space) == 1 and not isinstance(amounts[0], (list, tuple)):
        amounts = [amounts]
    sizes = [
        None if n is None else n + sign * sum(_tuple(pair, 2))
        for n, pair in zip(space, amounts, strict=True)
    ]
    return _join(config, shape, sizes, channels)


def _to_size(_kind: str, config: Config, shape: Shape) -> Shape:
    _, channels = _split(config, shape)
    return _join(config, shape, [config["height"], config["width"]], channels)


def _flatten(_kind: str, _config: Config, shape: Shape) -> Shape:
    rest = shape[1:]
    known = [size for size in rest if size is not None]
    return (shape[0], math.prod(known) if len(known) == len(rest) else None)


def _reshape(_kind: str, config: Config, shape: Shape) -> Shape:
    target = _tuple(config["target_shape"], 1)
    if -1 in target:
        total = _flatten("", {}, shape)[1]
        rest = math.prod(size for size in target if size != -1)
        missing = None if total is None else total // rest
        return (shape[0], *(missing if size == -1 else size for size in target))
    return (shape[0], *target)


def _permute(_kind: str, config: Config, shape: Shape) -> Shape:
    return (shape[0], *(shape[axis] for axis in _tuple(config["dims"], 1)))


def _repeat(_kind: str, config: Config, shape: Shape) -> Shape:
    return (shape[0], config["n"], *shape[1:])


def _recurrent(_kind: str, config: Config, shape: Shape) -> Shape:
    return (*shape[: 2 if config.get("return_sequences") else 1], config["units"])


def _conv_recurrent(kind: str, config: Config, shape: Shape) -> Shape:
    batch, *rest = _conv(kind, config, (shape[0], *shape[2:]))
    return (batch, *(shape[1:2] if config.get("return_sequences") else ()), *rest)


def _einsum(_kind: str, config: Config, shape: Shape) -> Shape | None:
    labels, _, output = (
        config["equation"].replace("...", "").replace(" ", "").partition("->")
    )
    labels = labels.partition(",")[0]
    known = dict(zip(labels, shape[len(shape) - len(labels) :], strict=True))
    given = config["output_shape"]
    given = (given,) if isinstance(given, int) else tuple(given)
    found = [known.get(label) for label in output[len(output) - len(given) :]]
    sizes = [size or own for size, own in zip(given, found, strict=True)]
    # What the ellipsis stands for, or the batch, comes before.
    return (*shape[: len(shape) - len(labels) or 1], *sizes)


def _merged(kind: str, config: Config, shapes: list[Shape]) -> Shape | None:
    rank = len(shapes[0])
    if any(len(shape) != rank for shape in shapes):
        return None
    if kind.endswith("Concatenate"):
        axis = config.get("axis", -1) % rank
        sizes = [shape[axis] for shape in shapes]
        known = [size for size in sizes if size is not None]
        total = sum(known) if len(known) == len(sizes) else None
        return (*shapes[0][:axis], total, *shapes[0][axis + 1 :])
    return tuple(
        max((size for size in sizes if size is not None), default=None)
        for sizes in zip(*shapes, strict=True)
    )


def _window_size(
    size: int | None, kernel: int, stride: int, dilation: int, padding: str
) -> int | None:
    if size is None:
        return None
    if padding in {"same", "causal"}:
        return -(-size // stride)
    return max(-(-(size - dilation * (kernel - 1)) // stride), 0)


def _transposed_size(
    size: int | None, kernel: int, stride: int, _dilation: int, padding: str
) -> int | None:
    if size is None:
        return None
    return size * stride + (0 if padding == "same" else max(kernel - stride, 0))


def _tuple(value: Any, count: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * count
    if len(value) > MAX_RANK:
        raise ValueError("longer than any shape")
    return tuple(value)


def _split(config: Config, shape: Shape) -> tuple[Shape, int | None]:
    if kinds.is_channels_first(config):
        return shape[2:], shape[1]
    return shape[1:-1], shape[-1]


def _join(
    config: Config, shape: Shape, space: Sequence[int | None], channels: int | None
) -> Shape:
    if kinds.is_channels_first(config):
        return (shape[0], channels, *space)
    return (shape[0], *space, channels)


_RULES: tuple[tuple[frozenset[str], Callable[[str, Config, Shape], Shape | None]], ...] = (
    (kinds.CONVOLUTIONS, _conv),
    (kinds.POOLING, _pool),
    (kinds.DENSE, _dense),
    (frozenset({"Embedding"}), _embedding),
    (kinds.UPSAMPLING, _upsample),
    (kinds.ZERO_PADDING | (kinds.CROPPING - {"CenterCrop"}), _pad_or_crop),
    (frozenset({"CenterCrop", "Resizing"}), _to_size),
    (frozenset({"Flatten"}), _flatten),
    (frozenset({"Reshape"}), _reshape),
    (frozenset({"Permute"}), _permute),
    (frozenset({"RepeatVector"}), _repeat),
    (frozenset({"LSTM", "GRU", "SimpleRNN"}), _recurrent),
    (frozenset({"ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"}), _conv_recurrent),
    (frozenset({"EinsumDense"}), _einsum),
)
