"""What commands that load and verify a model share: the user's modules, and data."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
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


def import_modules(modules: Sequence[str]) -> None:
    """Imports the user's modules, which register classes.

    Raises:
        BnscopeError: if one cannot be imported.
    """
    if modules:
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


@contextmanager
def working(text: str) -> Iterator[None]:
    """Says on a terminal that something takes a while, and starts Keras quietly."""
    from rich.console import Console

    from bnscope.backend import import_keras_quietly

    with Console(stderr=True).status(text):
        import_keras_quietly()
        yield
