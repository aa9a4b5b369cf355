"""The formats that Keras exports to: their names, their files, and what each of them needs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bnscope.errors import BnscopeError, OutputExistsError


@dataclass(frozen=True, slots=True)
class Format:
    """A format for deployment.

    Args:
        name: Keras's name for it, as in `model.export(format=…)`.
        title: its name for people.
        suffix: how the file's name ends; "" for a directory.
        modules: the packages that convert to it and run it.
        beside: suffixes of files that belong to it.
    """

    name: str
    title: str
    suffix: str
    modules: tuple[str, ...]
    beside: tuple[str, ...] = ()

    def files(self, path: Path) -> tuple[Path, ...]:
        """All that an artifact at a path consists of, the path last."""
        return (*(path.with_suffix(suffix) for suffix in self.beside), path)


FORMATS = (
    Format("tf_saved_model", "SavedModel", "", ("tensorflow",)),
    Format("onnx", "ONNX", ".onnx", ("onnx", "tf2onnx", "onnxruntime")),
    Format("litert", "LiteRT", ".tflite", ("tensorflow", "ai_edge_litert")),
    Format("openvino", "OpenVINO", ".xml", ("openvino",), (".bin",)),
)
KERAS_SUFFIXES = {".keras": "keras", ".h5": "h5", ".hdf5": "h5"}
# What TensorFlow and Keras write into the directory of a SavedModel.
_SAVED_MODEL = {
    "saved_model.pb",
    "fingerprint.pb",
    "keras_metadata.pb",
    "variables",
    "assets",
    "assets.extra",
}
NAMES = ("keras", "h5", *(known.name for known in FORMATS))


def find_format(path: str | os.PathLike[str], name: str | None = None) -> Format | None:
    """The format that an output is to have.

    Args:
        path: where to; a directory (a name without a suffix) is a SavedModel.
        name: the format's name, where the path does not tell.

    Returns:
        The format; None for Keras's own files.

    Raises:
        BnscopeError: if the path does not tell, or contradicts the name.
    """
    suffix = Path(path).suffix
    if name is None:
        if suffix in KERAS_SUFFIXES:
            return None
        known = next((one for one in FORMATS if one.suffix == suffix), None)
        if known is None:
            raise BnscopeError(
                f"{os.fspath(path)} does not say in which format to save.",
                f"Let the name end in {_suffixes()}, or pass a format (--format).",
            )
        return known
    if name not in NAMES:
        raise BnscopeError(f'"{name}" is no format.', f"Choose one of {', '.join(NAMES)}.")
    known = next((one for one in FORMATS if one.name == name), None)
    wanted = {k for k, v in KERAS_SUFFIXES.items() if v == name}
    if known is not None and known.suffix:
        wanted = {known.suffix}
    if wanted and suffix not in wanted:
        raise BnscopeError(
            f"{os.fspath(path)} does not fit the format {name}.",
            f"Let the name end in {' or '.join(sorted(wanted))}.",
        )
    return known


def check_installed(format_: Format) -> None:
    """Raises BnscopeError if a package that a format needs is not there."""
    missing = [name for name in format_.modules if not _is_installed(name)]
    if missing:
        names = ", ".join(name.replace("_", "-") for name in missing)
        raise BnscopeError(
            f"For {format_.title}, these packages are not installed: {names}.",
            'Install them with pip install "bnscope[export]".',
        )


def check_target(path: Path, format_: Format, *, overwrite: bool) -> None:
    """Checks, before any work is done, whether an artifact may be written at a path.

    Raises:
        OutputExistsError: if something is there and `overwrite` is false.
        BnscopeError: if nothing can be written there.
    """
    if not path.parent.is_dir():
        raise BnscopeError(
            f"The directory {path.parent} does not exist.", "Create it first."
        )
    for file in format_.files(path):
        if not file.exists():
            continue
        if not overwrite:
            raise OutputExistsError(
                f"{file} exists already.",
                "Choose another name, or pass overwrite (--overwrite).",
            )
        _check_replaceable(file, format_)


def in_order(names: Iterable[str]) -> list[str]:
    """Names that end in numbers, by their numbers: `output_2` before `output_10`."""

    def key(name: str) -> tuple[int, str]:
        digits = name.rpartition("_")[2]
        return (int(digits) if digits.isdigit() else 0, name)

    return sorted(names, key=key)


def _check_replaceable(path: Path, format_: Format) -> None:
    """Raises BnscopeError unless what is at a path is of the same kind, and nothing else."""
    if format_.suffix:
        if path.is_dir():
            raise BnscopeError(f"{path} is a directory.", "Give the name of a file.")
        return
    inside = {one.name for one in path.iterdir()} if path.is_dir() else {path.name}
    if inside and "saved_model.pb" not in inside:
        raise BnscopeError(
            f"{path} is no SavedModel, so it is not replaced.", "Choose another name."
        )
    others = sorted(inside - _SAVED_MODEL)
    if others:
        raise BnscopeError(
            f"{path} holds {others[0]} besides a SavedModel, so it is not replaced.",
            "Choose another name.",
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # a module whose import is blocked
        return False


def _suffixes() -> str:
    known = [*KERAS_SUFFIXES, *(one.suffix for one in FORMATS if one.suffix)]
    return ", ".join(known) + ", or in none for a SavedModel"
