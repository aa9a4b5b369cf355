"""BN110 and BN111: Batch Normalization inside TimeDistributed, and inside a recurrent cell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph import batchnorm, kinds
from bnscope.graph.model import Layer
from bnscope.rewriting.edits import Edit, Unwrap
from bnscope.rules.base import Context, Problem, Rule, Severity

_WRAPPER = "TimeDistributed"


class TimeDistributedBn(Rule):
    """`TimeDistributed` runs Batch Normalization once for each time step.

    ## What it does
    Finds BN layers inside `TimeDistributed`.

    ## Why is this bad
    `TimeDistributed` calls BN once for each of the T steps, so each step is normalized by
    itself and the moving values are updated T times a training step: the momentum is in effect
    `momentum**T`. With momentum 0.99 and 100 steps that is 0.37, and inference depends on the
    last batch. It is also slow.

    ## What to do
    Call BN on the whole sequence: with `axis=-1` it normalizes the features over all steps.

    ## When it is quiet
    Frozen layers.

    ## References
    - <https://github.com/keras-team/keras/issues/7466>
    """

    code = "BN110"
    name = "time-distributed-bn"
    severity = Severity.WARNING
    fix = "unsafe"
    advice = "Call BN on the whole sequence, without TimeDistributed."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for layer in context.batch_norms:
            around = list(context.graph.around(layer))
            wrapper = next((each for each in around if each.kind == _WRAPPER), None)
            if wrapper is None or not all(each.trainable for each in (layer, *around)):
                continue
            yield self._problem(context, layer, wrapper)

    def _problem(self, context: Context, layer: Layer, wrapper: Layer) -> Problem:
        steps = _steps(context, wrapper)
        momentum = batchnorm.momentum(layer)
        effect = f"momentum {momentum:g} acts as {momentum:g}**T"
        if steps is not None and 0.0 <= momentum <= 1.0:
            effect = (
                f"with {steps} steps momentum {momentum:g} acts as {momentum**steps:.3g}"
            )
        return Problem(
            layer.path,
            f'is called and updated once for each step by TimeDistributed "{wrapper.path}": '
            f"{effect}.",
            related=(wrapper.path,),
            fix="unsafe" if _can_go(layer, wrapper) else None,
            data={"steps": steps, "momentum": momentum},
        )

    def repair(self, context: Context, layer: str) -> tuple[Edit, ...]:
        """Takes the wrapper away."""
        inner = context.graph.layer(layer)
        wrapper = next(iter(context.graph.around(inner)), None)
        if wrapper is None or not _can_go(inner, wrapper):
            return ()
        return (Unwrap(wrapper.path),)

    @staticmethod
    def bad_wrapped(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((20, 8)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.TimeDistributed(keras.layers.BatchNormalization()),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def good_on_the_sequence(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((20, 8)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )


class BnInRnnCell(Rule):
    """A recurrent cell contains Batch Normalization.

    ## What it does
    Finds BN layers inside the cell of a recurrent layer.

    ## Why is this bad
    The cell runs once for each time step, so one pair of moving statistics is shared by all
    steps, although hidden states at the first steps have other statistics than later ones, and
    is updated as often as there are steps. The paper that made BN work in recurrent networks
    keeps separate statistics for each step.

    ## What to do
    Use `LayerNormalization` in the cell, or BN between recurrent layers.

    ## When it is quiet
    BN between recurrent layers; frozen layers.

    ## References
    - Cooijmans et al. 2016, <https://arxiv.org/abs/1603.09025>
    """

    code = "BN111"
    name = "bn-in-rnn-cell"
    severity = Severity.WARNING
    advice = "Use LayerNormalization in the cell, or BN between recurrent layers."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for layer in context.batch_norms:
            around = list(context.graph.around(layer))
            outer = next((each for each in around if each.kind in kinds.RECURRENT), None)
            if outer is not None and all(each.trainable for each in (layer, *around)):
                yield Problem(
                    layer.path,
                    f'runs once for each step inside the cell of {outer.kind} "{outer.path}", '
                    "with one moving mean and variance for all steps.",
                    related=(outer.path,),
                )

    @staticmethod
    def bad_live_cell(keras: Any) -> Any:  # noqa: D102
        class Cell(keras.layers.SimpleRNNCell):  # type: ignore[misc]
            def __init__(self, units: int, **options: Any) -> None:
                super().__init__(units, **options)
                self.bn = keras.layers.BatchNormalization()

            def call(self, inputs: Any, states: Any, training: bool = False) -> Any:  # noqa: FBT001, FBT002
                output, states = super().call(inputs, states, training=training)
                return self.bn(output, training=training), states

        return keras.Sequential([keras.Input((5, 3)), keras.layers.RNN(Cell(4))])

    @staticmethod
    def good_between(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((5, 3)),
                keras.layers.SimpleRNN(4, return_sequences=True),
                keras.layers.BatchNormalization(),
                keras.layers.SimpleRNN(4),
            ]
        )


def _steps(context: Context, wrapper: Layer) -> int | None:
    """The number of steps that a wrapper is called on, if that is known."""
    for call in context.graph.calls_of(wrapper):
        shape = call.inputs[0].shape if call.inputs else None
        if shape is not None and len(shape) > 1:
            return shape[1]
    return None


def _can_go(layer: Layer, wrapper: Layer) -> bool:
    return layer in wrapper.children and batchnorm.axis(layer) == -1
