"""Where a `call` can run on symbolic tensors without changing a model, and is watched.

What it changes nevertheless is put back, and what it looked at is noted.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

# What Python calls on a tensor to have its values, which a symbolic one answers with an error.
_LOOKS = (
    "__array__",
    "__bool__",
    "__float__",
    "__int__",
    "__iter__",
    "__jax_array__",
)  # not __tf_tensor__, which TensorFlow calls before it asks its dispatchers


class UntraceableError(Exception):
    """Why a call could not be followed."""


@contextmanager
def noted_looks(noted: list[str]) -> Iterator[None]:
    """Notes each attempt to have the values of a symbolic tensor, caught or not.

    Args:
        noted: gets the names of the methods that were called.
    """
    import keras

    own = {
        name: method for name, method in vars(keras.KerasTensor).items() if name in _LOOKS
    }

    def watched(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def look(*args: Any, **kwargs: Any) -> Any:
            noted.append(name)
            return method(*args, **kwargs)

        return look

    try:
        for name, method in own.items():
            setattr(keras.KerasTensor, name, watched(name, method))
        yield
    finally:
        for name, method in own.items():
            setattr(keras.KerasTensor, name, method)


def plain_attributes(layer: Any) -> dict[str, Any]:
    """The numbers and strings that a user's class keeps on a layer."""
    import keras

    kept = _keras_attributes(keras.Model if isinstance(layer, keras.Model) else keras.Layer)
    return {
        name: value
        for name, value in vars(layer).items()
        if name not in kept and isinstance(value, (bool, int, float, str))
    }


@cache
def _keras_attributes(cls: Any) -> frozenset[str]:
    return frozenset(vars(cls()))


def changes(layer: Any, before: Mapping[str, Any], scope: Any) -> tuple[str, ...]:
    """What a call gave another value.

    Args:
        layer: the layer that was called.
        before: its `plain_attributes` before the call.
        scope: the `keras.StatelessScope` in which it ran.

    Returns:
        Names of attributes and variables.
    """
    after = plain_attributes(layer)
    attributes = [name for name, value in after.items() if before.get(name) != value]
    assigned = [
        variable.name
        for variable in layer.variables
        if scope.get_current_value(variable) is not None
    ]
    return (*attributes, *assigned)


@contextmanager
def as_before(layers: Sequence[Any]) -> Iterator[None]:
    """Puts back the attributes of layers, and what lists, dictionaries and sets held."""
    saved = [(layer, dict(vars(layer)), _contents(layer)) for layer in layers]
    try:
        for layer in layers:
            vars(layer)["add_loss"] = _ignore  # takes no symbolic tensors
            if not layer.built and (_has_build(layer) or layer._layers):  # noqa: SLF001
                vars(layer)["build"] = _refuse_to_build
        yield
    finally:
        for layer, attributes, contents in saved:
            now = vars(layer)
            for name in set(now) - set(attributes):
                del now[name]
            now.update(attributes)
            for value, copy in contents:
                _restore(value, copy)


def _contents(layer: Any) -> list[tuple[Any, Any]]:
    pairs: list[tuple[Any, Any]] = []
    for value in vars(layer).values():
        kind = next((kind for kind in (list, dict, set) if isinstance(value, kind)), None)
        if kind is not None:
            pairs.append((value, kind(value)))
    return pairs


def _restore(value: Any, copy: Any) -> None:
    # Past the methods of Keras's own containers, which would track what is put back.
    if isinstance(value, list):
        if len(value) != len(copy) or any(
            a is not b for a, b in zip(value, copy, strict=True)
        ):
            list.__setitem__(value, slice(None), copy)
            storage = getattr(value, "_storage", None)  # of TensorFlow's wrapper
            if isinstance(storage, list):
                storage[:] = copy
    elif isinstance(value, dict):
        if list(value.items()) != list(copy.items()):
            dict.clear(value)
            dict.update(value, copy)
    elif len(value) != len(copy):
        set.clear(value)
        set.update(value, copy)


def _has_build(layer: Any) -> bool:
    return not getattr(layer.build, "_is_default", False)


def _refuse_to_build(*args: Any, **kwargs: Any) -> None:
    del args, kwargs
    raise UntraceableError("one of its layers is not built; call it on data once")


def _ignore(*args: Any, **kwargs: Any) -> None:
    del args, kwargs


@contextmanager
def sandbox(layer: Any, *, training: bool) -> Iterator[Any]:
    """Where a call changes no variable, no count of names, and no other call's context."""
    import keras
    from keras.src.backend.common import global_state
    from keras.src.layers.layer import CallContext

    context = CallContext(entry_layer=layer)
    context.training = training
    own = {"object_name_uids": defaultdict(int), "current_call_ctx": context}
    saved = {name: global_state.get_global_attribute(name) for name in own}
    with ExitStack() as stack:
        stack.callback(
            lambda: [global_state.set_global_attribute(*item) for item in saved.items()]
        )
        for name, value in own.items():
            global_state.set_global_attribute(name, value)
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        scope = stack.enter_context(keras.StatelessScope())
        if keras.backend.backend() == "tensorflow":
            from bnscope.graph import tensorflow_functions

            stack.enter_context(tensorflow_functions.followed())
        yield scope
