"""BN variables in an HDF5 file, and where Keras 2 and Keras 3 put them.

Only BN is read, a few kilobytes of however many there are, and it is read at once, so that the
file is closed again. Links to other files, and data sets that lie in other files, are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt

from bnscope.errors import UnreadableModelError
from bnscope.graph.batchnorm import VARIABLES, variable_names
from bnscope.graph.model import Variable

if TYPE_CHECKING:
    from bnscope.graph.weight_sets import BatchNormSet

# The longest gamma that is believed; the widest real layers have some 100,000 channels.
MAX_CHANNELS = 1 << 24
# Groups nested more deeply than any model nests its layers.
MAX_DEPTH = 64


def child(group: h5py.Group, name: str) -> Any:
    """A member of a group, never through a link to another place or file; None if absent."""
    member = _open(group.id, name)
    if isinstance(member, h5py.h5g.GroupID):
        return h5py.Group(member)
    return h5py.Dataset(member) if isinstance(member, h5py.h5d.DatasetID) else None


def walk(group: h5py.Group, path: str) -> Any:
    """The member at a path below a group; None if there is none."""
    member: Any = group
    for part in path.split("/"):
        if not isinstance(member, h5py.Group):
            return None
        member = child(member, part)
    return member


def read_array(dataset: h5py.Dataset) -> npt.NDArray[np.generic]:
    """The values of a small data set that lies in this very file."""
    return _read(dataset.id, str(dataset.name))


def _open(group: Any, name: str) -> Any:
    """The identifier of a member; h5py's own `group[name]` takes three times as long."""
    key = name.encode()
    try:
        link = group.links.get_info(key)
    except (KeyError, RuntimeError):  # h5py's two words for absent
        return None
    if link.type != h5py.h5l.TYPE_HARD:
        raise UnreadableModelError(
            f"The HDF5 member {name} is a link to another place.",
            "Links are never followed; save the model again with Keras.",
        )
    return h5py.h5o.open(group, key)


def _read(
    dataset: Any, name: str, stored: memoryview | None = None
) -> npt.NDArray[np.generic]:
    """The values of an identifier, checked before a byte of them is read.

    Args:
        dataset: identifier of the data set.
        name: how messages call it.
        stored: the bytes of the file; plain data are copied out of them, which takes half the
            time of going through HDF5.
    """
    if not isinstance(dataset, h5py.h5d.DatasetID):
        raise _no_numbers(name)
    shape = dataset.shape
    size = math.prod(shape)
    if size > MAX_CHANNELS:
        raise UnreadableModelError(
            f"{name} claims {size:,} values, more than any BN layer has.",
            "The file is damaged; save the model again.",
        )
    if stored is not None and dataset.get_type().equal(h5py.h5t.IEEE_F32LE):
        offset = dataset.get_offset()  # None unless the values lie here in one piece
        if offset is not None and offset + 4 * size <= len(stored):
            plain = np.frombuffer(stored, "<f4", size, offset)
            return plain.astype(np.float32).reshape(shape)
    return _read_through_hdf5(dataset, name)


def _read_through_hdf5(dataset: Any, name: str) -> npt.NDArray[np.generic]:
    dtype = dataset.dtype
    if dtype.kind not in "fiuV":
        raise _no_numbers(name)
    layout = dataset.get_create_plist()
    if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
        raise UnreadableModelError(
            f"The data of {name} lie in another file.",
            "Such data sets are never read; save the model again with Keras.",
        )
    values = np.empty(dataset.shape, dtype)
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return values


def _no_numbers(name: str) -> UnreadableModelError:
    return UnreadableModelError(
        f"The HDF5 member {name} holds no numbers.", "Save the model again."
    )


def attribute(group: Any, name: str) -> Any:
    """An attribute, with bytes decoded; None if absent."""
    value = group.attrs.get(name)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value


class Keras3Weights:
    """The `model.weights.h5` of a `.keras` archive.

    Groups are named by class and count (`layers/batch_normalization_3/vars/0`); the attribute
    `name` of `vars`, where there is one, holds the layer's own name.
    """

    def __init__(self, group: h5py.Group | None, stored: memoryview | None = None) -> None:
        self._find: Callable[[], h5py.Group | None] = lambda: group
        self._stored = stored
        self._counts: dict[str, int] = {}

    def _lazy(self, find: Callable[[], h5py.Group | None]) -> Keras3Weights:
        # Most layers are never asked for their variables; finding them takes time.
        weights = Keras3Weights(None, self._stored)
        weights._find = find
        return weights

    @cached_property
    def group(self) -> h5py.Group | None:
        """The layer's group; None if the file has none."""
        return self._find()

    @cached_property
    def _container(self) -> h5py.Group | None:
        """The group of the layers of this model."""
        names = ("layers", "_layer_checkpoint_dependencies")
        found = (self.group and _group(self.group, name) for name in names)
        return next((group for group in found if group), None)

    def inside(self, name: str, class_name: str) -> Keras3Weights:
        """The place of a layer of this model."""
        stem = _snake_case(class_name.rpartition(">")[2])
        count = self._counts.get(stem, 0)
        self._counts[stem] = count + 1
        return self._lazy(lambda: self._layer(name, stem, count))

    def _layer(self, name: str, stem: str, count: int) -> h5py.Group | None:
        """The group that is counted so, unless another one bears the layer's own name."""
        container = self._container
        if container is None:
            return None
        first = _group(container, stem if count == 0 else f"{stem}_{count}")
        if first is not None and _saved_name(first) in {None, name}:
            return first
        named = (_group(container, key) for key in container if _is_numbered(key, stem))
        return next(
            (group for group in named if group and _saved_name(group) == name), first
        )

    def within(self, attribute: str) -> Keras3Weights:
        """The place of a layer that this one keeps as an attribute."""
        return self._lazy(lambda: self.group and _group(self.group, attribute))

    def batch_norm(self, config: Mapping[str, Any]) -> Mapping[str, Variable]:
        """The variables of the BN layer at this place."""
        values = self.group and _group(self.group, "vars")
        if values is None:
            return {}
        names = variable_names(config)
        places = {name: str(index) for index, name in enumerate(names)}
        return variables(places, values, self._stored)

    def found_inside(self) -> Iterator[BatchNormSet]:
        """The BN layers below this place, told by names and shapes."""
        from bnscope.graph.weight_sets import keras3_sets

        return iter(()) if self.group is None else keras3_sets(self.group, self._stored)


