"""From a Keras model to a checked artifact: convert, run it, compare, move it into place."""

from __future__ import annotations

import errno
import importlib
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnscope.errors import (
    BnscopeError,
    UnsupportedModelError,
    VerificationError,
    first_line,
)
from bnscope.exporting.checking import Runtime, compare
from bnscope.exporting.constants import written_out
from bnscope.exporting.formats import Format, check_installed, check_target, find_format
from bnscope.exporting.placing import move_into_place
from bnscope.exporting.quiet import quietly
from bnscope.graph import kinds, live
from bnscope.rewriting.apply import apply_edits
from bnscope.rewriting.comparison import Verification
from bnscope.rewriting.edits import DropLayer
from bnscope.rewriting.inputs import InputSpec, input_specs
from bnscope.rewriting.verify import Verifier

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
# Lines that name a place in the code of a converter.
_PLACE = re.compile(
    r"\s*(Check '|Exception from |FrontEnd API failed|Summary:|Model wasn't fully)"
)


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
    sizes = {len(batch[0]) for batch in verifier.batches}
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
        with quietly(), written_out(model):
            model.export(str(path), format=format_.name, verbose=False)
    except OSError:
        raise
    except Exception as error:
        for number in _FULL:  # native code has errors of its own for it
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number)) from error
        # Converters raise all sorts; the model is what they cannot take.
        raise UnsupportedModelError(
            f"Keras cannot export this model as {format_.title}: {_telling_line(error)}.",
            "Nothing was written.",
        ) from error


def _checked(
    model: Any, verifier: Verifier, path: Path, format_: Format
) -> tuple[str, str, Verification, int | None, int]:
    runtime = _open(path, format_)
    verification = compare(model, verifier, runtime)
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


def _telling_line(error: Exception) -> str:
    """The line that says what is wrong: in TensorFlow and OpenVINO not always the first."""
    told = [line for line in str(error).splitlines() if line.strip()]
    if told and told[0].strip().startswith("in user code"):
        told.reverse()
    told = [line for line in told if not _PLACE.match(line)]
    return first_line(Exception(told[0])) if told else first_line(error)
