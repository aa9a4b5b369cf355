"""Exact population statistics: all samples advance together, one level of BN layers at a time.

Every BN layer gets the mean and variance that its input has when all BN layers before it use
their new statistics and every other layer runs in inference mode. Merging the statistics of
mini-batches gives something else: the layers before still normalize with the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from bnscope.calibration.compiling import (
    Function,
    Tensors,
    compiled_if_possible,
    eager,
    kept,
    loaded,
    one_of_each_shape,
    size_of,
)
from bnscope.calibration.found import add_moments, add_seen
from bnscope.calibration.hooks import Call, Enough, hooked
from bnscope.calibration.moments import Moments
from bnscope.calibration.stages import Stage, make_stages
from bnscope.calibration.steps import Step, Steps
from bnscope.calibration.target import Target

# The leaves of one batch of input, as arrays.
Leaves = Sequence[Any]


class Wavefront:
    """Advances batches through the stages of a model, and sets statistics between them.

    Args:
        model: the model.
        steps: its steps.
        batches: the input.
        target: where the statistics go.
        tick: called after each batch of each stage.
    """

    def __init__(
        self,
        model: Any,
        steps: Steps,
        batches: Sequence[Leaves],
        target: Target,
        tick: Callable[[], None],
    ) -> None:
        self.model = model
        self.steps = steps
        self.batches = batches
        self.target = target
        self.tick = tick
        self.stages = make_stages(steps)
        self.functions: list[Function] = []

    def run(self, *, hold: bool) -> None:
        """Recalibrates all layers.

        Args:
            hold: whether the activations of all batches are held between the stages; they
                are computed again for each stage otherwise.
        """
        held = [self.start(batch) for batch in self.batches] if hold else None
        for index, stage in enumerate(self.stages):
            states = held or list(self.examples(index))
            self.functions.append(self.function(stage, states))
            self.target.set(self.advance(stage, index, held))
            if stage.inside:
                self.inside(stage, partial(self.states, held, index + 1))

    def advance(
        self, stage: Stage, index: int, held: list[Tensors] | None
    ) -> dict[int, Moments]:
        """Runs a stage on all batches; returns the moments of its BN layers' inputs."""
        found: dict[int, Moments] = {}
        for position, batch in enumerate(self.batches):
            given = held[position] if held else self.state(batch, index)
            state, measured = self.functions[index](given)
            if held:
                held[position] = kept(state)
            for norm, values in zip(stage.norms, measured, strict=True):
                add_moments(found, norm.layer, values)
            self.tick()
        return found

    def states(self, held: list[Tensors] | None, index: int) -> Iterator[Tensors]:
        """What stands before a stage, for each batch."""
        yield from held or (self.state(batch, index) for batch in self.batches)

    def state(self, batch: Leaves, index: int) -> Tensors:
        """What stands before a stage for one batch, computed from its input."""
        state = self.start(batch)
        for function in self.functions[:index]:
            state, _ = function(state)
        return state

    def start(self, batch: Leaves) -> Tensors:
        """The input as it stands before the first stage."""
        return loaded([batch[slot] for slot in self.stages[0].given])

    def examples(self, index: int) -> Iterator[Tensors]:
        """What stands before a stage for a batch of each shape; of all but one its shapes only."""
        import keras

        first, *others = one_of_each_shape(self.batches)
        yield self.state(first, index)
        for batch in others:
            state = self.state(batch, index)
            yield [keras.KerasTensor(tensor.shape, tensor.dtype) for tensor in state]

    def function(self, stage: Stage, examples: Sequence[Tensors]) -> Function:
        """What a stage does with one batch."""
        return compiled_if_possible(partial(_advance, stage), self.model, examples)

    def size(self) -> int:
        """How many bytes of activations are held at most, all batches together.

        The first batch is run through all stages to see it.
        """
        state, peak = self.start(self.batches[0]), 0
        for stage in self.stages:
            before = state
            state, _ = eager(partial(_advance, stage))(state)
            peak = max(peak, sum(size_of(tensor) for tensor in [*before, *state]))
        count = sum(len(batch[0]) for batch in self.batches)
        return peak * count // max(len(self.batches[0][0]), 1)

    @property
    def in_part(self) -> int:
        """How often steps with BN layers inside are run in part, at most."""
        return sum(len(step.inside) for stage in self.stages for step in stage.inside)

    def inside(self, stage: Stage, states: Callable[[], Iterator[Tensors]]) -> None:
        """Recalibrates layers in steps that are run in part, one layer after another."""
        fresh: set[int] = set()
        while True:
            found: dict[int, Moments] = {}
            for state in states():
                for step in stage.inside:
                    eager(partial(self.partly, stage, step, found, fresh))(state)
            if not found:
                return
            self.target.set(found)
            fresh.update(found)

    def partly(
        self,
        stage: Stage,
        step: Step,
        found: dict[int, Moments],
        fresh: set[int],
        state: Tensors,
    ) -> None:
        """Runs a step until it comes to a layer whose statistics are not yet set."""
        called: set[int] = set()

        def answer(call: Call) -> Any:
            key = id(call.norm)
            if self.target.is_open(call.norm):
                if add_seen(found, call):
                    raise Enough
                self.target.hidden(call.norm)
            elif key in called or key not in fresh:
                self.target.circular(call.norm)
            called.add(key)
            return call.finish()

        with hooked(step.inside, answer), suppress(Enough):
            step.run(dict(zip(stage.kept, state, strict=True)))


def _advance(stage: Stage, given: Tensors) -> Any:
    """Runs a stage on tensors: what later stages take, and the moments that are measured."""
    values = dict(zip(stage.given, given, strict=True))
    for step in stage.steps:
        step.run(values)
    moments = [norm.centered(values).moments for norm in stage.norms]
    return [values[slot] for slot in stage.kept], moments
