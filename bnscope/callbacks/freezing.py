"""BatchNormFreeze: BN normalizes with its moving values from an epoch on. It acts on the model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import keras  # noqa: TID253  a Keras callback is a Keras class
import numpy as np

from bnscope.bn import AnyArray
from bnscope.callbacks.board import board_for
from bnscope.callbacks.building import before_next_step, build, can_be_built
from bnscope.callbacks.inference import InferenceMode, affine, takes_training
from bnscope.callbacks.messages import say
from bnscope.callbacks.reader import is_built
from bnscope.errors import BnscopeError, first_line
from bnscope.graph import live
from bnscope.rewriting.copying import to_numpy
from bnscope.rules.base import plural
from bnscope.watching.marks import Act, Mark


class BatchNormFreeze(keras.callbacks.Callback):  # type: ignore[misc]
    """Freezes the statistics of every BN layer from an epoch on.

    The layers then normalize with their moving values, in training as in validation, and these
    no longer change: Keras's inference mode. Gamma and beta go on training, and the optimizer
    keeps its state. When `fit` ends, or is interrupted and another begins, the layers are as
    they were: no setting of the model changes, nor what is saved of it. The train function is
    made anew once, which compiles it again.

    Args:
        at_epoch: the first epoch with frozen statistics, counted from 0 as `initial_epoch` is.
        freeze_affine: whether gamma and beta keep their values too. Needs an optimizer of Keras.

    Raises:
        BnscopeError: if an argument has no meaning; as `fit` begins, if a layer or the optimizer
            cannot do it.

    Example:
        ```python
        model.fit(x, y, epochs=30, callbacks=[BatchNormFreeze(at_epoch=20)])
        ```
    """

    # What it does at a batch is done where TensorFlow builds the model, which has no such thread.
    async_safe = True

    def __init__(self, at_epoch: int, freeze_affine: bool = False) -> None:  # noqa: FBT001, FBT002
        super().__init__()
        if isinstance(at_epoch, bool) or not isinstance(at_epoch, int) or at_epoch < 0:
            raise BnscopeError(
                f"at_epoch must be a whole number, at least 0, got {at_epoch!r}.",
                "Epochs count from 0: at_epoch=10 trains ten epochs as usual first.",
            )
        self.at_epoch = at_epoch
        self.freeze_affine = freeze_affine
        self._tried = False
        self._unbuilt = False  # and the next step builds the model
        self._mode: InferenceMode | None = None
        self._norms: dict[str, Any] = {}
        self._values: dict[str, list[AnyArray]] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Looks whether everything that is promised can be done."""
        del logs
        self._tried = self._unbuilt = False
        self._mode = None
        self._norms, self._values = {}, {}
        try:
            norms = self._trainable_norms()
        except Exception as error:  # noqa: BLE001  whatever a model makes of it
            self._tried = True
            say(f"BN cannot be frozen ({first_line(error)}); training goes on")
            return
        _check_layers(norms)
        if self.freeze_affine:
            _check_optimizer(self._model)
        epochs = (self.params or {}).get("epochs", self.at_epoch + 1)
        if self.at_epoch >= epochs:
            say(
                f"BatchNormFreeze(at_epoch={self.at_epoch}) freezes nothing: epochs count from "
                f"0, and fit ends with epoch {epochs - 1}"
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Freezes, if it is time."""
        del logs
        if not self._tried and epoch >= self.at_epoch:
            self._tried = True
            self._unbuilt = not is_built(self._model)
            since = f"from epoch {epoch} (counted from 0)"
            if self._unbuilt and can_be_built(self._model):
                before_next_step(self._model, partial(self._build_and_freeze, since))
            elif not (self._unbuilt and self.freeze_affine):
                self._freeze(since)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Freezes the layers that came only with the first step, which has built the model."""
        del batch, logs
        if self._unbuilt:
            self._unbuilt = False
            self._freeze("from the second step on (the first built the model)")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks whether the values stayed."""
        del logs
        if self._values:
            self._check(epoch)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Makes the layers what they were."""
        del logs
        if self._mode is not None:
            self._mode.end()

    def _trainable_norms(self) -> dict[str, Any]:
        """The BN layers by path that are not frozen already."""
        board = board_for(self._model, self.params)
        own = {id(norm) for norm in self._norms.values()}
        return {
            path: norm
            for path, norm in live.batch_norms(self.model).items()
            if norm.trainable and path not in board.frozen and id(norm) not in own
        }

    def _build_and_freeze(self, since: str, iterator: Any) -> None:
        with suppress(Exception):  # the step itself tells what is wrong
            build(self._model, iterator)
            self._unbuilt = False
            self._freeze(since)

    def _freeze(self, since: str) -> None:
        try:
            norms = self._trainable_norms()
            _check_layers(norms)
            if norms:
                self._begin(norms, since)
            elif not self._norms and not self._unbuilt:
                say("no BN layer is left to freeze")
            self._values = {
                path: self._held(norm) for path, norm in self._norms.items() if norm.built
            }
        except Exception as error:  # noqa: BLE001  whatever a model makes of it
            say(f"BN cannot be frozen ({first_line(error)}); training goes on")

    def _begin(self, norms: dict[str, Any], since: str) -> None:
        if self._mode is not None:
            self._mode.end()
        self._norms |= norms
        self._mode = InferenceMode(
            self.model, self._norms.values(), hold_affine=self.freeze_affine
        )
        self._mode.begin()
        rest = "keep their values too" if self.freeze_affine else "go on training"
        text = (
            f"{plural(len(norms), 'BN layer')} frozen {since} until fit ends: normalized with "
            f"the moving values; gamma and beta {rest}"
        )
        say(text)
        board = board_for(self._model, self.params)
        board.frozen |= norms.keys()
        board.marks.tell(Mark(Act.FREEZE, tuple(norms), text))

    def _held(self, norm: Any) -> list[AnyArray]:
        """What must not change of a layer."""
        variables = [norm.moving_mean, norm.moving_variance]
        variables += affine([norm]) if self.freeze_affine else []
        return [to_numpy(variable).copy() for variable in variables]

    def _check(self, epoch: int) -> None:
        _ = self.model  # brings the running state into the variables
        moved = [
            path for path, held in self._values.items()
            if not all(map(_same, held, self._held(self._norms[path])))
        ]  # fmt: skip
        if moved:
            self._values = {}  # told once
            say(
                f"values of {moved[0]}{_more(moved)} changed in epoch {epoch} although frozen: "
                "a train_step or a callback of your own sets them"
            )


def _check_layers(norms: Mapping[str, Any]) -> None:
    for path, norm in norms.items():
        if not takes_training(norm):
            raise BnscopeError(
                f'"{path}" cannot be frozen within fit: the call of its class '
                f"{type(norm).__name__} takes no argument `training`.",
                "Give it one, or set trainable=False, compile, and call fit again.",
            )


def _check_optimizer(model: Any) -> None:
    if not isinstance(model.optimizer, keras.optimizers.Optimizer):
        raise BnscopeError(
            "freeze_affine needs an optimizer of Keras, which applies the constraints that hold "
            f"gamma and beta; this one is {type(model.optimizer).__name__}.",
            "Train to that epoch, set trainable=False on the BN layers, compile, and call fit "
            "again.",
        )


def _same(one: AnyArray, other: AnyArray) -> bool:
    return np.array_equal(one, other, equal_nan=True)


def _more(paths: list[str]) -> str:
    return f" and {plural(len(paths) - 1, 'more layer')}" if len(paths) > 1 else ""
