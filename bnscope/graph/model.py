"""What a model is: a frozen graph of calls, read from a file or from a live model.

A node is a call, not a layer: a layer that is called twice is one `Layer` with two `Call`s.
Nested models are flattened, and their layers keep the path (`backbone/conv1_bn`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.graph.limits import Steps

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Variable:
    """One variable of a layer. Its values are read only when asked for."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], npt.NDArray[np.generic]] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer, with everything that is known of it without running it.

    Args:
        path: names from the outermost model inward, joined by `/`; unique in its graph.
        kind: class name for Keras's own layers (`Conv2D`), `ops.Name` for operations
            (`ops.Add`), `custom.Name` for everything else.
        config: the layer's configuration; empty where it is not known.
        trainable: the layer's own flag.
        variables: the variables by name (`gamma`, `moving_mean`, `kernel`, ...).
        children: layers inside this one that the graph does not call itself (the layer
            inside a `TimeDistributed`, the cell of a recurrent layer).
        config_known: False where only the variables were found (a file with only weights):
            what is missing in `config` is then not Keras's default, but not known.
        inside: of a `TimeDistributed` around a model, what that does to one step; its layers
            are those of the graph.
    """

    path: str
    kind: str
    config: Mapping[str, Any] = field(repr=False)
    trainable: bool = True
    variables: Mapping[str, Variable] = field(default_factory=dict, repr=False)
    children: tuple[Layer, ...] = field(default=(), repr=False)
    config_known: bool = True
    inside: Graph | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def is_custom(self) -> bool:
        """Whether the class is not one of Keras's own."""
        return self.kind.startswith("custom.")


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A tensor that flows between calls.

    Args:
        index: position in `Graph.tensors`.
        producer: index of the call that makes it; None for an input of the model.
        shape: shape with the batch dimension first; None where it is not known.
        dtype: dtype name; None where it is not known.
        name: the input layer's name for an input of the model, else "".
    """

    index: int
    producer: int | None
    shape: Shape | None = None
    dtype: str | None = None
    name: str = ""

    @property
    def rank(self) -> int | None:
        """Number of dimensions, batch included; None where it is not known."""
        return None if self.shape is None else len(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of one layer.

    Args:
        index: position in `Graph.calls`, which is in topological order.
        layer: the layer that is called.
        inputs: tensors among the arguments, in order.
        outputs: tensors that come out.
        args: positional arguments, with a `Tensor` in the place of each tensor.
        kwargs: keyword arguments, likewise.
        training: the `training=` value written into the graph, of this call or of an
            enclosing model's; None where none is.
    """

    index: int
    layer: Layer
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    args: tuple[Any, ...] = field(default=(), repr=False)
    kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    training: bool | None = None

    @property
    def kind(self) -> str:
        """The layer's kind."""
        return self.layer.kind

    @property
    def config(self) -> Mapping[str, Any]:
        """The layer's configuration."""
        return self.layer.config


# The reason for a custom layer of which only the layers inside are known.
CUSTOM_LAYER = (
    "a custom layer: how it connects the layers inside is written in its `call` only"
)


@dataclass(frozen=True, slots=True)
class NotAnalysed:
    """A part of the model that could not be analysed, and why. `layer` "" is the model."""

    layer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Optimizer:
    """The settings of an optimizer that concern BN; of a `LossScaleOptimizer`, the inner one's.

    Args:
        kind: class name; "" where it is not known.
        weight_decay: decoupled weight decay; 0 for none.
        use_ema: whether it averages the weights.
        accumulation_steps: over how many batches it accumulates gradients; 1 for none.
    """

    kind: str = ""
    weight_decay: float = 0.0
    use_ema: bool = False
    accumulation_steps: int = 1


@dataclass(frozen=True, slots=True)
class Training:
    """What is known of the model's training.

    Args:
        compiled: whether the model is compiled; None where that is not known.
        optimizer_steps: batches counted by the optimizer since the last compile; None where
            that is not known.
        optimizer: the optimizer's settings; None where they are not known.
    """

    compiled: bool | None = None
    optimizer_steps: int | None = None
    optimizer: Optimizer | None = None


