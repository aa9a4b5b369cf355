"""BN205: a penalty that pulls gamma or beta to zero."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from bnscope.graph.batchnorm import as_float, is_frozen
from bnscope.graph.model import Layer
from bnscope.rewriting.edits import Edit, SetConfig
from bnscope.rules.base import Context, Problem, Rule, Severity

_REGULARIZERS = {"gamma_regularizer": "gamma", "beta_regularizer": "beta"}


class RegularizedAffine(Rule):
    """Gamma or beta carries an L2 penalty.

    ## What it does
    Finds BN layers whose `gamma_regularizer` or `beta_regularizer` is L2.

    ## Why is this bad
    An L2 penalty on the kernels of a network with BN acts on the learning rate, since BN
    removes their scale. On gamma and beta it acts on the function itself and pulls the outputs
    of whole channels to zero; common training recipes leave them out.

    ## What to do
    Remove L2 from the regularizers of gamma and beta. The outputs of the model stay the same;
    the training loss loses the penalty, which is why this is no safe fix. Of `L1L2` the fix
    leaves the L1 part.

    ## When it is quiet
    L1 on gamma, which prunes channels on purpose; frozen layers.

    ## References
    - <https://arxiv.org/abs/2205.07260>
    """

    code = "BN205"
    name = "regularized-affine"
    severity = Severity.INFO
    fix = "unsafe"
    advice = "Remove the L2 regularizer from gamma and beta."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for layer in context.batch_norms:
            found = {} if is_frozen(layer) else _penalties(layer)
            if found:
                words = " and ".join(
                    f"{_REGULARIZERS[key]} (L2 {factor:g})" for key, factor in found.items()
                )
                yield Problem(
                    layer.path,
                    f"a penalty pulls {words} to zero.",
                    data={_REGULARIZERS[key]: factor for key, factor in found.items()},
                )

    def repair(self, context: Context, layer: str) -> tuple[Edit, ...]:
        """Removes the L2 penalties."""
        config = context.graph.layer(layer).config
        found = _penalties(context.graph.layer(layer))
        return (SetConfig(layer, {key: _without_l2(config[key]) for key in found}),)

    @staticmethod
    def bad_l2(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(gamma_regularizer="l2"),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def good_without(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False, kernel_regularizer="l2"),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def good_l1_to_prune(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(gamma_regularizer="l1"),
                keras.layers.ReLU(),
            ]
        )


def _penalties(layer: Layer) -> dict[str, float]:
    """The factors of L2 penalties, by the names of the configuration."""
    factors = {key: _l2(layer.config.get(key)) for key in _REGULARIZERS}
    return {key: factor for key, factor in factors.items() if factor}


def _l2(regularizer: object) -> float:
    """The factor of L2 in a saved regularizer; 0 if there is none."""
    if isinstance(regularizer, str):
        return 0.01 if regularizer.lower() == "l2" else 0.0  # Keras's default
    return _factor(regularizer, "l2")


def l1_factor(regularizer: object) -> float:
    """The factor of L1 in a saved regularizer; 0 if there is none."""
    if isinstance(regularizer, str):
        return 0.01 if regularizer.lower() == "l1" else 0.0
    return _factor(regularizer, "l1")


def _factor(regularizer: object, name: str) -> float:
    config = regularizer.get("config") if isinstance(regularizer, Mapping) else None
    value = as_float(config.get(name), 0.0) if isinstance(config, Mapping) else 0.0
    return value if math.isfinite(value) and value > 0 else 0.0


def _without_l2(regularizer: object) -> Mapping[str, Any] | None:
    """What is left of a saved regularizer once its L2 part is gone; None for nothing."""
    if not isinstance(regularizer, Mapping) or not l1_factor(regularizer):
        return None
    return {**regularizer, "config": {**regularizer["config"], "l2": 0.0}}
