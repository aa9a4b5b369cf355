"""The ways in which a model is used at inference, each run for real on the same inputs.

`call` is `model(x, training=False)`, `bare` is `model(x)`, which heeds a `training=` written
into the graph, `predict` is `model.predict(x)`, and `export` the function that Keras's own
export writes, loaded again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnscope.errors import VerificationError, first_line
from bnscope.rewriting.comparison import Outputs, Verification, compare_outputs
from bnscope.rewriting.running import collect_outputs, numpy_batch, tensor_batch
from bnscope.rewriting.verify import Verifier

TITLES = {
    "call": "model(x, training=False)",
    "bare": "model(x)",
    "predict": "predict",
    "export": "the exported function",
}
# What a run leaves behind in a model beside its variables.
_TRACES = ("predict_function", "stop_predicting", "_jit_compile", "_called")


@dataclass(frozen=True, slots=True)
class RouteCheck:
    """How two models compare by one route.

    Args:
        route: `call`, `bare`, `predict` or `export`.
        verification: the comparison; None if the original cannot be used so.
        reason: why there is none, in a sentence.
    """

    route: str
    verification: Verification | None
    reason: str = ""

    @property
    def error(self) -> float | None:
        """The largest error, relative to the scale of its output."""
        return None if self.verification is None else self.verification.max_error

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance, or nothing was to be compared."""
        return self.verification is None or self.verification.passed

    def to_dict(self) -> dict[str, Any]:
        """The check for JSON."""
        done = self.verification
        return {
            "route": self.route,
            "max_error": self.error,
            "tolerance": None if done is None else done.tolerance,
            "reason": self.reason or None,
        }


def compare_by(
    verifier: Verifier, rewritten: Any, routes: Sequence[str]
) -> Iterator[RouteCheck]:
    """Compares a model with the verifier's original, by one route after the other.

    Args:
        verifier: holds the original and the inputs.
        rewritten: the other model.
        routes: names of routes.

    Yields:
        One check a route.

    Raises:
        VerificationError: if the original can be used by a route and the other cannot.
    """
    for route in routes:
        if route == "call":
            yield RouteCheck(route, verifier.compare(rewritten))
            continue
        try:
            expected = _run(verifier.model, route, verifier)
        except Exception as error:  # noqa: BLE001  whatever the backend raises: no such route
            yield RouteCheck(route, None, f"The original has none: {first_line(error)}.")
            continue
        try:
            actual = _run(rewritten, route, verifier)
        except Exception as error:
            raise VerificationError(
                f"{TITLES[route]} works for the original and not for the new model: "
                f"{first_line(error)}.",
                "Nothing was returned or written.",
            ) from error
        yield RouteCheck(route, verifier.judge(list(compare_outputs(expected, actual))))


def _run(model: Any, route: str, verifier: Verifier) -> Outputs:
    dtypes = [spec.dtype for spec in verifier.specs]
    with _no_traces(model):
        if route == "bare":
            return collect_outputs(
                model,
                verifier.batches,
                lambda batch: model(tensor_batch(model, batch, dtypes)),
            )
        if route == "predict":
            return collect_outputs(
                model,
                verifier.batches,
                lambda batch: model.predict(
                    numpy_batch(model, batch, dtypes), batch_size=len(batch[0]), verbose=0
                ),
            )
        return _run_exported(model, verifier, dtypes)


def _run_exported(model: Any, verifier: Verifier, dtypes: Sequence[str]) -> Outputs:
    import keras

    if keras.backend.backend() != "tensorflow":
        raise NotImplementedError(f"not tried on the backend {keras.backend.backend()}")
    import tensorflow as tf

    with tempfile.TemporaryDirectory(prefix="bnscope-") as folder:
        model.export(folder, format="tf_saved_model", verbose=False)
        loaded = tf.saved_model.load(
            folder
        )  # its functions do not keep its variables alive
        return collect_outputs(
            model,
            verifier.batches,
            lambda batch: loaded.serve(tensor_batch(model, batch, dtypes)),
        )


@contextmanager
def _no_traces(model: Any) -> Iterator[None]:
    """Leaves a model without the functions that a run compiles and keeps in it."""
    before = {name: vars(model)[name] for name in _TRACES if name in vars(model)}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(model, name, value)


def largest(checks: Sequence[RouteCheck]) -> float:
    """The largest error of all; 0 where nothing was compared."""
    errors = [check.error for check in checks if check.error is not None]
    return float(np.max(errors)) if errors else 0.0
