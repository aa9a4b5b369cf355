"""Batch Normalization layers in a graph: which they are, and their values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bnscope.bn import BatchNormState
from bnscope.graph.model import Call, Graph, Layer

# Keras 3, and the names that Keras 2 and TensorFlow 1 gave the same layer.
KINDS = frozenset(
    {
        "BatchNormalization",
        "BatchNormalizationV1",
        "BatchNormalizationV2",
        "SyncBatchNormalization",
    }
)
# The order in which Keras creates the variables; `scale`, `center` and `renorm` decide which.
VARIABLES = (
    "gamma",
    "beta",
    "moving_mean",
    "moving_variance",
    "moving_stddev",
    "renorm_mean",
    "renorm_stddev",
)
# What the only one of gamma and beta is called where a file does not say which it is.
AFFINE = "gamma or beta"
DEFAULT_MOMENTUM = 0.99
DEFAULT_EPSILON = 1e-3


def is_batch_norm(layer: Layer) -> bool:
    """Whether a layer is Batch Normalization, by its class or by its variables."""
    return layer.kind in KINDS or {"moving_mean", "moving_variance"} <= set(layer.variables)


def batch_norms(graph: Graph) -> tuple[Layer, ...]:
    """All BN layers in the order of the forward pass, those inside wrappers included."""
    return tuple(layer for layer in graph.layers if is_batch_norm(layer))


def batch_norm_calls(graph: Graph) -> tuple[Call, ...]:
    """All calls of BN layers, in topological order."""
    return tuple(call for call in graph.calls if is_batch_norm(call.layer))


def variable_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a BN layer's variables in the order in which they are saved."""
    present = {
        "gamma": config.get("scale", True),
        "beta": config.get("center", True),
        "moving_stddev": config.get("renorm", False),
        "renorm_mean": config.get("renorm", False),
        "renorm_stddev": config.get("renorm", False),
    }
    return tuple(name for name in VARIABLES if present.get(name, True))


def known_momentum(layer: Layer) -> float | None:
    """The momentum of a BN layer; None where its configuration is not known."""
    return momentum(layer) if layer.config_known else None


def known_epsilon(layer: Layer) -> float | None:
    """The epsilon of a BN layer; None where its configuration is not known."""
    return epsilon(layer) if layer.config_known else None


def momentum(layer: Layer) -> float:
    """The momentum of a BN layer, Keras's default where it is not known."""
    return as_float(layer.config.get("momentum"), DEFAULT_MOMENTUM)


def epsilon(layer: Layer) -> float:
    """The epsilon of a BN layer, Keras's default where it is not known."""
    return as_float(layer.config.get("epsilon"), DEFAULT_EPSILON)


def state(layer: Layer) -> BatchNormState | None:
    """The values of a BN layer, read now; None where there are none."""
    variables = layer.variables
    if "moving_mean" not in variables or "moving_variance" not in variables:
        return None
    gamma = variables.get("gamma")
    beta = variables.get("beta")
    return BatchNormState(
        gamma=None if gamma is None else gamma.read(),
        beta=None if beta is None else beta.read(),
        moving_mean=variables["moving_mean"].read(),
        moving_variance=variables["moving_variance"].read(),
        momentum=momentum(layer),
        epsilon=epsilon(layer),
        config_known=layer.config_known,
    )


def channels(layer: Layer) -> int | None:
    """The number of channels, from the variables; None where they are not known."""
    variable = layer.variables.get("moving_mean")
    return None if variable is None or len(variable.shape) != 1 else variable.shape[0]


def axis(layer: Layer) -> int | None:
    """The axis as written, a number; Keras 2 wrote `[3]` for 3. None for several axes."""
    value = layer.config.get("axis", -1)
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def channel_axis(layer: Layer, rank: int | None) -> int | None:
    """The axis counted from the front; None where the rank or the axis is not known."""
    value = axis(layer)
    if value is None or value >= 0:
        return value
    return None if rank is None or rank + value < 0 else rank + value


def values_a_sample(call: Call) -> int | None:
    """Of how many values of each sample a channel's mean is made: the size of the map.

    Args:
        call: a call of a BN layer.

    Returns:
        The number of values; None where the shape or the channel axis is not known.
    """
    shape = call.inputs[0].shape if call.inputs else None
    channel = channel_axis(call.layer, None if shape is None else len(shape))
    if shape is None or channel is None or not 0 < channel < len(shape):
        return None
    sizes = [size for index, size in enumerate(shape) if index not in (0, channel)]
    known = [size for size in sizes if size is not None]
    return math.prod(known) if len(known) == len(sizes) else None


def is_frozen(layer: Layer) -> bool:
    """Whether BN runs in inference mode even while the model trains."""
    return not layer.trainable


def as_float(value: object, default: float) -> float:
    """A number of a configuration; numbers in JSON have any length, and float has an end."""
    if not isinstance(value, (int, float)):
        return default
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
