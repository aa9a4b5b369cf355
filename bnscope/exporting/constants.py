"""Constants that layers hold as tensors, of which a converter would make inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bnscope.rewriting.copying import all_layers, to_numpy

_HELD = ("mean", "variance")


@contextmanager
def written_out(model: Any) -> Iterator[None]:
    """Lets `Normalization` layers hold arrays, which become constants of what is traced.

    Args:
        model: a Keras model. It is as before afterwards.
    """
    import keras

    layers = [
        layer
        for layer in all_layers(model)
        if isinstance(layer, keras.layers.Normalization) and layer.mean is not None
    ]
    saved = [(layer, {name: getattr(layer, name) for name in _HELD}) for layer in layers]
    try:
        for layer, tensors in saved:
            vars(layer).update({name: to_numpy(value) for name, value in tensors.items()})
        yield
    finally:
        for layer, tensors in saved:
            vars(layer).update(tensors)
