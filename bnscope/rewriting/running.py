"""Running a model: real inference on real arrays, which leaves the model as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from bnscope.errors import VerificationError, first_line
from bnscope.graph import kinds, live
from bnscope.graph.tracing import Tracer
from bnscope.rewriting.comparison import Array, Outputs
from bnscope.rewriting.copying import (
    all_layers,
    copy_layer,
    state_variables,
    to_numpy,
)
from bnscope.rewriting.frugal import frugal
from bnscope.rewriting.inputs import Batch, numpy_dtype


def run_model(model: Any, batches: Sequence[Batch], dtypes: Sequence[str]) -> list[Outputs]:
    """The outputs of a model at inference, for each batch.

    Args:
        model: a Keras model. Its variables are left as they were.
        batches: one array for each input, in each batch.
        dtypes: the dtypes of the inputs.

    Returns:
        For each batch the outputs by name, samples along the first axis.

    Raises:
        VerificationError: if the model does not run on them.
    """
    with frugal(model):
        return _collected(model, batches, lambda batch: _call(model, batch, dtypes))


def collect_outputs(
    model: Any, batches: Sequence[Batch], run: Callable[[Batch], Any]
) -> dict[str, Array]:
    """The outputs of a model over all batches, run in whatever way.

    Args:
        model: a Keras model. Its variables are left as they were.
        batches: one array for each input, in each batch.
        run: runs the model on a batch.

    Returns:
        The outputs by name, as of `joined`.
    """
    return joined(_collected(model, batches, run))


def joined(parts: Sequence[Outputs]) -> dict[str, Array]:
    """The outputs of several batches as those of one.

    Args:
        parts: for each batch the outputs by name, in one order.

    Returns:
        The outputs by name, samples along the first axis; where the shape of a sample
        differs between the batches, it is a part of the name.
    """
    found: dict[str, Array] = {}
    for name in parts[0]:
        shapes: dict[tuple[int, ...], list[Array]] = {}
        for part in parts:
            shapes.setdefault(part[name].shape[1:], []).append(part[name])
        for shape, same in shapes.items():
            key = name if len(shapes) == 1 else f"{name} {shape}"
            found[key] = np.concatenate(same)
    return found


def _collected(
    model: Any, batches: Sequence[Batch], run: Callable[[Batch], Any]
) -> list[Outputs]:
    import keras

    collected: list[list[Array]] = []
    with unchanged(model), _accurate_device():
        for batch in batches:
            outputs = [y for y in keras.tree.flatten(run(batch)) if y is not None]
            collected.append([np.atleast_1d(to_numpy(y)) for y in outputs])
    names = _output_names(model, len(collected[0]))
    return [dict(zip(names, values, strict=True)) for values in collected]


def _call(model: Any, batch: Batch, dtypes: Sequence[str]) -> Any:
    try:
        args, kwargs = _arguments(model, batch, dtypes)
        return model(*args, **kwargs, training=False)
    except Exception as error:
        # The sizes that were tried may be ones that this network cannot take.
        shapes = ", ".join(str(array.shape) for array in batch)
        raise VerificationError(
            f"The model does not run on inputs of shape {shapes}: {first_line(error)}.",
            "Pass samples that it takes (verify_data, --data).",
        ) from error


def lowest_dtype(model: Any) -> str:
    """The least precise floating dtype in which a layer of a model computes."""
    found = {_compute_dtype(layer) for layer in all_layers(model)}
    order = ("bfloat16", "float16", "float32", "float64")
    return next((dtype for dtype in order if dtype in found), "float32")


@contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """Puts the variables of a model back as they were: some layers count, or keep a state."""
    trained = {id(variable) for variable in model.trainable_variables}
    state = [v for v in state_variables(model) if id(v) not in trained]
    before = [(v, to_numpy(v).copy()) for v in state]
    try:
        yield
    finally:
        for variable, value in before:
            if not np.array_equal(
                to_numpy(variable), value, equal_nan=value.dtype.kind == "f"
            ):
                variable.assign(value)


def before_activations(model: Any) -> Any:
    """A model with the same layers that returns what goes into the last ones.

    Returns:
        The model, with one output for each output of the given one whose layer has an
        activation or is one; None if there is none.
    """
    import keras

    if not getattr(model, "outputs", None):
        return None
    found = []
    for tensor in model.outputs:
        operation, node, _ = tensor._keras_history  # noqa: SLF001
        kind = live.kind_of(operation)
        given = operation._inbound_nodes[node].input_tensors[0]  # noqa: SLF001
        if kind == "Activation" or kind in kinds.OUTPUT_ACTIVATIONS:
            found.append(given)
        elif kind in kinds.LINEAR and not kinds.is_linear_activation(
            operation.get_config()
        ):
            twin = _without_activation(operation)
            found.append(twin(given))
            # The call is noted at the user's layer too, which is to stay as it was.
            given._keras_history.operation._outbound_nodes.remove(twin._inbound_nodes[0])  # noqa: SLF001
    return keras.Model(model.inputs, found) if found else None


def _without_activation(layer: Any) -> Any:
    """A layer with the same weights, and no activation of its own."""
    change = {"name": f"{layer.name}_linear", "activation": "linear"}
    twin = copy_layer(layer, lambda config: {**config, **change})
    twin.build_from_config(layer.get_build_config())
    twin.set_weights(layer.get_weights())
    return twin


def _output_names(model: Any, count: int) -> list[str]:
    names = getattr(model, "output_names", None)
    if names is None and getattr(model, "outputs", None):
        names = [tensor._keras_history.operation.name for tensor in model.outputs]  # noqa: SLF001
    if names is None or len(names) != count:
        names = [f"output {index}" for index in range(count)]
    unique: list[str] = []
    for name in names:
        unique.append(name if name not in unique else f"{name} ({names.index(name)})")
    return unique


def _arguments(
    model: Any, batch: Batch, dtypes: Sequence[str]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """A batch as the arguments of a call; a subclassed model may take several."""
    if hasattr(model, "outputs"):
        return (tensor_batch(model, batch, dtypes),), {}
    call = Tracer(model).first_call(model)
    given = iter(_tensor(array, d) for array, d in zip(batch, dtypes, strict=True))
    return call.filled(lambda _: next(given))


def tensor_batch(model: Any, batch: Batch, dtypes: Sequence[str]) -> Any:
    """A batch as the backend's tensors, in the structure in which the model takes it."""
    pairs = zip(batch, dtypes, strict=True)
    return pack(model, [_tensor(array, dtype) for array, dtype in pairs])


