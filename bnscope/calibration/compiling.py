"""Functions of tensors, compiled where the backend gains by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

# In an order that is agreed on.
Tensors = Sequence[Any]
Function = Callable[[Tensors], Any]


def compiled(function: Function, model: Any, examples: Sequence[Tensors]) -> Function:
    """The function, compiled if the backend compiles.

    Args:
        function: takes tensors, and returns nested lists of them. It reads variables.
        model: the model that these belong to; they may change between two calls.
        examples: tensors that it will be called with, of each shape; of all but the first their
            shapes suffice.
    """
    import keras

    name = keras.backend.backend()
    if name == "tensorflow":
        return _in_tensorflow(function, examples)
    if name == "jax":
        return _in_jax(function, model)
    return eager(function)


def compiled_if_possible(
    function: Function, model: Any, examples: Sequence[Tensors]
) -> Function:
    """The function compiled; without, if that or a first call fails: some layers run eagerly only."""
    try:
        quick = compiled(function, model, examples)
        quick(examples[0])
    except Exception:  # noqa: BLE001  each backend raises its own
        return eager(function)
    return quick


def one_of_each_shape(batches: Iterable[Tensors]) -> list[Tensors]:
    """The batches that differ in shape from all before."""
    found: dict[Any, Tensors] = {}
    for batch in batches:
        found.setdefault(tuple(tensor.shape for tensor in batch), batch)
    return list(found.values())


def eager(function: Function) -> Function:
    """The function without compilation."""
    import keras

    def run(given: Tensors) -> Any:
        tensors = [keras.ops.convert_to_tensor(value) for value in given]
        if keras.backend.backend() == "torch":
            import torch

            with torch.no_grad():
                return function(tensors)
        return function(tensors)

    return run


def loaded(arrays: Sequence[Any]) -> list[Any]:
    """Arrays as tensors."""
    import keras

    return kept([keras.ops.convert_to_tensor(array) for array in arrays])


def kept(tensors: Tensors) -> list[Any]:
    """Tensors in the memory of the machine, where there is more than on an accelerator."""
    import keras

    name = keras.backend.backend()
    if name == "jax":
        import jax

        host = jax.local_devices(backend="cpu")[0]
        return [jax.device_put(tensor, host) for tensor in tensors]
    if name == "tensorflow":
        import tensorflow as tf

        with tf.device("CPU:0"):  # without a copy if they are there
            return [tf.identity(tensor) for tensor in tensors]
    return [tensor.cpu() if name == "torch" else tensor for tensor in tensors]


def size_of(tensor: Any) -> int:
    """How many bytes a tensor or array takes."""
    import keras

    itemsize: int = np.dtype(keras.backend.standardize_dtype(tensor.dtype)).itemsize
    return int(math.prod(tensor.shape)) * itemsize


def _in_tensorflow(function: Function, examples: Sequence[Tensors]) -> Function:
    """One trace for batches of all sizes."""
    import tensorflow as tf

    def spec(*arrays: Any) -> Any:
        first = arrays[0]
        sizes = zip(*(array.shape for array in arrays), strict=True)
        shape = [size[0] if len(set(size)) == 1 else None for size in sizes]
        return tf.TensorSpec(shape, first.dtype)

    signature = [spec(*tensors) for tensors in zip(*examples, strict=True)]
    quick = tf.function(function, autograph=False)
    return quick.get_concrete_function(signature)  # type: ignore[no-any-return]


def _in_jax(function: Function, model: Any) -> Function:
    import jax
    import keras

    variables = list(model.variables)

    @jax.jit  # type: ignore[untyped-decorator]
    def run(values: Sequence[Any], given: Tensors) -> Any:
        with keras.StatelessScope(zip(variables, values, strict=True)):
            return function(given)

    def call(given: Tensors) -> Any:
        values = [variable.value for variable in variables]
        return run(values, jax.device_put(list(given), jax.local_devices()[0]))

    return call
