"""Changing a model: edits, applied to a copy, which is verified before it is handed over."""

from __future__ import annotations
