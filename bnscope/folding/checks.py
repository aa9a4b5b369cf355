"""What speaks against folding a BN layer, one check after the other.

Each check is a function that returns a `Refusal`, or None if it has nothing against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from bnscope.bn import scale_and_shift
from bnscope.folding.patterns import family_for
from bnscope.folding.patterns.base import Pattern, not_taken
from bnscope.folding.patterns.identity import is_in_training_mode
from bnscope.folding.reasons import Reason, Refusal
from bnscope.graph import batchnorm, kinds
from bnscope.graph.model import CUSTOM_LAYER, Call, Graph, Layer, NotAnalysed
from bnscope.rules.base import channel_list
from bnscope.rules.invalid_statistics import InvalidStatistics

_WRAPPERS = frozenset({"Bidirectional", "RNN", "SpectralNormalization"})
_PLAIN_POLICIES = frozenset({"DTypePolicy", "FloatDTypePolicy", "Policy", "PolicyV1"})
_QUANTIZED_NAMES = ("int8", "int4", "float8", "gptq", "awq", "uint8")
Check = Callable[[], Refusal | None]


def first_refusal(checks: Iterable[Check]) -> Refusal | None:
    """The first refusal of these checks, in order."""
    for check in checks:
        refusal = check()
        if refusal is not None:
            return refusal
    return None


def refuse_layer(graph: Graph, layer: Layer) -> Refusal | None:
    """What speaks against a BN layer itself, whatever feeds it."""
    return first_refusal(
        [
            partial(_refuse_class, layer),
            partial(_refuse_place, graph, layer),
            partial(_refuse_calls, graph, layer),
            partial(_refuse_statistics, graph, layer),
        ]
    )


def _refuse_class(layer: Layer) -> Refusal | None:
    if layer.kind in batchnorm.KINDS:
        return None
    return Refusal(
        Reason.CUSTOM_LAYER,
        f"Its class {layer.kind.removeprefix('custom.')} is not Keras's BatchNormalization.",
    )


def _refuse_place(graph: Graph, layer: Layer) -> Refusal | None:
    if graph.calls_of(layer):
        return None
    part = graph.not_analysed_around(layer)
    if part is not None and part.reason != CUSTOM_LAYER:
        where = f"{part.layer} is" if part.layer else "The model is"
        return Refusal(Reason.OPAQUE_GRAPH, f"{where} not analysed: {part.reason}.")
    custom = next((each for each in graph.around(layer) if each.is_custom), None)
    if custom is not None:
        return Refusal(
            Reason.CUSTOM_LAYER,
            f'It is inside {custom.kind.removeprefix("custom.")} "{custom.path}", and how '
            "that uses it is not known.",
        )
    return _refuse_wrapped(graph, layer) or Refusal(
        Reason.OPAQUE_GRAPH, "No call of it is found in the model."
    )


def _refuse_wrapped(graph: Graph, layer: Layer) -> Refusal | None:
    """The refusal of a layer inside a wrapper that is not seen through."""
    steps = next((w for w in graph.around(layer) if w.kind == kinds.TIME_DISTRIBUTED), None)
    if steps is not None:
        return Refusal(
            Reason.NO_LINEAR_NEIGHBOUR,
            f'It is inside TimeDistributed "{steps.path}", which is called with a mask, or '
            "whose layer is used elsewhere too.",
        )
    holder = graph.holder(layer)
    if holder is None or holder.kind not in _WRAPPERS:
        return None
    return Refusal(
        Reason.NO_LINEAR_NEIGHBOUR,
        f'It is inside {holder.kind} "{holder.path}", where it has no layer before it.',
    )


def _opaque_parts(graph: Graph) -> list[NotAnalysed]:
    """The models whose structure is not known; custom layers have a reason of their own."""
    return [part for part in graph.not_analysed if part.reason != CUSTOM_LAYER]


def _refuse_calls(graph: Graph, layer: Layer) -> Refusal | None:
    for call in graph.calls_of(layer):
        if layer.trainable and is_in_training_mode(call):
            return Refusal(
                Reason.BAKED_TRAINING,
                "It is called with training=True, so that it normalizes with the statistics "
                "of each batch.",
            )
    return None


def _refuse_statistics(graph: Graph, layer: Layer) -> Refusal | None:
    if not graph.has_weights:
        return None
    state = batchnorm.state(layer)
    if state is None:
        return Refusal(Reason.INVALID_STATISTICS, "Its statistics cannot be read.")
    problems = InvalidStatistics().check_state(state)
    if problems:
        worst = problems[0]
        where = channel_list(worst.channels)
        return Refusal(
            Reason.INVALID_STATISTICS, f"{worst.statistic} is {worst.value:g} in {where}."
        )
    if not all(np.isfinite(values).all() for values in scale_and_shift(state)):
        return Refusal(
            Reason.INVALID_STATISTICS, "Its moving_variance and epsilon are both zero."
        )
    return None


def refuse_producer(graph: Graph, call: Call) -> Refusal | None:
    """What speaks against a layer that would take up BN behind it."""
    layer, name = call.layer, kinds.describe(call)
    if any(part.layer == layer.path for part in _opaque_parts(graph)):
        return Refusal(Reason.OPAQUE_GRAPH, f"{name} feeds it, whose inside is not known.")
    if layer.is_custom:
        return Refusal(
            Reason.CUSTOM_LAYER,
            f"{name} feeds it, a custom layer; its formula is not known.",
        )
    family = family_for(call)
    if not isinstance(family, Pattern):
        return None if family else not_taken(call)
    if family.only_ahead:
        return not_taken(call)
    return refuse_weights(call) or _refuse_activation(call)


def refuse_weights(call: Call) -> Refusal | None:
    """What speaks against changing the weights of a layer, those inside it included."""
    for layer in _with_inner(call.layer):
        if _is_quantized(layer):
            return Refusal(
                Reason.QUANTIZED_LAYER,
                f"The kernel of {kinds.describe(call)} is quantized.",
            )
        if _has_lora(layer):
            return Refusal(
                Reason.LORA, f"{kinds.describe(call)} has LoRA weights that are not merged."
            )
    return None


def _with_inner(layer: Layer) -> Iterator[Layer]:
    yield layer
    for inner in layer.children:
        yield from _with_inner(inner)


def _refuse_activation(call: Call) -> Refusal | None:
    if kinds.is_linear_activation(call.config):
        return None
    activation = kinds.activation_name(call.config)
    return Refusal(
        Reason.NONLINEAR_PRODUCER,
        f"{kinds.describe(call)} has the activation {activation} before BN.",
    )


def _is_quantized(layer: Layer) -> bool:
    policy = layer.config.get("dtype")
    if isinstance(policy, dict):
        if "Map" in str(policy.get("class_name")):
            return any(_names_quantization(name) for name in _texts(policy))
        if str(policy.get("class_name")) not in _PLAIN_POLICIES:
            return True
        inner = policy.get("config")
        policy = inner.get("name") if isinstance(inner, dict) else None
    return _names_quantization(policy)


def _names_quantization(policy: object) -> bool:
    return isinstance(policy, str) and policy.startswith(_QUANTIZED_NAMES)


def _texts(value: object) -> Iterator[str]:
    """All texts in a value of a configuration."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _has_lora(layer: Layer) -> bool:
    names = layer.variables
    return bool(layer.config.get("lora_rank")) or any(
        name.startswith("lora_") for name in names
    )
