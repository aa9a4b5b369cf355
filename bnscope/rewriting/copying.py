"""One Keras layer -> another one like it, with its own variables and the same state."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.errors import UnsupportedModelError, first_line
from bnscope.graph import kinds, live
from bnscope.rewriting.edits import Weights

Change = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def copy_layer(layer: Any, change: Change | None = None) -> Any:
    """A new layer of the same class, not yet built.

    Args:
        layer: a Keras layer or operation.
        change: what is done to its configuration; it must not change what it is given.

    Returns:
        The new layer; it shares no variable with the old one.

    Raises:
        UnsupportedModelError: if the class cannot be made again from its configuration.
    """
    import keras

    if not isinstance(layer, keras.layers.Layer):
        return _copy_operation(layer)
    try:
        config = layer.get_config()
        config = dict(config if change is None else change(config))
        config.update(_live_functions(layer, config))
        config.update(dict.fromkeys(_costly_initializers(layer, config), "zeros"))
        if isinstance(layer, keras.layers.Lambda):
            return type(layer)(**{**config, "output_shape": layer._output_shape})  # noqa: SLF001
        new = type(layer).from_config(config)
        new.name = config.get("name", layer.name)  # the automatic config leaves it out
        return new  # noqa: TRY300  what raises is above
    except Exception as error:
        if not layer.variables and not layer._layers:  # noqa: SLF001
            return _copy_operation(layer)  # without a state, a shallow copy is one
        # Whatever a user's class raises: the model is not usable here, and this says why.
        raise UnsupportedModelError(
            f'Layer "{layer.name}" of class {type(layer).__name__} cannot be made again '
            f"from its configuration: {first_line(error)}.",
            "Give the class a get_config() that holds the arguments of its constructor.",
        ) from error


def copy_state(old: Any, new: Any) -> None:
    """Copies everything a built layer holds into a layer made by `copy_layer`.

    Args:
        old: the layer to copy from.
        new: the layer to copy to, built.

    Raises:
        UnsupportedModelError: if the new layer has other variables than the old one.
    """
    for source, target in _with_sublayers(old, new):
        _copy_special_state(source, target)
    sources, targets = state_variables(old), state_variables(new)
    if [_signature(v) for v in sources] != [_signature(v) for v in targets]:
        raise UnsupportedModelError(
            f'Layer "{old.name}" of class {type(old).__name__}, made again from its '
            "configuration, has other variables than the original.",
            "Let its get_config() hold all that decides which variables it creates.",
        )
    for source, target in zip(sources, targets, strict=True):
        target.assign(to_numpy(source))


def restore_initializers(old: Any, new: Any) -> None:
    """Gives a built layer the initializers that `copy_layer` left out."""
    import keras

    config = old.get_config() if _is_linear(old) else {}
    for key in _costly_initializers(old, config):
        setattr(new, key, keras.initializers.get(config[key]))


def copy_trainable(old: Any, new: Any) -> None:
    """Copies the flag `trainable` of a layer and of all layers inside it."""
    for source, target in _with_sublayers(old, new):
        if target.trainable != source.trainable:
            target.trainable = source.trainable


def read_weights(layer: Any) -> dict[str, npt.NDArray[Any]]:
    """All variables of a layer by name, those of layers inside it included."""
    return {name: to_numpy(value) for name, value in named_variables(layer).items()}


def write_weights(layer: Any, weights: Weights) -> None:
    """Sets the variables that `read_weights` reads, each rounded once to its dtype."""
    variables = named_variables(layer)
    if set(variables) != set(weights):
        raise UnsupportedModelError(
            f'Layer "{layer.name}" of class {type(layer).__name__} has the variables '
            f"{sorted(variables)}, expected {sorted(weights)}.",
            "This version of Keras builds the layer in another way; please report it.",
        )
    for name, variable in variables.items():
        value = np.asarray(weights[name])
        variable.assign(value.astype(_numpy_dtype(str(variable.dtype))))


def named_variables(layer: Any) -> dict[str, Any]:
    """All variables and states of a layer by names that a copy of it has too.

    A variable of a layer inside has the names of attributes before its own: `cell/kernel`,
    `query_dense/bias`. Names of layers would not do: a copy may number them otherwise.
    """
    found: dict[str, Any] = {}
    for place, each in _by_place(layer):
        states = [g.state for g in getattr(each, "_seed_generators", ())]
        if getattr(each, "stateful", False):
            states += getattr(each, "states", None) or ()
        found |= {f"{place}{variable.name}": variable for variable in own_variables(each)}
        found |= {f"{place}state {index}": state for index, state in enumerate(states)}
    return found


def own_variables(layer: Any) -> list[Any]:
    """The variables of a layer without those of layers inside it."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]  # noqa: SLF001


