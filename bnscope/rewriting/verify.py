"""The proof that a rewritten model computes what the original computes.

Both run through Keras on the same input. Per output, the largest difference is held against
the output's scale; how much is allowed follows from the precision of the computation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnscope.errors import UnsupportedModelError, VerificationError
from bnscope.graph import live
from bnscope.graph.model import Call, Graph, Tensor
from bnscope.rewriting.apply import input_structure

# Largest difference allowed, as a share of the output's scale. Right folds stay within 2e-5 on
# a ResNet50 in float32, and within a few units of rounding elsewhere.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 7e-4, "bfloat16": 5e-3}
# Rounding is allowed to grow as much as ten times what a one-ulp change of the input does.
SENSITIVITY_FACTOR = 10.0
# Outputs that vary by less over the samples prove little.
SMALLEST_VARIATION = 1e-3
_BATCH = 4
_SLICE = 32
_UNKNOWN_SIZES = (64, 128, 256)


@dataclass(frozen=True, slots=True)
class Verification:
    """What was measured.

    Args:
        max_error: largest difference of any output, as a share of its scale.
        tolerance: what was allowed.
        output: name of the output with that difference.
        informative: whether the outputs are finite and vary with the input; if not, equality
            proves little.
    """

    max_error: float
    tolerance: float
    output: str
    informative: bool


def verify(
    original: Any, rewritten: Any, *, data: Any = None, seed: int = 0
) -> Verification:
    """Compares two models on the same input.

    Args:
        original: a `keras.Model`.
        rewritten: a `keras.Model` with the same inputs and outputs.
        data: input as `model.predict` takes it; None for random input.
        seed: seed of the random input.

    Returns:
        What was measured.

    Raises:
        VerificationError: if an output differs by more than the tolerance, or is not finite in
            only one of the two.
        UnsupportedModelError: if no random input fits the model.
    """
    inputs, expected = _run_original(original, data, seed)
    actual = _run(rewritten, inputs)
    names = _output_names(original, len(expected))
    errors = [_error(a, b) for a, b in zip(expected, actual, strict=True)]
    worst = int(np.argmax(errors))
    tolerance = TOLERANCES[_precision(original)]
    if not errors[worst] <= tolerance:
        tolerance = max(tolerance, _sensitivity(original, inputs, expected))
    if not errors[worst] <= tolerance:
        raise VerificationError(
            f"The rewritten model differs from the original: output {names[worst]!r} is off by "
            f"{errors[worst]:.2e} of its scale, and {tolerance:.1e} is allowed.",
            "Nothing was written or returned.",
        )
    informative = all(_varies(output) for output in expected)
    return Verification(errors[worst], tolerance, names[worst], informative)


def random_inputs(model: Any, *, seed: int = 0, size: int = _UNKNOWN_SIZES[0]) -> Any:
    """Random input for a model, in the structure that it takes.

    Args:
        model: a Sequential or Functional `keras.Model`.
        seed: seed of the generator.
        size: what stands for an unknown dimension other than the batch's.

    Returns:
        Arrays: normal for floats (spread over the range that a Rescaling at the input
        expects), indices within range for integers that feed an Embedding.

    Raises:
        UnsupportedModelError: for an input that is text.
    """
    import keras

    rng = np.random.default_rng(seed)
    graph = live.read(model)
    flat = [
        _random(graph, ours, theirs, rng, size)
        for ours, theirs in zip(graph.inputs, model.inputs, strict=True)
    ]
    return keras.tree.pack_sequence_as(input_structure(model), flat)


def _random(
    graph: Graph, ours: Tensor, theirs: Any, rng: np.random.Generator, size: int
) -> np.ndarray[Any, Any]:
    batch, *rest = theirs.shape
    shape = (batch or _BATCH, *(dim or size for dim in rest))
    dtype = str(theirs.dtype)
    if "string" in dtype:
        raise UnsupportedModelError(
            f"The input {ours.name!r} is text, for which no random input fits.",
            "Pass data to verify on (verify_data=, or --data).",
        )
    first = graph.consumers(ours)
    if dtype.startswith(("int", "uint")):
        return rng.integers(0, _vocabulary(first), shape).astype(dtype)
    if dtype == "bool":
        return rng.random(shape) < 0.5  # noqa: PLR2004
    vocabulary = _vocabulary(first, none=0)
    if vocabulary:  # indices may come as floats
        return rng.integers(0, vocabulary, shape).astype(dtype)
    values = rng.normal(size=shape) * _input_scale(first)
    return values.astype("float32" if dtype == "bfloat16" else dtype)


def _vocabulary(calls: tuple[Call, ...], none: int = 2) -> int:
    sizes = [call.config["input_dim"] for call in calls if call.kind == "Embedding"]
    return min(sizes, default=none)


def _input_scale(calls: tuple[Call, ...]) -> float:
    """How far the input spreads: the range that a Rescaling takes it from."""
    scales = [call.config.get("scale") for call in calls if call.kind == "Rescaling"]
    numbers = [abs(scale) for scale in scales if isinstance(scale, (int, float)) and scale]
    return 1.0 / max(numbers) if numbers else 1.0


def _run_original(model: Any, data: Any, seed: int) -> tuple[Any, list[Any]]:
    if data is not None:
        return data, _run(model, data)
    failure: Exception | None = None
    for size in _UNKNOWN_SIZES:
        inputs = random_inputs(model, seed=seed, size=size)
        try:
            return inputs, _run(model, inputs)
        except Exception as error:  # noqa: BLE001  a size that does not fit; try a larger one
            failure = error
    raise UnsupportedModelError(
        f"The model does not run on random input: {str(failure).splitlines()[0]}.",
        "Pass data to verify on (verify_data=, or --data).",
    )


def _run(model: Any, inputs: Any) -> list[np.ndarray[Any, Any]]:
    """The outputs in inference mode, float64, in order."""
    import keras

    parts = [
        [
            np.asarray(keras.ops.convert_to_numpy(output), np.float64)
            for output in keras.tree.flatten(model(part, training=False))
        ]
        for part in _slices(inputs)
    ]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def _slices(inputs: Any) -> Iterator[Any]:
    import keras

    arrays = keras.tree.flatten(inputs)
    if not arrays or not hasattr(arrays[0], "shape"):
        raise UnsupportedModelError(
            f"Data to verify on must be arrays, got {type(inputs).__name__}.",
            "Pass an array, or a list or dictionary of arrays, one for each input.",
        )
    for start in range(0, arrays[0].shape[0], _SLICE):
        yield keras.tree.map_structure(
            lambda x, start=start: x[start : start + _SLICE], inputs
        )


def _error(expected: np.ndarray[Any, Any], actual: np.ndarray[Any, Any]) -> float:
    """The largest difference as a share of the scale; infinite where only one is finite."""
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(actual)):
        return float("inf")
    if not finite.any():
        return 0.0
    difference = float(np.max(np.abs(expected[finite] - actual[finite])))
    scale = float(np.max(np.abs(expected[finite])))
    return difference / scale if scale else difference


def _sensitivity(model: Any, inputs: Any, expected: list[Any]) -> float:
    """Ten times what changing each input by one unit of rounding does to the outputs."""
    import keras

    def nudge(values: Any) -> Any:
        array = np.asarray(values)
        return np.nextafter(array, np.inf) if array.dtype.kind == "f" else array

    moved = _run(model, keras.tree.map_structure(nudge, inputs))
    return SENSITIVITY_FACTOR * max(map(_error, expected, moved))


def _varies(output: np.ndarray[Any, Any]) -> bool:
    if not np.isfinite(output).all():
        return False
    scale = float(np.max(np.abs(output), initial=0.0))
    spread = float(np.max(np.ptp(output, axis=0), initial=0.0))
    return spread > SMALLEST_VARIATION * scale


def _precision(model: Any) -> str:
    """The coarsest dtype in which a layer computes."""
    used = {
        getattr(layer, "compute_dtype", "float32")
        for layer in model._flatten_layers()  # noqa: SLF001  nested ones too
    }
    order = ("bfloat16", "float16", "float32")
    return next((dtype for dtype in order if dtype in used), "float64")


def _output_names(model: Any, count: int) -> list[str]:
    names = list(getattr(model, "output_names", ()))
    return names if len(names) == count else [str(index) for index in range(count)]
