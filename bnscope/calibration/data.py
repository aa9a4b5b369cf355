"""The samples to recalibrate on: whatever `fit` takes, as batches in memory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from bnscope.errors import BnscopeError, first_line

# Of fewer samples statistics tell nothing.
FEWEST_SAMPLES = 8
_GIB = 2**30


def default_limit() -> int:
    """Half of the memory that is free, in bytes; 4 GiB where the system does not say."""
    with suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") // 2
    return 4 * _GIB


def read_batches(
    x: Any, batch_size: int | None, steps: int | None, limit: int
) -> list[Any]:
    """All batches, in the structure in which a model takes them, as arrays.

    Args:
        x: what `fit` takes: arrays, a `tf.data.Dataset`, a `PyDataset`, a torch `DataLoader`,
            a generator. Targets and sample weights in batches are left out.
        batch_size: samples in a batch of arrays; 32 by default, as in `fit`.
        steps: how many batches; None for all.
        limit: bytes that they may take.

    Raises:
        BnscopeError: if it is no such data, is empty, or takes more memory.
    """
    import keras

    adapter = make_adapter(x, batch_size)
    most = math.inf if holds_arrays(adapter) else limit
    batches: list[Any] = []
    size = 0
    for batch in islice(_inputs(adapter), steps):
        leaves = keras.tree.flatten(batch)
        size += sum(leaf.nbytes for leaf in leaves)
        if size > most:
            raise BnscopeError(
                f"The first {len(batches) + 1} batches alone take more than the "
                f"{limit / _GIB:.1f} GiB of memory to be used.",
                f"Use fewer samples: steps={max(len(batches) // 4, 1)} (--steps). Some thousand images "
                "determine the statistics well.",
            )
        if len(leaves[0]):
            batches.append(batch)
    if not batches:
        raise BnscopeError("The data hold no sample.", "Pass at least one.")
    return batches


def make_adapter(
    x: Any, batch_size: int | None = None, y: Any = None, weights: Any = None
) -> Any:
    """Keras's own adapter of whatever `fit` takes.

    Raises:
        BnscopeError: if `fit` does not take it.
    """
    import keras
    from keras.src.trainers.data_adapters import get_data_adapter

    if x is None or not keras.tree.flatten(x):
        raise BnscopeError("There are no data.", "Pass what `fit` takes as x.")
    _check_numbers(inputs=x, targets=y, weights=weights)
    try:
        return get_data_adapter(x=x, y=y, sample_weight=weights, batch_size=batch_size)
    except (ValueError, TypeError, IndexError) as error:
        raise BnscopeError(
            f"The data cannot be read: {first_line(error)}.",
            "Pass what `fit` takes: arrays, a tf.data.Dataset, a PyDataset, a generator.",
        ) from error


def holds_arrays(adapter: Any) -> bool:
    """Whether the data are arrays, which are in memory anyway."""
    return type(adapter).__name__ == "ArrayDataAdapter"


def _check_numbers(**data: Any) -> None:
    import keras

    for name, values in data.items():
        for leaf in keras.tree.flatten(values):
            dtype = getattr(leaf, "dtype", None)
            if getattr(dtype, "kind", None) in {"U", "S", "O"}:  # text, bytes, anything
                raise BnscopeError(
                    f"The {name} have dtype {dtype}, and numbers are expected.",
                    'Convert them first, for instance with astype("float32").',
                )


def _inputs(adapter: Any) -> Iterator[Any]:
    """The inputs of each batch, as arrays."""
    import keras

    adapter.on_epoch_begin()
    for batch in adapter.get_numpy_iterator():
        inputs = keras.utils.unpack_x_y_sample_weight(batch)[0]
        yield keras.tree.map_structure(keras.ops.convert_to_numpy, inputs)
