"""What recalibration found, for each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bnscope.bn import Array
from bnscope.calibration.target import KEPT


@dataclass(frozen=True, slots=True, eq=False)
class LayerStatistics:
    """The statistics of one BN layer before and after.

    Args:
        layer: its path.
        mean: the new moving mean, shape `(channels,)`.
        variance: the new moving variance, shape `(channels,)`.
        old_mean: the moving mean before.
        old_variance: the moving variance before.
        epsilon: the layer's epsilon.
        reason: why the new ones are not exact; None if they are.
    """

    layer: str
    mean: Array
    variance: Array
    old_mean: Array
    old_variance: Array
    epsilon: float
    reason: str | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the statistics are still those of before."""
        return self.reason in KEPT

    @property
    def shift(self) -> float:
        """How far the mean moved: the largest of all channels, in sigma of the data."""
        sigma = np.sqrt(self.variance + self.epsilon)
        return float(np.max(np.abs(self.old_mean - self.mean) / sigma))

    @property
    def ratio(self) -> float:
        """Variance before over variance after, of the channel where it is furthest from 1."""
        before, after = (v + self.epsilon for v in (self.old_variance, self.variance))
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = before / after
            return float(ratios[np.argmax(np.abs(np.log(np.abs(ratios))))])

    def to_dict(self) -> dict[str, Any]:
        """Values ready for JSON."""
        return {
            "layer": self.layer,
            "channels": len(self.mean),
            "mean_shift": self.shift,
            "variance_ratio": self.ratio,
            "exact": self.reason is None,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Recalibration:
    """A recalibrated model, and what that changed.

    Args:
        model: the model with the new statistics.
        method: `"exact"` or `"batch"`.
        samples: how many samples were used.
        passes: how often the data went through the model, as a whole or in parts.
        layers: the layers in forward order.
        notes: what is to be known of the result, in sentences.
    """

    model: Any
    method: str
    samples: int
    passes: int
    layers: tuple[LayerStatistics, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Values ready for JSON."""
        return {
            "method": self.method,
            "samples": self.samples,
            "passes": self.passes,
            "layers": [layer.to_dict() for layer in self.layers],
            "notes": list(self.notes),
        }
