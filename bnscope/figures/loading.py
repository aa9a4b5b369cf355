"""Plotly, or what to install."""

from __future__ import annotations

import importlib
from typing import Any

from bnscope.errors import BnscopeError


def plotly(module: str) -> Any:
    """A module of plotly.

    Args:
        module: its name, as in `plotly.graph_objects`.

    Raises:
        BnscopeError: if plotly is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BnscopeError(
            "plotly is not installed.",
            "Install it with: pip install 'bnscope[tensorboard]'",
        ) from error


def script() -> str:
    """Plotly's JavaScript, out of its own package.

    Raises:
        BnscopeError: if plotly is not installed.
    """
    return str(plotly("plotly.offline").get_plotlyjs())
