"""What is measured of the inputs of BN layers, by layer."""

from __future__ import annotations

from typing import Any

from bnscope.calibration.hooks import Call
from bnscope.calibration.moments import Moments, batch_moments


def eager_moments(call: Call) -> Moments | None:
    """The moments of what goes into a BN layer now; None if that has no values yet."""
    from keras import ops

    try:
        moments = batch_moments(call.inputs, call.norm.axis, call.mask)
        return Moments.of_batch([ops.convert_to_numpy(value) for value in moments])
    except Exception:  # noqa: BLE001  a loop of the backend traces its body
        return None


def add_moments(found: dict[int, Moments], norm: Any, moments: Moments) -> None:
    """Merges moments of the input of a layer with those found so far."""
    key = id(norm)
    found[key] = found[key] + moments if key in found else moments