def _by_place(layer: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """A layer and all layers inside it, with the attributes that lead to each."""
    yield place, layer
    names = {id(value): name.lstrip("_") for name, value in vars(layer).items()}
    for index, inner in enumerate(getattr(layer, "_layers", ())):
        yield from _by_place(inner, f"{place}{names.get(id(inner), index)}/")


def all_layers(layer: Any) -> Iterator[Any]:
    """A layer and all layers inside it, nested models included."""
    yield layer
    for inner in getattr(layer, "_layers", ()):
        yield from all_layers(inner)


def is_users_function(value: Any) -> bool:
    """Whether a value is a Python function that is not Keras's own."""
    module = str(getattr(value, "__module__", ""))
    return isinstance(value, FunctionType) and not module.startswith("keras.")


def state_variables(layer: Any) -> list[Any]:
    """All variables of a layer, with the states that stateful recurrent layers keep."""
    found = {id(variable): variable for variable in layer.variables}
    for inner in all_layers(layer):
        if getattr(inner, "stateful", False):
            states = getattr(inner, "states", None) or ()
            found.update({id(state): state for state in states})
    return list(found.values())


def to_numpy(variable: Any) -> npt.NDArray[Any]:
    """The values of a variable or tensor."""
    import keras

    return np.asarray(keras.ops.convert_to_numpy(variable))


def _costly_initializers(layer: Any, config: Mapping[str, Any]) -> list[str]:
    # Drawing random kernels, only to overwrite them, takes a third of the time of a copy.
    if not _is_linear(layer):
        return []
    return [key for key in config if key.endswith("kernel_initializer")]


def _is_linear(layer: Any) -> bool:
    return live.kind_of(layer) in kinds.LINEAR


def _copy_operation(operation: Any) -> Any:
    # An operation has no variables; its arguments may be objects that no configuration holds.
    twin = object.__new__(type(operation))
    vars(twin).update(vars(operation))  # copy.copy would ask a layer for its configuration
    twin._inbound_nodes = []
    twin._outbound_nodes = []
    return twin


def _live_functions(layer: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """The user's functions themselves, of which the configuration holds names or bytecode."""
    found = {key: getattr(layer, key, None) for key in config}
    return {key: value for key, value in found.items() if is_users_function(value)}


def _with_sublayers(old: Any, new: Any) -> Iterator[tuple[Any, Any]]:
    """The pair and the pairs of layers inside, outermost first."""
    yield old, new
    inner = getattr(old, "_layers", ()), getattr(new, "_layers", ())
    for source, target in zip(*inner, strict=False):
        yield from _with_sublayers(source, target)


def _copy_special_state(old: Any, new: Any) -> None:
    """State that is no variable: vocabularies, and what is computed once from variables."""
    if hasattr(old, "finalize_state") or _saves_itself(old):
        store: dict[str, Any] = {}
        old.save_own_variables(store)
        new.load_own_variables({key: np.asarray(value) for key, value in store.items()})
    if hasattr(old, "save_assets") and hasattr(new, "load_assets"):
        with tempfile.TemporaryDirectory(prefix="bnscope-") as folder:
            old.save_assets(folder)
            new.load_assets(folder)


def _saves_itself(layer: Any) -> bool:
    """Whether a user's class says itself how its variables are saved."""
    saver = type(layer).load_own_variables
    return not str(getattr(saver, "__module__", "keras.")).startswith("keras.")


def _numpy_dtype(name: str) -> Any:
    import ml_dtypes  # Keras brings it along

    return np.dtype(getattr(ml_dtypes, name, name))


def _signature(variable: Any) -> tuple[tuple[int, ...], str]:
    # Not the name: a variable that is given none is numbered through.
    return tuple(variable.shape), str(variable.dtype)
