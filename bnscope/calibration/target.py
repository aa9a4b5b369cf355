"""Where population statistics go: the BN layers of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnscope.bn import Array
from bnscope.calibration.moments import Moments
from bnscope.errors import BnscopeError
from bnscope.rewriting.copying import to_numpy

SHARED = (
    "called at several depths, so its statistics depend on themselves: those of its first "
    "calls were used for what the later ones see"
)
HIDDEN = (
    "called inside a loop of the backend, where nothing can be measured: kept as it was"
)
UNSEEN = "not called, or on no unmasked value: kept as it was"
FROZEN = "frozen: kept as it was"
KEPT = frozenset({HIDDEN, UNSEEN, FROZEN})


class Target:
    """Sets the statistics of BN layers, and knows of which nothing exact can be said.

    Args:
        norms: the layers by path.
    """

    def __init__(self, norms: Mapping[str, Any]) -> None:
        self.norms = dict(norms)
        self.moments: dict[int, Moments] = {}
        self.reasons: dict[int, str] = {}

    def is_open(self, norm: Any) -> bool:
        """Whether nothing was measured of a layer yet."""
        return id(norm) not in self.moments and id(norm) not in self.reasons

    def circular(self, norm: Any) -> None:
        """Notes that a layer is called again with its new statistics."""
        self.reasons.setdefault(id(norm), SHARED)

    def hidden(self, norm: Any) -> None:
        """Notes that a layer cannot be measured."""
        self.reasons[id(norm)] = HIDDEN

    def set(self, found: Mapping[int, Moments]) -> None:
        """Sets the statistics of layers; those measured before are merged.

        Raises:
            BnscopeError: if what goes into a layer is not finite.
        """
        for path, norm in self.norms.items():
            moments = found.get(id(norm))
            if moments is None:
                continue
            if id(norm) in self.moments:
                self.circular(norm)
                moments = self.moments[id(norm)] + moments
            self.moments[id(norm)] = moments
            _assign(path, norm, moments)

    def reason(self, norm: Any) -> str | None:
        """Why the statistics of a layer are not exact; None if they are."""
        if id(norm) in self.reasons:
            return self.reasons[id(norm)]
        moments = self.moments.get(id(norm))
        return None if moments is not None and moments.count.all() else UNSEEN


def _assign(path: str, norm: Any, moments: Moments) -> None:
    counted = moments.count > 0
    mean = np.where(counted, moments.mean, to_numpy(norm.moving_mean))
    variance = np.where(counted, moments.variance, to_numpy(norm.moving_variance))
    values = {"moving_mean": mean, "moving_variance": variance}
    if getattr(norm, "renorm", False):
        values["moving_stddev"] = np.sqrt(variance + norm.epsilon)
        values["renorm_mean"] = mean
        values["renorm_stddev"] = np.sqrt(variance + norm.epsilon)
    for name, value in values.items():
        variable = getattr(norm, name)
        variable.assign(value)
        _check(path, name, to_numpy(variable))


def _check(path: str, name: str, values: Array) -> None:
    if not np.isfinite(np.asarray(values, np.float64)).all():
        raise BnscopeError(
            f'What goes into "{path}" is not finite on these data: its {name} would be NaN or '
            "infinite.",
            "Check the data, and the weights before this layer (bnscope lint). Nothing was "
            "changed.",
        )
