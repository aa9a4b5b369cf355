"""Functions of tensors, compiled where the backend gains by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

# Tensors or arrays, in an order that is agreed on.
Tensors = Sequence[Any]
Function = Callable[[Tensors], Any]


def compiled(function: Function, model: Any, examples: Sequence[Tensors]) -> Function:
    """The function, compiled; its results are numpy arrays.

    Args:
        function: takes tensors, and returns nested lists of tensors; it reads variables of the model.
        model: the model; its variables may change between two calls.
        examples: arrays that it will be called with.

    Returns:
        A function that takes and returns arrays.
    """
    import keras

    name = keras.backend.backend()
    if name == "tensorflow":
        return _as_arrays(_in_tensorflow(function, examples))
    if name == "jax":
        return _as_arrays(_in_jax(function, model))
    return eager(function)


def eager(function: Function) -> Function:
    """The function without compilation; it takes and returns arrays."""
    import keras

    def run(given: Tensors) -> Any:
        tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, given)
        if keras.backend.backend() == "torch":
            import torch

            with torch.no_grad():
                return function(tensors)
        return function(tensors)

    return _as_arrays(run)


def _in_tensorflow(function: Function, examples: Sequence[Tensors]) -> Function:
    """One trace for batches of all sizes."""
    import keras
    import tensorflow as tf

    def spec(*arrays: Any) -> Any:
        first = arrays[0]
        sizes = zip(*(array.shape for array in arrays), strict=True)
        shape = [size[0] if len(set(size)) == 1 else None for size in sizes]
        dtype = tf.string if first.dtype.kind in "OSU" else first.dtype
        return tf.TensorSpec(shape, dtype)

    signature = keras.tree.map_structure(spec, *examples)
    return tf.function(function, autograph=False, input_signature=[signature])  # type: ignore[no-any-return]


def _in_jax(function: Function, model: Any) -> Function:
    import jax
    import keras

    variables = list(model.variables)

    @jax.jit
    def run(values: Sequence[Any], given: Tensors) -> Any:
        with keras.StatelessScope(zip(variables, values, strict=True)):
            return function(given)

    return lambda given: run([variable.value for variable in variables], given)


def _as_arrays(function: Function) -> Function:
    import keras

    def run(given: Tensors) -> Any:
        return keras.tree.map_structure(keras.ops.convert_to_numpy, function(given))

    return run
