"""Inputs to try a model on: random ones that its layers accept, or the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.errors import BnscopeError
from bnscope.graph import kinds
from bnscope.graph.model import Call, Graph, Tensor
from bnscope.graph.paths import ends_after

Array = npt.NDArray[Any]
# One array for each input of the model, in the order of `Graph.inputs`.
Batch = tuple[Array, ...]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]

# Networks expect standardized values, or pixels, which a `Rescaling` makes small.
_NORMAL: Draw = lambda rng, shape: rng.standard_normal(shape)  # noqa: E731
_PIXELS: Draw = lambda rng, shape: rng.uniform(0.0, 255.0, shape)  # noqa: E731
_SHARES: Draw = lambda rng, shape: rng.uniform(0.0, 1.0, shape)  # noqa: E731
DRAWS: tuple[Draw, ...] = (_NORMAL, _PIXELS, _SHARES)
# A `Rescaling` by less than this takes pixels.
_PIXEL_SCALE = 0.05
# For dimensions that the model leaves open, by the number of dimensions of the input: usual
# sizes, others that networks with several halvings take too, and odd ones. Sizes of one list
# entry are tried together, since inputs may have to agree.
_OPEN_SIZES: tuple[Mapping[int, tuple[int, ...]], ...] = (
    {2: (16,), 3: (32,), 4: (64,), 5: (16,)},
    {2: (24,), 3: (48,), 4: (96, 64), 5: (24, 16, 16)},
    {2: (13,), 3: (27,), 4: (45, 51), 5: (13, 11, 14)},
)
# Few large samples, many small ones: what is compared should vary between them. Batches of
# one are often special.
_BATCHES, _LARGE_BATCHES, _LARGE = (7, 1), (2, 1), 20_000
_USER_BATCH = 32
# Where a configuration says how many different integers a layer takes.
_VOCABULARY_KEYS = ("input_dim", "vocabulary_size", "num_tokens")
_PASSES_IDS = kinds.RESHAPING | kinds.IDENTITY | kinds.DROPOUT | {"ops.Cast", "ops.Reshape"}
_WORDS = ("red", "green", "blue", "the", "cat", "sat")


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What one input of a model takes.

    Args:
        name: the input's name.
        shape: shape with the batch dimension first, None for an open size.
        dtype: dtype name.
        limit: integers from 0 to below this are drawn; None for real numbers.
        pixels: whether the model takes numbers up to 255, which it makes small itself.
        padding: what stands in the steps that the model masks; None if it masks none.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    limit: int | None = None
    pixels: bool = False
    padding: float | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """What models are compared on, and what the original runs for that.

    Args:
        batches: what is compared.
        twin: the lone sample of the second batch, nudged; None for no such. It travels at the
            end of the first, so that what rounding does is seen without one more run.
        spares_lone: whether the original does not run the lone sample, only its row among
            others.
    """

    batches: list[Batch]
    twin: Batch | None = None
    spares_lone: bool = False

    @property
    def runs(self) -> list[Batch]:
        """The batches that the original runs."""
        if self.twin is None:
            return self.batches
        pairs = zip(self.batches[0], self.twin, strict=True)
        first = tuple(np.concatenate(pair) for pair in pairs)
        return [first, *self.batches[2 if self.spares_lone else 1 :]]


def input_specs(graph: Graph) -> tuple[InputSpec, ...]:
    """What the inputs of a model take.

    Raises:
        BnscopeError: if the shape of an input is not known.
    """
    return tuple(_spec(graph, tensor) for tensor in graph.inputs)


def draws_for(specs: Sequence[InputSpec]) -> tuple[Draw, ...]:
    """The distributions of real numbers to try, the likeliest first."""
    if all(spec.limit is not None for spec in specs):
        return DRAWS[:1]
    if any(spec.pixels for spec in specs):
        return (_PIXELS, _NORMAL, _SHARES)
    return DRAWS


def random_batches(
    specs: Sequence[InputSpec], draw: Draw, seed: int, words: Sequence[str] = ()
) -> list[Batch]:
    """Random inputs: several samples, so that outputs can be seen to vary.

    Args:
        specs: what the inputs take.
        draw: the distribution of real numbers.
        seed: seed of the random numbers.
        words: strings for inputs of text.

    Returns:
        Batches of several sizes where the model leaves that open, at least two batches; the
        sample that is alone in one is the first of another too. Where other dimensions are
        open, the first batches have usual sizes there, and each of the last two has sizes of
        its own.
    """
    rng = np.random.default_rng(seed)
    trials = (
        _OPEN_SIZES if any(None in spec.shape[1:] for spec in specs) else _OPEN_SIZES[:1]
    )

    def make(spec: InputSpec, shape: tuple[int, ...]) -> Array:
        return _array(rng, spec, shape, draw, words or _WORDS)

    return [
        batch
        for index, sizes in enumerate(trials)
        for batch in _drawn(specs, sizes, make, first=index == 0)
    ]


def _drawn(
    specs: Sequence[InputSpec],
    sizes: Mapping[int, tuple[int, ...]],
    make: Callable[[InputSpec, tuple[int, ...]], Array],
    *,
    first: bool,
) -> list[Batch]:
    """The batches for one choice of open sizes; a smaller one is the start of the first."""
    batches: list[Batch] = []
    for count in _batch_sizes(specs, sizes, first=first):
        if batches and count < len(batches[0][0]):
            batches.append(tuple(array[:count] for array in batches[0]))
            continue
        batches.append(
            tuple(make(spec, (count, *_sample_shape(spec, sizes))) for spec in specs)
        )
    return batches


def _batch_sizes(
    specs: Sequence[InputSpec], sizes: Mapping[int, tuple[int, ...]], *, first: bool
) -> tuple[int, ...]:
    """The numbers of samples of the batches to run with one choice of open sizes."""
    fixed = [spec.shape[0] for spec in specs if spec.shape and spec.shape[0] is not None]
    if fixed:
        return (fixed[0],) * (2 if first and fixed[0] == 1 else 1)
    if not first:
        return _LARGE_BATCHES[:1]
    large = max(math.prod(_sample_shape(spec, sizes)) for spec in specs) > _LARGE
    return _LARGE_BATCHES if large else _BATCHES


def user_batches(specs: Sequence[InputSpec], data: Any) -> list[Batch]:
    """The user's samples in batches.

    Args:
        specs: what the inputs take.
        data: an array, a sequence of arrays in the order of the inputs, or a mapping from
            input names to arrays; the samples lie along the first axis.

    Returns:
        Batches of 32 samples, or of the model's own batch size.

    Raises:
        BnscopeError: if the data do not fit the inputs.
    """
    arrays = [np.asarray(array) for array in _in_order(specs, data)]
    counts = {array.shape[0] if array.ndim else 0 for array in arrays}
    if len(counts) != 1 or counts == {0}:
        raise BnscopeError(
            f"The arrays to verify with have {sorted(counts)} samples.",
            "Pass one array for each input, with the same number of samples, at least one.",
        )
    for spec, array in zip(specs, arrays, strict=True):
        _check_shape(spec, array)
    fixed = [spec.shape[0] for spec in specs if spec.shape and spec.shape[0] is not None]
    size = fixed[0] if fixed else _USER_BATCH
    count = counts.pop()
    if fixed and count < size:
        raise BnscopeError(
            f"The model takes batches of {size}, and {count} samples were given.",
            f"Pass at least {size} samples to verify with.",
        )
    end = count - count % size if fixed else count
    return [
        tuple(array[start : start + size] for array in arrays)
        for start in range(0, end, size)
    ]


def cheapest(batches: Sequence[Batch]) -> list[int]:
    """Which batches to run where a few samples do: of large ones the smallest batch."""
    sizes = [sum(array.size for array in batch) for batch in batches]
    if sum(sizes) <= _BATCHES[0] * _LARGE:
        return list(range(len(batches)))
    return [sizes.index(min(sizes))]


def nudged(
    specs: Sequence[InputSpec], batches: Sequence[Batch], dtype: str, seed: int
) -> list[Batch]:
    """The same inputs, each real number but padding moved by one unit of rounding."""
    rng = np.random.default_rng(seed)
    return [
        tuple(
            _nudge(rng, array, dtype, spec.padding)
            for spec, array in zip(specs, batch, strict=True)
        )
        for batch in batches
    ]


def takes_twin(batches: Sequence[Batch]) -> bool:
    """Whether samples are so large that the lone one, the first of all, is the cheapest to run."""
    return cheapest(batches) == [1] and all(
        len(alone) == 1 < len(among) and np.array_equal(alone, among[:1])
        for among, alone in zip(*batches[:2], strict=True)
    )


def unit_of_rounding(dtype: str) -> float:
    """The spacing of the numbers of a dtype at 1."""
    return {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float64": 2.0**-52}.get(
        dtype, 2.0**-23
    )


def _spec(graph: Graph, tensor: Tensor) -> InputSpec:
    if tensor.shape is None:
        raise BnscopeError(
            f'The shape of the input "{tensor.name}" is not known, so nothing can be run.',
            "Give the model a keras.Input.",
        )
    dtype = tensor.dtype or "float32"
    ends = ends_after(graph, tensor, lambda call: call.kind in _PASSES_IDS)
    takers = [end.call for end in ends if end.call is not None]
    return InputSpec(
        tensor.name,
        tensor.shape,
        dtype,
        _limit(takers, dtype),
        _takes_pixels(takers),
        _padding(takers),
    )


def _takes_pixels(takers: Sequence[Call]) -> bool:
    """Whether an input goes into a `Rescaling` that makes its numbers much smaller."""
    scales = [call.config.get("scale", 1.0) for call in takers if call.kind == "Rescaling"]
    return any(np.all(np.abs(np.asarray(scale, float)) < _PIXEL_SCALE) for scale in scales)


def _padding(takers: Sequence[Call]) -> float | None:
    """The value of an input that is masked; None if none is."""
    for call in takers:
        if call.kind == "Masking":
            return float(call.config.get("mask_value", 0.0))
        if call.kind == "Embedding" and call.config.get("mask_zero"):
            return 0.0
    return None


def _limit(takers: Sequence[Call], dtype: str) -> int | None:
    """How many different integers an input takes; None for real numbers."""
    limits = [limit for call in takers for limit in _limits(call)]
    if limits:
        return min(limits)
    return 2 if "int" in dtype or dtype == "bool" else None


def _limits(call: Call) -> Iterator[int]:
    if call.kind.endswith(("Embedding", "CategoryEncoding")):
        for key in _VOCABULARY_KEYS:
            value = call.config.get(key)
            if isinstance(value, int):
                yield value


def _sample_shape(spec: InputSpec, sizes: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of one sample, with sizes where the model leaves them open."""
    chosen = cycle(sizes.get(len(spec.shape), (8,)))
    return tuple(next(chosen) if size is None else size for size in spec.shape[1:])


