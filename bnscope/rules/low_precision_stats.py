"""BN207: moving statistics in half precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bnscope.graph.model import Layer
from bnscope.rewriting.edits import Edit, SetConfig
from bnscope.rules.base import Context, Problem, Rule, Severity

_EFFECTS = {
    "float16": "a large activation overflows to inf there and stays",
    "bfloat16": "with 8 bits, updates of the moving mean are rounded away",
}


class LowPrecisionStats(Rule):
    """Batch Normalization keeps its statistics in half precision.

    ## What it does
    Finds BN layers whose dtype policy is plain `float16` or `bfloat16`.

    ## Why is this bad
    The moving mean and variance then are of that dtype too. In float16 the moving variance
    reaches infinity; in bfloat16 the moving mean stays where it is, since each update is
    smaller than the rounding (both measured).

    ## What to do
    Use the policies `mixed_float16` and `mixed_bfloat16`, which keep variables in float32, or
    give BN `dtype="float32"`.

    ## When it is quiet
    Mixed policies, float32 and float64.

    ## References
    - <https://keras.io/api/mixed_precision/>
    """

    code = "BN207"
    name = "low-precision-stats"
    severity = Severity.ERROR
    fix = "unsafe"
    advice = 'Use a mixed policy, or give BN dtype="float32".'

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for layer in context.batch_norms:
            policy = policy_name(layer)
            if policy in _EFFECTS:
                yield Problem(
                    layer.path,
                    f"its variables are {policy}: {_EFFECTS[policy]}.",
                    data={"policy": policy},
                )

    def repair(self, context: Context, layer: str) -> tuple[Edit, ...]:
        """Lets the layer compute and keep its variables in float32."""
        del context
        return (SetConfig(layer, {"dtype": "float32"}),)

    @staticmethod
    def bad_float16(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(dtype="float16"),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def good_mixed(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False, dtype="mixed_float16"),
                keras.layers.BatchNormalization(dtype="mixed_float16"),
                keras.layers.ReLU(dtype="mixed_float16"),
            ]
        )


def policy_name(layer: Layer) -> str | None:
    """The name of a layer's dtype policy; None where it is not known."""
    policy = layer.config.get("dtype")
    if isinstance(policy, Mapping):
        config = policy.get("config")
        policy = config.get("name") if isinstance(config, Mapping) else None
    return policy if isinstance(policy, str) else None
