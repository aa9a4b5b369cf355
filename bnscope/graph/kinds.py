"""What is known of Keras's own layers, in tables that rules, folding and shapes share.

Which are linear, which let a shift pass, and where their channels are.

Kinds are compared whole: `DepthwiseConv2D` is not `Conv2D`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnscope.graph.batchnorm import as_float, is_batch_norm
from bnscope.graph.limits import MAX_NAME
from bnscope.graph.model import Call, Layer


def _by_rank(name: str, ranks: str = "123") -> frozenset[str]:
    return frozenset(name.replace("*", rank) for rank in ranks)


INPUT = "InputLayer"
TIME_DISTRIBUTED = "TimeDistributed"
MODELS = frozenset({"Functional", "Model", "Sequential"})

CONV = _by_rank("Conv*D") | _by_rank("Convolution*D")
DEPTHWISE_CONV = _by_rank("DepthwiseConv*D", "12")
SEPARABLE_CONV = _by_rank("SeparableConv*D", "12") | {"SeparableConvolution2D"}
CONV_TRANSPOSE = _by_rank("Conv*DTranspose") | {"Deconvolution2D"}
DENSE = frozenset({"Dense"})
CONVOLUTIONS = CONV | DEPTHWISE_CONV | SEPARABLE_CONV | CONV_TRANSPOSE
# Layers that are linear but for an activation of their own.
LINEAR = CONVOLUTIONS | DENSE | {"EinsumDense"}
# The variables of layers with kernels, in the order in which they are saved.
KERNEL_VARIABLES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(CONV | DEPTHWISE_CONV | CONV_TRANSPOSE, ("kernel", "bias")),
    **dict.fromkeys(DENSE | {"EinsumDense"}, ("kernel", "bias")),
    **dict.fromkeys(SEPARABLE_CONV, ("depthwise_kernel", "pointwise_kernel", "bias")),
    "Embedding": ("embeddings",),
}
RECURRENT = frozenset({"LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional"}) | _by_rank(
    "ConvLSTM*D"
)

# Multiplicative noise in training, identity at inference.
MULTIPLICATIVE_NOISE = frozenset({"Dropout", "GaussianDropout", "AlphaDropout"}) | _by_rank(
    "SpatialDropout*D"
)
DROPOUT = MULTIPLICATIVE_NOISE | {"GaussianNoise"}
# The tensor itself, in training too.
# Returns images unchanged at inference.
AUGMENTATION = frozenset(
    {
        "AugMix",
        "RandAugment",
        "RandomBrightness",
        "RandomColorDegeneration",
        "RandomColorJitter",
        "RandomContrast",
        "RandomElasticTransform",
        "RandomErasing",
        "RandomFlip",
        "RandomGaussianBlur",
        "RandomGrayscale",
        "RandomHue",
        "RandomInvert",
        "RandomPerspective",
        "RandomPosterization",
        "RandomRotation",
        "RandomSaturation",
        "RandomSharpness",
        "RandomShear",
        "RandomTranslation",
        "RandomZoom",
    }
)
IDENTITY = frozenset(
    {
        "Identity",
        "ActivityRegularization",
        "ops.Identity",
        "ops.Cast",
        "ops.ConvertToTensor",
    }
)
AUGMENTATION = frozenset(
    {
        "RandomFlip",
        "RandomTranslation",
        "RandomRotation",
        "RandomZoom",
        "RandomCrop",
        "RandomContrast",
        "RandomBrightness",
        "RandomHeight",
        "RandomWidth",
    }
)

AVERAGE_POOLING = (
    _by_rank("AveragePooling*D")
    | _by_rank("GlobalAveragePooling*D")
    | _by_rank("AdaptiveAveragePooling*D")
)
MAX_POOLING = (
    _by_rank("MaxPooling*D")
    | _by_rank("GlobalMaxPooling*D")
    | _by_rank("AdaptiveMaxPooling*D")
)
POOLING = AVERAGE_POOLING | MAX_POOLING
UPSAMPLING = _by_rank("UpSampling*D")
CROPPING = _by_rank("Cropping*D") | {"CenterCrop"}
ZERO_PADDING = _by_rank("ZeroPadding*D")
# Each channel by itself, and a shift of a channel comes out as the same shift.
SHIFT_EQUIVARIANT = POOLING | UPSAMPLING | CROPPING
RESHAPING = frozenset({"Flatten", "Reshape", "Permute", "RepeatVector"})
ADD = frozenset({"Add", "Subtract", "Average", "ops.Add", "ops.Subtract"})
MULTIPLY = frozenset({"Multiply", "ops.Multiply"})
MERGE = ADD | MULTIPLY | {"Concatenate", "Maximum", "Minimum", "ops.Concatenate"}
INPUT_SCALING = frozenset({"Rescaling", "Normalization"})
RELU = frozenset({"ReLU", "ops.Relu", "ops.Relu6"})
OUTPUT_ACTIVATIONS = frozenset({"Softmax", "ops.Softmax", "ops.Sigmoid"})

# Classes that Keras publishes, and writes to a .keras file, under another name.
_PUBLISHED = {"GroupedQueryAttention": "GroupQueryAttention"}
_LINEAR_NAMES = frozenset({None, "linear"})


def published(class_name: str) -> str:
    """The name under which Keras publishes a class of its own."""
    return _PUBLISHED.get(class_name, class_name)


def activation_name(config: Mapping[str, Any]) -> str | None:
    """The name of a layer's own activation; None for none, `?` for one that has no name.

    Args:
        config: the configuration of a layer; Keras writes a name, Keras 3 an object for
            activations with arguments or registered by the user.
    """
    value = config.get("activation")
    if isinstance(value, Mapping):
        inner = value.get("config")
        value = inner if isinstance(inner, str) else value.get("class_name", "?")
    if value is None:
        return None
    return value.lower() if isinstance(value, str) and len(value) <= MAX_NAME else "?"


def is_linear_activation(config: Mapping[str, Any]) -> bool:
    """Whether a layer has no activation of its own."""
    return activation_name(config) in _LINEAR_NAMES


def is_linear(layer: Layer) -> bool:
    """Whether a layer is a convolution or dense layer without an activation of its own."""
    return layer.kind in LINEAR and is_linear_activation(layer.config)


def is_relu(call: Call) -> bool:
    """Whether a call clips at zero: ReLU as a layer, an operation or an activation."""
    if call.kind == "ReLU" and call.config.get("negative_slope"):
        return False  # a leaky one
    return call.kind in RELU or (
        call.kind == "Activation" and activation_name(call.config) in {"relu", "relu6"}
    )


def is_noise_free_identity(call: Call) -> bool:
    """Whether a call returns its input, in training too."""
    return (
        call.kind in IDENTITY
        or (call.kind == "Activation" and is_linear_activation(call.config))
        or (call.kind in DROPOUT and not noise_rate(call.config))
    )


def is_identity_at_inference(call: Call) -> bool:
    """Whether a call returns its input at inference."""
    return call.kind in DROPOUT or is_noise_free_identity(call)


def noise_rate(config: Mapping[str, Any]) -> float:
    """The rate of a dropout layer, or the standard deviation of a noise layer."""
    value = config.get("rate", config.get("p", config.get("stddev", 0.5)))
    return as_float(value, 0.5)


def is_channels_first(config: Mapping[str, Any]) -> bool:
    """Whether a layer's `data_format` puts the channels behind the batch."""
    return config.get("data_format") == "channels_first"


