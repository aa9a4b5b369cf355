"""BN layers in inference mode while the model trains on."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import keras  # noqa: TID253  a Keras constraint is a Keras class

from bnscope.bn import AnyArray
from bnscope.calibration.hooks import hooked
from bnscope.rewriting.copying import to_numpy


class Hold(keras.constraints.Constraint):  # type: ignore[misc]
    """Keeps a variable at a value, whatever the optimizer makes of it.

    An optimizer applies the constraint of a variable behind each update, so that momentum and
    weight decay do not move it either, and its own state goes on undisturbed.

    Args:
        value: the value, an array of the variable's shape.
    """

    def __init__(self, value: AnyArray) -> None:
        self.value = value

    def __call__(self, w: Any) -> Any:
        """The value, in the dtype of the variable."""
        return keras.ops.cast(self.value, w.dtype)


class InferenceMode:
    """Puts BN layers into inference mode, and back, without touching a setting of theirs.

    `trainable = False` would do the same, but only behind a new train function, would freeze
    gamma and beta with the statistics, would be saved with the model, and JAX's trainer takes
    no other number of trainable variables. So the layers' `call` is answered in inference mode,
    and the train function is made anew, which traces them so.

    Args:
        model: the model that trains.
        norms: the layers.
        hold_affine: whether gamma and beta keep their values too.
    """

    def __init__(self, model: Any, norms: Iterable[Any], *, hold_affine: bool) -> None:
        self._model = model
        self._norms = list(norms)
        self._hold_affine = hold_affine
        self._undone = ExitStack()
        self._before: Any = None
        self._function: Any = None

    def begin(self) -> None:
        """From the next step on the layers normalize with their moving values."""
        self._before = self._model.train_function
        try:
            self._undone.enter_context(hooked(self._norms, lambda call: call.finish()))
            if self._hold_affine:
                self._hold()
            _retrace(self._model)
        except BaseException:
            self._undone.close()
            self._model.train_function = self._before
            raise
        self._function = self._model.train_function
        self._watch_for_the_next_run()

    def end(self) -> None:
        """Makes the layers and the train function what they were."""
        if self._function is None:
            return
        self._undone.close()
        ours = self._model.train_function is self._function
        # Where something else made a function meanwhile, the next run makes another.
        self._model.train_function = self._before if ours else None
        self._before = self._function = None

    def _hold(self) -> None:
        for variable in affine(self._norms):
            self._undone.callback(setattr, variable, "constraint", variable.constraint)
            variable.constraint = Hold(to_numpy(variable).copy())

    def _watch_for_the_next_run(self) -> None:
        """Ends with the run, also where an interrupt ends that: each run asks for a function."""
        make = self._model.make_train_function

        def make_train_function(force: bool = False) -> Any:  # noqa: FBT001, FBT002  as in Keras
            if not force:
                self.end()
            return make(force)

        # Past Keras's __setattr__, which tracks what is set.
        vars(self._model)["make_train_function"] = make_train_function
        self._undone.callback(vars(self._model).pop, "make_train_function", None)


def affine(norms: Iterable[Any]) -> list[Any]:
    """The gammas and betas of BN layers, as variables."""
    pairs = [(norm.gamma, norm.beta) for norm in norms]
    return [variable for pair in pairs for variable in pair if variable is not None]


def takes_training(norm: Any) -> bool:
    """Whether a BN layer, which may be of a user's class, can be told how to normalize."""
    return "training" in inspect.signature(norm.call).parameters


def _retrace(model: Any) -> None:
    """Has the training step traced anew.

    JAX finds the trace of an equal function again while that lives, and two bound methods of
    one model are equal: so it is given another function.
    """
    step = model.train_step
    own = vars(model).get("train_step")

    def train_step(*args: Any, **kwargs: Any) -> Any:
        return step(*args, **kwargs)

    vars(model)["train_step"] = train_step
    try:
        model.make_train_function(force=True)
    finally:
        del vars(model)["train_step"]
        if own is not None:
            vars(model)["train_step"] = own
