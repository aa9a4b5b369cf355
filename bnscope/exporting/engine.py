"""From a Keras model to a checked artifact: convert, run it, compare, move it into place."""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bnscope.errors import (
    BnscopeError,
    UnsupportedModelError,
    VerificationError,
    first_line,
)
from bnscope.exporting.formats import Format, check_installed, check_target, find_format
from bnscope.exporting.placing import move_into_place
from bnscope.exporting.quiet import quietly
from bnscope.graph import kinds, live
from bnscope.rewriting.apply import apply_edits
from bnscope.rewriting.comparison import OutputCheck, Verification, compare_outputs
from bnscope.rewriting.edits import DropLayer
from bnscope.rewriting.inputs import Batch, InputSpec, input_specs, numpy_dtype
from bnscope.rewriting.verify import Verifier

Array = npt.NDArray[Any]
# Another runtime adds up in another order, and may choose other algorithms.
RUNTIME_FACTOR = 10.0
# Sizes of batches that are run besides the whole, where the model leaves the size open.
_PARTS = (1, 3)
# Lines that name a place in the code of a converter.
_PLACE = re.compile(
    r"\s*(Check '|Exception from |FrontEnd API failed|Summary:|Model wasn't fully)"
)


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


@dataclass(frozen=True, slots=True)
class Export:
    """An artifact that was written, and what was found when it was run.

    Args:
        path: where it lies.
        format: name of the format.
        runtime: the runtime that ran it, with its version.
        verification: the comparison with the Keras model.
        bn_like: operations left that do what BN does at inference: batch normalizations, and
            products of an activation with more than one constant; None if not known.
        size: bytes of all files.
        batch_sizes: the sizes of the batches that were run.
    """

    path: Path
    format: str
    runtime: str
    verification: Verification
    bn_like: int | None
    size: int
    batch_sizes: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """The facts for JSON."""
        return {
            "path": str(self.path),
            "format": self.format,
            "runtime": self.runtime,
            "max_error": self.verification.max_error,
            "tolerance": self.verification.tolerance,
            "samples": self.verification.samples,
            "bn_like": self.bn_like,
            "bytes": self.size,
            "batch_sizes": list(self.batch_sizes),
        }


def export(
    model: Any,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002  Keras's name
    overwrite: bool = False,
    verify_data: Any = None,
) -> Export:
    """Exports a model, runs the artifact in its own runtime, and compares.

    Written beside, and moved into place only if the outputs agree.

    Args:
        model: a Keras model with known inputs. It is not changed.
        path: where to: `.onnx`, `.tflite`, `.xml` (OpenVINO, with its `.bin`), or a directory
            for a SavedModel.
        format: the format's name, where the path does not tell.
        overwrite: whether an artifact that is there may be replaced.
        verify_data: samples to compare with, as for `bnscope.fold`; random ones by default.

    Returns:
        What was written, and the comparison.

    Raises:
        OutputExistsError: if the path exists and `overwrite` is false.
        UnsupportedModelError: if Keras or a converter cannot export the model.
        VerificationError: if the artifact computes something else.
        BnscopeError: if a package is missing, or nothing can be written there.
    """
    target = Path(path)
    chosen = find_format(target, format)
    if chosen is None:
        raise BnscopeError(
            f"{target} is a Keras file, not an export.", "Save it with save()."
        )
    check_installed(chosen)
    check_target(target, chosen, overwrite=overwrite)
    _check_inputs(_specs(model), chosen)
    verifier = Verifier(model, verify_data, proof=False)
    try:
        with tempfile.TemporaryDirectory(prefix=".bnscope-", dir=target.parent) as folder:
            beside = Path(folder) / target.name
            plain = _without_augmentation(model)
            verifier.run(plain, verifier.batches[:1])  # Keras exports what has been called
            _convert(plain, beside, chosen)
            made = _checked(model, verifier, beside, chosen)
            check_target(target, chosen, overwrite=overwrite)
            pairs = zip(chosen.files(beside), chosen.files(target), strict=True)
            move_into_place(list(pairs))
    except BnscopeError:
        raise
    except OSError as error:
        raise BnscopeError(
            f"{target} cannot be written: {error.strerror or first_line(error)}.",
            "Nothing was left behind. Choose another place.",
        ) from error
    sizes = {
        size
        for batch in verifier.batches
        for size in _batch_sizes(verifier.specs, len(batch[0]))
    }
    return Export(target, *made, tuple(sorted(sizes)))


