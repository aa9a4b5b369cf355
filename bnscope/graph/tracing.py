"""What a subclassed model or a custom layer does with its layers, told by calling it once.

`call` runs on symbolic tensors, in which Keras itself notes who was called with what. It runs
where no variable can change, and what it leaves behind on the layers is put back. It runs
twice, with `training` True and False: only what both runs agree on is believed,
with the constants of inference.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from bnscope.errors import first_line
from bnscope.graph.sandbox import (
    UntraceableError,
    as_before,
    changes,
    noted_looks,
    plain_attributes,
    sandbox,
)
from bnscope.graph.traces import (
    Arguments,
    Trace,
    agreed,
    constants,
    mapped,
    modes,
    nodes_before,
    outline,
    symbolic_tensors,
)

# One sample alone is often special, and so are the sizes of whole batches.
_BATCH_SIZES = (1, 3, 32)
_LOOKS = "its `call` looks at the values of a tensor"


class Tracer:
    """Follows the calls of the layers of one model.

    Args:
        model: a built `keras.Model`. It is as before after every trace.
    """

    def __init__(self, model: Any) -> None:
        self.layers: list[Any] = list(model._flatten_layers())  # noqa: SLF001
        self.known = {id(layer) for layer in self.layers}
        self.traces: dict[tuple[int, str], Trace] = {}

    def first_call(self, model: Any) -> Arguments:
        """The arguments with which a model was built.

        Raises:
            UntraceableError: if it is not built, or its input shape is not known.
        """
        if not model.built:
            raise UntraceableError("it is not built; call it on data once")
        if hasattr(model, "_nodes_by_depth"):
            return Arguments((model.input,), {})
        shapes = getattr(model, "_build_shapes_dict", None)
        if not shapes:
            raise UntraceableError(
                "Keras does not know its input shape (its `call` runs on no symbolic tensors, "
                "or it was never called on data)"
            )
        dtype = model.input_dtype
        if len(shapes) == 1:
            return Arguments((_symbolic(next(iter(shapes.values())), dtype),), {})
        given = {name.removesuffix("_shape"): shape for name, shape in shapes.items()}
        if not set(given) <= set(inspect.signature(model.call).parameters):
            raise UntraceableError("the arguments of its `call` are not known")
        return Arguments(
            (), {name: _symbolic(shape, dtype) for name, shape in given.items()}
        )

    def trace(self, layer: Any, calls: Sequence[Arguments]) -> Trace:
        """Calls a layer as it was called before; once, if it is asked for again.

        Args:
            layer: a subclassed model or a custom layer.
            calls: the arguments of all its calls.

        Raises:
            UntraceableError: if the calls cannot be followed, or not with certainty.
        """
        if any(_depends_on_masks(layer, call) for call in calls):
            raise UntraceableError("it takes a mask, or hands one on, which no node shows")
        if len({_summary(call) for call in calls}) != 1:
            raise UntraceableError("it is called in several ways")
        key = (id(layer), _summary(calls[0], in_full=True))
        if key not in self.traces:
            self.traces[key] = self._trace(layer, calls[0])
        return self.traces[key]

    def _trace(self, layer: Any, call: Arguments) -> Trace:
        runs = [self._run(layer, call, training=training) for training in (True, False)]
        if outline(runs[0], self.known) != outline(runs[1], self.known):
            raise UntraceableError("its `call` does not always call the same layers")
        pairs = zip(
            modes(runs[0], training=True), modes(runs[1], training=False), strict=True
        )
        training = [agreed(training=one, inference=other) for one, other in pairs]
        return replace(runs[1], training=training)

    def check_batch_sizes(self, layer: Any, trace: Trace) -> None:
        """Calls a layer on batches of several fixed sizes, where a trace left that open.

        Raises:
            UntraceableError: if it then does something else.
        """
        expected = (outline(trace, self.known), constants(trace, self.known))
        for size in _BATCH_SIZES:
            args, kwargs = trace.arguments.filled(partial(_with_batch, size=size))
            try:
                other = self._run(layer, Arguments(tuple(args), kwargs), training=False)
            except UntraceableError as error:
                if str(error) == _LOOKS:
                    raise
                continue  # nor would the original run
            if (outline(other, self.known), constants(other, self.known)) != expected:
                raise UntraceableError(
                    f"its `call` does something else with batches of {size}"
                )

    def _run(self, layer: Any, call: Arguments, *, training: bool) -> Trace:
        looks: list[str] = []
        with (
            as_before(self.layers),
            sandbox(layer, training=training) as scope,
            noted_looks(looks),
        ):
            before = plain_attributes(layer)
            try:
                trace = self._record(layer, call, training=training)
                if looks:  # and the `call` caught the error
                    raise UntraceableError(_LOOKS)
                return replace(trace, changes=changes(layer, before, scope))
            except UntraceableError as error:
                # Keras adds lines to what is raised within a call.
                raise UntraceableError(_own_line(error)) from error
            except Exception as error:  # a user's `call` may raise anything
                raise UntraceableError(_LOOKS if looks else _reason(error)) from error

    def _record(self, layer: Any, call: Arguments, *, training: bool) -> Trace:
        import keras

        before = [len(each._inbound_nodes) for each in self.layers]  # noqa: SLF001
        args, kwargs, inputs = _fresh_inputs(layer, call)
        if "training" in inspect.signature(layer.call).parameters:
            kwargs["training"] = training
        returned = layer.call(*args, **kwargs)
        outputs = [value for value in keras.tree.flatten(returned) if value is not None]
        if not outputs or not all(hasattr(value, "_keras_history") for value in outputs):
            raise UntraceableError("its `call` returns what is not made of its inputs")
        new = [
            node
            for each, count in zip(self.layers, before, strict=True)
            for node in each._inbound_nodes[count:]  # noqa: SLF001
        ]
        nodes = nodes_before(outputs, new, inputs)
        for node in nodes:
            self._check(node)
        given = Arguments(tuple(args), kwargs)
        return Trace(given, inputs, returned, outputs, nodes)

    def _check(self, node: Any) -> None:
        import keras

        operation = node.operation
        if id(operation) in self.known or isinstance(operation, keras.layers.InputLayer):
            return
        if getattr(operation, "weights", None):
            raise UntraceableError(
                f'its `call` uses "{operation.name}", which is none of its layers'
            )
        arguments = node.arguments
        values = keras.tree.flatten([list(arguments.args), dict(arguments.kwargs)])
        if any(callable(value) and not hasattr(value, "shape") for value in values):
            raise UntraceableError(
                f"its `call` passes functions to {type(operation).__name__.lower()}"
            )


def overrides_call(model: Any) -> bool:
    """Whether a user's class, not Keras, says what a call of this model does."""
    owner = next(cls for cls in type(model).__mro__ if "call" in vars(cls))
    return not owner.__module__.startswith("keras.")


