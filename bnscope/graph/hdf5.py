"""BN variables in an HDF5 file, and where Keras 2 and Keras 3 put them.

BN is read at once, a few kilobytes of however many there are, so that the file is closed again.
Kernels are found only where they are wanted, and read only when asked for, while it is open. Links to other files, and data sets that lie in other files, are refused.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt

from bnscope.errors import UnreadableModelError
from bnscope.graph.batchnorm import VARIABLES, variable_names
from bnscope.graph.files import Store, copied, use_heap
from bnscope.graph.kinds import KERNEL_VARIABLES
from bnscope.graph.limits import (
    MAX_CHANNELS,
    MAX_CHUNK,
    MAX_COMPRESSED,
    MAX_CONFIG,
    MAX_KERNEL,
    MAX_KERNELS,
    MAX_MEMBERS,
    MAX_VALUES,
    megabytes,
    too_much,
)
from bnscope.graph.model import Variable

if TYPE_CHECKING:
    from bnscope.graph.weight_sets import BatchNormSet

# Filters of HDF5 that cannot make more than a thousand bytes out of one, and need no plugin.
_FILTERS = frozenset(
    {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
)
_SAVE_AGAIN = "The file is damaged, or was not written by Keras; save the model again."
_KERNEL_NAMES = frozenset(name for names in KERNEL_VARIABLES.values() for name in names) | {
    "depthwise_kernel"
}
# Comparisons of names in one legacy group; a file can be made that takes any number.
_MAX_COMPARISONS = 5_000_000


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """HDF5 loads no plugin meanwhile, which a file could name as the filter of its data."""
    use_heap()
    paths = [h5py.h5pl.get(index) for index in range(h5py.h5pl.size())]
    try:
        for _ in paths:
            h5py.h5pl.remove(0)
        yield
    finally:
        for path in paths:
            h5py.h5pl.append(path)


def child(group: h5py.Group, name: str) -> Any:
    """A member of a group, never through a link to another place or file; None if absent."""
    if "/" in name:  # HDF5 itself would follow links on the way
        return walk(group, name)
    member = _open(group.id, name)
    if isinstance(member, h5py.h5g.GroupID):
        return h5py.Group(member)
    return h5py.Dataset(member) if isinstance(member, h5py.h5d.DatasetID) else None


def walk(group: h5py.Group, path: str) -> Any:
    """The member at a path below a group; None if there is none."""
    member: Any = group
    for part in filter(None, path.split("/")):
        if not isinstance(member, h5py.Group):
            return None
        member = child(member, part)
    return member


def read_array(dataset: h5py.Dataset) -> npt.NDArray[np.generic]:
    """The values of a small data set that lies in this very file."""
    return _read(dataset.id, str(dataset.name))


def _open(group: Any, name: str) -> Any:
    """The identifier of a member; h5py's own `group[name]` takes three times as long."""
    key = name.encode("utf-8", "surrogatepass")
    if key in {b"", b"."} or b"\0" in key:  # the group itself, or no name at all
        return None
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
    dataset: Any, name: str, stored: Store | None = None, most: int = MAX_CHANNELS
) -> npt.NDArray[np.generic]:
    """The values of an identifier, checked before a byte of them is read.

    Args:
        dataset: identifier of the data set.
        name: how messages call it.
        stored: the bytes of the file; plain data are copied out of them, which takes half the
            time of going through HDF5.
        most: how many values are read.
    """
    if not isinstance(dataset, h5py.h5d.DatasetID):
        raise _no_numbers(name)
    shape = dataset.shape
    if shape is None:
        raise _no_numbers(name)
    size = math.prod(shape)
    if size > most:
        what = "BN layer has" if most == MAX_CHANNELS else "kernel that is read"
        raise too_much(f"{name} claims {size:,} values, more than any {what}", most)
    if stored is not None and dataset.get_type().equal(h5py.h5t.IEEE_F32LE):
        offset = dataset.get_offset()  # None unless the values lie here in one piece
        data = b"" if offset is None else stored.read_at(offset, 4 * size)
        if offset is not None and len(data) == 4 * size:
            return np.frombuffer(data, "<f4").astype(np.float32).reshape(shape)
    return _read_through_hdf5(dataset, name)


def _read_through_hdf5(dataset: Any, name: str) -> npt.NDArray[np.generic]:
    dtype = _number_type(dataset, name)
    layout = dataset.get_create_plist()
    if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
        raise UnreadableModelError(
            f"The data of {name} lie in another file.",
            "Such data sets are never read; save the model again with Keras.",
        )
    _check_storage(dataset, layout, dtype.itemsize, name)
    values = np.empty(dataset.shape, dtype)
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return _widened(values) if dtype.kind == "V" else values


