"""BN layers in a weights file that no configuration explains: told by names and shapes.

Keras 3 numbers the variables of a layer and does not name them, in the order gamma, beta,
moving mean, moving variance and what renorm adds; `scale` and `center` leave the first ones
out. Four vectors of one length, the last of them not negative, are BN; fewer or more are
believed only if a name says so too. Keras 2 names each variable.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import h5py
import numpy as np

from bnscope.graph import hdf5
from bnscope.graph.batchnorm import AFFINE, VARIABLES
from bnscope.graph.files import Store
from bnscope.graph.limits import MAX_GROUP_DEPTH
from bnscope.graph.model import Variable

_STATISTICS = VARIABLES[2:4]
_RENORM = VARIABLES[4:]
_NO_LAYERS = frozenset({"vars", "optimizer", "metrics"})
_NUMBERED = re.compile(r"(.*)_([0-9]{1,9})")
# Keras's own names, and those that people give.
_OWN_NAME = re.compile(r"(sync_)?batch_normalization(_v[12])?(_\d+)?")
_USUAL_NAME = re.compile(
    r"(.*[^a-z])?(bn|(batch_?)?norm(alization)?)([^a-z].*)?", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class BatchNormSet:
    """The variables of one BN layer in a file.

    Args:
        path: names of the layers around it and its own, as the user knows them.
        place: the group in the file, below the one that was searched.
        variables: the variables by name.
    """

    path: str
    place: str
    variables: Mapping[str, Variable]

    @property
    def config(self) -> dict[str, bool]:
        """What the variables say of the configuration."""
        names = set(self.variables)
        known = {} if AFFINE in names else {"gamma": "scale", "beta": "center"}
        config = {option: name in names for name, option in known.items()}
        return {**config, "renorm": "renorm_mean" in names}


def keras3_sets(group: h5py.Group, stored: Store | None = None) -> Iterator[BatchNormSet]:
    """The BN layers below a group of a Keras 3 weights file, numbered ones in their order.

    Args:
        group: the group of a model or layer.
        stored: where the bytes of the file can be read, if they lie there as they are.
    """
    return _search(group, "", "", stored, set())


def _search(
    group: h5py.Group, path: str, place: str, stored: Store | None, seen: set[int]
) -> Iterator[BatchNormSet]:
    # A damaged file may hold a group inside itself, or nest without end.
    if hdf5.is_seen(group, seen) or place.count("/") > MAX_GROUP_DEPTH:
        return
    for key in sorted(hdf5.keys(group), key=_natural):
        member = hdf5.child(group, key)
        if not isinstance(member, h5py.Group) or key in _NO_LAYERS:
            continue
        values = hdf5.walk(member, "vars")
        own = isinstance(values, h5py.Group)
        saved = hdf5.attribute(values, "name") if own else None
        name = saved if isinstance(saved, str) else key
        inner = "/".join(part for part in (path, name if own else "") if part)
        where = f"{place}/{key}" if place else key
        variables = _batch_norm(values, key, name, stored) if own else None
        if variables is not None:
            yield BatchNormSet(inner, where, variables)
        else:
            yield from _search(member, inner, where, stored, seen)


def _batch_norm(
    values: h5py.Group, key: str, name: str, stored: Store | None
) -> dict[str, Variable] | None:
    """The variables by name if this is BN, else None."""
    if not 2 <= len(values) <= len(VARIABLES):  # noqa: PLR2004
        return None
    lengths = {_length(values, str(index)) for index in range(len(values))}
    if len(lengths) != 1 or lengths == {None}:
        return None
    names = _variable_names(len(values), [key, name])
    if names is None:
        return None
    places = {variable: str(index) for index, variable in enumerate(names)}
    found = hdf5.variables(places, values, stored)
    if not _is_named([key, name]) and not _is_variance(found["moving_variance"]):
        return None
    return _with_known_affine(found)


def _is_variance(variable: Variable) -> bool:
    """Whether these can be variances. The four counts of the metric AUC are whole numbers."""
    values = np.asarray(variable.read(), np.float64)
    counts = np.all(values == np.round(values)) and not np.all(values == 1)
    return not (counts or np.any(values < 0))


def _length(values: h5py.Group, name: str) -> int | None:
    """The length of a vector of floating numbers; None for anything else."""
    data = hdf5.child(values, name)
    if not isinstance(data, h5py.Dataset) or data.ndim != 1 or data.dtype.kind != "f":
        return None
    return int(data.shape[0])


def _variable_names(count: int, names: list[str]) -> tuple[str, ...] | None:
    own = any(_OWN_NAME.fullmatch(name) for name in names)
    renorm = count > 4  # noqa: PLR2004
    affine = {0: (), 1: (AFFINE,), 2: VARIABLES[:2]}[count - (5 if renorm else 2)]
    believed = own or len(affine) == 2 or (bool(affine) and _is_named(names))  # noqa: PLR2004
    return (*affine, *_STATISTICS, *(_RENORM if renorm else ())) if believed else None


def _is_named(names: list[str]) -> bool:
    return any(_USUAL_NAME.fullmatch(name) for name in names)


def _with_known_affine(found: dict[str, Variable]) -> dict[str, Variable]:
    """Calls the only one of gamma and beta by its name if its initial values tell."""
    variable = found.get(AFFINE)
    if variable is None:
        return found
    values = variable.read()
    for name, initial in (("gamma", 1), ("beta", 0)):
        if np.all(values == initial):
            del found[AFFINE]
            known = Variable(name, variable.shape, variable.dtype, variable.read)
            return {name: known, **found}
    return found


def legacy_sets(store: h5py.Group) -> Iterator[BatchNormSet]:
    """The BN layers of a legacy weights file, in the order of its layers."""
    for name in hdf5.names(store, "layer_names") or list(hdf5.keys(store)):
        group = hdf5.child(store, name)
        if isinstance(group, h5py.Group):
            yield from legacy_group_sets(group, name)


def legacy_group_sets(group: h5py.Group, name: str) -> Iterator[BatchNormSet]:
    """The BN layers in the group of one layer or nested model of that name."""
    for owner, places in hdf5.legacy_sets(group).items():
        parts = owner.split("/")
        start = parts.index(name) if name in parts else None
        inner = parts if start is None else parts[start + 1 :]
        yield BatchNormSet(
            "/".join([name, *inner]), f"{name}/{owner}", hdf5.variables(places, group)
        )


def _natural(name: str) -> tuple[str, int]:
    """`conv2d_10` behind `conv2d_9`."""
    numbered = _NUMBERED.fullmatch(name)
    return (numbered[1], int(numbered[2])) if numbered else (name, 0)
