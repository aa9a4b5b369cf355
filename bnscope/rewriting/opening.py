"""A model whose structure is written in a `call` -> the same as a Functional model.

The calls are followed once, on symbolic tensors (`graph/tracing`), and made again on copies of
the layers. A subclassed model becomes a Functional one; so does a custom layer with something
to change inside. What the `call` decides by Python values is fixed as it is now, and what it
does only in training is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from bnscope.errors import UnsupportedModelError
from bnscope.graph.sandbox import UntraceableError
from bnscope.graph.traces import Arguments, Trace, symbolic_tensors
from bnscope.graph.tracing import Tracer, check_constants, is_followed, mask_of
from bnscope.rewriting.apply import Builder
from bnscope.rewriting.copying import all_layers, copy_layer
from bnscope.rewriting.edits import LayerEdits


class OpeningBuilder(Builder):
    """Makes a model again, and follows the `call`s in which something is to be changed.

    Args:
        model: the model.
        edits: what to change, by the `id` of the layer.
        layers: the layers of the model by path.
        tracer: what followed the `call`s when the layers were found.
    """

    def __init__(
        self,
        model: Any,
        edits: dict[int, LayerEdits],
        layers: dict[str, Any],
        tracer: Tracer,
    ) -> None:
        super().__init__(edits, layers)
        self.model = model
        self.tracer = tracer
        self.training: dict[int, bool | None] = {}
        self.opening: dict[int, bool] = {}
        self.followed: list[Any] = []

    def notes(self) -> list[str]:
        """What following a `call` once has fixed, in sentences."""
        if not self.followed:
            return []
        first, *others = self.followed
        more = f" and of {len(others)} more" if others else ""
        followed = (
            f'The `call` of "{first.name}"{more} was followed once: what it decides by Python '
            "values, the size of a batch among them, is fixed."
        )
        if first is not self.model:
            return [followed]
        shapes = " and ".join(str(x.shape[1:]) for x in self.made[id(first)].inputs)
        taken = f"The new model takes samples of shape {shapes}, as the original was built."
        return [followed, taken]

    def make(self, old: Any) -> Any:
        """The model itself; what it calls is opened where it is called."""
        if old is self.model and is_followed(old):
            return self.opened(old, self.tracer.first_call(old))
        return super().make(old)

    def call(self, node: Any, tensors: dict[int, Any], outputs: set[int]) -> Any:
        """What a node returns on the new tensors."""
        layer = node.operation
        if not self.opens(layer):
            return super().call(node, tensors, outputs)
        call = Arguments(node.arguments.args, node.arguments.kwargs)
        if id(layer) not in self.made:
            self.seen.add(id(layer))
            self.made[id(layer)] = self.opened(layer, call)
        given = [tensors[id(tensor)] for tensor in symbolic_tensors(call)]
        new = self.made[id(layer)](given if len(given) > 1 else given[0])
        _check_masks(layer, node.output_tensors, new)
        return new

    def opens(self, layer: Any) -> bool:
        """Whether a `call` is to be followed."""
        if id(layer) not in self.opening:
            self.opening[id(layer)] = is_followed(layer) and self.must_open(layer)
        return self.opening[id(layer)]

    def must_open(self, layer: Any) -> bool:
        """Whether something is to be changed inside, or no copy can be made of the whole."""
        import keras

        if isinstance(layer, keras.Model):
            return True
        if any(id(inner) in self.edits for inner in all_layers(layer)):
            return True
        try:
            copy_layer(layer)
        except UnsupportedModelError:
            return True
        return False

    def opened(self, layer: Any, call: Arguments) -> Any:
        """A Functional model that does what a `call` does."""
        import keras

        try:
            trace = self.tracer.trace(layer, [call])
            if trace.changes:
                raise UntraceableError(
                    f'its `call` changes "{trace.changes[0]}", on which later calls may depend'
                )
            check_constants(trace)
            self.tracer.check_batch_sizes(layer, trace)
        except UntraceableError as error:
            raise UnsupportedModelError(
                f'"{layer.name}" cannot be made again with changes: {error}.',
                "Build it with keras.Sequential or the functional API.",
            ) from error
        self.followed.append(layer)
        new = {
            id(old): keras.Input(batch_shape=old.shape, dtype=old.dtype, name=old.name)
            for old in trace.inputs
        }
        inputs = list(new.values())
        made = self.replay(trace, new)
        if layer is self.model:
            inputs = _structured(
                trace, dict(zip(map(id, trace.inputs), inputs, strict=True))
            )
            made = _returned(trace, made)
        return keras.Model(inputs, made, name=layer.name)

    def replay(self, trace: Trace, tensors: dict[int, Any]) -> list[Any]:
        """The outputs of a followed call on the new tensors."""
        import keras

        names = _unique_names(trace)
        self.training.update(
            {id(n): mode for n, mode in zip(trace.nodes, trace.training, strict=True)}
        )
        outputs = {id(tensor) for tensor in trace.outputs}
        for node in trace.nodes:
            if all(id(tensor) in tensors for tensor in node.output_tensors):
                continue  # a mask, which a new layer has made itself
            operation = node.operation
            first = id(operation) not in self.made and not self.opens(operation)
            name = names.get(id(operation)) if first else None
            if name and not self.edits_of(operation).dropped:
                self.layer(operation).name = name
            new = keras.tree.flatten(self.call(node, tensors, outputs))
            if name and id(operation) in self.made:  # what stands for a dropped one too
                self.made[id(operation)].name = name
            for one, other in zip(node.output_tensors, new, strict=True):
                tensors[id(one)] = other
                if mask_of(one) is not None and mask_of(other) is not None:
                    tensors.setdefault(id(mask_of(one)), mask_of(other))
        return [tensors[id(tensor)] for tensor in trace.outputs]

    def arguments(self, node: Any, tensors: dict[int, Any]) -> tuple[Any, Any]:
        """The arguments of a node, with the `training` that holds in either mode."""
        args, kwargs = super().arguments(node, tensors)
        if id(node) in self.training:
            kwargs = {key: value for key, value in kwargs.items() if key != "training"}
            mode = self.training[id(node)]
            if mode and _depends_on_training(node.operation):
                # A Functional model that is called with training=False overrules it.
                raise UnsupportedModelError(
                    f'A `call` that is followed calls "{node.operation.name}" with '
                    "training=True, which no Functional model can do at inference.",
                    "Call it with training=training.",
                )
        return args, kwargs

    def copy_trainable(self, old: Any, new: Any) -> None:
        """Copies the flags `trainable`, of what was opened too."""
        if not (old is self.model or self.opens(old)) or not is_followed(old):
            super().copy_trainable(old, new)
            return
        if new.trainable != old.trainable:
            new.trainable = old.trainable
        for inner in old._layers:  # noqa: SLF001
            if id(inner) in self.made:
                self.copy_trainable(inner, self.made[id(inner)])


def _check_masks(layer: Any, old: Any, new: Any) -> None:
    """Raises UnsupportedModelError if a layer, opened, hands no mask on where it did."""
    import keras

    for one, other in zip(old, keras.tree.flatten(new), strict=True):
        if mask_of(one) is not None and mask_of(other) is None:
            raise UnsupportedModelError(
                f'"{layer.name}" hands a mask on, which its `call` made again as a '
                "Functional model would not.",
                "Build it with keras.Sequential or the functional API.",
            )


def _depends_on_training(layer: Any) -> bool:
    import keras

    frozen = isinstance(layer, keras.layers.BatchNormalization) and not layer.trainable
    return bool(getattr(layer, "_call_has_training_arg", False)) and not frozen


def _structured(trace: Trace, inputs: Mapping[int, Any]) -> Any:
    """The inputs in the structure in which the model takes them, if that is one argument."""
    import keras

    args, kwargs = trace.arguments.args, trace.arguments.kwargs
    if len(args) == 1 and set(kwargs) <= {"training"}:
        return keras.tree.map_structure(lambda tensor: inputs[id(tensor)], args[0])
    return list(inputs.values())


def _returned(trace: Trace, made: list[Any]) -> Any:
    """The outputs in the structure in which the model returns them."""
    import keras

    if len(made) != len(keras.tree.flatten(trace.returned)):
        return made
    return keras.tree.pack_sequence_as(trace.returned, made)


def _unique_names(trace: Trace) -> dict[int, str]:
    """New names for operations of one name, by `id`; blocks may have used it each."""
    operations = {id(node.operation): node.operation for node in trace.nodes}
    taken = {operation.name for operation in operations.values()}
    seen: set[str] = set()
    found = {}
    for key, operation in operations.items():
        if operation.name in seen:
            numbered = (f"{operation.name}_{number}" for number in count(1))
            found[key] = next(name for name in numbered if name not in taken)
            taken.add(found[key])
        seen.add(operation.name)
    return found
