"""Compiling a rewritten model as the original, with the optimizer where it was.

An optimizer keeps, beside its counters, lists with one variable (a slot) for each trainable
variable of the model: momentums, velocities, averages, accumulated gradients. They are carried
over by variable, not by position. A variable that is new, or that an edit gave another value,
begins with new slots; its average (`use_ema`) begins at its value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnscope.errors import first_line
from bnscope.rewriting.copying import to_numpy

_AVERAGES = "_model_variables_moving_average"
_NO_SLOTS = frozenset({"_variables", "_trainable_variables"})


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of the training state.

    Args:
        compiled: whether the new model is compiled.
        optimizer: name of the optimizer's class; None without one.
        steps: updates that the optimizer counts; None where it has no state.
        kept: trainable variables whose slots were carried over.
        dropped: those that are gone, with their slots.
        fresh: those whose slots begin anew.
        notes: what could not be kept, in sentences.
    """

    compiled: bool = False
    optimizer: str | None = None
    steps: int | None = None
    kept: int = 0
    dropped: int = 0
    fresh: int = 0
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What became of it, for JSON; the notes are printed with the others."""
        return {
            "compiled": self.compiled,
            "optimizer": self.optimizer,
            "steps": self.steps,
            "kept": self.kept,
            "dropped": self.dropped,
            "fresh": self.fresh,
        }


@dataclass(slots=True)
class _Count:
    kept: set[int] = field(default_factory=set)
    filled: set[int] = field(default_factory=set)


def carry_training(
    old: Any, new: Any, variables: Mapping[int, Any], changed: frozenset[int]
) -> Carried:
    """Compiles a new model as the old one, and carries the optimizer's state over.

    Args:
        old: the original. It is not changed, and shares no state with the new model.
        new: the new model, not compiled.
        variables: new variable by the `id` of the old one.
        changed: `id`s of new variables whose value an edit changed.

    Returns:
        What became of the training state.
    """
    if not getattr(old, "compiled", False):
        return Carried()
    try:
        pairs = [(v, variables[id(v)]) for v in old.variables if id(v) in variables]
        optimizer = _copied_optimizer(old.optimizer, pairs)
        new.compile(**compile_arguments(old), optimizer=optimizer)
    except Exception as error:  # noqa: BLE001  a user's class may raise anything
        return Carried(
            notes=(
                f"The fixed model is not compiled, as the original's compilation cannot be repeated: {first_line(error)}.",
            )
        )
    name = type(optimizer).__name__
    if not old.optimizer.built:
        return Carried(compiled=True, optimizer=name)
    new.optimizer.build(new.trainable_variables)
    count = _Count()
    _carry(old.optimizer, new.optimizer, variables, changed, count)
    return _carried(old, new, variables, count)


def _carried(old: Any, new: Any, variables: Mapping[int, Any], count: _Count) -> Carried:
    successors = {
        id(variables[id(v)]) for v in old.trainable_variables if id(v) in variables
    }
    dropped = len(old.trainable_variables) - len(successors)
    fresh = [v for v in new.trainable_variables if id(v) not in count.kept]
    notes = []
    if fresh:
        notes.append(
            f"{len(fresh)} of {len(new.trainable_variables)} trainable variables have new "
            "values, or no state in the original's optimizer: theirs begins anew."
        )
    left = [v for v in new.optimizer.variables if id(v) not in count.filled]
    if left:
        notes.append(
            f"{len(left)} variables of {type(new.optimizer).__name__} could not be matched, "
            "and begin anew."
        )
    return Carried(
        compiled=True,
        optimizer=type(new.optimizer).__name__,
        steps=_steps(new.optimizer),
        kept=len(count.kept),
        dropped=dropped,
        fresh=len(fresh),
        notes=tuple(notes),
    )


def compile_arguments(model: Any) -> dict[str, Any]:
    """The arguments of `compile` but the optimizer; metrics are copied, they have a state."""
    import keras

    given = dict(model._compile_config.config)  # noqa: SLF001
    given.pop("optimizer", None)
    for key in ("metrics", "weighted_metrics"):
        given[key] = _copied_metrics(given.get(key))
    # The optimizer is passed as it is in the model, wrapped already if it has to be.
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    return {**given, "auto_scale_loss": scaled}


def _copied_metrics(value: Any) -> Any:
    import keras

    if isinstance(value, keras.metrics.Metric):
        return type(value).from_config(value.get_config())
    if isinstance(value, Mapping):
        return {key: _copied_metrics(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied_metrics(item) for item in value]
    return value


def _copied_optimizer(optimizer: Any, pairs: Sequence[tuple[Any, Any]]) -> Any:
    """An optimizer with the same settings and no state.

    Args:
        optimizer: the original's.
        pairs: variables of the original model with those of the new one.
    """
    import keras

    config = optimizer.get_config()
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        config["inner_optimizer"] = _copied_optimizer(inner, pairs)
        return type(optimizer)(**config)
    rate = getattr(optimizer, "_learning_rate", None)
    if callable(rate) and not isinstance(
        rate, keras.Variable
    ):  # a schedule or function, of which the configuration holds a name
        config["learning_rate"] = rate
    new = type(optimizer).from_config(config)
    excluded = getattr(optimizer, "_exclude_from_weight_decay", None)
    if excluded is not None:  # not in the configuration
        key = optimizer._var_key  # noqa: SLF001
        new._exclude_from_weight_decay = {  # noqa: SLF001
            key(other) for one, other in pairs if key(one) in excluded
        }
        pattern = optimizer._exclude_from_weight_decay_pattern  # noqa: SLF001
        new._exclude_from_weight_decay_pattern = pattern  # noqa: SLF001
    return new


def _carry(
    old: Any,
    new: Any,
    variables: Mapping[int, Any],
    changed: frozenset[int],
    count: _Count,
) -> None:
    """Copies the state of one optimizer into another of its kind."""
    import keras

    inner = getattr(old, "inner_optimizer", None)
    if inner is not None:
        _carry(inner, new.inner_optimizer, variables, changed, count)
    former = {
        id(variables[id(variable)]): index
        for index, variable in enumerate(old._trainable_variables)  # noqa: SLF001
        if id(variable) in variables
    }
    current = new._trainable_variables  # noqa: SLF001
    kept = {id(v) for v in current if id(v) in former and id(v) not in changed}
    count.kept |= kept
    for name, value in vars(old).items():
        other = vars(new).get(name)
        if isinstance(value, keras.Variable) and isinstance(other, keras.Variable):
            _assign(other, value, count)
    for name, slots, others in _slot_lists(old, new):
        for variable, slot in zip(current, others, strict=True):
            if slot is None:
                continue
            count.filled.add(id(slot))
            if id(variable) in kept:
                _assign(slot, slots[former[id(variable)]], count)
            elif name == _AVERAGES:
                _assign(slot, variable, count)


def _slot_lists(old: Any, new: Any) -> Iterator[tuple[str, list[Any], list[Any]]]:
    """The lists of both optimizers that hold one entry for each trainable variable."""
    wanted = (len(old._trainable_variables), len(new._trainable_variables))  # noqa: SLF001
    for name, slots in vars(old).items():
        others = vars(new).get(name)
        if name in _NO_SLOTS or not isinstance(slots, list) or not isinstance(others, list):
            continue
        if (len(slots), len(others)) == wanted and _hold_variables([*slots, *others]):
            yield name, slots, others


def _hold_variables(slots: list[Any]) -> bool:
    import keras

    return all(slot is None or isinstance(slot, keras.Variable) for slot in slots)


def _assign(target: Any, source: Any, count: _Count) -> None:
    target.assign(to_numpy(source))
    count.filled.add(id(target))


def _steps(optimizer: Any) -> int:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return int(to_numpy(inner.iterations))
