"""An optimizer's saved configuration -> its settings. Nothing in it is ever deserialized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from bnscope.graph.model import Optimizer

# A LossScaleOptimizer holds one optimizer; deeper nesting is no file that Keras wrote.
_DEEPEST = 4


def from_compile_config(config: object) -> Optimizer | None:
    """The optimizer in what `compile` was called with.

    Args:
        config: the decoded `compile_config` of a `.keras` file (Keras 2 or 3: the optimizer
            under `optimizer`) or `training_config` of a `.h5` file (under
            `optimizer_config`).

    Returns:
        Its settings; None where they are not known.
    """
    if not isinstance(config, Mapping):
        return None
    written = config.get("optimizer_config", config.get("optimizer"))
    for _ in range(_DEEPEST):
        inner = _settings(written).get("inner_optimizer")
        if not isinstance(inner, Mapping):
            break
        written = inner
    if isinstance(written, str):
        return Optimizer(written)
    if not isinstance(written, Mapping):
        return None
    kind = str(written.get("class_name", "")).rpartition(">")[2]
    return from_settings(kind, _settings(written))


def from_settings(kind: str, settings: Mapping[str, Any]) -> Optimizer:
    """The settings of an optimizer, from its arguments by their names in Keras.

    Args:
        kind: its class name.
        settings: its arguments; what is missing, or of another type, counts as not set.
    """
    decay = settings.get("weight_decay")
    steps = settings.get("gradient_accumulation_steps")
    return Optimizer(
        kind,
        weight_decay=float(decay) if _is_number(decay) else 0.0,
        use_ema=settings.get("use_ema") is True,
        accumulation_steps=int(steps) if _is_number(steps) and steps >= 1 else 1,
    )


def _settings(written: object) -> Mapping[str, Any]:
    config = written.get("config") if isinstance(written, Mapping) else None
    return config if isinstance(config, Mapping) else {}


def _is_number(value: object) -> TypeGuard[float]:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) < float("inf")
    )