def spatial_rank(kind: str) -> int | None:
    """How many spatial dimensions a kind of layer has; None where its name does not say."""
    digits = [char for char in kind if char in "123"]
    return int(digits[0]) if len(digits) == 1 and f"{digits[0]}D" in kind else None


def tensor_rank(kind: str) -> int | None:
    """The rank of the tensors a kind of layer takes; None where its name does not say."""
    rank = spatial_rank(kind)
    return None if rank is None or kind in RECURRENT else rank + 2


def output_channel_axis(call: Call) -> int | None:
    """The channel axis of what a call returns, from the front; None where not known."""
    if call.kind in CONVOLUTIONS | POOLING | UPSAMPLING | CROPPING | ZERO_PADDING:
        if call.kind.startswith("Global") and not call.config.get("keepdims"):
            return 1
        rank = tensor_rank(call.kind)
        if is_channels_first(call.config):
            return 1
        return None if rank is None else rank - 1
    output = call.outputs[0] if call.outputs else None
    if call.kind in {"Dense", "Embedding"} and output is not None and output.rank:
        return output.rank - 1
    return None


def describe(call: Call | None) -> str:
    """A call in a few words for a message: `Conv2D "conv1"`, `the input`."""
    if call is None:
        return "the input"
    activation = activation_name(call.config)
    if call.kind == "Activation" and activation:
        return f'Activation({activation}) "{call.layer.path}"'
    kind = "BatchNormalization" if is_batch_norm(call.layer) else call.kind
    return f'{kind.removeprefix("custom.")} "{call.layer.path}"'