def is_users(layer: Any) -> bool:
    """Whether a user wrote what a call of this layer does: a class, or a function."""
    import keras

    return isinstance(layer, keras.layers.Lambda) or (
        isinstance(layer, keras.Layer) and overrides_call(layer)
    )


def _input_name(tensor: Any) -> str | None:
    """The name of a tensor that is an input of a model with a graph."""
    import keras

    history = getattr(tensor, "_keras_history", None)
    given = history is not None and isinstance(history.operation, keras.layers.InputLayer)
    return str(tensor.name) if given else None


def _with_batch(tensor: Any, size: int) -> Any:
    import keras

    shape = tensor.shape
    if shape and shape[0] is None:
        shape = (size, *shape[1:])
    return keras.KerasTensor(shape, tensor.dtype, name=tensor.name)


def _reason(error: Exception) -> str:
    return f"a symbolic call fails ({type(error).__name__}: {first_line(error)})"


def _own_line(error: UntraceableError) -> str:
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next(
        (line for line in lines if not line.startswith("Exception encountered")), text
    )


def _symbolic(shape: Any, dtype: str) -> Any:
    """Symbolic tensors for shapes, nested as these are; the batch size is left open."""
    import keras

    if isinstance(shape, Mapping):
        return {name: _symbolic(item, dtype) for name, item in shape.items()}
    if not isinstance(shape, (list, tuple)):
        raise UntraceableError("the shapes of its inputs are not known")
    if all(size is None or isinstance(size, int) for size in shape):
        return keras.KerasTensor((None, *shape[1:]), dtype, name="input")
    return [_symbolic(item, dtype) for item in shape]


