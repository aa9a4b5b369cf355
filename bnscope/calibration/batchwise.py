"""Approximate population statistics: one pass with the statistics of each batch, merged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bnscope.calibration.compiling import (
    Tensors,
    compiled,
    eager,
    loaded,
    one_of_each_shape,
)
from bnscope.calibration.found import add_moments, add_seen
from bnscope.calibration.hooks import Call, hooked
from bnscope.calibration.moments import Centered, Moments, batch_moments
from bnscope.calibration.steps import Steps
from bnscope.calibration.target import Target
from bnscope.calibration.wavefront import Leaves


def recalibrate_batchwise(
    model: Any,
    steps: Steps,
    batches: Sequence[Leaves],
    target: Target,
    tick: Callable[[], None],
) -> None:
    """Sets every BN layer's statistics to those of its input while BN uses each batch's own.

    Args:
        model: the model; all layers but BN run in inference mode.
        steps: its steps.
        batches: the input.
        target: where the statistics go.
        tick: called after each batch.
    """
    found: dict[int, Moments] = {}
    needed = steps.needed
    norms = [step.norm for step in needed if step.norm is not None]

    def answer(call: Call) -> Any:
        if not add_seen(found, call):
            target.hidden(call.norm)
            return call.finish()
        values = batch_moments(call.inputs, call.norm.axis, call.mask)
        return normalized(call.norm, call.norm.axis, call.inputs, values)

    def run(given: Tensors) -> Any:
        values = dict(enumerate(given))
        moments = []
        for step in needed:
            if step.norm is not None:
                seen = step.norm.centered(values)
                moments.append(seen.moments)
                values[step.outputs[0]] = _normalized_by_itself(step.norm.layer, seen)
            else:
                with hooked(step.inside, answer):
                    step.run(values)
        return moments

    in_part = any(step.inside for step in needed)
    first, *others = one_of_each_shape(batches)
    examples = [loaded(first), *others]
    function = eager(run) if in_part else compiled(run, model, examples)
    for batch in batches:
        for norm, moments in zip(norms, function(loaded(batch)), strict=True):
            add_moments(found, norm.layer, moments)
        tick()
    target.set(found)


def _normalized_by_itself(layer: Any, seen: Centered) -> Any:
    """What a BN layer makes of a batch with its own statistics.

    Of what is around its mean already, which spares going through the batch twice more.
    """
    from keras import ops

    def spread(variable: Any) -> Any:
        values = ops.cast(variable, seen.variance.dtype)
        return ops.reshape(values, seen.variance.shape)

    scale = ops.rsqrt(seen.variance + layer.epsilon)
    if layer.scale:
        scale = scale * spread(layer.gamma)
    shift = -seen.correction * scale
    if layer.center:
        shift = shift + spread(layer.beta)
    return ops.cast(seen.rest * scale + shift, layer.compute_dtype)


def normalized(layer: Any, axis: int, tensor: Any, moments: Sequence[Any]) -> Any:
    """What a BN layer makes of a tensor with the statistics of the batch."""
    from keras import ops

    _, mean, rest, variance = moments
    made = ops.batch_normalization(
        ops.cast(tensor, mean.dtype),
        mean + rest,
        variance,
        axis=axis,
        offset=ops.cast(layer.beta, mean.dtype) if layer.center else None,
        scale=ops.cast(layer.gamma, mean.dtype) if layer.scale else None,
        epsilon=layer.epsilon,
    )
    return ops.cast(made, layer.compute_dtype)
