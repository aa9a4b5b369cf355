"""Writing into the variables of a model while its `fit` runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def assigning(model: Any) -> Iterator[None]:
    """Lets the variables of a model be read and assigned while `fit` runs.

    On JAX the trainer hands the values from step to step outside the variables, in `_jax_state`.
    `jax_state_sync` brings them back; the next step then starts from the variables. But where
    the data end unannounced (a generator), that step finds none, and the trainer falls back on
    `_jax_state`, which holds the values before the assignment: so it is taken anew.

    Args:
        model: the `keras.Model` that trains.
    """
    synchronize = getattr(model, "jax_state_sync", None)
    if synchronize is not None:
        synchronize()
    try:
        yield
    finally:
        state = getattr(model, "_jax_state", None) or {}
        for kind in state:
            state[kind] = [variable.value for variable in _variables(model, kind)]


def _variables(model: Any, kind: str) -> Any:
    """The variables behind one part of the state."""
    if kind == "optimizer_variables":
        return model.optimizer.variables
    return getattr(model, kind)
