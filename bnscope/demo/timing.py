"""Inference time of two models, measured side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.folding.benchmark import interleaved


def interleaved_medians(
    calls: Sequence[Callable[[], object]], repeats: int = 30, warm_up: int = 3
) -> tuple[float, ...]:
    """Median time of each call, with the calls taking turns.

    Whatever else the machine does then slows all of them down alike.

    Args:
        calls: functions without arguments.
        repeats: how often each is timed.
        warm_up: how often each is called before, untimed (tracing, caches).

    Returns:
        Seconds, one median for each function, in order.
    """
    times = interleaved(calls, repeats, warm_up)
    return tuple(float(value) for value in np.median(times, axis=0))


def inference_times(
    models: Sequence[Any], x: npt.NDArray[np.float32], repeats: int = 30
) -> tuple[float, ...]:
    """Median time of one prediction of each Keras model, the models taking turns.

    Args:
        models: Keras models with one input; they are not changed.
        x: a batch for all of them.
        repeats: how often each is timed.

    Returns:
        Seconds, one median for each model, in order.
    """
    return interleaved_medians([_prediction(model, x) for model in models], repeats)


def _prediction(model: Any, x: npt.NDArray[np.float32]) -> Callable[[], object]:
    # A model of its own around the same layers: the graph is compiled alike for both, and
    # neither the caller's compiled functions nor his optimizer are touched.
    import keras

    view = keras.Model(model.inputs, model.outputs)
    view.compile(jit_compile=False)
    return lambda: view.predict_on_batch(x)
