"""What commands that load and verify a model share: the user's modules, and data."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bnscope.errors import BnscopeError

VERIFIED = "verify on the array x of this .npz (or one by input name), not on random input"


def add_loading(parser: argparse.ArgumentParser, *, data: str = VERIFIED) -> None:
    """Adds `--import` and `--data`, with the help of the latter."""
    parser.add_argument("--data", metavar="FILE", help=data)
    parser.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="import this module first: it registers your classes (runs its code)",
    )


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that takes a whole number, from one on."""

    def read(text: str) -> int:
        if not text.strip().lstrip("-+").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {least}, got {text!r}"
            )
        return int(text)

    return read


def import_modules(modules: Sequence[str]) -> None:
    """Imports the user's modules, which register classes.

    Raises:
        BnscopeError: if one cannot be imported.
    """
    from bnscope.backend import import_keras_quietly

    if modules:
        import_keras_quietly()  # which the modules would import with TensorFlow's notes
        sys.path.insert(0, os.getcwd())  # noqa: PTH109  as `python -m` does
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            raise BnscopeError(
                f"--import {module} failed: {type(error).__name__}: {error}.",
                "The module must be importable from here.",
            ) from error


def read_data(path: str | None) -> Any:
    """The samples in a `.npz` file: its array `x`, or all by name; None without a path.

    Raises:
        BnscopeError: if the file cannot be read.
    """
    if path is None:
        return None
    arrays = read_arrays(path)
    return arrays.get("x", arrays)


def read_arrays(path: str) -> dict[str, Any]:
    """The arrays in a `.npz` file by name.

    Raises:
        BnscopeError: if the file cannot be read.
    """
    import numpy as np

    if not os.path.exists(path):  # noqa: PTH110
        raise BnscopeError(f"{path} does not exist.", "Check the path.")
    unreadable = BnscopeError(
        f"{path} cannot be read as .npz.", "Write it with numpy.savez(path, x=x)."
    )
    if not zipfile.is_zipfile(path):
        raise unreadable
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise unreadable from error
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise unreadable  # another zip archive
    return arrays


def need_inputs(model: Any, arrays: Mapping[str, Any], path: str, suffix: str = "") -> Any:
    """As `find_inputs`, of the file that the arrays are from.

    Raises:
        BnscopeError: if they are not there.
    """
    found = find_inputs(model, arrays, suffix)
    if found is not None:
        return found
    names = [f"{name}{suffix}" for name in input_names(model)]
    start = f"{path} holds {', '.join(arrays) or 'nothing'}, but"
    if len(names) > 1:
        missing = [name for name in names if name not in arrays]
        raise BnscopeError(
            f"{start} not the input{'s' * (len(missing) > 1)} {', '.join(missing)} of the model.",
            f"Write one array for each with numpy.savez: {', '.join(names)}.",
        )
    raise BnscopeError(
        f"{start} no input of the model.",
        f"Write it with numpy.savez: {', or '.join([f'x{suffix}', *names])}.",
    )


def find_inputs(model: Any, arrays: Mapping[str, Any], suffix: str = "") -> Any:
    """The samples: the array `x` of a model with one input, or one for each by its name.

    Returns:
        None if one is missing.
    """
    if f"x{suffix}" in arrays and len(input_names(model)) < 2:  # noqa: PLR2004
        return arrays[f"x{suffix}"]
    return find_by_name(model, "input", arrays, suffix)


def input_names(model: Any) -> list[str]:
    """The names of a model's inputs; none if it does not say them."""
    return _structure(model, "input")[1]


def find_by_name(
    model: Any, which: str, arrays: Mapping[str, Any], suffix: str = ""
) -> Any:
    """Arrays by the names of a model's inputs or outputs, in their structure.

    Args:
        model: a built `keras.Model`.
        which: `"input"` or `"output"`.
        arrays: the arrays by name.
        suffix: stands behind the names.

    Returns:
        None if one is missing, or the model does not say its inputs or outputs.
    """
    structure, names = _structure(model, which)
    found = [arrays.get(f"{name}{suffix}") for name in names]
    if not found or any(array is None for array in found):
        return None
    if isinstance(structure, dict):
        return dict(zip(names, found, strict=True))
    return found if isinstance(structure, (list, tuple)) else found[0]


def _structure(model: Any, which: str) -> tuple[Any, list[str]]:
    """How a model has its inputs or outputs, and their names; none if it does not say."""
    import keras

    tensors = getattr(model, f"{which}s", None) or []
    if not tensors:
        return None, []
    names = [str(tensor.name) for tensor in tensors]
    if isinstance(model, keras.Sequential):  # one of each, without a call of its own
        return tensors[0], [model.layers[-1].name] if which == "output" else names
    structure = getattr(model, which)
    if isinstance(structure, dict):
        return structure, list(structure)
    return structure, list(model.output_names) if which == "output" else names


@contextmanager
def working(text: str) -> Iterator[None]:
    """Says on a terminal that something takes a while, and starts Keras quietly."""
    from rich.console import Console

    from bnscope.backend import import_keras_quietly

    with Console(stderr=True).status(text):
        import_keras_quietly()
        yield