def _array(
    rng: np.random.Generator,
    spec: InputSpec,
    shape: tuple[int, ...],
    draw: Draw,
    words: Sequence[str],
) -> Array:
    if spec.dtype == "string":
        return rng.choice(np.array(words, dtype=object), shape)
    whole = spec.limit is not None
    drawn = rng.integers(0, spec.limit, shape) if whole else draw(rng, shape)
    array = drawn.astype(numpy_dtype(spec.dtype))
    if spec.padding is not None and len(shape) > 1 and shape[1] > 1:
        for sample in array[1::2]:  # every other sample ends early
            sample[rng.integers(1, shape[1]) :] = spec.padding
    return array


def numpy_dtype(name: str) -> Any:
    """The dtype in which numpy holds values of a dtype; it has no bfloat16."""
    return np.dtype("float32" if name == "bfloat16" else name)


def _nudge(
    rng: np.random.Generator, array: Array, dtype: str, padding: float | None
) -> Array:
    if array.dtype.kind != "f":
        return array
    signs = rng.choice([-1.0, 1.0], array.shape)
    unit = unit_of_rounding(dtype)
    # One unit of the number's own binary order, so that it survives the rounding.
    spacing = unit * np.exp2(np.floor(np.log2(np.maximum(np.abs(array), 1e-30))))
    moved = np.asarray(array + signs * spacing, array.dtype)
    return moved if padding is None else np.where(array == padding, array, moved)


