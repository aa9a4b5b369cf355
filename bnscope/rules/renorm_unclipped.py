"""BN208: batch renormalization without limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bnscope.rules.base import Context, Problem, Rule, Severity

_LIMITS = ("rmax", "dmax")


class RenormUnclipped(Rule):
    """Batch renormalization corrects without limits.

    ## What it does
    Finds BN layers with `renorm=True` whose `renorm_clipping` sets no `rmax` or no `dmax`.

    ## Why is this bad
    Renormalization corrects each batch towards the moving statistics by factors r and d.
    While these statistics are young the corrections are arbitrary; the paper begins with
    r = 1 and d = 0 and lets the limits grow.

    ## What to do
    Pass `renorm_clipping={"rmax": 3, "rmin": 1/3, "dmax": 5}`, the paper's final values, and
    start narrower.

    ## When it is quiet
    Both limits are set.

    ## References
    - Ioffe 2017, section 3, <https://arxiv.org/abs/1702.03275>
    """

    code = "BN208"
    name = "renorm-unclipped"
    severity = Severity.INFO
    advice = "Pass renorm_clipping with rmax, rmin and dmax."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for layer in context.batch_norms:
            if not layer.config.get("renorm"):
                continue
            clipping = layer.config.get("renorm_clipping")
            given = clipping if isinstance(clipping, Mapping) else {}
            missing = [name for name in _LIMITS if given.get(name) is None]
            if missing:
                yield Problem(
                    layer.path,
                    f"renorm=True without a limit {' and '.join(missing)}: its corrections "
                    "are unbounded while the statistics are young.",
                    data={"missing": missing},
                )

    @staticmethod
    def bad_unclipped(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(renorm=True),
                keras.layers.ReLU(),
            ]
        )

    @staticmethod
    def good_clipped(keras: Any) -> Any:  # noqa: D102
        limits = {"rmax": 3.0, "rmin": 1 / 3, "dmax": 5.0}
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(renorm=True, renorm_clipping=limits),
                keras.layers.ReLU(),
            ]
        )
