"""BN602: folding that makes the weights of the channels differ widely."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bnscope.bn import WIDE_SPREAD
from bnscope.rules.base import Context, Problem, Rule, Severity, plural

if TYPE_CHECKING:
    from bnscope.folding.ranges import KernelRange


class FoldRange(Rule):
    """After folding, the weights of the channels of a layer reach very differently far.

    ## What it does
    Works out the kernels that `bnscope fold` would make, and finds those in which the largest
    weight of one channel is more than a hundred times that of another. The channels are those
    of the output, and of the input where BN is folded into the layer behind it. The report of
    `bnscope fold` says the same.

    ## Why is this bad
    Folding multiplies each channel by gamma / sqrt(moving variance + epsilon). Quantization to
    int8 with one scale for the whole kernel has 127 steps on each side of zero, shared by all
    channels, so that a channel 127 times narrower than the widest is rounded to zero.
    Computing in floating point, and quantization with a scale for each channel, do not suffer.

    ## What to do
    Quantize with one scale a channel (`int8` per-channel or per-axis), or equalize the channels
    across layers first.

    ## When it is quiet
    Unless it is selected: `--select BN602`. It is the only rule that reads kernels, one layer
    at a time. Channels whose weights are all zero, or less than a millionth of the widest,
    compute nothing and are left out. A kernel that cannot be read is named.

    ## References
    - Nagel et al. 2019, section 3, <https://arxiv.org/abs/1906.04721>
    - Krishnamoorthi 2018, section 3, <https://arxiv.org/abs/1806.08342>
    """

    code = "BN602"
    name = "fold-range"
    severity = Severity.OFF
    advice = (
        "Quantize with one scale a channel, or equalize the channels across layers first."
    )

    LARGEST_SPREAD = WIDE_SPREAD

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        from bnscope.folding.ranges import fold_ranges

        plan = context.fold_plan
        if not plan.folds or not context.graph.has_weights:
            return
        with context.graph.with_kernels() as graph:
            ranges = fold_ranges(graph, plan)
        for kernel in ranges.kernels:
            if kernel.after > self.LARGEST_SPREAD:
                yield _problem(kernel)
        for part in ranges.not_read:
            yield Problem(part.layer, f"its weight ranges were not checked: {part.reason}.")

    @staticmethod
    def bad_variances_far_apart(keras: Any) -> Any:  # noqa: D102
        model = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3, use_bias=False, kernel_initializer="ones"),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )
        model.layers[1].moving_variance.assign([1e-4, 1.0, 1e4, 1.0])
        return model

    @staticmethod
    def good_variances_alike(keras: Any) -> Any:  # noqa: D102
        model = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3, use_bias=False, kernel_initializer="ones"),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )
        model.layers[1].moving_variance.assign([0.5, 1.0, 2.0, 1.0])
        return model


def _problem(kernel: KernelRange) -> Problem:
    wide, narrow = kernel.widest, kernel.narrowest
    dead = (
        f" {plural(kernel.left_out, 'channel')} that compute nothing are left out."
        if kernel.left_out
        else ""
    )
    return Problem(
        kernel.layer,
        f"after folding, the weights of its {kernel.along} channels differ by a factor of "
        f"{kernel.after:,.3g} ({kernel.before:,.3g} before): up to {wide.range:.3g} in channel "
        f"{wide.channel}, {narrow.range:.3g} in channel {narrow.channel}. With one int8 scale "
        f"for the whole kernel, narrow channels are rounded to a few steps or to zero.{dead}",
        data=kernel.to_dict(),
    )