@dataclass(frozen=True, eq=False)
class Graph:
    """A model as a graph of calls. Nothing in it changes once it is made.

    Args:
        name: the model's name.
        calls: all calls in topological order.
        layers: all layers in the order of the forward pass, without nested models and
            input layers, with the layers inside others behind them.
        tensors: all tensors.
        inputs: the model's inputs.
        outputs: the model's outputs, in order.
        not_analysed: what could not be read as a graph.
        training: what is known of the training.
        has_weights: whether values of variables can be read.
        traced: paths of the subclassed models and custom layers whose inside is known from a
            symbolic call; "" is the model. They cannot be made again with changes.
        steps: how many steps from call to call are left; None for any number.
        reopen: opens the file again, as a graph in which the variables of layers with kernels
            can be read too until it is closed; None where this graph has all there are.
    """

    name: str
    calls: tuple[Call, ...]
    layers: tuple[Layer, ...]
    tensors: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    not_analysed: tuple[NotAnalysed, ...] = ()
    training: Training = Training()
    has_weights: bool = True
    traced: tuple[str, ...] = ()
    steps: Steps | None = field(default=None, repr=False)
    reopen: Callable[[], AbstractContextManager[Graph]] | None = field(
        default=None, repr=False
    )

    def with_kernels(self) -> AbstractContextManager[Graph]:
        """This graph, with the kernels of its layers among their variables.

        A kernel in a file is read when it is asked for, and only inside the context.

        Raises:
            UnreadableModelError: if the file is not what it was any more.
        """
        return nullcontext(self) if self.reopen is None else self.reopen()

    @cached_property
    def _consumers(self) -> Sequence[tuple[Call, ...]]:
        lists: list[list[Call]] = [[] for _ in self.tensors]
        for call in self.calls:
            for index in {tensor.index for tensor in call.inputs}:
                lists[index].append(call)
        return [tuple(calls) for calls in lists]

    @cached_property
    def _output_indices(self) -> frozenset[int]:
        return frozenset(tensor.index for tensor in self.outputs)

    @cached_property
    def _calls_by_path(self) -> Mapping[str, tuple[Call, ...]]:
        lists: dict[str, list[Call]] = {}
        for call in self.calls:
            lists.setdefault(call.layer.path, []).append(call)
        return {path: tuple(calls) for path, calls in lists.items()}

    @cached_property
    def _layers_by_path(self) -> Mapping[str, Layer]:
        return {layer.path: layer for layer in self.layers}

    @cached_property
    def _holders(self) -> Mapping[str, Layer]:
        holders: dict[str, Layer] = {}
        for layer in self.layers:
            for child in layer.children:
                holders.setdefault(child.path, layer)
        return holders

    def around(self, layer: Layer) -> Iterator[Layer]:
        """The layers that a layer stands in (wrappers, cells), innermost first."""
        parent = self.holder(layer)
        while parent is not None:
            yield parent
            parent = self.holder(parent)

    def is_traced(self, layer: Layer) -> bool:
        """Whether a layer lies where the structure is known from a symbolic call only."""
        return any(not part or layer.path.startswith(part + "/") for part in self.traced)

    @cached_property
    def _opaque(self) -> Mapping[str, NotAnalysed]:
        return {part.layer: part for part in reversed(self.not_analysed)}

    def spend(self, steps: int) -> None:
        """Counts steps through the graph of a file, which may be made to take too many.

        Raises:
            UnreadableModelError: if none are left.
        """
        if self.steps is not None:
            self.steps.spend(steps)

    def layer(self, path: str) -> Layer:
        """The layer with that path.

        Raises:
            KeyError: if there is none.
        """
        return self._layers_by_path[path]

    def producer(self, tensor: Tensor) -> Call | None:
        """The call that makes a tensor; None for an input of the model."""
        self.spend(1)
        return None if tensor.producer is None else self.calls[tensor.producer]

    def consumers(self, tensor: Tensor) -> tuple[Call, ...]:
        """The calls that take a tensor, each once, in topological order."""
        found = self._consumers[tensor.index]
        self.spend(len(found) + 1)
        return found

    def is_output(self, tensor: Tensor) -> bool:
        """Whether a tensor is an output of the model."""
        return tensor.index in self._output_indices

    def calls_of(self, layer: Layer) -> tuple[Call, ...]:
        """The calls of a layer; empty for a layer inside another one."""
        found = self._calls_by_path.get(layer.path, ())
        self.spend(len(found) + 1)
        return found

    def holder(self, layer: Layer) -> Layer | None:
        """The layer that has this one inside it; None if there is none."""
        return self._holders.get(layer.path)

    def not_analysed_around(self, layer: Layer) -> NotAnalysed | None:
        """The outermost part around a layer that could not be analysed; None if there is none."""
        folders = layer.path.split("/")[:-1]
        paths = ["/".join(folders[:count]) for count in range(len(folders) + 1)]
        return next((self._opaque[path] for path in paths if path in self._opaque), None)

    def has_layer(self, path: str) -> bool:
        """Whether there is a layer with that path."""
        return path in self._layers_by_path

    def sole_consumer(self, tensor: Tensor) -> Call | None:
        """The only call that takes a tensor; None if there are more, or if it is an output."""
        consumers = self.consumers(tensor)
        return consumers[0] if len(consumers) == 1 and not self.is_output(tensor) else None

    def predecessors(self, call: Call) -> Iterator[Call]:
        """The calls whose outputs a call takes."""
        for tensor in call.inputs:
            producer = self.producer(tensor)
            if producer is not None:
                yield producer

    def successors(self, call: Call) -> Iterator[Call]:
        """The calls that take what a call makes."""
        for tensor in call.outputs:
            yield from self.consumers(tensor)