def _in_order(specs: Sequence[InputSpec], data: Any) -> list[Any]:
    """The user's arrays in the order of the inputs."""
    names = [spec.name for spec in specs]
    if isinstance(data, Mapping):
        missing = [name for name in names if name not in data]
        if missing:
            raise BnscopeError(
                f"The data to verify with lack {', '.join(missing)}; they have "
                f"{', '.join(str(key) for key in data) or 'nothing'}.",
                f"Name the arrays after the model's inputs: {', '.join(names)}.",
            )
        return [data[name] for name in names]
    several = isinstance(data, (list, tuple)) and len(specs) > 1
    arrays = list(data) if several else [_single(data)]
    if len(arrays) != len(specs):
        raise BnscopeError(
            f"{len(arrays)} arrays were given to verify with, and the model has "
            f"{len(specs)} inputs.",
            f"Pass one for each of {', '.join(names)}.",
        )
    return arrays


def _single(data: Any) -> Any:
    if isinstance(data, (list, tuple)) and len(data) == 1 and hasattr(data[0], "shape"):
        return data[0]
    return data


def _check_shape(spec: InputSpec, array: Array) -> None:
    wanted = spec.shape[1:]
    given = array.shape[1:]
    fits = len(wanted) == len(given) and all(
        size is None or size == actual for size, actual in zip(wanted, given, strict=True)
    )
    if not fits:
        expected = ", ".join("any" if size is None else str(size) for size in wanted)
        raise BnscopeError(
            f'The input "{spec.name}" takes samples of shape ({expected}), and the data to '
            f"verify with have samples of shape {given}.",
            "Prepare the samples as for model.predict.",
        )
