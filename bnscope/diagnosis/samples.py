"""The samples to diagnose on: whatever `fit` takes, as batches of inputs, targets and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.calibration.data import (
    FEWEST_SAMPLES,
    default_limit,
    holds_arrays,
    make_adapter,
)
from bnscope.errors import BnscopeError
from bnscope.rules.base import plural

# As in `fit`.
DEFAULT_BATCH_SIZE = 32
_GIB = 2**30


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One batch, as arrays in the structures in which a model takes them.

    Args:
        inputs: what the model takes.
        targets: what it should give; None where that is not known.
        weights: weights of the samples; None without.
    """

    inputs: Any
    targets: Any
    weights: Any

    def __len__(self) -> int:
        return len(self.leaves[0])

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the inputs."""
        return tuple(leaf.shape for leaf in self.leaves)

    @property
    def leaves(self) -> list[Any]:
        """The arrays of the inputs, in Keras's order."""
        import keras

        return list(keras.tree.flatten(self.inputs))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How many samples are taken, and in what batches.

    Args:
        batch_size: samples in a batch, where the data are arrays; None for 32, or for what the
            model fixes.
        max_samples: how many at most.
        seed: which ones of arrays, and in which order.
        fixed: the batch size that the model's input fixes; None where it is open.
    """

    batch_size: int | None
    max_samples: int
    seed: int
    fixed: int | None = None

    @property
    def size(self) -> int:
        """Samples in a batch of arrays."""
        return self.fixed or self.batch_size or DEFAULT_BATCH_SIZE


def read_samples(
    x: Any, y: Any, sampling: Sampling, name: str = "x", weights: Any = None
) -> list[Batch]:
    """The batches to diagnose on.

    Of arrays, random samples in batches as equal as can be; the batches of a data set are taken
    as they come, since how samples are put together is a part of how BN trains.

    Args:
        x: arrays, or anything else that `fit` takes.
        y: targets of arrays; None where there are none, or where `x` brings them along.
        sampling: how many samples, in what batches.
        name: what the data are called in errors.
        weights: weights of the samples of arrays.

    Raises:
        BnscopeError: if the data cannot be read, are too few or not finite.
    """
    adapter = make_adapter(x, sampling.size, y, weights)
    if holds_arrays(adapter):
        batches = list(_of_arrays((x, y, weights), sampling))
    else:
        batches = list(_as_they_come(adapter, sampling.max_samples))
    count = sum(len(batch) for batch in batches)
    if count < FEWEST_SAMPLES:
        raise BnscopeError(
            f"{name} holds {plural(count, 'sample')}, and statistics of so few say nothing.",
            f"Pass at least {FEWEST_SAMPLES}, better some hundred (and max_samples as large).",
        )
    for batch in batches:
        _check_finite(name, batch.inputs, "inputs")
        _check_finite(name, batch.targets, "targets")
    return batches


def _of_arrays(data: tuple[Any, Any, Any], sampling: Sampling) -> Iterator[Batch]:
    import keras

    arrays = mapped(_array, data)
    count = len(next(iter(keras.tree.flatten(arrays[0]))))
    order = np.random.default_rng(sampling.seed).permutation(count)
    order = order[: sampling.max_samples]
    for part in _parts(order, sampling):
        # Sorted, since files in memory maps are read so.
        chosen = np.sort(part)
        yield Batch(*mapped(partial(np.take, indices=chosen, axis=0), arrays))


def _parts(order: npt.NDArray[np.int64], sampling: Sampling) -> list[Any]:
    """The samples of each batch: as equal as can be, as one of a single sample spoils all."""
    if sampling.fixed:
        whole = len(order) // sampling.fixed
        return np.split(order[: whole * sampling.fixed], whole) if whole else []
    return np.array_split(order, max(1, round(len(order) / sampling.size)))


def _as_they_come(adapter: Any, most: int) -> Iterator[Batch]:
    import keras

    adapter.on_epoch_begin()
    count, size = 0, 0
    limit = default_limit()
    for data in adapter.get_numpy_iterator():
        given = keras.utils.unpack_x_y_sample_weight(data)
        batch = Batch(*mapped(_array, given))
        size += sum(leaf.nbytes for leaf in batch.leaves)
        if size > limit:
            raise BnscopeError(
                f"The first {count + len(batch)} samples take more than the "
                f"{limit / _GIB:.1f} GiB of memory to be used.",
                f"Use fewer: max_samples={max(count // 2, FEWEST_SAMPLES)} (--max-samples).",
            )
        count += len(batch)
        if len(batch):
            yield batch
        if count >= most:
            return


def mapped(function: Callable[[Any], Any], values: Any) -> Any:
    """A function of every array in a structure; None stays None."""
    import keras

    return keras.tree.map_structure(function, values, none_is_leaf=False)


def _array(value: Any) -> Any:
    import keras

    return np.asarray(keras.ops.convert_to_numpy(value))


def _check_finite(name: str, values: Any, what: str) -> None:
    import keras

    for array in _leaves(keras.tree.flatten(values)):
        bad = ~np.isfinite(array)
        if bad.any():
            raise BnscopeError(
                f"The {what} in {name} are not finite: {plural(int(bad.sum()), 'value')} in a "
                f"batch of {len(array)} samples {'is' if bad.sum() == 1 else 'are'} NaN or "
                "infinite.",
                "Clean the data: BN spreads one such value over its whole batch.",
            )


def _leaves(values: Iterable[Any]) -> Iterator[Any]:
    """The arrays of floating numbers."""
    for value in values:
        if value is not None and value.dtype.kind == "f":
            yield value
