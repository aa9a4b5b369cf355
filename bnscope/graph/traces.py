"""What one symbolic call of a layer did, as Keras noted it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnscope.graph.sandbox import UntraceableError


@dataclass(frozen=True)
class Arguments:
    """What a layer is called with; symbolic tensors among the values."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def filled(
        self, function: Callable[[Any], Any]
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """The arguments with a function of each symbolic tensor in its place, in order."""
        args = [mapped(value, function) for value in self.args]
        return args, {
            name: mapped(value, function)
            for name, value in self.kwargs.items()
            if name != "training"
        }


@dataclass(frozen=True, eq=False)
class Trace:
    """One symbolic call.

    Args:
        arguments: what was passed.
        inputs: the symbolic tensors among it, in order.
        returned: what was returned.
        outputs: the symbolic tensors among it, in order.
        nodes: Keras's nodes, in the order in which they were made.
        training: for each node the `training=` value that always holds there; None where it
            follows the caller's.
        changes: names of variables and attributes that the call gave another value.
    """

    arguments: Arguments
    inputs: list[Any]
    returned: Any
    outputs: list[Any]
    nodes: list[Any]
    training: list[bool | None] = field(default_factory=list)
    changes: tuple[str, ...] = ()


def symbolic_tensors(call: Arguments) -> list[Any]:
    """The symbolic tensors among the arguments of a call, in the order of `Trace.inputs`."""
    found: list[Any] = []
    call.filled(found.append)
    return found


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """A value with a function of each symbolic tensor in it in its place."""
    import keras

    if isinstance(value, keras.KerasTensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: mapped(item, function) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        made = [mapped(item, function) for item in value]
        return made if isinstance(value, list) else tuple(made)
    return value


def nodes_before(
    outputs: Iterable[Any], new: Iterable[Any], inputs: Sequence[Any]
) -> list[Any]:
    """All nodes between the inputs and the outputs, or the ends of other branches."""
    ends = {id(tensor) for tensor in inputs}
    found: dict[int, Any] = {id(node): node for node in new}
    stack = [*outputs, *(tensor for node in new for tensor in node.input_tensors)]
    while stack:
        tensor = stack.pop()
        if id(tensor) in ends:
            continue
        operation, index, _ = tensor._keras_history  # noqa: SLF001
        if operation is None or not operation._inbound_nodes[index].input_tensors:  # noqa: SLF001
            raise UntraceableError("its `call` uses a tensor from outside")
        node = operation._inbound_nodes[index]  # noqa: SLF001
        if id(node) not in found:
            found[id(node)] = node
            stack.extend(node.input_tensors)
    return sorted(found.values(), key=_age)


def _age(node: Any) -> int:
    # Keras numbers its symbolic tensors as they are made.
    number = node.output_tensors[0].name.rpartition("_")[2]
    return int(number) if number.isdigit() else 0


def modes(trace: Trace, *, training: bool) -> Iterator[bool | None]:
    """The `training` of each node. A layer that is given a value hands it on to later ones."""
    import keras

    current: Any = training
    for node in trace.nodes:
        if isinstance(node.operation, keras.Layer):
            given = node.arguments.kwargs.get("training")
            current = current if given is None else given
            yield current if isinstance(current, bool) else None
        else:
            yield None


def agreed(*, training: bool | None, inference: bool | None) -> bool | None:
    """The value that holds in either mode; None for one that follows the mode."""
    if training is False and inference is True:
        raise UntraceableError("its `call` turns `training` around")
    return training if training is inference else None


def outline(trace: Trace, known: set[int]) -> list[Any]:
    """A trace in values that can be compared: who is called, with what."""
    numbers = {
        id(tensor): (index, position)
        for index, node in enumerate(trace.nodes)
        for position, tensor in enumerate(node.output_tensors)
    }
    numbers.update({id(tensor): (-1, i) for i, tensor in enumerate(trace.inputs)})
    calls: list[Any] = [
        (
            id(node.operation) if id(node.operation) in known else type(node.operation),
            [numbers.get(id(tensor)) for tensor in node.input_tensors],
        )
        for node in trace.nodes
    ]
    return [*calls, [numbers.get(id(tensor)) for tensor in trace.outputs]]


def constants(trace: Trace, known: set[int]) -> list[Any]:
    """The numbers and strings that calls and operations were given, in order.

    Args:
        trace: a symbolic call.
        known: `id`s of the model's layers, which are the same objects in all its traces.
    """
    import keras

    given = [
        (
            list(node.arguments.args),
            {**node.arguments.kwargs, "training": None},
            {} if id(node.operation) in known else _settings(node.operation),
        )
        for node in trace.nodes
    ]
    return [
        value
        for value in keras.tree.flatten(given)
        if isinstance(value, (bool, int, float, str))
    ]


def _settings(operation: Any) -> dict[str, Any]:
    """What an operation was made with, as an axis; its name is a new one each time."""
    return {
        name: value
        for name, value in vars(operation).items()
        if name != "name" and not name.startswith("_")
    }
