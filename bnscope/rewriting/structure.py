"""What a Keras model is made of, and whether it can be made again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from bnscope.errors import UnsupportedModelError
from bnscope.graph.model import Graph
from bnscope.graph.tracing import is_followed, overrides_call

REBUILDABLE = "Build it with keras.Sequential or the functional API."


def check_rebuildable(model: Any) -> None:
    """Raises UnsupportedModelError unless the model can be made again from its layers."""
    import keras

    kind = type(model).__name__
    if not isinstance(model, keras.Sequential) and not is_functional(model):
        raise UnsupportedModelError(
            f'"{model.name}" is a subclassed model ({kind}): its structure is written in '
            "its `call` only, so it cannot be made again with changes.",
            REBUILDABLE,
        )
    if not model.built:
        raise UnsupportedModelError(
            f'"{model.name}" is not built, so it has no weights.',
            "Call it on data, or give it a keras.Input, first.",
        )
    if overrides_call(model):
        raise UnsupportedModelError(
            f'"{model.name}" ({kind}) has a `call` of its own, so its graph does not say '
            "what it computes.",
            REBUILDABLE,
        )


def check_openable(model: Any, graph: Graph) -> None:
    """Raises UnsupportedModelError unless the model's structure is known, and it is built.

    Args:
        model: a Keras model.
        graph: its graph, with the `call`s of the user's followed.
    """
    if not is_followed(model):
        check_rebuildable(model)
        return
    part = next((part for part in graph.not_analysed if not part.layer), None)
    if part is not None:
        kind = type(model).__name__
        raise UnsupportedModelError(
            f'"{model.name}" is a subclassed model ({kind}): its structure is written in '
            f"its `call`, which cannot be followed: {part.reason}.",
            REBUILDABLE,
        )


@contextmanager
def custom_classes(layers: Iterable[Any]) -> Iterator[None]:
    """Lets Keras find the classes of these layers by name, as registered ones are found."""
    import keras

    classes = {
        type(layer).__name__: type(layer)
        for layer in layers
        if not type(layer).__module__.startswith("keras.")
    }
    with keras.saving.custom_object_scope(classes):
        yield


def nodes(model: Any) -> Iterator[Any]:
    """The nodes of a Functional model in the order in which it runs them."""
    by_depth = model._nodes_by_depth  # noqa: SLF001
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if not node.is_input:
                yield node


def is_functional(layer: Any) -> bool:
    """Whether a layer is a model with a graph of nodes."""
    import keras

    return isinstance(layer, keras.Model) and hasattr(layer, "_nodes_by_depth")
