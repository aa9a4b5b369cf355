"""TensorFlow functions on symbolic tensors of Keras, while a call is traced.

Keras notes its own operations only; `tf.nn.relu(x)` on a symbolic tensor is an error. Through
TensorFlow's dispatch such a call becomes an operation too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

_active: ContextVar[bool] = ContextVar("following", default=False)

# Functions that do what an operation of Keras does; the others stay unknown.
SAME = {
    "relu": "ops.Relu",
    "relu6": "ops.Relu6",
    "softmax_v2": "ops.Softmax",
    "sigmoid": "ops.Sigmoid",
    "identity": "ops.Identity",
    "add": "ops.Add",
    "add_v2": "ops.Add",
    "subtract": "ops.Subtract",
    "multiply": "ops.Multiply",
}


@contextmanager
def followed() -> Iterator[None]:
    """Within, functions of TensorFlow take symbolic tensors, and nothing is computed."""
    import tensorflow as tf

    _register()
    token = _active.set(True)
    try:
        with tf.__internal__.FuncGraph("bnscope").as_default():
            yield
    finally:
        _active.reset(token)


@cache
def _register() -> None:
    """Puts the dispatcher in place; it takes part only where calls are followed."""
    import keras
    import tensorflow as tf
    from keras.src import backend
    from keras.src.utils.naming import auto_name

    class Function(keras.Operation):  # type: ignore[misc]
        def __init__(self, function: Any) -> None:
            name = getattr(function, "__name__", "function")
            super().__init__(name=auto_name(name))
            self.function = function
            self.bnscope_kind = SAME.get(name, f"custom.tf.{name}")

        def call(self, *args: Any, **kwargs: Any) -> Any:
            return self.function(*args, **kwargs)

        def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
            return backend.compute_output_spec(self.function, *args, **kwargs)

    class Dispatcher(tf.__internal__.dispatch.GlobalOpDispatcher):  # type: ignore[misc]
        def handle(self, op: Any, args: Any, kwargs: Any) -> Any:
            values = keras.tree.flatten((args, kwargs))
            symbolic = any(isinstance(value, keras.KerasTensor) for value in values)
            if not (symbolic and _active.get()):
                return self.NOT_SUPPORTED
            return Function(op)(*args, **kwargs)

    Dispatcher().register()
