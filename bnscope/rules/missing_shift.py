"""BN102: no shift behind Batch Normalization."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bnscope.graph import kinds
from bnscope.graph.batchnorm import is_batch_norm
from bnscope.graph.model import Call
from bnscope.graph.paths import End, ends_after
from bnscope.rewriting.edits import Edit, SetConfig, TransformWeights, Weights
from bnscope.rules.base import Context, Problem, Rule, Severity
from bnscope.rules.redundant_bias import has_bias


class MissingShift(Rule):
    """Batch Normalization has no beta, and nothing behind it restores the shift.

    ## What it does
    Finds BN layers with `center=False` whose output reaches an activation, or the end of the
    model, before any layer adds a shift.

    ## Why is this bad
    Without beta every channel has mean 0 in front of the activation: a ReLU cuts each at its
    mean, and the network cannot move that point. A bias *before* BN does not help, although
    many tutorials say so: the mean that BN subtracts cancels it.

    ## What to do
    Build the layer with `center=True`, Keras's default. `bnscope fix --unsafe-fixes` adds a
    beta of zeros: the model computes the same until it is trained on.

    ## When it is quiet
    A linear layer with a bias behind BN, an `Add` (a skip connection brings a shift), another
    BN layer; `center=False` together with `scale=False` (whitening on purpose); BN followed by
    a dense layer without a bias at the end of the model (the "BNNeck" of re-identification).

    ## References
    - Ioffe & Szegedy 2015, section 3, <https://arxiv.org/abs/1502.03167>
    """

    code = "BN102"
    name = "missing-shift"
    severity = Severity.WARNING
    fix = "unsafe"
    advice = "Build the BN layer with center=True."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for call in context.batch_norm_calls:
            config = call.config
            if config.get("center", True) or not config.get("scale", True):
                continue
            ends = [
                end
                for output in call.outputs
                for end in ends_after(context.graph, output, _keeps_linear)
            ]
            fault = next((end for end in ends if not _restores(end)), None)
            if fault is not None:
                where = kinds.describe(fault.call) if fault.call else "the model's output"
                yield Problem(
                    call.layer.path,
                    f"center=False, and nothing between this layer and {where} adds a shift: "
                    "every channel keeps mean 0 there.",
                    related=(fault.call.layer.path,) if fault.call else (),
                )

    def repair(self, context: Context, layer: str) -> tuple[Edit, ...]:
        """A beta, zero at first."""
        del context
        return (
            SetConfig(layer, {"center": True}),
            TransformWeights(layer, _zero_beta),
        )

    @staticmethod
    def bad_no_beta_before_relu(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4),
                keras.layers.BatchNormalization(center=False),
                keras.layers.ReLU(),
                keras.layers.Dense(2),
            ]
        )

    @staticmethod
    def good_with_beta(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
                keras.layers.Dense(2),
            ]
        )

    @staticmethod
    def good_bias_behind(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(center=False),
                keras.layers.Dense(2, activation="relu"),
            ]
        )


def _zero_beta(weights: Weights) -> Weights:
    return {"beta": np.zeros(weights["moving_mean"].shape)}


def _keeps_linear(call: Call) -> bool:
    return (
        kinds.is_identity_at_inference(call)
        or call.kind in kinds.SHIFT_EQUIVARIANT | kinds.RESHAPING | kinds.ZERO_PADDING
        or call.kind.endswith("Concatenate")
        or (kinds.is_linear(call.layer) and not has_bias(call.layer))
    )


def _restores(end: End) -> bool:
    if end.call is None:
        return bool(end.through) and any(
            kinds.is_linear(call.layer) for call in end.through
        )
    return (
        (end.call.kind in kinds.LINEAR and has_bias(end.call.layer))
        or end.call.kind in kinds.ADD | kinds.RECURRENT
        or end.call.layer.is_custom
        or is_batch_norm(end.call.layer)
    )
