"""Recalibration: a model and data in, the model with population statistics out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnscope.bn import Array
from bnscope.calibration.batchwise import recalibrate_batchwise
from bnscope.calibration.data import FEWEST_SAMPLES, default_limit, read_batches
from bnscope.calibration.fitting import check_fit
from bnscope.calibration.result import LayerStatistics, Recalibration
from bnscope.calibration.steps import read_steps
from bnscope.calibration.target import FROZEN, Target
from bnscope.calibration.warning import warn
from bnscope.calibration.wavefront import Wavefront
from bnscope.errors import BnscopeError, UnsupportedModelError, first_line
from bnscope.graph import live
from bnscope.progress import Bar, bar
from bnscope.rewriting.copying import to_numpy
from bnscope.rewriting.running import unchanged
from bnscope.rules.base import plural

METHODS = ("exact", "batch")
APPROXIMATE = (
    "approximate: while each layer was measured, the layers before it normalized with the "
    "statistics of single batches (the method exact has them use the new ones)"
)
_GIB = 2**30
_MOST_NAMES = 3
# Of the scale of the outputs: a copy that lacks something is off by far more.
_COPY_TOLERANCE = 1e-2
Tell = Callable[[str], None]


def recalibrate(  # noqa: PLR0913  the last four are rarely given
    model: Any,
    x: Any,
    *,
    method: str = "exact",
    batch_size: int | None = None,
    steps: int | None = None,
    inplace: bool = False,
    memory_limit: int | None = None,
) -> Any:
    """Replaces the moving statistics of BN layers by population statistics over a data set.

    With `"exact"` every BN layer gets the mean and (biased) variance that its input has over
    all samples when every BN layer before it uses its new statistics and all other layers run
    in inference mode: dropout and augmentation are off. Frozen layers are recalibrated too.
    With `"batch"` the data pass once while BN normalizes with each batch's own statistics, and
    the moments of the batches are merged; that is approximate (as torch's `update_bn` is).

    Args:
        model: a built `keras.Model`. It is left as it was, unless `inplace`.
        x: what `fit` takes: arrays, a `tf.data.Dataset`, a `PyDataset`, a torch `DataLoader`,
            a generator; targets in batches are not used. It should be the training data.
        method: `"exact"` or `"batch"`.
        batch_size: samples in a batch, where `x` is arrays; 32 by default. The result of
            `"exact"` does not depend on it.
        steps: how many batches to use; None for all.
        inplace: whether to change the model itself, and return it.
        memory_limit: bytes of activations that `"exact"` may hold; half of the free memory by
            default. Where they take more, they are computed again for each level of BN layers,
            and a warning says how many passes that takes.

    Returns:
        The model with the new statistics: a copy, compiled as the original is, or the model.

    Raises:
        BnscopeError: if an argument has no meaning, the data do not fit the model, or what
            goes into a layer is not finite. The model is unchanged then.
        UnsupportedModelError: if the model is not built, has no BN layer or cannot be copied.

    Warns:
        UserWarning: names what could not be made exact, and why.

    Example:
        ```python
        better = bnscope.recalibrate(model, x_train)
        better.evaluate(x_test, y_test)
        ```
    """
    with bar("Recalibrating") as shown:
        result = recalibration(
            model,
            x,
            method=method,
            batch_size=batch_size,
            steps=steps,
            inplace=inplace,
            memory_limit=memory_limit,
            tell=warn,
            shown=shown,
        )
    for note in result.notes:
        warn(note)
    return result.model


def recalibration(  # noqa: PLR0913  as the function above, and some for commands and callbacks
    model: Any,
    x: Any,
    *,
    method: str = "exact",
    batch_size: int | None = None,
    steps: int | None = None,
    inplace: bool = False,
    memory_limit: int | None = None,
    keep: Container[str] = (),
    tell: Tell | None = None,
    shown: Bar | None = None,
) -> Recalibration:
    """As `recalibrate`, with all that is known of the result.

    Args:
        model: as there, and so on.
        x: as there.
        method: as there.
        batch_size: as there.
        steps: as there.
        inplace: as there.
        memory_limit: as there.
        keep: paths of layers whose statistics stay as they are.
        tell: takes what is to be known before the work begins.
        shown: takes how far the work is.
    """
    check_arguments(method, batch_size, steps, memory_limit)
    norms = batch_norms(model)
    made = model if inplace else _copied(model)
    limit = default_limit() if memory_limit is None else memory_limit
    batches = read_batches(x, batch_size, steps, limit)
    check_fit(model, batches)
    before = {path: _statistics(norm) for path, norm in norms.items()}
    target = Target({path: norm for path, norm in norms.items() if path not in keep})
    run = _Run(model, target, batches, limit, tell or (lambda _: None), shown)
    run.tell_of_few()
    with unchanged(model):
        run.measure(method)
        expected = None if inplace else run.outputs(model)
        values = {path: _values(norm) for path, norm in norms.items()}
    made_norms = dict(zip(norms, batch_norms(made).values(), strict=True))
    _assign(made_norms, values)
    if not inplace and not _alike(expected, run.outputs(made)):
        raise _not_copied(model, "the copy computes something else")
    otherwise = APPROXIMATE if method == "batch" else None
    reasons = {
        path: FROZEN if path in keep else target.reason(norm) or otherwise
        for path, norm in norms.items()
    }
    layers = tuple(
        LayerStatistics(
            path, *_statistics(norm), *before[path], float(norm.epsilon), reasons[path]
        )
        for path, norm in made_norms.items()
    )
    notes = tuple(_notes(reasons))
    return Recalibration(made, method, run.samples, run.passes, layers, notes)


@dataclass
class _Run:
    """One recalibration of a model, on batches that are in memory."""

    model: Any
    target: Target
    structured: Sequence[Any]
    limit: int
    tell: Tell
    shown: Bar | None
    passes: int = 1
    done: int = 0

    def __post_init__(self) -> None:
        import keras

        self.batches = [keras.tree.flatten(batch) for batch in self.structured]
        self.total = len(self.batches)
        self.samples = sum(len(leaves[0]) for leaves in self.batches)

    def tell_of_few(self) -> None:
        """Says if the samples are too few."""
        if self.samples < FEWEST_SAMPLES:
            self.tell(
                f"the statistics are those of {plural(self.samples, 'sample')} alone, and of so "
                "few they say little about the data: use some hundred"
            )

    def measure(self, method: str) -> None:
        """Sets the new statistics in the model."""
        with _running():
            steps = read_steps(self.model, self.structured[0], self.target.norms.values())
            if method == "batch":
                recalibrate_batchwise(
                    self.model, steps, self.batches, self.target, self.tick
                )
            else:
                self.wavefront(
                    Wavefront(self.model, steps, self.batches, self.target, self.tick)
                )

    def wavefront(self, wavefront: Wavefront) -> None:
        """Runs the wavefront within the memory limit; says first what it takes."""
        levels = len(wavefront.stages)
        size = wavefront.size()
        hold = size <= self.limit
        if not hold and levels > 1:
            self.passes = levels
            self.tell(
                f"the activations of all samples take {size / _GIB:.2f} GiB, more than the "
                f"{self.limit / _GIB:.2f} GiB to be used (memory_limit, --memory): they are computed "
                f"again for each level of BN layers, {_passes(levels)} over the data instead "
                "of about one; fewer samples (steps, --steps) take less"
            )
        if wavefront.in_part:
            self.passes += wavefront.in_part
            self.tell(
                f"the structure around {plural(wavefront.in_part, 'BN layer')} is written in a "
                "`call`: such a part of the model is run once for each of its BN layers, up to it, "
                f"{_passes(wavefront.in_part)} over the data"
            )
        self.total = levels * len(self.batches)
        wavefront.run(hold=hold)

    def tick(self) -> None:
        """One more batch is done."""
        self.done += 1
        if self.shown is not None:
            self.shown(self.done, self.total)

    def outputs(self, model: Any) -> list[Array]:
        """What a model gives for the first batch."""
        import keras

        with unchanged(model), _running():
            outputs = keras.tree.flatten(model.predict_on_batch(self.structured[0]))
        return [np.asarray(y, np.float64) for y in outputs]


@contextmanager
def _running() -> Iterator[None]:
    """Says in one line that a model does not run on the data."""
    try:
        yield
    except BnscopeError:
        raise
    except Exception as error:
        raise BnscopeError(
            f"The model does not run on the data: {first_line(error)}.",
            "Prepare the samples as for model.predict.",
        ) from error


def _passes(count: int) -> str:
    return f"{count} pass{'' if count == 1 else 'es'}"


def check_arguments(
    method: str, batch_size: int | None, steps: int | None, memory_limit: int | None
) -> None:
    """Checks the arguments of a recalibration.

    Raises:
        BnscopeError: if one has no meaning.
    """
    if method not in METHODS:
        raise BnscopeError(
            f"There is no method {method!r}.", 'Use "exact", or "batch" (approximate).'
        )
    given = {"batch_size": batch_size, "steps": steps, "memory_limit": memory_limit}
    for name, value in given.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise BnscopeError(
                f"{name} must be a whole number, at least 1, got {value!r}.",
                "Leave it out for the default.",
            )


def batch_norms(
    model: Any, otherwise: str = "so there is nothing to recalibrate"
) -> dict[str, Any]:
    """The BN layers of a model by path, in forward order.

    Args:
        model: a model.
        otherwise: what follows of there being none.

    Raises:
        UnsupportedModelError: if it is not built, or has none.
    """
    norms = live.batch_norms(model)
    if not model.built or not all(norm.built for norm in norms.values()):
        raise UnsupportedModelError(
            f'"{model.name}" is not built, so it has no weights.',
            "Call it on data, or give it a keras.Input, first.",
        )
    if not norms:
        raise UnsupportedModelError(
            f'"{model.name}" has no BatchNormalization layer, {otherwise}.',
            "Use `bnscope inspect` to see which layers are found.",
        )
    return norms


def _values(norm: Any) -> dict[str, Array]:
    """The statistics of a BN layer by the names of their variables."""
    names = ["moving_mean", "moving_variance"]
    if getattr(norm, "renorm", False):
        names += ["moving_stddev", "renorm_mean", "renorm_stddev"]
    return {name: to_numpy(getattr(norm, name)).copy() for name in names}


def _statistics(norm: Any) -> tuple[Array, Array]:
    values = _values(norm)
    mean, variance = values["moving_mean"], values["moving_variance"]
    return np.asarray(mean, np.float64), np.asarray(variance, np.float64)


def _assign(norms: Mapping[str, Any], values: Mapping[str, Mapping[str, Array]]) -> None:
    for path, norm in norms.items():
        for name, value in values[path].items():
            getattr(norm, name).assign(value)


def _copied(model: Any) -> Any:
    """A copy with the weights, the compile state and the state of the optimizer."""
    try:
        with warnings.catch_warnings():
            # An optimizer without a state yet is copied without one.
            warnings.filterwarnings("ignore", "Skipping variable loading", UserWarning)
            made = copy.deepcopy(model)
        # Those of a subclassed model may have got new names.
        same = len(batch_norms(made)) == len(batch_norms(model))
    except UnsupportedModelError:
        raise
    except Exception as error:
        raise _not_copied(model, first_line(error)) from error
    if not same:
        raise _not_copied(model, "the copy has other layers")
    return made


def _not_copied(model: Any, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f'"{model.name}" cannot be copied: {why}.',
        "Give its classes a get_config() and register them with "
        "keras.saving.register_keras_serializable, or change the model itself "
        "(inplace=True).",
    )


def _alike(expected: Sequence[Array] | None, actual: Sequence[Array]) -> bool:
    return expected is not None and all(
        one.shape == other.shape
        and np.allclose(
            one, other, rtol=0.0, atol=_COPY_TOLERANCE * _scale(one), equal_nan=True
        )
        for one, other in zip(expected, actual, strict=True)
    )


def _scale(values: Array) -> float:
    """The largest finite absolute value."""
    return float(np.max(np.abs(values), where=np.isfinite(values), initial=1e-30))


def _notes(reasons: Mapping[str, str | None]) -> Iterator[str]:
    """Why statistics are not exact, with the layers of which that is so."""
    for reason in dict.fromkeys(filter(None, reasons.values())):
        found = [path for path, other in reasons.items() if other == reason]
        named = ", ".join(found[:_MOST_NAMES])
        if len(found) > _MOST_NAMES:
            named += f" and {plural(len(found) - _MOST_NAMES, 'more layer')}"
        yield f"{named}: {reason}"
