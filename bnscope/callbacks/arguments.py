"""Arguments that have no meaning are refused when a callback is made, not in mid-training."""

from __future__ import annotations

import os
from typing import Any

from bnscope.errors import BnscopeError


def check_log_dir(value: Any) -> None:
    """Raises BnscopeError unless it is a path, or None."""
    if value is not None and not isinstance(value, (str, os.PathLike)):
        raise BnscopeError(
            f"log_dir must be the path of a directory or None, got {value!r}.",
            "None, the default, keeps the series in memory only.",
        )


def check_update_freq(value: Any) -> None:
    """Raises BnscopeError unless it is a number of steps, at least 1."""
    if not _is_count(value):
        raise BnscopeError(
            f"update_freq must be a number of steps, at least 1, got {value!r}.",
            "The default is 10.",
        )


def check_channel_freq(value: Any) -> None:
    """Raises BnscopeError unless it is "epoch", a number of logged steps, or None."""
    if value is not None and value != "epoch" and not _is_count(value):
        raise BnscopeError(
            f'channel_freq must be "epoch", a number of logged steps or None, got {value!r}.',
            'The default is "epoch".',
        )


def check_layers(value: Any) -> None:
    """Raises BnscopeError for a text where a list of globs is meant."""
    if isinstance(value, str):
        raise BnscopeError(
            f"layers must be a list of globs, got the text {value!r}.", f"Use [{value!r}]."
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
