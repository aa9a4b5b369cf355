"""What is to be changed in a model, as plain descriptions: no Keras, nothing is done here.

Folds and fixes both come down to these few. Layers are named by their path in the graph. A
layer that others call inside of them (the cell of an LSTM, the projections of an attention
layer, what a TimeDistributed wraps) is changed through the one that the graph calls: `inside`
says where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy.typing as npt

Weights = Mapping[str, npt.NDArray[Any]]
Transform = Callable[[Weights], Weights]
# Names from a layer inward: of entries of its configuration, or of its attributes.
Inside = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TransformWeights:
    """New values for the variables of a layer.

    Args:
        layer: path of the layer.
        function: takes the layer's variables by name and returns those that change or are
            new. It is called when the edit is applied. It must not change the arrays it is
            given; it returns float64, which is rounded once, to the variable's dtype, after
            the last transform of the layer. Variables of layers inside it have the names of
            the attributes before theirs: `cell/kernel`.
        inside: attributes that lead to a layer inside this one, whose variables are meant;
            underscores before a name are left out.
    """

    layer: str
    function: Transform = field(repr=False)
    inside: Inside = ()


@dataclass(frozen=True, slots=True)
class SetConfig:
    """New values for entries of a layer's configuration, such as `use_bias`.

    Args:
        layer: path of the layer.
        changes: the entries that differ.
        inside: entries that lead to the configuration of a layer inside this one, which is
            meant.
    """

    layer: str
    changes: Mapping[str, Any]
    inside: Inside = ()


@dataclass(frozen=True, slots=True)
class DropLayer:
    """A layer that is taken out: what it was given goes on to where its output went."""

    layer: str


@dataclass(frozen=True, slots=True)
class DropInput:
    """An input that a merge loses: the one that the layer `source` makes."""

    layer: str
    source: str


@dataclass(frozen=True, slots=True)
class SetTrainable:
    """A new value for a layer's flag `trainable`; False freezes BN."""

    layer: str
    value: bool


@dataclass(frozen=True, slots=True)
class DropTraining:
    """The `training=` written into the calls of a layer is taken out, at its outer models too.

    A value that an outer model is called with reaches all layers inside it, so all of them
    lose it.
    """

    layer: str


@dataclass(frozen=True, slots=True)
class Unwrap:
    """A wrapper (`TimeDistributed`) gives way to the layer inside it, which keeps its state."""

    layer: str


Edit = (
    TransformWeights
    | SetConfig
    | DropLayer
    | DropInput
    | SetTrainable
    | DropTraining
    | Unwrap
)


@dataclass(frozen=True, slots=True)
class Step:
    """Edits that belong together: without one of them the others are wrong.

    Args:
        title: what they do, for messages: `the fold of "bn" into Conv2D "conv"`.
        edits: the edits, in order.
    """

    title: str
    edits: tuple[Edit, ...]


@dataclass(slots=True)
class LayerEdits:
    """All edits of one layer, in order."""

    config: dict[str, Any] = field(default_factory=dict)
    inner: dict[Inside, dict[str, Any]] = field(default_factory=dict)
    transforms: list[Transform] = field(default_factory=list)
    dropped: bool = False
    dropped_inputs: set[str] = field(default_factory=set)
    trainable: bool | None = None
    drops_training: bool = False
    unwrapped: bool = False

    def add(self, edit: Edit) -> None:
        """Adds one edit."""
        if isinstance(edit, TransformWeights):
            inside = partial(_transform_inside, edit.inside, edit.function)
            self.transforms.append(inside if edit.inside else edit.function)
        elif isinstance(edit, SetConfig):
            place = self.inner.setdefault(edit.inside, {}) if edit.inside else self.config
            place.update(edit.changes)
        elif isinstance(edit, SetTrainable):
            self.trainable = edit.value
        elif isinstance(edit, DropLayer):
            self.dropped = True
        elif isinstance(edit, DropInput):
            self.dropped_inputs.add(edit.source)
        elif isinstance(edit, DropTraining):
            self.drops_training = True
        else:
            self.unwrapped = True

    def transformed(self, weights: Weights) -> Weights:
        """The variables of the layer after all its transforms, not yet rounded."""
        result = dict(weights)
        for function in self.transforms:
            result.update(function(result))
        return result

    @property
    def rewrites(self) -> bool:
        """Whether a new layer takes over variables that are not the old one's."""
        return bool(self.config or self.inner or self.transforms)

    def configured(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration of the layer with all changes made.

        Raises:
            KeyError: if there is no layer inside where one is to be changed.
        """
        result = {**config, **self.config}
        for inside, changes in self.inner.items():
            place = result
            for name in inside:
                # Keras writes a layer inside as {"class_name": ..., "config": {...}}.
                place[name] = dict(place[name])
                place[name]["config"] = place = dict(place[name]["config"])
            place.update(changes)
        return result


def _transform_inside(inside: Inside, function: Transform, weights: Weights) -> Weights:
    """What a function makes of the variables of a layer inside, by their names outside."""
    start = "".join(f"{name}/" for name in inside)
    seen = {
        name.removeprefix(start): value
        for name, value in weights.items()
        if name.startswith(start)
    }
    return {start + name: value for name, value in function(seen).items()}


def by_layer(edits: Iterable[Edit]) -> dict[str, LayerEdits]:
    """The edits of each layer, by its path."""
    found: dict[str, LayerEdits] = {}
    for edit in edits:
        found.setdefault(edit.layer, LayerEdits()).add(edit)
    return found


def moved_inside(edit: Edit, wrapper: str, attribute: str) -> Edit:
    """An edit of a layer as one of the wrapper around it.

    Args:
        edit: the edit. A layer is dropped, unwrapped or frozen together with its wrapper.
        wrapper: path of the wrapper.
        attribute: where the wrapper has the layer, in its configuration and as an attribute.
    """
    if isinstance(edit, (TransformWeights, SetConfig)):
        return replace(edit, layer=wrapper, inside=(attribute, *edit.inside))
    return replace(edit, layer=wrapper)
