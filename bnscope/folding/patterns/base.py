r"""What a pattern is: BN folded backward into the layer before it.

At inference BN is, for each channel c, y = a·x + b with

    a = gamma / sqrt(moving_variance + epsilon)        b = beta - moving_mean·a

and the layer before computes x = W*h + d per output channel, so

    y = (a·W)*h + (a·d + b)        W' = a·W,  d' = a·d + b

All in float64, rounded once to the dtype of the variable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bnscope.bn import Array, ScaleShift, scale_and_shift
from bnscope.folding.reasons import Reason, Refusal
from bnscope.graph import batchnorm, kinds
from bnscope.graph.model import Call, Layer
from bnscope.rewriting.edits import DropLayer, Edit, SetConfig, TransformWeights, Weights

Example = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Site:
    """A place where a BN layer could be folded.

    Args:
        batch_norm: one of the calls of the BN layer.
        producer: the call of the layer before it.
    """

    batch_norm: Call
    producer: Call


class Pattern:
    """One family of layers that can take up a BN layer behind them.

    The static methods `folds_*` and `refuses_*` are its examples: given the module `keras`,
    they return a model whose BN layers are all folded, or whose last one is kept for the
    reason that the method's name says.

    Attributes:
        kinds: the kinds of layers.
        kernel: the variable that is scaled along the output channels.
    """

    kinds: ClassVar[frozenset[str]]
    kernel: ClassVar[str] = "kernel"

    def match(self, call: Call) -> bool:
        """Whether a call is of a layer of this family."""
        return call.kind in self.kinds

    def check(self, site: Site) -> Refusal | None:
        """Why BN cannot be folded into a layer of this family; None if it can."""
        return refuse_axis(site)

    def rewrite(self, site: Site) -> tuple[Edit, ...]:
        """The edits that fold BN into the layer."""
        into = site.producer.layer.path
        fold = partial(self.fold, site.batch_norm.layer)
        return (
            SetConfig(into, {"use_bias": True}),
            TransformWeights(into, fold),
            DropLayer(site.batch_norm.layer.path),
        )

    def scaled(self, kernel: npt.NDArray[Any], scale: Array) -> Array:
        """The kernel with each output channel scaled, float64; channels are its last axis."""
        return times(kernel, scale)

    def fold(self, batch_norm: Layer, weights: Weights) -> Weights:
        """The kernel and the bias with BN folded in."""
        scale, shift = read(batch_norm)
        bias = times(weights.get("bias", np.zeros_like(shift)), scale)
        return {
            self.kernel: self.scaled(weights[self.kernel], scale),
            "bias": bias + shift,
        }

    @classmethod
    def examples(cls, prefix: str) -> dict[str, Example]:
        """The examples by name: `prefix` is "folds" or "refuses"."""
        return {
            name: getattr(cls, name) for name in vars(cls) if name.startswith(prefix + "_")
        }


def read(batch_norm: Layer) -> ScaleShift:
    """The scale and shift of a BN layer, read now."""
    state = batchnorm.state(batch_norm)
    if state is None:  # the plan refuses such a layer
        raise LookupError(f"{batch_norm.path} has no statistics")
    return scale_and_shift(state)


def times(values: npt.NDArray[Any], scale: Array) -> Array:
    """`values · scale` in float64, as a new array."""
    product: Array = np.multiply(values, scale, dtype=np.float64)
    return product


def refuse_axis(site: Site) -> Refusal | None:
    """Refuses a BN layer over another axis than the layer's output channels."""
    rank = site.producer.outputs[0].rank or kinds.tensor_rank(site.producer.kind)
    axis = batchnorm.channel_axis(site.batch_norm.layer, rank)
    wanted = kinds.output_channel_axis(site.producer)
    if axis is not None and axis == wanted:
        return None
    # Where neither is known from the front, both may count from the back: `axis=-1`, Dense.
    if rank is None and wanted is None and batchnorm.axis(site.batch_norm.layer) == -1:
        return None
    written = site.batch_norm.config.get("axis", -1)
    return Refusal(
        Reason.AXIS_MISMATCH,
        f"It normalizes axis {written}, and the channels of "
        f"{kinds.describe(site.producer)} are on axis {'unknown' if wanted is None else wanted}.",
    )


def refuse_misplaced_bias(site: Site) -> Refusal | None:
    """Refuses `channels_first` where TensorFlow may add the bias along the wrong axis.

    Keras hands the sum of output and bias to `tf.nn.bias_add` and decides by the lengths of
    the axes which is the channels' (keras/src/backend/tensorflow/numpy.py, `add`).
    """
    if not kinds.is_channels_first(site.producer.config):
        return None
    shape = site.producer.outputs[0].shape
    channels = batchnorm.channels(site.batch_norm.layer)
    last = None if shape is None else shape[-1]
    if last is not None and channels is not None and last != channels:
        return None
    length = "may be" if last is None or channels is None else "is"
    return Refusal(
        Reason.BACKEND_BIAS,
        f"The last axis of the output of {kinds.describe(site.producer)} {length} as long as "
        "its channel axis, and there Keras on TensorFlow adds a bias along the wrong one.",
    )