def _fresh_inputs(
    layer: Any, call: Arguments
) -> tuple[list[Any], dict[str, Any], list[Any]]:
    """The arguments of a call with new inputs in the place of its tensors."""
    import keras

    inputs: list[Any] = []
    names = list(inspect.signature(layer.call).parameters)

    def make(name: str) -> Callable[[Any], Any]:
        def replace(tensor: Any) -> Any:
            made = keras.Input(
                batch_shape=tensor.shape,
                dtype=tensor.dtype,
                name=_input_name(tensor) or (f"{name}_{len(inputs)}" if inputs else name),
            )
            inputs.append(made)
            return made

        return replace

    args = [
        mapped(value, make(name))
        for value, name in zip(
            call.args, [*names, *["input"] * len(call.args)], strict=False
        )
    ]
    kwargs = {
        name: mapped(value, make(name))
        for name, value in call.kwargs.items()
        if name != "training"
    }
    return args, kwargs, inputs


def _depends_on_masks(layer: Any, call: Arguments) -> bool:
    """Whether masks that Keras hands on with the tensors reach into a `call`, or out of it.

    They are left out of the nodes of calls with keyword arguments, and what has a mask as an
    argument must have been given it by name to be followed.
    """
    if all(mask_of(tensor) is None for tensor in symbolic_tensors(call)):
        return False
    names = [name for name in inspect.signature(layer.call).parameters if "mask" in name]
    unnamed = any(call.kwargs.get(name) is None for name in names)
    return unnamed or bool(layer.supports_masking)


def check_constants(trace: Trace) -> None:
    """Raises UntraceableError if an operand was computed, from weights for instance.

    In a trace such a tensor of TensorFlow's has no value, and no node shows its origin.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    for node in trace.nodes:
        arguments = node.arguments
        for value in keras.tree.flatten([list(arguments.args), dict(arguments.kwargs)]):
            if isinstance(value, tf.Tensor) and not hasattr(value, "numpy"):
                raise UntraceableError(
                    "its `call` computes with weights or constants alone, before "
                    f"{node.operation.name} brings them together with what is given to it"
                )


def mask_of(tensor: Any) -> Any:
    """The mask that Keras hands on with a tensor; None if there is none."""
    from keras.src import backend

    return backend.get_keras_mask(tensor)


def is_followed(layer: Any) -> bool:
    """Whether what a layer does is written in a `call` of the user, with layers inside."""
    import keras

    return (
        isinstance(layer, keras.Layer)
        and not isinstance(layer, keras.layers.BatchNormalization)
        and overrides_call(layer)
        and bool(layer._layers)  # noqa: SLF001
    )


def _summary(call: Arguments, *, in_full: bool = False) -> str:
    """What must be the same in all calls of a layer: everything but batch and space.

    In full, with these too: by that a trace is known again.
    """
    rest = {name: item for name, item in call.kwargs.items() if name != "training"}

    def describe(tensor: Any) -> str:
        if in_full or tensor.shape is None:
            return f"{tensor.shape} {tensor.dtype}"
        return f"{len(tensor.shape)} {tensor.dtype}"

    return repr(mapped([list(call.args), rest], describe))
