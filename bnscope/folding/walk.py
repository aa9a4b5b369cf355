"""The way back from a BN layer to the layer that could take it up, and who else uses it.

A walk passes what is the identity at inference. Each element of a tensor on the way belongs to
one channel of BN; passing leaves that as it is, so the channel axis at the end is BN's own.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from bnscope.folding.reasons import Reason, Refusal
from bnscope.graph import kinds
from bnscope.graph.batchnorm import is_batch_norm
from bnscope.graph.model import Call, Graph, Layer, Tensor

# So many consumers are named in a reason.
_MOST_NAMES = 8
# The identity at inference, whatever the dtype: `ops.Cast` is not, nor a conversion.
_PASSED = (
    kinds.DROPOUT | (kinds.IDENTITY - {"ops.Cast", "ops.ConvertToTensor"}) | {"Activation"}
)


@dataclass(frozen=True, slots=True)
class Way:
    """From one call of a BN layer back to what feeds it.

    Args:
        batch_norm: the call of the BN layer.
        producer: the call that feeds it; None for an input of the model.
        through: the calls passed between, in forward order.
        tensors: the tensors on the way, the producer's output first.
    """

    batch_norm: Call
    producer: Call | None
    through: tuple[Call, ...]
    tensors: tuple[Tensor, ...]


def way_back(graph: Graph, batch_norm: Call, folded: Collection[str]) -> Way:
    """The way from a call of a BN layer back to what feeds it.

    Args:
        graph: the graph.
        batch_norm: the call.
        folded: paths of BN layers that are folded already, and so let everything pass.
    """
    tensors = [normalized(batch_norm)]
    through: list[Call] = []
    call = graph.producer(tensors[0])
    while call is not None and (call.layer.path in folded or _passes(call)):
        through.append(call)
        tensors.append(normalized(call))
        call = graph.producer(tensors[-1])
    return Way(batch_norm, call, tuple(reversed(through)), tuple(reversed(tensors)))


def normalized(call: Call) -> Tensor:
    """The tensor that a call works on; others among its arguments are masks."""
    named = call.kwargs.get("inputs")
    return named if isinstance(named, Tensor) else call.inputs[0]


def refuse_other_consumers(graph: Graph, way: Way) -> Refusal | None:
    """Refuses a way on which a tensor is used by something else too."""
    users = [*way.through, way.batch_norm]
    for tensor, user in zip(way.tensors, users, strict=True):
        calls = [call for call in graph.consumers(tensor) if call is not user]
        others = [kinds.describe(call) for call in calls[:_MOST_NAMES]]
        if len(calls) > _MOST_NAMES:
            others.append(f"{len(calls) - _MOST_NAMES} others")
        if graph.is_output(tensor):
            others.append("the model, as an output")
        if others:
            maker = graph.producer(tensor)
            return Refusal(
                Reason.MULTIPLE_CONSUMERS,
                f"The output of {kinds.describe(maker)} is also used by {' and '.join(others)}.",
            )
    return None


def refuse_noise(way: Way) -> Refusal | None:
    """Refuses a way through dropout or noise that is active at inference."""
    for call in way.through:
        if call.kind in kinds.DROPOUT and is_in_training_mode(call):
            return Refusal(
                Reason.BAKED_TRAINING,
                f"{kinds.describe(call)} before it is called with training=True.",
            )
    return None


def refuse_sharing(
    graph: Graph, batch_norm: Layer, producers: Collection[Call]
) -> Refusal | None:
    """Refuses a layer with several calls, unless every one of them feeds this BN layer."""
    layers = {call.layer.path: call.layer for call in producers}
    if len(layers) > 1:
        return Refusal(
            Reason.SHARED_LAYER,
            f"It is called {len(producers)} times, behind {' and '.join(layers)}.",
        )
    (layer,) = layers.values()
    for shared in (batch_norm, layer):
        holder = graph.holder(shared)
        if holder is not None:
            return Refusal(
                Reason.SHARED_LAYER, f"{shared.path} is also used inside {holder.path}."
            )
    count = len(graph.calls_of(layer))
    if count > len({call.index for call in producers}):
        return Refusal(
            Reason.SHARED_LAYER,
            f'{layer.kind} "{layer.path}" is called {count} times, and only '
            f"{len(producers)} of these calls feed this layer.",
        )
    return None


def is_in_training_mode(call: Call) -> bool:
    """Whether `training=True`, or something that is no constant, is written into a call."""
    written = (call.training, call.kwargs.get("training"))
    return any(value is not None and value is not False for value in written)


def _passes(call: Call) -> bool:
    return (
        call.kind in _PASSED
        and len(call.inputs) == 1
        and kinds.is_identity_at_inference(call)
        and not is_batch_norm(call.layer)
    )