def _specs(model: Any) -> tuple[InputSpec, ...]:
    specs = input_specs(live.read(model))
    if not specs:
        raise UnsupportedModelError(
            f'What "{model.name}" takes is not known, so the artifact could not be run.',
            "Build it with keras.Sequential or the functional API.",
        )
    return specs


def _check_inputs(specs: Sequence[InputSpec], format_: Format) -> None:
    text = [spec.name for spec in specs if spec.dtype == "string"]
    if text and format_.name != "tf_saved_model":
        raise UnsupportedModelError(
            f'The input "{text[0]}" takes text, which {format_.title} does not.',
            "Export a SavedModel, or the part of the model behind the text.",
        )


def _without_augmentation(model: Any) -> Any:
    """The model without layers that alter images in training.

    What Keras exports calls them without `training`, which they take for True.
    """
    layers = live.read(model).layers
    edits = [DropLayer(one.path) for one in layers if one.kind in kinds.AUGMENTATION]
    return apply_edits(model, edits) if edits else model


def _convert(model: Any, path: Path, format_: Format) -> None:
    try:
        with quietly():
            model.export(str(path), format=format_.name, verbose=False)
    except OSError:
        raise
    except Exception as error:
        # Converters raise all sorts; the model is what they cannot take.
        raise UnsupportedModelError(
            f"Keras cannot export this model as {format_.title}: {_telling_line(error)}.",
            "Nothing was written.",
        ) from error


def _checked(
    model: Any, verifier: Verifier, path: Path, format_: Format
) -> tuple[str, str, Verification, int | None, int]:
    runtime = _open(path, format_)
    verification = _compare(model, verifier, runtime)
    if not verification.passed:
        raise VerificationError(
            f"{runtime.version} computes something else than the Keras model: "
            f"{verification.difference}.",
            "Nothing was written. What is called with training=True is exported with the "
            "statistics of the batch.",
        )
    size = sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
    return format_.name, runtime.version, verification, _count(runtime), size


def _count(runtime: Runtime) -> int | None:
    try:
        with quietly():
            return runtime.count_affine()
    except Exception:  # noqa: BLE001  the artifact is right; what it holds is not known
        return None


def _open(path: Path, format_: Format) -> Runtime:
    module = importlib.import_module(f"bnscope.exporting.{format_.name}")
    try:
        with quietly():
            opened: Runtime = module.Artifact(path)
    except Exception as error:
        raise VerificationError(
            f"The exported {format_.title} does not load: {_telling_line(error)}.",
            "Nothing was written.",
        ) from error
    return opened


def _compare(model: Any, verifier: Verifier, runtime: Runtime) -> Verification:
    """The outputs of the artifact against those of the Keras model."""
    names = list(verifier.expected)
    keys = _output_keys(model, len(names))
    expected: dict[str, list[Array]] = {name: [] for name in names}
    actual: dict[str, list[Array]] = {name: [] for name in names}
    start = 0
    for batch in verifier.batches:
        stop = start + len(batch[0])
        for count in _batch_sizes(verifier.specs, len(batch[0])):
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


def _batch_sizes(specs: Sequence[InputSpec], size: int) -> tuple[int, ...]:
    """The whole batch, and where the model leaves its size open, parts of it too."""
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


def _telling_line(error: Exception) -> str:
    """The line that says what is wrong: in TensorFlow and OpenVINO not always the first."""
    told = [line for line in str(error).splitlines() if line.strip()]
    if told and told[0].strip().startswith("in user code"):
        told.reverse()
    told = [line for line in told if not _PLACE.match(line)]
    return first_line(Exception(told[0])) if told else first_line(error)