def numpy_batch(model: Any, batch: Batch, dtypes: Sequence[str]) -> Any:
    """A batch as arrays, in the structure in which the model takes it."""
    pairs = zip(batch, dtypes, strict=True)
    arrays = [
        _tensor(array, dtype) if dtype == "string" else array.astype(numpy_dtype(dtype))
        for array, dtype in pairs
    ]
    return pack(model, arrays)


def pack(model: Any, tensors: Sequence[Any]) -> Any:
    """The tensors in the structure in which the model takes its inputs."""
    import keras

    if isinstance(model, keras.Sequential):
        return tensors[0]
    given = iter(tensors)
    return keras.tree.map_structure(lambda _: next(given), model.input)


def _tensor(array: Array, dtype: str) -> Any:
    import keras

    if dtype == "string":
        return keras.ops.convert_to_tensor(array.astype(str), dtype="string")
    return keras.ops.convert_to_tensor(array.astype(numpy_dtype(dtype)), dtype=dtype)


def _compute_dtype(layer: Any) -> str:
    try:
        return str(layer.compute_dtype)
    except AttributeError:
        return "float32"


def vocabulary(model: Any) -> list[str]:
    """Words that layers of a model know, for inputs of text."""
    words: list[str] = []
    for layer in all_layers(model):
        if hasattr(layer, "get_vocabulary"):
            words += [str(word) for word in layer.get_vocabulary() if str(word).strip()]
    return words[:1000]


def _accurate_device() -> Any:
    # On GPUs TensorFlow and JAX round the operands of float32 products to 10 bits.
    import keras

    if keras.backend.backend() in {"tensorflow", "jax"}:
        return keras.device("cpu:0")
    return nullcontext()
