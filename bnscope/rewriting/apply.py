"""A Keras model and edits -> a new Keras model. The model that is passed in stays as it is.

Functional models are run through again, node by node, Sequential ones are made again, nested
ones likewise, to any depth. Everything is kept but what the edits change: names, inputs,
outputs and their structure, dtype policies, `trainable`, shared layers. The compile state is
dropped. A layer that is taken out becomes `keras.layers.Identity` of the same name where its
output is an output of its model, or where it changes the dtype. A wrapper that gives way to
the layer inside it leaves that layer its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnscope.errors import UnsupportedModelError
from bnscope.graph.live import keras_layers
from bnscope.graph.tracing import Tracer, mask_of
from bnscope.rewriting.copying import (
    all_layers,
    copy_layer,
    copy_state,
    copy_trainable,
    named_variables,
    read_weights,
    restore_initializers,
    state_variables,
    to_numpy,
    write_weights,
)
from bnscope.rewriting.edits import Edit, LayerEdits, by_layer
from bnscope.rewriting.structure import (
    REBUILDABLE,
    check_rebuildable,
    custom_classes,
    is_functional,
    nodes,
)

_NO_EDITS = LayerEdits()


@dataclass(frozen=True, slots=True, eq=False)
class Rebuilt:
    """A new model, and where the variables of the old one went.

    Args:
        model: the new model, not compiled.
        variables: new variable by the `id` of the old one; those without a successor are
            not in it.
        changed: `id`s of those new variables that have another value than their old one.
    """

    model: Any
    variables: dict[int, Any]
    changed: frozenset[int]


def apply_edits(
    model: Any,
    edits: Iterable[Edit],
    *,
    opened: bool = False,
    notes: list[str] | None = None,
) -> Any:
    """A new model with the edits made.

    Args:
        model: a built Sequential or Functional model. It is not changed, and shares no
            variable with the result.
        edits: what to change, by the paths of `bnscope.graph.live`.
        opened: whether subclassed models, and custom layers with something to change inside,
            may become Functional ones.
        notes: gets sentences about what was lost or fixed by that.

    Returns:
        The new model, not compiled.

    Raises:
        UnsupportedModelError: if the model is not built, or cannot be made again.
    """
    made, builder = _made_again(model, edits, opened=opened)
    if notes is not None:
        notes += builder.notes()
    return made


def rebuild(model: Any, edits: Iterable[Edit]) -> Rebuilt:
    """As `apply_edits`, with the variables of the two models side by side."""
    rebuilt, builder = _made_again(model, edits, opened=False)
    changed = [
        id(new)
        for old, new in builder.edited
        if not np.array_equal(to_numpy(old), to_numpy(new), equal_nan=True)
    ]
    return Rebuilt(rebuilt, builder.variables, frozenset(changed))


def _made_again(model: Any, edits: Iterable[Edit], *, opened: bool) -> tuple[Any, Builder]:
    if not opened:
        check_rebuildable(model)
    tracer = Tracer(model) if opened else None
    layers = keras_layers(model, tracer)
    edited = {id(layers[path]): edits for path, edits in by_layer(edits).items()}
    with custom_classes(layers.values()):
        builder = _builder(model, edited, layers, tracer)
        rebuilt = builder.layer(model)
    builder.finish(model, rebuilt)
    return rebuilt, builder


def _builder(
    model: Any,
    edits: dict[int, LayerEdits],
    layers: dict[str, Any],
    tracer: Tracer | None,
) -> Builder:
    if tracer is None:
        return Builder(edits, layers)
    from bnscope.rewriting.opening import OpeningBuilder  # which builds on this module

    return OpeningBuilder(model, edits, layers, tracer)


class Builder:
    """Makes the layers of a model again, each once, wherever it is called."""

    def __init__(self, edits: dict[int, LayerEdits], layers: dict[str, Any]) -> None:
        self.edits = edits
        self.layers = layers
        self.made: dict[int, Any] = {}
        self.copied: list[tuple[Any, Any, LayerEdits]] = []
        self.seen: set[int] = set()
        self.variables: dict[int, Any] = {}
        self.edited: list[tuple[Any, Any]] = []

    def notes(self) -> list[str]:
        """What the new model lacks that the old one has, in sentences."""
        return []

    def layer(self, old: Any) -> Any:
        """The new layer, model or operation for an old one."""
        if id(old) not in self.made:
            self.seen.add(id(old))
            self.made[id(old)] = self.make(old)
        return self.made[id(old)]

    def make(self, old: Any) -> Any:
        """A new layer, model or operation, with its edits."""
        import keras

        if isinstance(old, keras.Sequential):
            check_rebuildable(old)
            return self.sequential(old)
        if is_functional(old):
            check_rebuildable(old)
            return self.functional(old)
        if self.has_edits_in_a_model(old):
            return type(old)(self.layer(old.layer), **_without_layer(old.get_config()))
        edits = self.edits_of(old)
        name = {"name": old.name} if edits.unwrapped else {}
        if edits.unwrapped:
            old = _inside(old)
        new = copy_layer(old, lambda config: edits.configured({**config, **name}))
        if isinstance(old, keras.layers.Layer):
            self.copied.append((old, new, edits))
        return new

    def has_edits_in_a_model(self, old: Any) -> bool:
        """Whether a layer is a wrapper around a model in which something is to be changed."""
        import keras

        if type(old) is not keras.layers.TimeDistributed:
            return False
        if not isinstance(old.layer, keras.Model):
            return self.has_edits_in_a_model(old.layer)
        return any(id(layer) in self.edits for layer in all_layers(old.layer))

    def edits_of(self, old: Any) -> LayerEdits:
        """What to change in a layer."""
        return self.edits.get(id(old), _NO_EDITS)

    def sequential(self, model: Any) -> Any:
        """A Sequential model again. Its last layer is its output."""
        import keras

        kept: list[Any] = []
        before = None
        if model.inputs:
            before = model.inputs[0]._keras_history.operation  # noqa: SLF001
            kept.append(self.layer(before))
        for layer in model.layers:
            last = layer is model.layers[-1]
            if not self.edits_of(layer).dropped:
                kept.append(self.layer(layer))
            else:
                given = _dtype_into(layer, before)
                if last or before is None or given != layer.compute_dtype:
                    kept.append(self.identity(layer, given, layer.compute_dtype))
            self.seen.add(id(layer))
            before = layer
        rebuilt = keras.Sequential(kept, name=model.name)
        if not rebuilt.built:
            _build_one_by_one(self.made, model)
        return rebuilt

    def functional(self, model: Any) -> Any:
        """A Functional model again, by calling each of its nodes on the new tensors."""
        import keras

        inputs = keras.tree.map_structure(self.input, model.input)
        flat = keras.tree.flatten(inputs)
        tensors = {id(old): new for old, new in zip(model.inputs, flat, strict=True)}
        outputs = {id(tensor) for tensor in model.outputs}
        for node in nodes(model):
            new = keras.tree.flatten(self.call(node, tensors, outputs))
            tensors.update(
                {id(o): n for o, n in zip(node.output_tensors, new, strict=True)}
            )
        made = keras.tree.map_structure(lambda tensor: tensors[id(tensor)], model.output)
        return keras.Model(inputs, made, name=model.name)

    def input(self, tensor: Any) -> Any:
        """The new input for an old one."""
        return self.layer(tensor._keras_history.operation).output  # noqa: SLF001

    def call(self, node: Any, tensors: dict[int, Any], outputs: set[int]) -> Any:
        """What a node returns on the new tensors."""
        import keras

        layer = node.operation
        args, kwargs = self.arguments(node, tensors)
        returned = node.output_tensors[0]
        if self.edits_of(layer).dropped:
            self.seen.add(id(layer))
            return self.pass_on(node, _unmasked(returned, args[0]), outputs)
        rest = self.remaining(node)
        if len(rest) < len(node.input_tensors):
            operands = [_unmasked(returned, tensors[id(tensor)]) for tensor in rest]
            if len(operands) > 1:
                return self.layer(layer)(operands)
            self.seen.add(id(layer))
            return self.pass_on(node, operands[0], outputs)
        if any(isinstance(value, keras.Variable) for value in keras.tree.flatten(args)):
            # A layer's variable as an operand: its value, so that nothing is shared.
            args = keras.tree.map_structure(_constant, args)
        return self.layer(layer)(*args, **kwargs)

    def arguments(self, node: Any, tensors: dict[int, Any]) -> tuple[Any, Any]:
        """The arguments of a node, with the new tensors."""
        args, kwargs = node.arguments.fill_in(tensors)
        if self.loses_training(node.operation):
            kwargs = {key: value for key, value in kwargs.items() if key != "training"}
        return args, kwargs

    def remaining(self, node: Any) -> list[Any]:
        """The inputs of a node without those that an edit drops."""
        sources = self.edits_of(node.operation).dropped_inputs
        dropped = {id(self.layers[path]) for path in sources}
        return [
            tensor
            for tensor in node.input_tensors
            if id(tensor._keras_history.operation) not in dropped  # noqa: SLF001
        ]

    def pass_on(self, node: Any, given: Any, outputs: set[int]) -> Any:
        """What stands for the output of a node that does nothing any more."""
        (returned,) = node.output_tensors
        if id(returned) not in outputs and returned.dtype == given.dtype:
            return given
        return self.identity(node.operation, given.dtype, returned.dtype)(given)

    def identity(self, layer: Any, given: str, dtype: str) -> Any:
        """The layer that stands where a layer or operation was taken out.

        Args:
            layer: the one that was taken out.
            given: dtype of what goes in.
            dtype: dtype of what came out.
        """
        import keras

        if id(layer) not in self.made:
            policy = getattr(layer, "dtype_policy", None)
            options = {
                "name": layer.name,
                "dtype": dtype if policy is None else policy.name,
                "trainable": getattr(layer, "trainable", True),
            }
            if keras.backend.is_float_dtype(given):
                self.made[id(layer)] = keras.layers.Identity(**options)
            else:  # integers stay integers in an Identity
                self.made[id(layer)] = keras.layers.Rescaling(1.0, **options)
        return self.made[id(layer)]

    def loses_training(self, layer: Any) -> bool:
        """Whether `training=` is to go from the calls of a layer, or of one inside a model."""
        import keras

        if self.edits_of(layer).drops_training:
            return True
        inner = layer.layers if isinstance(layer, keras.Model) else ()
        return any(self.loses_training(one) for one in inner)

    def finish(self, model: Any, rebuilt: Any) -> None:
        """Fills the new layers, and checks that no edit was left out."""
        for old, new, edits in self.copied:
            if edits.rewrites:
                write_weights(new, _fitting(new, edits.transformed(read_weights(old))))
                self.match_by_name(old, new)
            else:
                copy_state(old, new)
                pairs = zip(state_variables(old), state_variables(new), strict=True)
                self.variables.update({id(one): other for one, other in pairs})
            restore_initializers(old, new)
        # From the outside in: setting the flag of a model sets those of its layers.
        self.copy_trainable(model, rebuilt)
        self.set_trainable()
        missed = set(self.edits) - self.seen
        if missed:
            raise UnsupportedModelError(
                f"{len(missed)} of the layers to change lie where a model cannot be "
                "rebuilt: inside another layer, or in a subclassed model.",
                REBUILDABLE,
            )

    def match_by_name(self, old: Any, new: Any) -> None:
        """Notes which variable of an edited layer became which."""
        before = named_variables(old)
        for name, variable in named_variables(new).items():
            former = before.get(name)
            if former is not None:
                self.variables[id(former)] = variable
                self.edited.append((former, variable))

    def set_trainable(self) -> None:
        """Sets the flags that are edited, and those of layers that lost their wrapper."""
        for old, edits in self.edits.items():
            new = self.made.get(old)
            if new is not None and edits.trainable is not None:
                new.trainable = edits.trainable
        for old, new, edits in self.copied:
            if edits.unwrapped and edits.trainable is None and not old.trainable:
                new.trainable = False

    def copy_trainable(self, old: Any, new: Any) -> None:
        """Copies the flags `trainable` of a layer and of what is inside."""
        import keras

        if isinstance(old, keras.Sequential) or is_functional(old):
            if new.trainable != old.trainable:
                new.trainable = old.trainable
            for layer in old.layers:
                if id(layer) in self.made:
                    self.copy_trainable(layer, self.made[id(layer)])
        elif self.has_edits_in_a_model(old):
            new.trainable = old.trainable
            self.copy_trainable(old.layer, new.layer)
        else:
            copy_trainable(old, new)


def _dtype_into(layer: Any, before: Any) -> str:
    """The dtype of what goes into a layer of a Sequential model, after the one before it."""
    if layer._inbound_nodes:  # noqa: SLF001
        return str(layer._inbound_nodes[0].input_tensors[0].dtype)  # noqa: SLF001
    return str((before or layer).compute_dtype)


def _unmasked(returned: Any, given: Any) -> Any:
    """What goes into a call that is taken out, without a mask if none came out of the call.

    An operation, unlike a layer, hands no mask on.
    """
    import keras

    if mask_of(given) is None or mask_of(returned) is not None:
        return given
    return keras.ops.copy(given)


def _build_one_by_one(made: dict[int, Any], model: Any) -> None:
    # A Sequential model one of whose layers cannot be called on symbolic tensors.
    for layer in model.layers:
        new = made.get(id(layer))
        if new is not None and layer.built and not new.built:
            new.build_from_config(layer.get_build_config())


def _fitting(layer: Any, weights: Any) -> Any:
    """The weights that the layer has; a bias that an edit took away is left out."""
    names = named_variables(layer)
    return {name: value for name, value in weights.items() if name in names}


def _without_layer(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "layer"}


def _constant(value: Any) -> Any:
    import keras

    return to_numpy(value) if isinstance(value, keras.Variable) else value


def _inside(wrapper: Any) -> Any:
    """The layer inside a wrapper that can give way to it."""
    layer = getattr(wrapper, "layer", None)
    if layer is None or any(axis >= 0 for axis in _axes(layer)):
        raise UnsupportedModelError(
            f'"{wrapper.name}" cannot give way to the layer inside it: its axis is not '
            "counted from the back.",
            "Write axis=-1.",
        )
    return layer


def _axes(layer: Any) -> list[int]:
    axis = getattr(layer, "axis", -1)
    return list(axis) if isinstance(axis, (list, tuple)) else [axis]
