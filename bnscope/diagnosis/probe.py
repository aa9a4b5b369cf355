"""Runs a model with other statistics in its BN layers: the moving ones, the batch's, or given ones.

Everything but BN runs in inference mode, as in `predict`. Which statistics a layer uses is an
input, so that all modes, and a swap of a single layer, are one compiled function.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.bn import Array
from bnscope.calibration.batchwise import normalized
from bnscope.calibration.compiling import (
    Function,
    compiled_if_possible,
    eager,
    loaded,
)
from bnscope.calibration.hooks import Call, hooked
from bnscope.calibration.moments import Moments, batch_moments
from bnscope.diagnosis.samples import Batch
from bnscope.errors import BnscopeError, first_line


class Mode(IntEnum):
    """Which statistics a BN layer normalizes with."""

    MOVING = 0
    BATCH = 1
    GIVEN = 2


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a model gave for one batch.

    Args:
        outputs: its outputs, arrays in their structure.
        calls: for each call of a BN layer, in order, the place of the layer.
        measured: for each call, what `batch_moments` gave.
    """

    outputs: Any
    calls: Sequence[int]
    measured: Sequence[Any]

    def moments(self) -> list[tuple[int, Moments]]:
        """For each call the place of the layer, and the moments of what went in."""
        import keras

        found = (
            Moments.of_batch([keras.ops.convert_to_numpy(part) for part in parts])
            for parts in self.measured
        )
        return list(zip(self.calls, found, strict=True))


@dataclass
class Probe:
    """A model, ready to be run in any mode.

    Args:
        model: the model. Nothing of it is changed.
        norms: its BN layers by path.
        batches: the samples that it will be run on.
    """

    model: Any
    norms: Mapping[str, Any]
    batches: Sequence[Batch]
    given: Array | None = None
    hidden: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        layers = list(self.norms.values())
        self._places = {id(norm): place for place, norm in enumerate(layers)}
        widths = [int(norm.moving_mean.shape[0]) for norm in layers]
        ends = np.cumsum([0, *widths])
        self._parts = [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]
        self._zeros = np.zeros((2, int(ends[-1])))
        self._calls: list[int] = []
        self._structure: Any = None
        self._function: Function = eager(self._look)
        shapes = {batch.shapes: batch for batch in self.batches}
        moving = self.all(Mode.MOVING)
        # Of the samples, and of the validation samples.
        for batch in dict.fromkeys((self.batches[0], self.batches[-1])):
            self(batch, moving)
        examples = [self._tensors(batch, moving) for batch in shapes.values()]
        self._function = compiled_if_possible(self._run, self.model, examples)

    def all(self, mode: Mode) -> npt.NDArray[np.int32]:
        """One mode for all layers."""
        return np.full(len(self.norms), mode, np.int32)

    def one(self, place: int, mode: Mode, others: Mode) -> npt.NDArray[np.int32]:
        """A mode for one layer, another for all others."""
        modes = self.all(others)
        modes[place] = mode
        return modes

    def give(self, statistics: Sequence[tuple[Array, Array]]) -> None:
        """Sets the mean and variance of each layer that `Mode.GIVEN` uses."""
        self.given = np.stack(
            [np.concatenate(each) for each in zip(*statistics, strict=True)]
        )

    def __call__(self, batch: Batch, modes: npt.NDArray[np.int32]) -> Seen:
        """Runs the model on a batch."""
        import keras

        try:
            outputs, measured = self._function(self._tensors(batch, modes))
        except Exception as error:
            shapes = ", ".join(map(str, batch.shapes))
            raise BnscopeError(
                f"The model does not run on a batch of shape {shapes}: {first_line(error)}.",
                "Prepare the samples as for model.predict.",
            ) from error
        arrays = [keras.ops.convert_to_numpy(y) for y in outputs]
        packed = keras.tree.pack_sequence_as(self._structure, arrays)
        return Seen(packed, self._calls, measured)

    def _tensors(self, batch: Batch, modes: npt.NDArray[np.int32]) -> list[Any]:
        given = self._zeros if self.given is None else self.given
        return loaded([*batch.leaves, modes, given.astype(np.float32)])

    def _run(self, tensors: Sequence[Any]) -> Any:
        import keras

        *leaves, modes, given = tensors
        calls: list[int] = []
        found: list[Any] = []

        def answer(call: Call) -> Any:
            place = self._places[id(call.norm)]
            measured = batch_moments(call.inputs, call.norm.axis, call.mask)
            if place not in self.hidden:
                calls.append(place)
                found.append(measured)
            chosen = self._chosen(call.norm, place, measured, modes, given)
            return normalized(call.norm, call.norm.axis, call.inputs, chosen)

        with hooked(self.norms.values(), answer):
            packed = keras.tree.pack_sequence_as(self.batches[0].inputs, list(leaves))
            outputs = self.model(packed, training=False)
        self._calls, self._structure = calls, outputs
        return keras.tree.flatten(outputs), found

    def _chosen(
        self, norm: Any, place: int, measured: Sequence[Any], modes: Any, given: Any
    ) -> list[Any]:
        """The moments that a layer is to use, in the form of `batch_moments`."""
        from keras import ops

        count, mean, rest, variance = measured
        mode = modes[place]
        kept = (
            ops.cast(norm.moving_mean, mean.dtype),
            ops.cast(norm.moving_variance, mean.dtype),
        )
        part = self._parts[place]
        other = [ops.cast(given[row, part], mean.dtype) for row in (0, 1)]
        is_batch, is_given = mode == int(Mode.BATCH), mode == int(Mode.GIVEN)

        def choose(batch: Any, moving: Any, fixed: Any) -> Any:
            return ops.where(is_batch, batch, ops.where(is_given, fixed, moving))

        zero = ops.zeros_like(rest)
        return [
            count,
            choose(mean, kept[0], other[0]),
            choose(rest, zero, zero),
            choose(variance, kept[1], other[1]),
        ]

    def _look(self, tensors: Sequence[Any]) -> Any:
        """Runs without compiling, to see whether it runs, and what cannot be measured.

        Inside a loop of the backend there are no values to be had, only what stands for them.
        """
        import keras

        outputs, found = self._run(tensors)
        for place, parts in zip(self._calls, found, strict=True):
            try:
                [keras.ops.convert_to_numpy(part) for part in parts]
            except Exception:  # noqa: BLE001  each backend raises its own
                self.hidden.add(place)
        return outputs, found
