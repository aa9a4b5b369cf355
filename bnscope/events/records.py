"""What is written as JSON: read as far as its form can be relied on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bnscope.events import schema

AXES = "axes"
_LARGEST = 1e300  # so that float64 has room for what is computed of it
# What the readers rely on: [form] is a list of such, {key: form} a mapping. Every key may be
# missing or null, and there may be others. A float may be whole, or a text such as "NaN".
_AXES: Mapping[str, Any] = {"layers": [str], "widths": [int], "statuses": [str]}
_ROW = {"layer": str, "fed_by": [str], "feeds": [str], "momentum": float, "epsilon": float}
_FORMS: Mapping[str, Any] = {
    AXES: _AXES,
    schema.START: {
        "axes": _AXES,
        "params": {},
        "layers": [_ROW],
        "findings": [{}],
        "not_analysed": [{}],
    },
    schema.ALERT: {"step": int, "channels": [int], "others": int},
    schema.MARK: {"step": int, "layers": [str]},
}


def loads(text: str | bytes) -> Any:
    """Values out of JSON, their texts without halves of characters, which nobody could send.

    Raises:
        ValueError: if it is no JSON.
        RecursionError: if it is too deep.
    """
    return _whole(json.loads(text))


def parse(kind: str, text: str | bytes) -> Mapping[str, Any]:
    """A record out of its JSON.

    Args:
        kind: `schema.START`, `ALERT` or `MARK`.
        text: the JSON.

    Raises:
        ValueError: if it is no JSON, or no such record.
        RecursionError: if it is too deep.
    """
    record: Mapping[str, Any] = loads(text)
    check(kind, record)
    return record


def check(kind: str, record: Any) -> None:
    """Checks the form of a record.

    Args:
        kind: `AXES`, or as in `parse`.
        record: the record.

    Raises:
        ValueError: if it has another one.
    """
    _check(record, _FORMS[kind], kind)


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(each) for key, each in value.items()}
    return value


def _check(value: Any, form: Any, place: str) -> None:
    kind: Any = form if isinstance(form, type) else type(form)
    if not _is(value, kind):
        raise ValueError(f"{place} is no {kind.__name__}")
    if kind is list:
        for each in value:
            _check(each, form[0], f"an entry of {place}")
    elif kind is dict:
        for key, inner in form.items():
            if value.get(key) is not None:
                _check(value[key], inner, f"{key} of {place}")


def _is(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, str) or (
            isinstance(value, (int, float)) and abs(value) < _LARGEST
        )
    return isinstance(value, kind)
