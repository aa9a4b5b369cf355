"""A Keras model -> the steps in which it runs, nested models opened up.

Nothing is called here, and nothing of the model changes. A layer that says in a `call` of its
own what it does with the layers inside is one step; so is a subclassed model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnscope.calibration.moments import Centered, centered
from bnscope.graph.tracing import overrides_call
from bnscope.rewriting.copying import all_layers
from bnscope.rewriting.structure import is_functional, nodes

# The tensor in each slot.
Values = dict[int, Any]
Fill = Callable[[Mapping[int, Any]], tuple[tuple[Any, ...], dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Norm:
    """A call of a BN layer.

    Args:
        layer: the BN layer.
        axis: the channel axis of the tensor that goes in.
        slot: where that stands.
        mask: where the mask stands that goes in with it; None without.
    """

    layer: Any
    axis: int
    slot: int
    mask: int | None

    @property
    def slots(self) -> tuple[int, ...]:
        """Where its inputs stand."""
        return (self.slot,) if self.mask is None else (self.slot, self.mask)

    def centered(self, values: Values) -> Centered:
        """What goes in, around its mean."""
        from keras import ops

        seen = ops.cast(values[self.slot], self.layer.compute_dtype)
        mask = None if self.mask is None else values[self.mask]
        return centered(seen, self.axis, mask)


@dataclass(frozen=True, eq=False)
class Step:
    """One call of one operation.

    Args:
        operation: a layer or operation; a nested model whose inputs are prepared here.
        inputs: slots of the tensors that it takes.
        outputs: slots of those that it makes.
        norm: the BN layer to recalibrate that it calls on its input, if that is all it does.
        inside: BN layers to recalibrate that it has inside and calls somehow.
    """

    operation: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    norm: Norm | None
    inside: tuple[Any, ...]
    _fill: Fill = field(repr=False)
    _perform: Callable[..., Any] = field(repr=False)

    def run(self, values: Values) -> None:
        """Takes its inputs out of the slots and puts its outputs there."""
        import keras

        args, kwargs = self._fill(values)
        outputs = keras.tree.flatten(self._perform(*args, **kwargs))
        values.update(zip(self.outputs, outputs, strict=True))


@dataclass(frozen=True)
class Steps:
    """All steps of a model in the order in which it runs them; slots below `given` are given."""

    given: int
    steps: tuple[Step, ...]

    @property
    def needed(self) -> list[Step]:
        """The steps on the way to a BN layer, that of the layer included."""
        wanted: set[int] = set()
        found = []
        for step in reversed(self.steps):
            if step.norm is not None or step.inside or wanted & set(step.outputs):
                wanted.update(step.inputs)
                found.append(step)
        return found[::-1]


def read_steps(model: Any, batch: Any, norms: Iterable[Any]) -> Steps:
    """The steps of a model.

    Args:
        model: a built model.
        batch: one batch of input, in the structure in which the model takes it.
        norms: the BN layers to recalibrate.
    """
    reader = _Reader({id(norm) for norm in norms})
    reader.whole(model, batch)
    return Steps(reader.given, tuple(reader.steps))


class _Reader:
    def __init__(self, norms: set[int]) -> None:
        self.norms = norms
        self.steps: list[Step] = []
        self.slots = 0
        self.given = 0

    def whole(self, model: Any, batch: Any) -> None:
        import keras

        self.given = len(keras.tree.flatten(batch))
        given = self.new(self.given)

        def fill(values: Mapping[int, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            leaves = [values[slot] for slot in given]
            return (keras.tree.pack_sequence_as(batch, leaves),), {}

        inner = opened(model)
        if inner is None:
            self.add(model, given, self.new(1), fill)
        else:
            self.functional(inner, self.enter(model, inner, given, fill))

    def new(self, count: int) -> tuple[int, ...]:
        self.slots += count
        return tuple(range(self.slots - count, self.slots))

    def add(
        self,
        operation: Any,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        fill: Fill,
        norm: Norm | None = None,
    ) -> None:
        inside = () if norm is not None else self.norms_in(operation)
        call = _calling(operation)
        self.steps.append(Step(operation, inputs, outputs, norm, inside, fill, call))

    def enter(
        self, model: Any, inner: Any, inputs: Sequence[int], fill: Fill
    ) -> tuple[int, ...]:
        """What a model does with its inputs before its first layer."""

        def perform(given: Any, **_: Any) -> Any:  # a mask of None
            return inner._standardize_inputs(_converted(model, given))  # noqa: SLF001

        outputs = self.new(len(inner.inputs))
        self.steps.append(Step(None, tuple(inputs), outputs, None, (), fill, perform))
        return outputs

    def functional(self, model: Any, inputs: Sequence[int]) -> list[int]:
        """The steps of a model with a graph; returns the slots of its outputs."""
        slots = {id(t): slot for t, slot in zip(model.inputs, inputs, strict=True)}
        for node in nodes(model):
            made = zip(node.output_tensors, self.node(node, slots), strict=True)
            slots.update({id(tensor): slot for tensor, slot in made})
        return [slots[id(tensor)] for tensor in model.outputs]

    def node(self, node: Any, slots: Mapping[int, int]) -> Sequence[int]:
        sources = {id(tensor): slots[id(tensor)] for tensor in node.input_tensors}

        def fill(values: Mapping[int, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            filled = {key: values[slot] for key, slot in sources.items()}
            args, kwargs = node.arguments.fill_in(filled)
            return tuple(args), dict(kwargs)

        given = tuple(dict.fromkeys(sources.values()))
        inner = opened(node.operation)
        if inner is not None and not _is_masked(node):
            return self.functional(inner, self.enter(node.operation, inner, given, fill))
        outputs = self.new(len(node.output_tensors))
        norm = self.norm(node, slots) if _takes_one(node) else None
        self.add(node.operation, given, outputs, fill, norm)
        return outputs

    def norm(self, node: Any, slots: Mapping[int, int]) -> Norm | None:
        """The call of a BN layer that a node is, if it is one to recalibrate."""
        import keras

        operation, mask = node.operation, node.arguments.kwargs.get("mask")
        slot = slots[id(node.arguments.args[0])]
        where = None if mask is None else slots[id(mask)]
        if id(operation) in self.norms:
            return Norm(operation, operation.axis, slot, where)
        layer = getattr(operation, "layer", None)
        timed = type(operation) is keras.layers.TimeDistributed and mask is None
        if layer is not None and timed and id(layer) in self.norms:
            # Time steps are so many more samples to a layer that treats each value alone.
            return Norm(layer, layer.axis + (layer.axis >= 0), slot, None)
        return None

    def norms_in(self, operation: Any) -> tuple[Any, ...]:
        import keras

        if not isinstance(operation, keras.Layer):
            return ()
        # A layer may be reached through several parents.
        inside = {id(x): x for x in all_layers(operation) if id(x) in self.norms}
        return tuple(inside.values())


def opened(operation: Any) -> Any:
    """The graph of a model that its nodes tell the whole of; None for everything else."""
    import keras

    if not isinstance(operation, keras.Model) or overrides_call(operation):
        return None
    if isinstance(operation, keras.Sequential):
        return getattr(operation, "_functional", None)
    return operation if is_functional(operation) else None


def _is_masked(node: Any) -> bool:
    """Whether more than its inputs goes into a model: a mask is passed on by its `call`."""
    args, kwargs = node.arguments.args, node.arguments.kwargs
    given = {key for key, value in kwargs.items() if value is not None}
    return len(args) != 1 or not given <= {"training"}


def _takes_one(node: Any) -> bool:
    """Whether a layer is called with one tensor, `training` and a mask at most."""
    import keras

    args, kwargs = node.arguments.args, node.arguments.kwargs
    alone = len(args) == 1 and isinstance(args[0], keras.KerasTensor)
    return alone and set(kwargs) <= {"training", "mask"}


def _calling(operation: Any) -> Callable[..., Any]:
    """Calls an operation in inference mode, whatever is written in the graph."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if "training" in getattr(operation, "_call_context_args", ()):
            kwargs["training"] = False
        return operation(*args, **kwargs)

    return call


def _converted(model: Any, given: Any) -> Any:
    """The inputs in the dtype in which the call of a model takes them."""
    import keras

    if not model._convert_input_args:  # noqa: SLF001
        return given
    policy = model.dtype_policy
    return keras.tree.map_structure(
        lambda x: policy.convert_input(x, model.autocast, model.input_dtype), given
    )
