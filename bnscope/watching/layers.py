"""Which BN layers of a graph can be watched, and where their channels stand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from bnscope.bn import Array
from bnscope.graph import batchnorm
from bnscope.graph.model import Graph, Layer
from bnscope.rules.regularized_affine import l1_factor
from bnscope.statistics.layout import VARIABLES, Layout, Status

_HALF = frozenset({"float16", "bfloat16"})
# What calls the layers inside once for each time step.
_OVER_TIME = frozenset({"TimeDistributed", "RNN", "Bidirectional", "StackedRNNCells"})


def readable_layers(graph: Graph) -> list[Layer]:
    """The BN layers whose values can be read, in forward order."""
    return [layer for layer in batchnorm.batch_norms(graph) if _is_readable(layer)]


def make_layout(
    graph: Graph, layers: Sequence[Layer], *, replicas: int = 1, own_step: bool = False
) -> Layout:
    """The layout of some BN layers of a graph.

    Args:
        graph: the model.
        layers: some of its BN layers.
        replicas: how many replicas update moving values of their own.
        own_step: whether a step is not Keras's own, so that it may call the model twice.
    """
    return Layout(
        paths=tuple(layer.path for layer in layers),
        widths=tuple(batchnorm.channels(layer) or 0 for layer in layers),
        momentum=tuple(batchnorm.momentum(layer) for layer in layers),
        epsilon=tuple(batchnorm.epsilon(layer) for layer in layers),
        statuses=tuple(
            _status(graph, [layer, *graph.around(layer)], replicas, own_step=own_step)
            for layer in layers
        ),
        has_gamma=tuple("gamma" in layer.variables for layer in layers),
        has_beta=tuple("beta" in layer.variables for layer in layers),
        config_known=tuple(layer.config_known for layer in layers),
    )


def select(paths: Iterable[str], globs: Sequence[str] | None) -> list[int]:
    """Which paths a list of globs chooses; None chooses all."""
    return [
        index
        for index, path in enumerate(paths)
        if globs is None or any(fnmatchcase(path, glob) for glob in globs)
    ]


def warm(layout: Layout, values: Array) -> frozenset[str]:
    """The layers whose moving statistics are not the initial ones: trained before.

    Args:
        layout: the layers.
        values: their variables, shape `(4, channels)`.
    """
    mean, variance = values[2:4]
    off = (mean != 0) | (variance != 1)
    paths = enumerate(layout.paths)
    return frozenset(path for index, path in paths if off[layout.part(index)].any())


def pruned_layers(graph: Graph) -> frozenset[str]:
    """The BN layers whose gamma is under an L1 penalty, which is there to make it 0."""
    return frozenset(
        layer.path
        for layer in batchnorm.batch_norms(graph)
        if l1_factor(layer.config.get("gamma_regularizer"))
    )


def _is_readable(layer: Layer) -> bool:
    """Whether a layer has what is read of it: vectors, one value a channel."""
    width = batchnorm.channels(layer)
    if not width or not {"moving_mean", "moving_variance"} <= set(layer.variables):
        return False
    return all(
        layer.variables[name].shape == (width,)
        for name in VARIABLES
        if name in layer.variables
    )


def _status(
    graph: Graph, nest: Sequence[Layer], replicas: int, *, own_step: bool
) -> Status:
    """Whether the mini-batch statistics of `nest[0]` can be told from its moving values."""
    layer, *around = nest
    alone = replicas > 1 and not layer.config.get("synchronized")
    tests = (
        (Status.FROZEN, not layer.trainable),
        (Status.TIME_DISTRIBUTED, any(each.kind in _OVER_TIME for each in around)),
        (Status.SHARED, any(len(graph.calls_of(each)) > 1 for each in nest)),
        (Status.HALF_PRECISION, layer.variables["moving_mean"].dtype in _HALF),
        (Status.MOMENTUM, not 0.0 <= batchnorm.momentum(layer) < 1.0),
        (Status.REPLICAS, alone),
        (Status.RENORM, bool(layer.config.get("renorm"))),
        (Status.ASSUMED, own_step or graph.not_analysed_around(layer) is not None),
    )
    return next((status for status, holds in tests if holds), Status.EXACT)
