"""Whether an artifact computes what the Keras model computes.

It is run on the inputs of the verification: several batch sizes where the batch is open, samples
of several sizes where those are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from bnscope.errors import (
    BnscopeError,
    UnsupportedModelError,
    VerificationError,
    first_line,
)
from bnscope.exporting.quiet import quietly
from bnscope.rewriting.comparison import Outputs, Verification, compare_outputs
from bnscope.rewriting.inputs import Batch, InputSpec, numpy_dtype
from bnscope.rewriting.running import collect_outputs, joined
from bnscope.rewriting.verify import Verifier

Array = npt.NDArray[Any]
# Another runtime adds up in another order, and may choose other algorithms.
RUNTIME_FACTOR = 10.0


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
    keys = _output_keys(model)

    def run(batch: Batch) -> list[Array]:
        found = _run(model, runtime, batch, verifier)
        if not set(keys) <= set(found) and len(found) != len(keys):
            raise VerificationError(
                f"{runtime.version} returns {len(found)} outputs, and the Keras model "
                f"{len(keys)}.",
                "Nothing was written.",
            )
        return _in_order(found, keys)

    actual = collect_outputs(model, verifier.batches, run)
    return verifier.settled(lambda: _judged(verifier, actual))


def _judged(verifier: Verifier, actual: Outputs) -> Verification:
    checks = tuple(compare_outputs(joined(verifier.expected.outputs), actual))
    tolerance = verifier.tolerance * RUNTIME_FACTOR
    if any(not check.error <= tolerance for check in checks):
        tolerance = max(tolerance, verifier.widened())
    return Verification(checks, tolerance, verifier.samples)


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
    if len(runtime.inputs) != len(specs):
        given_names = {name for names in candidates for name in names}
        extra = [name for name in runtime.inputs if name not in given_names]
        raise UnsupportedModelError(
            f"The converter made inputs of constants: {', '.join(extra[:3]) or 'unknown'}.",
            "Nothing was written. A layer holds a tensor as an attribute: make it a numpy "
            "array, or a weight.",
        )
    fitting = (names for names in candidates if set(names) == set(runtime.inputs))
    return next(fitting, runtime.inputs)


def _output_keys(model: Any) -> tuple[str, ...]:
    """What an artifact calls each output: by its key, or by its place."""
    import keras

    if isinstance(model, keras.Sequential):
        return ("output_0",)
    count = len(model.outputs)
    if isinstance(model.output, Mapping) and len(model.output) == count:
        paths = [path for path, _ in keras.tree.flatten_with_path(model.output)]
        return tuple(str(path[0]) for path in paths)
    return tuple(f"output_{index}" for index in range(count))


def _in_order(found: Mapping[str, Array], keys: Sequence[str]) -> list[Array]:
    if set(keys) <= set(found):
        return [found[key] for key in keys]
    return list(found.values())