class LegacyWeights:
    """The weights of an `.h5` file: a group a layer, with the attribute `weight_names`.

    A nested model keeps all its variables in one group; they are told apart by their names.
    """

    def __init__(self, group: h5py.Group | None, parts: tuple[str, ...] = ()) -> None:
        self.group = group
        self.parts = parts

    def inside(self, name: str, class_name: str) -> LegacyWeights:  # noqa: ARG002
        """The place of a layer of this model."""
        if self.parts:
            return LegacyWeights(self.group, (*self.parts, name))
        group = self.group and _group(self.group, name)
        return LegacyWeights(group, (name,))

    def within(self, attribute: str) -> LegacyWeights:
        """The place of a layer that this one keeps as an attribute."""
        return LegacyWeights(self.group, (*self.parts, attribute))

    def batch_norm(self, config: Mapping[str, Any]) -> Mapping[str, Variable]:  # noqa: ARG002
        """The variables of the BN layer at this place."""
        if self.group is None:
            return {}
        sets = legacy_sets(self.group)
        owner = _best_match("/".join(self.parts), list(sets))
        return {} if owner is None else variables(sets[owner], self.group)

    def found_inside(self) -> Iterator[BatchNormSet]:
        """The BN layers below this place, told by the names of their variables."""
        from bnscope.graph.weight_sets import legacy_group_sets

        if self.group is None or not self.parts:
            return
        for found in legacy_group_sets(self.group, self.parts[0]):
            around, _, path = found.path.partition("/".join(self.parts) + "/")
            if path and not around:
                yield replace(found, path=path, place=path)


def legacy_sets(group: h5py.Group) -> dict[str, dict[str, str]]:
    """The BN variables of a legacy group: owner's name -> variable -> place in the group."""
    sets: dict[str, dict[str, str]] = {}
    for name in names(group, "weight_names"):
        owner, _, last = name.rpartition("/")
        variable = last.partition(":")[0]
        if variable in VARIABLES:
            sets.setdefault(owner, {})[variable] = name
    return {owner: found for owner, found in sets.items() if "moving_mean" in found}


def variables(
    places: Mapping[str, str], group: h5py.Group, stored: memoryview | None = None
) -> dict[str, Variable]:
    """The variables of a BN layer, read now.

    Args:
        places: where each is, by its name, below the group.
        group: a group of the file.
        stored: the bytes of the file, where they lie in memory.

    Raises:
        UnreadableModelError: if they are no vectors of one length.
    """
    found = {}
    for name, place in places.items():
        folder, _, last = place.rpartition("/")
        parent = walk(group, folder) if folder else group
        dataset = _open(parent.id, last) if isinstance(parent, h5py.Group) else None
        if dataset is not None:
            found[name] = _variable(name, _read(dataset, place, stored))
    shapes = {variable.shape for variable in found.values()}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise UnreadableModelError(
            f"The variables at {group.name} have the shapes "
            f"{', '.join(str(shape) for shape in sorted(shapes))}; BN needs one length for all.",
            "The file is damaged, or was not written by Keras; save the model again.",
        )
    return found


def _variable(name: str, values: npt.NDArray[np.generic]) -> Variable:
    return Variable(name, values.shape, _dtype_name(values.dtype), lambda: values)


@cache
def _dtype_name(dtype: np.dtype[Any]) -> str:
    return str(dtype)


def names(group: h5py.Group, name: str) -> list[str]:
    """A list of names, which Keras cuts into `weight_names0`, ... where it is too long."""
    values = group.attrs.get(name)
    if values is None:
        chunks: list[Any] = []
        while (chunk := group.attrs.get(f"{name}{len(chunks)}")) is not None:
            chunks.append(chunk)
        values = [part for chunk in chunks for part in chunk]
    return [
        part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part)
        for part in values
    ]


def _best_match(path: str, owners: list[str]) -> str | None:
    """Which of the owners in a legacy group is the layer at a path."""
    last = path.rpartition("/")[2]
    counted = re.compile(rf"(.*/)?{re.escape(last)}(_\d+)?")
    attempts = (
        [owner for owner in owners if owner == path],
        [o for o in owners if o.endswith("/" + path) or path.endswith("/" + o)],
        [owner for owner in owners if owner.rpartition("/")[2] == last],
        [owner for owner in owners if counted.fullmatch(owner)],
        owners,
    )
    return next((found[0] for found in attempts if len(found) == 1), None)


def _group(parent: h5py.Group, name: str) -> h5py.Group | None:
    member = child(parent, name)
    return member if isinstance(member, h5py.Group) else None


def _saved_name(group: h5py.Group) -> str | None:
    values = _group(group, "vars")
    name = None if values is None else attribute(values, "name")
    return name if isinstance(name, str) else None


def _is_numbered(key: str, stem: str) -> bool:
    return key == stem or (key.startswith(stem + "_") and key[len(stem) + 1 :].isdigit())


@cache
def _snake_case(name: str) -> str:
    """A class name as Keras writes it in the names of groups."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
