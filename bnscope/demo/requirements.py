"""What the demonstration needs beyond the base package."""

from __future__ import annotations

import os
from importlib.util import find_spec

from bnscope.errors import BnscopeError

# module -> the package that brings it
_PACKAGES = {
    "keras": "keras",
    "tensorboard": "tensorboard",
    "sklearn": "scikit-learn",
    "PIL": "pillow",
}


def require_extra() -> None:
    """Checks that the packages of the extra `demo` are installed, without importing them.

    Raises:
        BnscopeError: naming what is missing and the command that installs it.
    """
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    wanted = {**_PACKAGES, backend: backend}
    missing = [package for module, package in wanted.items() if find_spec(module) is None]
    if missing:
        names = " and ".join(
            [", ".join(missing[:-1]), missing[-1]] if missing[1:] else missing
        )
        raise BnscopeError(
            f"bnscope demo needs {names}, not installed here.",
            'Run: pip install "bnscope[demo]"',
        )
