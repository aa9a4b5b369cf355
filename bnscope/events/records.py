"""The records that are JSON: read as far as their form can be relied on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bnscope.events import schema

# What the readers rely on: [form] is a list of such, {key: form} a mapping. Every key may be
# missing or null, and there may be others.
_FORMS: Mapping[str, Any] = {
    schema.START: {
        "axes": {"layers": [str], "widths": [int], "statuses": [str]},
        "params": {},
        "layers": [{"layer": str, "fed_by": [str], "feeds": [str]}],
        "findings": [{}],
        "not_analysed": [{}],
    },
    schema.ALERT: {"step": int, "channels": [int], "others": int},
    schema.MARK: {"step": int, "layers": [str]},
}


def parse(kind: str, text: str | bytes) -> Mapping[str, Any]:
    """A record out of its JSON.

    Args:
        kind: `schema.START`, `ALERT` or `MARK`.
        text: the JSON.

    Raises:
        ValueError: if it is no JSON, or no such record.
    """
    record: Mapping[str, Any] = json.loads(text)
    _check(record, _FORMS[kind], kind)
    return record


def _check(value: Any, form: Any, place: str) -> None:
    kind: Any = form if isinstance(form, type) else type(form)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{place} is no {kind.__name__}")
    if kind is list:
        for each in value:
            _check(each, form[0], f"an entry of {place}")
    elif kind is dict:
        for key, inner in form.items():
            if value.get(key) is not None:
                _check(value[key], inner, f"{key} of {place}")
