"""Whether samples fit the inputs that a model declares, as `predict` takes them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from bnscope.calibration.steps import opened
from bnscope.errors import BnscopeError, first_line
from bnscope.rules.base import plural

Shape = Sequence[int | None]


def check_fit(model: Any, batches: Iterable[Any], name: str = "the data") -> None:
    """Asks Keras whether a model takes samples, which costs nothing, before it is run on them.

    The steps of a model are run one by one, past the check that its own call makes.

    Args:
        model: a built model.
        batches: inputs, in the structure in which the model takes them, as arrays.
        name: what the data are called in errors.

    Raises:
        BnscopeError: if it does not, with the input, its shape and that of the samples.
    """
    import keras

    samples: dict[tuple[Any, ...], Any] = {}
    for batch in batches:
        sample = keras.tree.map_structure(lambda array: array[:1], batch)
        samples.setdefault(_shapes(sample), sample)
    for sample in samples.values():
        try:
            _accept(model, sample)
        except (ValueError, TypeError, KeyError, NotImplementedError) as error:
            why = _misfit(model, sample) or first_line(error)
            raise BnscopeError(
                f"The model does not run on {name}: {why}.",
                "Prepare the samples as for model.predict.",
            ) from error


def _accept(model: Any, sample: Any) -> None:
    """What Keras checks when a model is called."""
    model._assert_input_compatibility(sample)  # noqa: SLF001
    inner = opened(model)
    if inner is not None:
        with warnings.catch_warnings():  # which the run itself gives
            warnings.simplefilter("ignore")
            inner._standardize_inputs(sample)  # noqa: SLF001


def _misfit(model: Any, sample: Any) -> str | None:
    """What does not fit, in words; None if it is none of names, number and shapes."""
    import keras

    inner = opened(model)
    if inner is None:
        return None
    is_named = isinstance(inner.input, dict)
    names = sorted(inner.input) if is_named else [_name(tensor) for tensor in inner.inputs]
    if isinstance(sample, dict):
        missing = [f'"{name}"' for name in names if name not in sample]
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            return f"{', '.join(missing)} {verb} missing of its inputs ({', '.join(names)})"
        sample = [sample[name] for name in names]
    leaves = keras.tree.flatten(sample)
    if len(leaves) != len(names):
        takes = f"{plural(len(names), 'input')} ({', '.join(names)})"
        return f"it takes {takes}, and {plural(len(leaves), 'array')} came"
    for name, tensor, leaf in zip(names, inner.inputs, leaves, strict=True):
        if not _fits(tensor.shape[1:], leaf.shape[1:]):
            return (
                f'the input "{name}" takes samples of shape {_text(tensor.shape[1:])}, '
                f"and these have {_text(leaf.shape[1:])}"
            )
    return None


def _fits(wanted: Shape, given: Shape) -> bool:
    """Whether a shape is the one that is wanted, up to a last axis of 1, which Keras adds."""
    wanted, given = (
        [*shape, 1] if shape[-1:] != (1,) else [*shape] for shape in (wanted, given)
    )
    return len(wanted) == len(given) and all(
        one in {None, other} for one, other in zip(wanted, given, strict=True)
    )


def _name(tensor: Any) -> str:
    return str(tensor._keras_history.operation.name)  # noqa: SLF001


def _text(shape: Shape) -> str:
    """`(12, any, 3)`, `(5,)`."""
    sizes = ["any" if size is None else str(size) for size in shape]
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"


def _shapes(sample: Any) -> tuple[Any, ...]:
    import keras

    return tuple(leaf.shape for leaf in keras.tree.flatten(sample))
