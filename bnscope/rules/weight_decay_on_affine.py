"""BN206: weight decay that reaches gamma and beta."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph.batchnorm import is_frozen
from bnscope.graph.model import Layer
from bnscope.rules.base import Context, Problem, Rule, Severity


class WeightDecayOnAffine(Rule):
    """The optimizer's weight decay also pulls gamma and beta towards 0.

    ## What it does
    Finds trainable BN layers with a gamma or beta in a model compiled with an optimizer whose
    `weight_decay` is not 0. Keras applies it to every trainable variable.

    ## Why is this bad
    Decay of a kernel in front of BN changes nothing but the effective learning rate; decay of
    gamma and beta changes the function: scales shrink towards 0 and shifts vanish. Most
    recipes for training leave both out.

    ## What to do
    After building the optimizer, and before the first step:
    `optimizer.exclude_from_weight_decay(var_names=["gamma", "beta"])`.

    ## When it is quiet
    Frozen layers, layers without gamma and beta, no weight decay. That variables were excluded
    is not visible in a file; if they were, ignore the rule with `--ignore BN206`.

    ## References
    - He et al. 2018, section 3.1, <https://arxiv.org/abs/1812.01187>
    """

    code = "BN206"
    name = "weight-decay-on-affine"
    severity = Severity.INFO
    advice = (
        'Call optimizer.exclude_from_weight_decay(var_names=["gamma", "beta"]); a file does '
        "not show whether that was done."
    )

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        optimizer = context.graph.training.optimizer
        if optimizer is None or not optimizer.weight_decay:
            return
        for layer in context.batch_norms:
            decayed = _affine(layer)
            if decayed and not is_frozen(layer):
                yield Problem(
                    layer.path,
                    f"{optimizer.kind} with weight_decay={optimizer.weight_decay:g} pulls "
                    f"{' and '.join(decayed)} towards 0, unless excluded.",
                    data={"weight_decay": optimizer.weight_decay},
                )

    @staticmethod
    def bad_adamw(keras: Any) -> Any:  # noqa: D102
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )
        model.compile(keras.optimizers.AdamW(weight_decay=0.01), "mse")
        return model

    @staticmethod
    def good_without_decay(keras: Any) -> Any:  # noqa: D102
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )
        model.compile(keras.optimizers.Adam(), "mse")
        return model


def _affine(layer: Layer) -> list[str]:
    switches = {"gamma": "scale", "beta": "center"}
    return [name for name, switch in switches.items() if layer.config.get(switch, True)]