def _number_type(dataset: Any, name: str) -> np.dtype[Any]:
    kind = dataset.get_type().get_class()
    if kind not in {h5py.h5t.FLOAT, h5py.h5t.INTEGER, h5py.h5t.OPAQUE}:
        raise _no_numbers(name)
    dtype: np.dtype[Any] = dataset.dtype
    # h5py stores bfloat16 as two bytes without a type.
    if dtype.kind not in "fiu" and dtype != np.dtype("V2"):
        raise _no_numbers(name)
    return dtype


def _widened(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Values of bfloat16, the upper half of float32, as float32."""
    return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _check_storage(dataset: Any, layout: Any, itemsize: int, name: str) -> None:
    """Refuses compressed data that could inflate beyond measure, or that need a plugin."""
    if layout.get_layout() != h5py.h5d.CHUNKED:
        return
    chunk = math.prod(layout.get_chunk()) * itemsize
    if chunk > MAX_CHUNK:
        raise too_much(
            f"{name} lies in pieces of {megabytes(chunk)}", MAX_CHUNK >> 20, " MB"
        )
    filters = [layout.get_filter(index)[0] for index in range(layout.get_nfilters())]
    if not _FILTERS.issuperset(filters) or len(set(filters)) < len(filters):
        raise UnreadableModelError(
            f"{name} is packed by the HDF5 filters {', '.join(str(code) for code in filters)}.",
            "Only deflate, shuffle and fletcher32 are read, once each; Keras uses none.",
        )
    size = dataset.get_storage_size()
    if h5py.h5z.FILTER_DEFLATE in filters and size > MAX_COMPRESSED:
        raise too_much(
            f"{name} has {size >> 10:,} KB of compressed values",
            MAX_COMPRESSED >> 10,
            " KB",
        )


def _no_numbers(name: str) -> UnreadableModelError:
    return UnreadableModelError(
        f"The HDF5 member {name} holds no numbers.", "Save the model again."
    )


def attribute(group: Any, name: str) -> Any:
    """An attribute that holds text or numbers, with bytes decoded; None if absent."""
    key = name.encode()
    if not h5py.h5a.exists(group.id, key):
        return None
    with copied(_check_attribute(h5py.h5a.open(group.id, key), name)):
        value = group.attrs[name]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value


def _check_attribute(found: Any, name: str) -> int:
    """Refuses an attribute that is no text or number, or fills the memory; counts its values."""
    kind = found.get_type()
    if kind.get_class() not in {h5py.h5t.STRING, h5py.h5t.INTEGER, h5py.h5t.FLOAT}:
        raise UnreadableModelError(f"The HDF5 attribute {name} holds no text.", _SAVE_AGAIN)
    count: int = math.prod(found.shape)
    size = found.get_storage_size() if count else 0  # h5py raises on an empty one
    if max(size, 64 * count) > 4 * MAX_CONFIG:
        raise too_much(
            f"The HDF5 attribute {name} may take {megabytes(max(size, 64 * count))}",
            4 * MAX_CONFIG >> 20,
            " MB",
        )
    return count


class _Counter:
    """Counts the values that are read of one file.

    Args:
        kernels: whether kernels are wanted too.
    """

    def __init__(self, *, kernels: bool = False) -> None:
        self.kernels = kernels
        self.values = 0
        self.in_kernels = 0

    def add(self, variables: Mapping[str, Variable]) -> None:
        """Counts values that were read.

        Raises:
            UnreadableModelError: if the file has more than any model.
        """
        self.values += sum(math.prod(variable.shape) for variable in variables.values())
        if self.values > MAX_VALUES:
            raise too_much(
                f"The BN layers have more than {MAX_VALUES:,} values", MAX_VALUES
            )

    def add_kernel(self, size: int) -> None:
        """Counts the values of a kernel that is about to be read.

        Raises:
            UnreadableModelError: if the file has more than is read.
        """
        self.in_kernels += size
        if self.in_kernels > MAX_KERNELS:
            raise too_much(
                f"The kernels have more than {MAX_KERNELS:,} values", MAX_KERNELS
            )


class Keras3Weights:
    """The `model.weights.h5` of a `.keras` archive.

    Groups are named by class and count (`layers/batch_normalization_3/vars/0`); the attribute
    `name` of `vars`, where there is one, holds the layer's own name.
    """

    def __init__(
        self,
        group: h5py.Group | None,
        stored: Store | None = None,
        found: _Counter | None = None,
        *,
        kernels: bool = False,
    ) -> None:
        self._find: Callable[[], h5py.Group | None] = lambda: group
        self._stored = stored
        self._found = found or _Counter(kernels=kernels)
        self._counts: dict[str, int] = {}
        self._by_saved_name: dict[str, dict[str | None, h5py.Group]] = {}

    def _lazy(self, find: Callable[[], h5py.Group | None]) -> Keras3Weights:
        # Most layers are never asked for their variables; finding them takes time.
        weights = Keras3Weights(None, self._stored, self._found)
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
        if stem not in self._by_saved_name:
            self._by_saved_name[stem] = _by_saved_name(container, stem)
        return self._by_saved_name[stem].get(name, first)

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
        found = variables(places, values, self._stored)
        self._found.add(found)
        return found

    def kernels(self, kind: str) -> Mapping[str, Variable]:
        """The variables of the layer with kernels at this place, if they are wanted."""
        values = self.group and _group(self.group, "vars") if self._found.kernels else None
        if values is None:
            return {}
        places = {name: str(index) for index, name in enumerate(KERNEL_VARIABLES[kind])}
        return _unread(places, values, self._stored, self._found)

    def found_inside(self) -> Iterator[BatchNormSet]:
        """The BN layers below this place, told by names and shapes."""
        from bnscope.graph.weight_sets import keras3_sets

        return iter(()) if self.group is None else keras3_sets(self.group, self._stored)


class LegacyWeights:
    """The weights of an `.h5` file: a group a layer, with the attribute `weight_names`.

    A nested model keeps all its variables in one group; they are told apart by their names.
    """

    def __init__(
        self,
        group: h5py.Group | None,
        parts: tuple[str, ...] = (),
        found: _Counter | None = None,
        sets: tuple[_LegacySets, _LegacySets] | None = None,
        *,
        kernels: bool = False,
    ) -> None:
        self.group = group
        self.parts = parts
        self._found = found or _Counter(kernels=kernels)
        self._both = sets or (_LegacySets(group), _LegacySets(group, kernels=True))
        self._sets, self._kernels = self._both

    def inside(self, name: str, class_name: str) -> LegacyWeights:  # noqa: ARG002
        """The place of a layer of this model."""
        if self.parts:
            return self.within(name)
        group = self.group and _group(self.group, name)
        return LegacyWeights(group, (name,), self._found)

    def within(self, attribute: str) -> LegacyWeights:
        """The place of a layer that this one keeps as an attribute."""
        parts = (*self.parts, attribute)
        return LegacyWeights(self.group, parts, self._found, self._both)

    def batch_norm(self, config: Mapping[str, Any]) -> Mapping[str, Variable]:  # noqa: ARG002
        """The variables of the BN layer at this place."""
        if self.group is None:
            return {}
        places = self._sets.find("/".join(self.parts))
        if places is None:
            return {}
        found = variables(places, self.group)
        self._found.add(found)
        return found

    def kernels(self, kind: str) -> Mapping[str, Variable]:
        """The variables of the layer with kernels at this place, if they are wanted."""
        if self.group is None or not self._found.kernels:
            return {}
        places = dict(self._kernels.find("/".join(self.parts)) or {})
        if "kernel" in KERNEL_VARIABLES[kind] and "depthwise_kernel" in places:
            places["kernel"] = places.pop("depthwise_kernel")  # what Keras 2 called it
        return _unread(places, self.group, None, self._found)

    def found_inside(self) -> Iterator[BatchNormSet]:
        """The BN layers below this place, told by the names of their variables."""
        from bnscope.graph.weight_sets import legacy_group_sets

        if self.group is None or not self.parts:
            return
        for found in legacy_group_sets(self.group, self.parts[0]):
            around, _, path = found.path.partition("/".join(self.parts) + "/")
            if path and not around:
                yield replace(found, path=path, place=path)


class _LegacySets:
    """The BN or kernel variables of one legacy group, found once for all layers in it."""

    def __init__(self, group: h5py.Group | None, *, kernels: bool = False) -> None:
        self._group = group
        self._find = _legacy_kernels if kernels else legacy_sets
        self._comparisons = 0

    @cached_property
    def _sets(self) -> dict[str, dict[str, str]]:
        return {} if self._group is None else self._find(self._group)

    def find(self, path: str) -> dict[str, str] | None:
        """The variables of the layer at a path; None if it cannot be told which they are."""
        if path in self._sets:
            return self._sets[path]
        self._comparisons += len(self._sets)
        if self._comparisons > _MAX_COMPARISONS:
            raise too_much(
                f"The {len(self._sets):,} layers in one group bear other names than in the "
                f"configuration; finding them takes more than {_MAX_COMPARISONS:,} comparisons",
                _MAX_COMPARISONS,
            )
        owner = _best_match(path, list(self._sets))
        return None if owner is None else self._sets[owner]


def legacy_sets(group: h5py.Group) -> dict[str, dict[str, str]]:
    """The BN variables of a legacy group: owner's name -> variable -> place in the group."""
    sets = _named(group, frozenset(VARIABLES))
    return {owner: found for owner, found in sets.items() if "moving_mean" in found}


def _legacy_kernels(group: h5py.Group) -> dict[str, dict[str, str]]:
    """The kernels and biases of a legacy group, as `legacy_sets`."""
    sets = _named(group, _KERNEL_NAMES)
    return {owner: found for owner, found in sets.items() if set(found) != {"bias"}}


def _named(group: h5py.Group, wanted: frozenset[str]) -> dict[str, dict[str, str]]:
    sets: dict[str, dict[str, str]] = {}
    for name in names(group, "weight_names"):
        owner, _, last = name.rpartition("/")
        variable = last.partition(":")[0]
        if variable in wanted:
            sets.setdefault(owner, {})[variable] = name
    return sets


def is_seen(group: h5py.Group, seen: set[int]) -> bool:
    """Whether a group was visited already; hard links may join groups to a cycle."""
    address = h5py.h5o.get_info(group.id).addr
    known = address in seen
    seen.add(address)
    return known


def keys(group: h5py.Group) -> Iterator[str]:
    """The names in a group, if there are no more than any model has layers."""
    count = group.id.get_num_objs()
    if count > MAX_MEMBERS:
        raise too_much(f"An HDF5 group has {count:,} members", MAX_MEMBERS)
    yield from group


def _by_saved_name(container: h5py.Group, stem: str) -> dict[str | None, h5py.Group]:
    """The groups of one class by the names that they say their layers have."""
    found: dict[str | None, h5py.Group] = {}
    for key in keys(container):
        group = _group(container, key) if _is_numbered(key, stem) else None
        if group is not None:
            found.setdefault(_saved_name(group), group)
    return found


def variables(
    places: Mapping[str, str], group: h5py.Group, stored: Store | None = None
) -> dict[str, Variable]:
    """The variables of a BN layer, read now.

    Args:
        places: where each is, by its name, below the group.
        group: a group of the file.
        stored: where the bytes of the file can be read, if they lie there as they are.

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


def _unread(
    places: Mapping[str, str], group: h5py.Group, stored: Store | None, counter: _Counter
) -> dict[str, Variable]:
    """The variables of a layer with kernels, each read when it is asked for.

    What dtype they have is found out then.
    """
    found = {}
    for name, place in places.items():
        folder, _, last = place.rpartition("/")
        parent = walk(group, folder) if folder else group
        dataset = _open(parent.id, last) if isinstance(parent, h5py.Group) else None
        if isinstance(dataset, h5py.h5d.DatasetID) and dataset.shape is not None:
            read = partial(_read_kernel, dataset, place, stored, counter)
            found[name] = Variable(name, dataset.shape, "", read)
    return found


def _read_kernel(
    dataset: Any, place: str, stored: Store | None, counter: _Counter
) -> npt.NDArray[np.generic]:
    counter.add_kernel(math.prod(dataset.shape))
    return _read(dataset, place, stored, MAX_KERNEL)


def _variable(name: str, values: npt.NDArray[np.generic]) -> Variable:
    return Variable(name, values.shape, _dtype_name(values.dtype), lambda: values)


@cache
def _dtype_name(dtype: np.dtype[Any]) -> str:
    return str(dtype)


def names(group: h5py.Group, name: str) -> list[str]:
    """A list of names, which Keras cuts into `weight_names0`, ... where it is too long."""
    values = attribute(group, name)
    if values is None:
        chunks: list[Any] = []
        while (chunk := attribute(group, f"{name}{len(chunks)}")) is not None:
            chunks.append(np.atleast_1d(chunk))
        values = [part for chunk in chunks for part in chunk]
    return [
        part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part)
        for part in np.atleast_1d(values)
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
