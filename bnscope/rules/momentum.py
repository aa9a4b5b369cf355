"""BN202 and BN203: momentum, out of range or by another library's convention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph.batchnorm import known_momentum, momentum
from bnscope.rewriting.edits import Edit, SetConfig
from bnscope.rules.base import Context, Problem, Rule, Severity


class MomentumOutOfRange(Rule):
    """The momentum of the moving averages lies outside (0, 1).

    ## What it does
    Finds BN layers whose `momentum` is 0 or negative, or 1 or more. Keras accepts any number.

    ## Why is this bad
    The moving values are updated as `moving * momentum + batch * (1 - momentum)`. Above 1 they
    run away (1.5 reached -5e5 in a short run), below 0 they swing, and at exactly 1 they never
    leave their initial values, so that inference uses mean 0 and variance 1. At exactly 0 they
    are those of the last batch alone.

    ## What to do
    Use a momentum between 0.9 and 0.999.

    ## When it is quiet
    Exactly 1 is only a warning: some freeze the statistics so on purpose (`trainable=False`
    says it better). Exactly 0 is an info: calibration passes use it for a while.

    ## References
    - <https://keras.io/api/layers/normalization_layers/batch_normalization/>
    """

    code = "BN202"
    name = "momentum-out-of-range"
    severity = Severity.ERROR
    advice = "Use a momentum between 0.9 and 0.999."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for layer in context.batch_norms:
            value = known_momentum(layer)
            if value is None:
                continue
            if value == 1.0:
                yield Problem(
                    layer.path,
                    "momentum=1: the moving mean and variance never leave their initial "
                    "values.",
                    severity=Severity.WARNING,
                    data={"momentum": value},
                )
            elif value == 0.0:
                yield Problem(
                    layer.path,
                    "momentum=0: the moving mean and variance are those of the last batch alone.",
                    severity=Severity.INFO,
                    data={"momentum": value},
                )
            elif not 0.0 < value < 1.0:
                yield Problem(
                    layer.path,
                    f"momentum={value:g} lies outside (0, 1): the moving mean and variance "
                    f"{'run away' if value > 1 else 'swing'} instead of averaging.",
                    data={"momentum": value},
                )

    @staticmethod
    def bad_above_one(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(momentum=1.5),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def good_default(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(momentum=0.99),
                keras.layers.ReLU(),
            ]
        )


class MomentumTorchConvention(Rule):
    """The momentum looks as if it were written by PyTorch's convention.

    ## What it does
    Finds BN layers whose `momentum` is above 0 and at most 0.2.

    ## Why is this bad
    PyTorch's momentum is the weight of the new batch (default 0.1), Keras's the weight of the
    old value (default 0.99). A ported 0.1 makes the moving values follow the last batch or
    two, so inference depends on which batches came last.

    ## What to do
    Use `1 - momentum`: PyTorch's 0.1 is Keras's 0.9. `bnscope fix --unsafe-fixes` writes that;
    the moving values stay as they are until the model is trained on.

    ## When it is quiet
    Exactly 0, of which BN202 speaks.

    ## References
    - <https://github.com/huggingface/transformers/pull/19454>
    """

    code = "BN203"
    name = "momentum-torch-convention"
    severity = Severity.WARNING
    fix = "unsafe"
    advice = "Use 1 - momentum: PyTorch's 0.1 is Keras's 0.9."

    # Keras's momentum is rarely below 0.8; PyTorch's rarely above 0.2.
    LARGEST_TORCH_MOMENTUM = 0.2

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for layer in context.batch_norms:
            value = known_momentum(layer)
            if value is not None and 0.0 < value <= self.LARGEST_TORCH_MOMENTUM:
                yield Problem(
                    layer.path,
                    f"momentum={value:g} gives the last batch a weight of {1 - value:g}; it "
                    f"looks like PyTorch's convention, in which Keras's {1 - value:g} is "
                    f"written {value:g}.",
                    data={"momentum": value},
                )

    def repair(self, context: Context, layer: str) -> tuple[Edit, ...]:
        """The same average by Keras's convention."""
        value = momentum(context.graph.layer(layer))
        return (SetConfig(layer, {"momentum": round(1.0 - value, 12)}),)

    @staticmethod
    def bad_ported(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(momentum=0.1),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def good_converted(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(momentum=0.9),
                keras.layers.ReLU(),
            ]
        )
