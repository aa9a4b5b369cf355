"""Whether an artifact computes what the Keras model computes.

It is run on the inputs of the verification and on parts of them: other batch sizes where the batch
is open, smaller samples where their sizes are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bnscope.errors import BnscopeError, VerificationError, first_line
from bnscope.exporting.quiet import quietly
from bnscope.rewriting.comparison import OutputCheck, Verification, compare_outputs
from bnscope.rewriting.inputs import Batch, InputSpec, numpy_dtype
from bnscope.rewriting.verify import Verifier

Array = npt.NDArray[Any]
# Another runtime adds up in another order, and may choose other algorithms.
RUNTIME_FACTOR = 10.0
# Sizes of batches that are run besides the whole, where the model leaves the size open.
_PARTS = (1, 3)


class Runtime(Protocol):
    """An artifact, opened in the runtime it is made for.

    Attributes:
        version: the runtime and its version.
        inputs: names of the inputs, in order.
    """

    version: str
    inputs: tuple[str, ...]

    def __init__(self, path: Path) -> None: ...

    def run(self, arrays: Mapping[str, Array]) -> Mapping[str, Array]:
        """The outputs by name, in order."""

    def count_affine(self) -> int | None:
        """How many operations are left that do what BN does; None if that is not known."""


def compare(model: Any, verifier: Verifier, runtime: Runtime) -> Verification:
    """Compares the outputs of an artifact with those of the Keras model.

    Args:
        model: the Keras model.
        verifier: holds the inputs, and the model's outputs for them.
        runtime: the artifact.

    Returns:
        The comparison; it may have failed.

    Raises:
        VerificationError: if the artifact does not run on the inputs.
    """
    names = list(verifier.expected)
    keys = _output_keys(model, len(names))
    expected: dict[str, list[Array]] = {name: [] for name in names}
    actual: dict[str, list[Array]] = {name: [] for name in names}
    start = 0
    for batch in verifier.batches:
        stop = start + len(batch[0])
        for count in batch_sizes(verifier.specs, len(batch[0])):
            found = _run(model, runtime, tuple(part[:count] for part in batch), verifier)
            if not set(keys) <= set(found) and len(found) != len(names):
                raise VerificationError(
                    f"{runtime.version} returns {len(found)} outputs, and the Keras model "
                    f"{len(names)}.",
                    "Nothing was written.",
                )
            for name, value in zip(names, _in_order(found, keys), strict=True):
                wanted = verifier.expected[name][start:stop]
                expected[name].append(wanted[:count])
                actual[name].append(value)
        start = stop
    checks = compare_outputs(_joined(expected), _joined(actual))
    return _judged(verifier, (*checks, *_smaller(model, verifier, runtime, keys)))


def _smaller(
    model: Any, verifier: Verifier, runtime: Runtime, keys: Sequence[str]
) -> Iterator[OutputCheck]:
    """Comparisons on smaller samples, where their sizes are open and the model takes them."""
    first = verifier.batches[0]
    batch = tuple(
        array[_cut(spec, array)] for array, spec in zip(first, verifier.specs, strict=True)
    )
    if all(one.shape == other.shape for one, other in zip(batch, first, strict=True)):
        return
    try:
        outputs = verifier.run(model, [batch])
    except VerificationError:
        return
    expected = {f"{name} (smaller inputs)": values for name, values in outputs.items()}
    found = _in_order(_run(model, runtime, batch, verifier), keys)
    yield from compare_outputs(expected, dict(zip(expected, found, strict=True)))


def _cut(spec: InputSpec, array: Array) -> tuple[slice, ...]:
    sizes = zip(spec.shape[1:], array.shape[1:], strict=True)
    return (slice(None), *(slice(n if n == size else n * 3 // 4) for size, n in sizes))


def _judged(verifier: Verifier, checks: tuple[OutputCheck, ...]) -> Verification:
    tolerance = verifier.tolerance * RUNTIME_FACTOR
    if any(not check.error <= tolerance for check in checks):
        tolerance = max(tolerance, verifier.widened())
    return Verification(checks, tolerance, verifier.samples)


def batch_sizes(specs: Sequence[InputSpec], size: int) -> tuple[int, ...]:
    """The sizes in which a batch is run: whole, and in parts where the size is open.

    Args:
        specs: what the inputs take.
        size: number of samples in the batch.
    """
    is_open = all(spec.shape and spec.shape[0] is None for spec in specs)
    parts = [part for part in _PARTS if part < size] if is_open else []
    return (size, *parts)


def _run(model: Any, runtime: Runtime, batch: Batch, verifier: Verifier) -> Any:
    arrays = {
        name: array if spec.dtype == "string" else array.astype(numpy_dtype(spec.dtype))
        for name, spec, array in zip(
            _input_names(model, runtime, verifier.specs), verifier.specs, batch, strict=True
        )
    }
    try:
        with quietly():
            return runtime.run(arrays)
    except BnscopeError:
        raise
    except Exception as error:
        shapes = ", ".join(str(array.shape) for array in batch)
        raise VerificationError(
            f"{runtime.version} does not run the artifact on inputs of shape {shapes}: "
            f"{first_line(error)}.",
            "Nothing was written.",
        ) from error


def _input_names(
    model: Any, runtime: Runtime, specs: Sequence[InputSpec]
) -> tuple[str, ...]:
    """What the artifact calls each input: by its layer, by its key, or by its place."""
    given = getattr(model, "input", None)
    candidates = [tuple(spec.name for spec in specs)]
    if isinstance(given, Mapping):
        keys = {id(tensor): str(key) for key, tensor in given.items()}
        candidates.append(tuple(keys.get(id(tensor), "") for tensor in model.inputs))
    fitting = (names for names in candidates if set(names) == set(runtime.inputs))
    return next(fitting, runtime.inputs)


def _output_keys(model: Any, count: int) -> tuple[str, ...]:
    """What an artifact calls each output: by its key, or by its place."""
    import keras

    output = getattr(model, "output", None)
    if isinstance(output, Mapping) and len(output) == count:
        paths = [path for path, _ in keras.tree.flatten_with_path(output)]
        return tuple(str(path[0]) for path in paths)
    return tuple(f"output_{index}" for index in range(count))


def _in_order(found: Mapping[str, Array], keys: Sequence[str]) -> list[Array]:
    if set(keys) <= set(found):
        return [found[key] for key in keys]
    return list(found.values())


def _joined(parts: Mapping[str, Sequence[Array]]) -> dict[str, Array]:
    return {name: np.concatenate(list(arrays)) for name, arrays in parts.items()}
