"""How far the outputs of two models are from each other, and whether that proves anything.

For each output y of the original and y' of the other model, over all samples:

    error = max|y' - y| / max|y|

A check that cannot fail is no check. So an output must be finite and must vary with the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]
# Per dtype of the computation: what rounding does to a right rewrite, relative to the
# output's scale, and how far a network's own sensitivity may widen that.
TOLERANCES = {"float64": 1e-11, "float32": 1e-5, "float16": 7e-4, "bfloat16": 5e-3}
LIMITS = {"float64": 1e-9, "float32": 1e-3, "float16": 0.1, "bfloat16": 0.3}
SENSITIVITY_FACTOR = 10.0
# Outputs prove something if they vary between samples by this many tolerances, or by this
# share of their scale.
VARIATION_IN_TOLERANCES = 300.0
VARIATION = 0.05
# Nearer than this to 0 or 1, an output of a sigmoid or softmax shows no small error.
_FLAT = 1e-4
# If no output varies by this many tolerances, nothing is proved at all.
LEAST_VARIATION_IN_TOLERANCES = 10.0


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """How one output of the two models compares.

    Args:
        name: the output's name.
        error: `max|y' - y| / max|y|`, without unit; NaN where values are not finite.
        scale: `max|y|` of the original.
        variation: how far the original's output varies between samples, as a share of the
            scale; NaN where there is a single sample.
    """

    name: str
    error: float
    scale: float
    variation: float

    def proves(self, tolerance: float) -> bool:
        """Whether even a small error in the rewrite would be seen in this output."""
        enough = VARIATION_IN_TOLERANCES * tolerance
        return self.varies_by(min(enough, VARIATION))

    def proves_something(self, tolerance: float) -> bool:
        """Whether a gross error in the rewrite would be seen in this output."""
        return self.varies_by(LEAST_VARIATION_IN_TOLERANCES * tolerance)

    def varies_by(self, share: float) -> bool:
        """Whether the output is finite and varies by a share of its scale, if that is known."""
        varies = np.isnan(self.variation) or self.variation >= share
        return bool(np.isfinite(self.scale) and self.scale > 0 and varies)


@dataclass(frozen=True, slots=True)
class Verification:
    """The comparison of two models.

    Args:
        outputs: one check per output, and those of values before an activation.
        tolerance: what the errors may be.
        samples: how many samples were run.
    """

    outputs: tuple[OutputCheck, ...]
    tolerance: float
    samples: int

    @property
    def worst(self) -> OutputCheck:
        """The output with the largest error; one that is not a number is the worst."""
        return max(self.outputs, key=lambda o: np.inf if np.isnan(o.error) else o.error)

    @property
    def max_error(self) -> float:
        """The largest error, relative to the scale of its output."""
        return self.worst.error

    @property
    def passed(self) -> bool:
        """Whether every error is within the tolerance."""
        return all(output.error <= self.tolerance for output in self.outputs)

    @property
    def difference(self) -> str:
        """The largest difference in a sentence, without its full stop."""
        return (
            f'Output "{self.worst.name}" differs by {self.worst.error:.2g} of its scale '
            f"({self.worst.scale:.3g}), and at most {self.tolerance:.2g} is allowed"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the check could not show, in sentences."""
        return tuple(
            f'Output "{output.name}" hardly varies with the inputs tried, so its agreement '
            "proves little."
            for output in self.outputs
            if not output.proves(self.tolerance)
        )


def compare_outputs(expected: Outputs, actual: Outputs) -> Iterator[OutputCheck]:
    """Compares the outputs of two models, in order.

    Args:
        expected: the original's outputs by name, samples along the first axis.
        actual: the other model's outputs, in the same order.
    """
    others = list(actual.values())
    if len(others) != len(expected):  # other shapes for some sizes of the input
        others = [np.empty(0, bool)] * len(expected)
    for (name, one), other in zip(expected.items(), others, strict=True):
        scale = _scale(one)
        yield OutputCheck(name, _error(one, other, scale), scale, spread(one))


def is_saturated(values: Array) -> bool:
    """Whether most values lie where a sigmoid or softmax hardly moves any more."""
    if values.dtype.kind != "f":
        return False
    sizes = np.abs(values[values != 0.0])
    flat = (sizes < _FLAT) | (np.abs(sizes - 1.0) < _FLAT)
    return bool(sizes.size and flat.mean() > 0.5)  # noqa: PLR2004  more than half


def _scale(values: Array) -> float:
    if values.dtype.kind not in "fiubV" or not values.size:  # V: bfloat16
        return float("nan")
    return float(np.max(np.abs(values.astype(np.float64))))


def _error(expected: Array, actual: Array, scale: float) -> float:
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return float("inf")
    one, other = expected.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(other)):
        return float("inf")
    largest = float(np.max(np.abs(one[finite] - other[finite]), initial=0.0))
    return largest / scale if np.isfinite(scale) and scale > 0 else largest


def spread(values: Array) -> float:
    """How far the values vary between samples, as a share of their scale."""
    scale = _scale(values)
    if len(values) < 2:  # noqa: PLR2004
        return float("nan")
    if not np.isfinite(scale) or scale == 0:
        return 0.0
    numbers = values.astype(np.float64)
    return float(np.max(np.ptp(numbers, axis=0))) / scale
