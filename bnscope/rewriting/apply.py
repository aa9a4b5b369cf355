"""Edits on a live model -> a new model. The caller's model is left as it is.

The new model has layers, variables and inputs of its own, with the names, structure, dtype
policies and flags of the old one. It is not compiled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bnscope.errors import UnsupportedModelError
from bnscope.graph import live
from bnscope.rewriting import copying
from bnscope.rewriting.edits import ChangeConfig, DropLayer, Edit, TransformWeights, Weights


def apply(model: Any, edits: Iterable[Edit]) -> Any:
    """A new model with edits made.

    Args:
        model: a built Sequential or Functional `keras.Model`, nested as it may be.
        edits: the edits; several on one layer are made in order.

    Returns:
        A new `keras.Model` that shares no variable with the old one.

    Raises:
        UnsupportedModelError: if the model, or a layer in it, cannot be built again.
    """
    rebuilder = _Rebuilder(model, edits)
    rebuilt = rebuilder.model(model)
    rebuilder.copy_state()
    return rebuilt


class _Rebuilder:
    def __init__(self, model: Any, edits: Iterable[Edit]) -> None:
        self.paths = {id(layer): path for path, layer in live.keras_layers(model).items()}
        self.transforms: dict[str, list[TransformWeights]] = {}
        self.changes: dict[str, dict[str, Any]] = {}
        self.dropped: set[str] = set()
        self.clones: dict[int, tuple[Any, Any]] = {}
        for edit in edits:
            if isinstance(edit, TransformWeights):
                self.transforms.setdefault(edit.layer, []).append(edit)
            elif isinstance(edit, ChangeConfig):
                self.changes.setdefault(edit.layer, {}).update(edit.changes)
            elif isinstance(edit, DropLayer):
                self.dropped.add(edit.layer)

    def model(self, model: Any) -> Any:
        """A model of the same structure."""
        import keras

        if isinstance(model, keras.Sequential):
            return self.sequential(model)
        if hasattr(model, "_nodes_by_depth"):
            return self.functional(model)
        raise UnsupportedModelError(
            f"{type(model).__name__} {model.name!r} is a subclassed model, whose structure is "
            "written in its code only.",
            "Rewrite it as a Functional model, or fold the Functional parts of it.",
        )

    def clone(self, layer: Any) -> Any:
        """The new layer for an old one; one for each, however often it is called."""
        import keras

        if id(layer) not in self.clones:
            if isinstance(layer, keras.Model):
                made = self.model(layer)
            else:
                made = self.leaf(layer)
            self.clones[id(layer)] = (layer, made)
        return self.clones[id(layer)][1]

    def leaf(self, layer: Any) -> Any:
        path = self.paths.get(id(layer), layer.name)
        if path in self.dropped:
            return _identity(layer)
        return copying.copy_layer(layer, self.changes.get(path, {}))

    def sequential(self, model: Any) -> Any:
        import keras

        if not model.built:
            raise UnsupportedModelError(
                f"Sequential {model.name!r} is not built, so it has no weights to rewrite.",
                "Build it first: give it an Input, or call it once.",
            )
        kept = [layer for layer in model.layers if not self.vanishes(layer, model.layers)]
        first = self.input_layer(model._layers[0])  # noqa: SLF001  `layers` omits it
        return keras.Sequential([first, *map(self.clone, kept)], name=model.name)

    def vanishes(self, layer: Any, layers: list[Any]) -> bool:
        """Whether a dropped layer leaves nothing: the last one leaves its name."""
        if self.paths.get(id(layer)) not in self.dropped or layer is layers[-1]:
            return False
        before = layers[max(layers.index(layer) - 1, 0)]
        return bool(before.compute_dtype == layer.compute_dtype)

    def functional(self, model: Any) -> Any:
        import keras

        inputs = keras.tree.map_structure(self.new_input, input_structure(model))
        flat = zip(model.inputs, keras.tree.flatten(inputs), strict=True)
        tensors = {id(old): new for old, new in flat}
        outputs = {id(tensor) for tensor in model.outputs}
        for depth in sorted(model._nodes_by_depth, reverse=True):  # noqa: SLF001
            for node in model._nodes_by_depth[depth]:  # noqa: SLF001
                if not node.is_input and all(id(t) in tensors for t in node.input_tensors):
                    made = keras.tree.flatten(self.call(node, tensors, outputs))
                    for old, new in zip(node.outputs, made, strict=True):
                        tensors[id(old)] = new
        result = keras.tree.map_structure(
            lambda old: tensors[id(old)], output_structure(model)
        )
        return keras.Model(inputs, result, name=model.name)

    def call(self, node: Any, tensors: Mapping[int, Any], outputs: set[int]) -> Any:
        layer = node.operation
        args, kwargs = node.arguments.fill_in(tensors)
        if self.paths.get(id(layer)) in self.dropped:
            kept_for_its_name = id(node.outputs[0]) in outputs
            source = args[0] if args else kwargs["inputs"]
            if not kept_for_its_name and source.dtype == node.outputs[0].dtype:
                return source
            return self.clone(layer)(source)
        return self.clone(layer)(*args, **kwargs)

    def new_input(self, tensor: Any) -> Any:
        return self.input_layer(tensor._keras_history.operation).output  # noqa: SLF001

    def input_layer(self, layer: Any) -> Any:
        return type(layer).from_config(layer.get_config())

    def copy_state(self) -> None:
        """Gives every new layer the values of its old one, edited where edits say so."""
        import keras

        for old, new in self.clones.values():
            if isinstance(old, keras.Model) or not isinstance(old, keras.layers.Layer):
                continue
            path = self.paths.get(id(old), old.name)
            if path in self.transforms:
                weights: Weights = copying.read_weights(old)
                for edit in self.transforms[path]:
                    weights = edit.transform(weights)
                copying.write_weights(new, weights)
            elif path not in self.dropped:
                copying.copy_state(old, new)
            copying.copy_trainable(old, new)


def _identity(layer: Any) -> Any:
    """What stands for a dropped layer where its name or its cast is needed."""
    import keras

    # Keras 3 cannot save an Identity that was given a policy object.
    return keras.layers.Identity(name=layer.name, dtype=layer.dtype_policy.name)


def input_structure(model: Any) -> Any:
    """The inputs of a Sequential or Functional model, in the structure that it takes."""
    return _functional(model)._inputs_struct  # noqa: SLF001  `.input` fails where never called


def output_structure(model: Any) -> Any:
    """The outputs of a Sequential or Functional model, in the structure that it returns."""
    return _functional(model)._outputs_struct  # noqa: SLF001


def _functional(model: Any) -> Any:
    return getattr(model, "_functional", None) or model
