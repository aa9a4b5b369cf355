"""Inference time of a model and of what folding made of it, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.errors import BnscopeError

# The first calls trace and compile.
_WARM_UP = 3
_SEED = 0


@dataclass(frozen=True, slots=True)
class Times:
    """How long a call takes, in seconds: the median and the quartiles."""

    median: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Inference time before and after folding, measured in turns.

    Args:
        before: times of the original.
        after: times of the folded model.
        ratio: how many times faster the folded model is: the median over the rounds of the
            original's time over the folded model's, with quartiles.
        batch_size: samples of a call.
        rounds: how often each was timed.
        shapes: the shapes of the inputs.
        backend: the Keras backend.
    """

    before: Times
    after: Times
    ratio: Times
    batch_size: int
    rounds: int
    shapes: tuple[tuple[int, ...], ...]
    backend: str

    def to_dict(self) -> dict[str, Any]:
        """The times for JSON, in seconds."""
        return asdict(self)

    def __str__(self) -> str:
        shapes = ", ".join(str(shape) for shape in self.shapes)
        return (
            f"{_milliseconds(self.before)} before, {_milliseconds(self.after)} after: "
            f"{self.ratio.median:.2f} times as fast ({self.ratio.lower:.2f} to "
            f"{self.ratio.upper:.2f}). Medians and quartiles of {self.rounds} rounds in turns "
            f"of predict_on_batch on {self.backend}, inputs of shape {shapes}."
        )


def interleaved(
    calls: Sequence[Callable[[], object]], rounds: int, warm_up: int = _WARM_UP
) -> npt.NDArray[np.float64]:
    """Times of calls that take turns, so that whatever else runs slows all of them alike.

    Args:
        calls: functions without arguments.
        rounds: how often each is timed.
        warm_up: how often each is called before, untimed.

    Returns:
        Seconds, of shape (rounds, calls).
    """
    for call in calls:
        for _ in range(warm_up):
            call()
    times = np.empty((rounds, len(calls)))
    for row in times:
        for column, call in enumerate(calls):
            start = time.perf_counter()
            call()
            row[column] = time.perf_counter() - start
    return times


def compare(
    original: Any, folded: Any, *, batch_size: int | None = None, rounds: int = 50
) -> Benchmark:
    """Times the compiled inference (`predict_on_batch`) of two models in turns.

    Args:
        original: a Keras model. Its variables are left as they were.
        folded: the model that folding made of it.
        batch_size: samples of a call; None for the model's own, or 1.
        rounds: how often each is timed.

    Raises:
        BnscopeError: if a number is out of range, or the model takes another batch size.
    """
    import keras

    if rounds < 1:
        raise BnscopeError(f"There cannot be {rounds} rounds.", "Use 1 or more.")
    large, small = _inputs(original, batch_size)
    try:
        batch, times = large, _measure(original, folded, large, rounds)
    except BnscopeError:  # where it leaves sizes open that it cannot take
        batch, times = small, _measure(original, folded, small, rounds)
    return Benchmark(
        before=_times(times[:, 0]),
        after=_times(times[:, 1]),
        ratio=_times(times[:, 0] / times[:, 1]),
        batch_size=batch[0].shape[0],
        rounds=rounds,
        shapes=tuple(tuple(array.shape) for array in batch),
        backend=keras.backend.backend(),
    )


def _measure(
    original: Any, folded: Any, batch: Sequence[Any], rounds: int
) -> npt.NDArray[np.float64]:
    from bnscope.errors import first_line
    from bnscope.rewriting.running import unchanged

    with unchanged(original), unchanged(folded):
        try:
            return interleaved(
                [_prediction(model, batch) for model in (original, folded)], rounds
            )
        except Exception as error:
            shapes = ", ".join(str(array.shape) for array in batch)
            raise BnscopeError(
                f"The model does not run on inputs of shape {shapes}: {first_line(error)}.",
                "The fold itself is verified; only the timing failed.",
            ) from error


def _inputs(model: Any, batch_size: int | None) -> Iterator[tuple[Any, ...]]:
    """Inputs with the sizes that are stated of the costs, and with those of verification."""
    from dataclasses import replace

    from bnscope.graph import live
    from bnscope.graph.costs import sample_shape
    from bnscope.rewriting.inputs import DRAWS, input_specs, random_batches
    from bnscope.rewriting.running import vocabulary

    specs = input_specs(live.read(model))
    if not specs:
        raise BnscopeError(
            "The inputs of the model are not known, so it cannot be timed.",
            "Give the model a keras.Input.",
        )
    own = next((spec.shape[0] for spec in specs if spec.shape and spec.shape[0]), None)
    size = batch_size or own or 1
    if size < 1 or (batch_size == 0) or size != (own or size):
        raise BnscopeError(
            f"The batch size cannot be {batch_size}.",
            f"The model takes batches of {own}." if own else "Use 1 or more.",
        )
    samples = (
        [sample_shape(spec.shape) or () for spec in specs],
        [s.shape[1:] for s in specs],
    )
    for shapes in samples:
        sized = [
            replace(spec, shape=(size, *shape))
            for spec, shape in zip(specs, shapes, strict=True)
        ]
        yield random_batches(sized, DRAWS[0], _SEED, vocabulary(model))[0]


def _prediction(model: Any, batch: Sequence[Any]) -> Callable[[], object]:
    # A model of its own around the same layers: both are compiled alike, and neither the
    # caller's compiled functions nor his optimizer are touched.
    import keras

    view = keras.Model(model.inputs, model.outputs)
    view.compile(jit_compile=False)  # as in a served graph
    given = list(batch) if len(batch) > 1 else batch[0]
    return lambda: view.predict_on_batch(given)


def _times(values: npt.NDArray[np.float64]) -> Times:
    lower, median, upper = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    return Times(median, lower, upper)


def _milliseconds(times: Times) -> str:
    median, lower, upper = (
        1000 * value for value in (times.median, times.lower, times.upper)
    )
    return f"{median:.3g} ms ({lower:.3g} to {upper:.3g})"
