"""How many multiply-adds a model takes for one sample, from its graph alone.

A multiply-add is one product that is added to a sum. Counted are the layers with kernels and
BN, which takes one for each element. Biases, activations, pooling, sums, products of tensors
and what only moves values count nothing. A layer of any other kind, or of which a size is not
known, is not counted and named.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnscope.graph import kinds, shapes
from bnscope.graph.batchnorm import is_batch_norm
from bnscope.graph.model import Call, Graph, Layer, Shape

# Stand for the sizes that inputs leave open, the batch aside, by the rank of the input: those of
# images are what is usually stated.
_OPEN_SIZES = {3: 128, 4: 224}
_OPEN_SIZE = 16
# The largest networks take some 1e14 for a sample.
_MOST = 1 << 90
_MOST_LABELS = 64
_GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}
_FREE_LAYERS = (
    kinds.POOLING
    | kinds.UPSAMPLING
    | kinds.CROPPING
    | kinds.ZERO_PADDING
    | kinds.RESHAPING
    | kinds.DROPOUT
    | kinds.IDENTITY
    | kinds.AUGMENTATION
    | kinds.MERGE
    | kinds.RELU
    | kinds.OUTPUT_ACTIVATIONS
    | kinds.INPUT_SCALING
    | {"Activation", "LeakyReLU", "PReLU", "ELU", "ThresholdedReLU", "Embedding", "Masking"}
    | {kinds.INPUT, "Resizing"}
)
# Operations on each element by itself, and others without products of their own.
_ELEMENTWISE = """
Abs Cast Clip Elu Exp Gelu HardSigmoid HardSilu HardSwish HardTanh Identity LeakyRelu Log
LogSoftmax Mish Negative Relu Relu6 Rsqrt Selu Sigmoid Silu Softmax Softplus Sqrt Square Swish
Tanh
"""
_MOVING = """
Add Argmax AveragePool BroadcastTo Concatenate ConvertToTensor Divide ExpandDims Flip GetItem
Max MaxPool Maximum Mean Min Minimum Multiply Pad Power Repeat Reshape Resize Split Squeeze
Stack Subtract Sum Tile Transpose TrueDivide Where
"""
_SAME_SHAPE = frozenset(f"ops.{name}" for name in _ELEMENTWISE.split())
_FREE = _FREE_LAYERS | _SAME_SHAPE | {f"ops.{name}" for name in _MOVING.split()}


Sample = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Costs:
    """The multiply-adds of a model for one sample.

    Args:
        by_layer: multiply-adds of each layer that takes any, over all its calls, by path.
        uncounted: calls that are not counted, by the kind of their layer.
        samples: the shape of a sample of each input, with a number for sizes left open; None
            where the shape is not known.
    """

    by_layer: Mapping[str, int] = field(repr=False)
    uncounted: Mapping[str, int] = field(default_factory=dict)
    samples: tuple[Sample | None, ...] = ()

    @property
    def total(self) -> int:
        """The sum over all layers that are counted."""
        return sum(self.by_layer.values())


def multiply_adds(graph: Graph) -> Costs:
    """Counts the multiply-adds of a model for one sample.

    Args:
        graph: the graph of a file or of a live model.

    Returns:
        The counts, and what is not in them.
    """
    sizes = _Sizes(graph)
    found: dict[str, int] = {}
    uncounted: Counter[str] = Counter()
    for call in graph.calls:
        inputs, outputs = sizes.of(call.inputs), sizes.of(call.outputs)
        try:
            counted = [
                (path, _checked(cost)) for path, cost in _costs(call.layer, inputs, outputs)
            ]
        except (_Uncounted, TypeError, ValueError, LookupError, ArithmeticError):
            uncounted[call.kind.removeprefix("custom.")] += 1
            continue
        for path, cost in counted:
            found[path] = found.get(path, 0) + cost
    samples = tuple(sample_shape(tensor.shape) for tensor in graph.inputs)
    return Costs(found, dict(uncounted.most_common()), samples)


def sample_shape(shape: Shape | None) -> Sample | None:
    """The shape of one sample of an input, with a number for sizes that it leaves open."""
    if not shape:
        return None
    size = _OPEN_SIZES.get(len(shape), _OPEN_SIZE)
    return tuple(size if known is None else known for known in shape[1:])


def _checked(cost: int) -> int:
    # A damaged file may hold any number.
    if not 0 <= cost <= _MOST:
        raise _Uncounted
    return cost


class _Uncounted(Exception):  # noqa: N818  it is no error
    """What a call costs is not known."""


class _Sizes:
    """The shape of each tensor for one sample, without open sizes."""

    def __init__(self, graph: Graph) -> None:
        self.found: dict[int, Shape | None] = {}
        for tensor in graph.inputs:
            sample = sample_shape(tensor.shape)
            self.found[tensor.index] = None if sample is None else (1, *sample)
        for call in graph.calls:
            self.infer(call)

    def of(self, tensors: Sequence[Any]) -> list[Shape | None]:
        return [self.found.get(tensor.index) for tensor in tensors]

    def infer(self, call: Call) -> None:
        """Takes the shapes that are known, else what the layer makes of its inputs."""
        for position, tensor in enumerate(call.outputs):
            shape = tensor.shape
            if shape is None or None in shape[1:]:
                shape = None if position else _inferred(call, self.of(call.inputs))
            self.found[tensor.index] = None if shape is None else (1, *shape[1:])


def _inferred(call: Call, inputs: Sequence[Shape | None]) -> Shape | None:
    shape = shapes.infer(call.kind, call.config, inputs)
    if call.kind == "EinsumDense" and inputs and inputs[0] is not None:
        shape = _einsum_shape(call, inputs[0])
    if call.kind == "MultiHeadAttention" and inputs and inputs[0] is not None:
        width = (call.outputs[0].shape or (None,))[-1]
        shape = (*inputs[0][:-1], width)
    if shape is None and call.kind in _SAME_SHAPE and inputs:
        shape = inputs[0]
    return None if shape is None or None in shape[1:] else shape


def _einsum_shape(call: Call, given: Shape) -> Shape | None:
    """What Keras leaves open where the layer takes the size from its input."""
    try:
        labels, output = _labels(call.config)
    except _Uncounted:
        return None
    made = call.outputs[0].shape
    if made is None or len(output) != len(made) or len(labels) != len(given):
        return None
    sizes = dict(zip(labels, given, strict=True))
    return tuple(
        sizes.get(label) if size is None else size
        for label, size in zip(output, made, strict=True)
    )


def _costs(
    layer: Layer, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]
) -> Iterator[tuple[str, int]]:
    """The multiply-adds of one call, by the path of the layer that takes them."""
    if layer.kind in _FREE:
        return
    if is_batch_norm(layer):
        yield layer.path, _elements(inputs[0])
    elif layer.kind == "TimeDistributed":
        yield from _each_step(layer, inputs[0], outputs[0])
    elif layer.kind == "Bidirectional":
        inner = layer.children[0]
        yield layer.path, 2 * sum(cost for _, cost in _costs(inner, inputs, outputs))
    else:
        yield layer.path, _formula(layer.kind)(layer, inputs, outputs)


def _each_step(
    layer: Layer, given: Shape | None, returned: Shape | None
) -> Iterator[tuple[str, int]]:
    shape, made = _known(given), _known(returned)
    for path, cost in _costs(layer.children[0], [(1, *shape[2:])], [(1, *made[2:])]):
        yield path, shape[1] * cost


_Formula = Callable[[Layer, Sequence[Shape | None], Sequence[Shape | None]], int]


def _formula(kind: str) -> _Formula:
    for members, formula in _FORMULAS:
        if kind in members:
            return formula
    raise _Uncounted


def _conv(
    layer: Layer, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]
) -> int:
    channels = _channels(layer, inputs[0])
    if layer.kind in kinds.DEPTHWISE_CONV:
        channels = 1
    groups = int(layer.config.get("groups", 1))
    return _elements(outputs[0]) * _window(layer) * (channels // groups)


def _conv_transpose(
    layer: Layer, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]
) -> int:
    # Each value of the input is multiplied with the whole kernel.
    return _elements(inputs[0]) * _window(layer) * _channels(layer, outputs[0])


def _separable_conv(
    layer: Layer, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]
) -> int:
    filters = _channels(layer, outputs[0])
    places = _elements(outputs[0]) // filters
    middle = _channels(layer, inputs[0]) * int(layer.config.get("depth_multiplier", 1))
    return places * middle * (_window(layer) + filters)


def _dense(
    layer: Layer, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]
) -> int:
    del layer
    return _elements(outputs[0]) * _known(inputs[0])[-1]


def _einsum_dense(
    layer: Layer, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]
) -> int:
    labels, output = _labels(layer.config)
    sizes = _known(inputs[0])[-len(labels) :]
    summed = [
        size for label, size in zip(labels, sizes, strict=True) if label not in output
    ]
    return _elements(outputs[0]) * math.prod(summed)


def _labels(config: Mapping[str, Any]) -> tuple[str, str]:
    """The labels of the input behind those that are left out, and of the output."""
    equation = str(config.get("equation", ""))
    if len(equation) > _MOST_LABELS:
        raise _Uncounted
    left, _, output = equation.replace(" ", "").partition("->")
    return left.partition(",")[0].rpartition(".")[2], output


def _recurrent(
    layer: Layer, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]
) -> int:
    del outputs
    _, steps, features = _known(inputs[0])
    units = int(layer.config["units"])
    return steps * _GATES[layer.kind] * units * (features + units)


def _attention(
    layer: Layer, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]
) -> int:
    """The projections of query, key, value and output, the scores and their sums."""
    query, value = _known(inputs[0]), _known(inputs[1])
    key = _known(inputs[2]) if len(inputs) > 2 else value  # noqa: PLR2004
    if not len(query) == len(value) == len(key) == 3:  # noqa: PLR2004
        raise _Uncounted
    heads, key_size = int(layer.config["num_heads"]), int(layer.config["key_dim"])
    value_size = int(layer.config.get("value_dim") or key_size)
    per_head = (
        (query[1] * query[2] + key[1] * key[2]) * key_size
        + (value[1] * value[2] + query[1] * _known(outputs[0])[2]) * value_size
        + query[1] * value[1] * (key_size + value_size)
    )
    return heads * per_head


_FORMULAS: tuple[tuple[frozenset[str], _Formula], ...] = (
    (kinds.CONV | kinds.DEPTHWISE_CONV, _conv),
    (kinds.CONV_TRANSPOSE, _conv_transpose),
    (kinds.SEPARABLE_CONV, _separable_conv),
    (kinds.DENSE, _dense),
    (frozenset({"EinsumDense"}), _einsum_dense),
    (frozenset(_GATES), _recurrent),
    (frozenset({"MultiHeadAttention"}), _attention),
)


def _known(shape: Shape | None) -> tuple[int, ...]:
    if shape is None:
        raise _Uncounted
    return tuple(size for size in shape if size is not None)


def _elements(shape: Shape | None) -> int:
    return math.prod(_known(shape))


def _channels(layer: Layer, shape: Shape | None) -> int:
    return _known(shape)[1 if kinds.is_channels_first(layer.config) else -1]


def _window(layer: Layer) -> int:
    """The number of places that a kernel covers."""
    size = layer.config["kernel_size"]
    rank = kinds.spatial_rank(layer.kind) or 1
    sizes = (size,) * rank if isinstance(size, int) else tuple(size)
    if len(sizes) != rank or min(sizes) < 1:
        raise _Uncounted
    return math.prod(sizes)
