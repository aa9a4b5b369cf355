"""BN201: a gamma that starts at zero."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bnscope.graph import kinds
from bnscope.graph.model import Call
from bnscope.graph.paths import End, ends_after
from bnscope.rewriting.edits import Edit, SetConfig, TransformWeights, Weights
from bnscope.rules.base import Context, Problem, Rule, Severity


class ZeroGammaInit(Rule):
    """Gamma is initialized to zero where it can never, or hardly, learn.

    ## What it does
    Finds BN layers whose `gamma_initializer` gives zero or nearly so, and looks at what
    follows: before a ReLU it is an error, before anything else a warning.

    ## Why is this bad
    With gamma = 0 and beta = 0 the layer puts out zeros. Behind it a ReLU passes no gradient
    at zero, so gamma and beta stay at zero for ever and everything before them never trains
    (measured on three backends: still zero after 20 epochs).

    ## What to do
    Leave `gamma_initializer` at its default, `"ones"`. `bnscope fix --unsafe-fixes` sets the
    gammas themselves to one too, which changes what the model computes.

    ## When it is quiet
    The last BN layer of a residual branch, before `Add` with no ReLU between: there it is a
    known good start, since the block begins as the identity. Info where the saved gammas have
    left zero already.

    ## References
    - Goyal et al. 2017, section 5.1, <https://arxiv.org/abs/1706.02677>
    """

    code = "BN201"
    name = "zero-gamma-init"
    severity = Severity.ERROR
    fix = "unsafe"
    advice = 'Use gamma_initializer="ones", the default.'

    # A standard deviation or constant below this counts as zero.
    NEARLY_ZERO = 1e-3

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for layer in context.batch_norms:
            if not layer.config.get("scale", True) or not self.starts_at_zero(layer.config):
                continue
            ends = [
                end
                for call in context.graph.calls_of(layer)
                for output in call.outputs
                for end in ends_after(context.graph, output, _keeps_zero)
            ]
            if ends and all(_is_residual_add(context, end) for end in ends):
                continue
            state = context.state(layer)
            trained = (
                state is not None
                and state.gamma is not None
                and bool(np.any(np.abs(state.gamma) > 10 * self.NEARLY_ZERO))
            )
            yield _problem(layer.path, ends, trained=trained)

    def repair(self, context: Context, layer: str) -> tuple[Edit, ...]:
        """Gammas of one, now and in the configuration."""
        del context
        return (
            SetConfig(layer, {"gamma_initializer": "ones"}),
            TransformWeights(layer, _ones),
        )

    def starts_at_zero(self, config: Mapping[str, Any]) -> bool:
        """Whether a BN configuration initializes gamma to zero, or nearly."""
        initializer = config.get("gamma_initializer")
        if isinstance(initializer, str):
            return initializer.lower() in {"zeros", "zero"}
        if not isinstance(initializer, Mapping):
            return False
        values = initializer.get("config")
        values = values if isinstance(values, Mapping) else {}
        name = str(initializer.get("class_name", "")).lower()
        if name in {"zeros", "zero"}:
            return True
        if name == "constant":
            return _below(values.get("value", 0.0), self.NEARLY_ZERO)
        if name in {"randomnormal", "truncatednormal"}:
            return _below(values.get("mean", 0.0), self.NEARLY_ZERO) and _below(
                values.get("stddev", 0.05), self.NEARLY_ZERO
            )
        return False

    @staticmethod
    def bad_before_relu(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(gamma_initializer="zeros"),
                keras.layers.ReLU(),
                keras.layers.Dense(2),
            ]
        )

    @staticmethod
    def bad_before_linear(keras: Any) -> Any:  # noqa: D102
        zero = keras.initializers.Constant(0.0)
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(gamma_initializer=zero),
                keras.layers.Dense(2),
            ]
        )

    @staticmethod
    def good_default(keras: Any) -> Any:  # noqa: D102
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
    def good_end_of_residual_branch(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((8, 8, 4))
        x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs)
        x = keras.layers.BatchNormalization(gamma_initializer="zeros")(x)
        x = keras.layers.Add()([inputs, x])
        return keras.Model(inputs, keras.layers.ReLU()(x))


def _ones(weights: Weights) -> Weights:
    return {"gamma": np.ones(weights["gamma"].shape)}


def _below(value: object, threshold: float) -> bool:
    return isinstance(value, (int, float)) and abs(value) < threshold


def _keeps_zero(call: Call) -> bool:
    return (
        kinds.is_identity_at_inference(call)
        or call.kind in kinds.MULTIPLY | {"Rescaling"}
        or "stochasticdepth" in call.kind.lower()
        or "droppath" in call.kind.lower()
    )


def _is_residual_add(context: Context, end: End) -> bool:
    """Whether a walk ends in an addition that takes something else too."""
    call = end.call
    if call is None or call.kind not in kinds.ADD:
        return False
    others = [tensor for tensor in call.inputs if tensor.index != end.tensor.index]
    return bool(others) and len(context.graph.consumers(end.tensor)) == 1


def _problem(path: str, ends: list[End], *, trained: bool) -> Problem:
    relu = next((end.call for end in ends if end.call and kinds.is_relu(end.call)), None)
    related = (relu.layer.path,) if relu else ()
    if trained:
        return Problem(
            path,
            "gamma is initialized to zero; the saved values have left zero since.",
            severity=Severity.INFO,
            related=related,
            fix=None,
        )
    if relu is not None:
        return Problem(
            path,
            f"gamma is initialized to zero in front of {kinds.describe(relu)}, which passes no "
            "gradient at zero: gamma and beta never leave zero, and nothing before them trains.",
            related=related,
        )
    return Problem(
        path,
        "gamma is initialized to zero and no residual addition follows: the layer puts out "
        "zeros, and what lies before it gets no gradient at the start.",
        severity=Severity.WARNING,
        related=related,
    )
