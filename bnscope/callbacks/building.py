"""A model that its first step would build is built just before it. Only TensorFlow needs that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bnscope.callbacks.reader import is_built


def before_next_step(model: Any, action: Callable[[Any], None]) -> None:
    """Has something done once, as the next step of a running `fit` begins.

    Not if another run begins first, or something else has the train function made anew.

    Args:
        model: the model that trains.
        action: is called with the iterator over the data.
    """
    if not isinstance(model.train_function, _NextStep):
        model.train_function = _NextStep(model)
    model.train_function.actions.append(action)


class _NextStep:
    """Stands in for the train function of a model until it is called."""

    def __init__(self, model: Any) -> None:
        self.actions: list[Callable[[Any], None]] = []
        self._model = model
        self._function, self._make = model.train_function, model.make_train_function
        # Past Keras's __setattr__, which tracks what is set.
        vars(model)["make_train_function"] = self._made_anew

    def __call__(self, iterator: Any) -> Any:
        self._go()
        for action in self.actions:
            action(iterator)
        return self._model.train_function(iterator)

    def _made_anew(self, force: bool = False) -> Any:  # noqa: FBT001, FBT002  as in Keras
        self._go()
        return self._make(force)

    def _go(self) -> None:
        vars(self._model).pop("make_train_function", None)
        if self._model.train_function is self:
            self._model.train_function = self._function


def can_be_built(model: Any) -> bool:
    """Whether the step calls the model with what the data hold: a step of one's own may not."""
    return bool(type(model).train_step.__module__.startswith("keras."))


def build(model: Any, iterator: Any) -> None:
    """Builds a model, unless it is, for the data that an iterator gives; takes none of them.

    It is called with symbols of their shapes, as Keras does before `fit` on JAX and torch.

    Args:
        model: the model.
        iterator: a `tf.data.Iterator` over the batches.
    """
    import keras

    if is_built(model):
        return
    x, _, _ = keras.utils.unpack_x_y_sample_weight(iterator.element_spec)
    model(keras.tree.map_structure(_symbol, x))


def _symbol(spec: Any) -> Any:
    import keras

    return keras.KerasTensor(tuple(spec.shape), keras.backend.standardize_dtype(spec.dtype))
