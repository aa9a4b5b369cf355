"""Converters and runtimes without what they print, and without what they report."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

_TELEMETRY = "openvino_telemetry"


@contextmanager
def quietly() -> Iterator[None]:
    """Holds back warnings, what Python and native code print, and OpenVINO's telemetry.

    The whole process prints nothing meanwhile.
    """
    with (
        _no_telemetry(),
        warnings.catch_warnings(),
        _descriptor_held(1),
        _descriptor_held(2),
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """OpenVINO puts a stub in the place of a package for telemetry that it cannot import."""
    known = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # an import of it fails
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
        if known is not None:
            sys.modules[_TELEMETRY] = known


@contextmanager
def _descriptor_held(number: int) -> Iterator[None]:
    stream = sys.stdout if number == 1 else sys.stderr
    _flush(stream)
    try:
        saved = os.dup(number)
    except OSError:  # closed, as in a service
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), number)
        try:
            yield
        finally:
            os.dup2(saved, number)
            os.close(saved)


def _flush(stream: object) -> None:
    flush = getattr(stream, "flush", None)
    if flush is not None:
        flush()
