"""What is measured of the inputs of BN layers, by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bnscope.calibration.hooks import Call
from bnscope.calibration.moments import Moments, batch_moments


def add_moments(found: dict[int, Moments], norm: Any, tensors: Sequence[Any]) -> None:
    """Merges moments of the input of a layer, as `batch_moments` gives them."""
    from keras import ops

    moments = Moments.of_batch([ops.convert_to_numpy(tensor) for tensor in tensors])
    key = id(norm)
    found[key] = found[key] + moments if key in found else moments


def add_seen(found: dict[int, Moments], call: Call) -> bool:
    """Merges the moments of what goes into a layer now; False if that has no values yet."""
    try:
        add_moments(found, call.norm, batch_moments(call.inputs, call.norm.axis, call.mask))
    except Exception:  # noqa: BLE001  a loop of the backend traces its body
        return False
    return True
