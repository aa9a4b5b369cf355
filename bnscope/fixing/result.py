"""Fixing from end to end: load, lint, repair, prove, compile again."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnscope.fixing.report import Fix, Skipped
from bnscope.linting.engine import Linter
from bnscope.linting.findings import Report
from bnscope.linting.settings import Settings, selected
from bnscope.printing import printable
from bnscope.rewriting.routes import RouteCheck, largest

if TYPE_CHECKING:
    from bnscope.rewriting.training import Carried


@dataclass(frozen=True, slots=True)
class FixResult:
    """A fixed model, with what was done to it and the proof that it is right.

    Args:
        model: the new Keras model, compiled as the original was; the original itself where
            nothing was repaired.
        applied: the repairs that were made, in order.
        skipped: findings whose repair could not be made, with the reason.
        remaining: what the rules still find in the new model.
        verification: the comparison of the models before and after the safe repairs, by each
            way of using them.
        training: what became of the optimizer's state.
        notes: what could not be kept or shown, in sentences.
        parameters: number of parameters of the original and of the new model.
    """

    model: Any = field(repr=False)
    applied: tuple[Fix, ...]
    skipped: tuple[Skipped, ...]
    remaining: Report
    verification: tuple[RouteCheck, ...]
    training: Carried
    notes: tuple[str, ...]
    parameters: tuple[int, int]

    @property
    def max_error(self) -> float:
        """The largest difference that safe repairs made, relative to its output's scale."""
        return largest(self.verification)

    @property
    def tolerance(self) -> float:
        """What `max_error` was allowed to be; 0 where nothing was compared."""
        allowed = [c.verification.tolerance for c in self.verification if c.verification]
        return max(allowed, default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """The result for JSON, without the model."""
        before, after = self.parameters
        return {
            "applied": [one.to_dict() for one in self.applied],
            "skipped": [one.to_dict() for one in self.skipped],
            "remaining": [finding.to_dict() for finding in self.remaining],
            "verification": [check.to_dict() for check in self.verification],
            "max_error": self.max_error,
            "tolerance": self.tolerance,
            "training": self.training.to_dict(),
            "notes": list(self.notes),
            "parameters": {"before": before, "after": after},
        }

    def __str__(self) -> str:
        from bnscope.fixing.text import lines

        done = [*map(printable, lines(self))] or ["Nothing was repaired."]
        return "\n".join([*done, "Remaining:", str(self.remaining)])

    def _repr_html_(self) -> str:
        from bnscope.markup import Markup, escaped, tag

        return tag("pre", Markup("\n".join(map(escaped, str(self).split("\n")))))

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Saves the model: written beside, loaded again and compared, then moved.

        Args:
            path: where to; `.keras`, or `.h5` for the legacy format, of which Keras does not
                load the optimizer's state.
            overwrite: whether an existing file may be replaced.

        Returns:
            The path.

        Raises:
            OutputExistsError: if the file exists and `overwrite` is false.
            VerificationError: if the model or its optimizer's state would not be the same
                when it is loaded again.
            BnscopeError: if the model cannot be saved there.
        """
        from bnscope.rewriting import files

        return files.save(self.model, path, overwrite=overwrite)


def fix(  # noqa: PLR0913  all but the first by keyword
    model_or_path: Any,
    *,
    unsafe: bool = False,
    select: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] | None = None,
    settings: Settings | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    verify_data: Any = None,
) -> FixResult:
    """Repairs what the linter finds, in a new model.

    Args:
        model_or_path: a built Sequential or Functional `keras.Model`, or the path of a saved
            one. It is not changed, and neither is its optimizer.
        unsafe: whether repairs are made that change what the model computes or how it trains.
        select: codes, prefixes or names of the rules whose findings are repaired.
        ignore: those whose findings are not.
        settings: settings to start from; `select` and `ignore` replace theirs.
        custom_objects: the user's classes and functions by name, to load a file.
        verify_data: samples to verify with: an array, a list of arrays in the order of the
            inputs, or a mapping by input names, samples along the first axis. By default
            random inputs with a fixed seed.

    Returns:
        The result: `.model`, `.applied`, `.skipped`, `.remaining`, `.max_error`.

    Raises:
        UnreadableModelError: if the file is missing, damaged or no Keras model.
        UnsupportedModelError: if the model cannot be loaded.
        UnknownCodeError: if a code or name does not exist.
        VerificationError: if a safe repair changes what the model computes.
        BnscopeError: if `verify_data` does not fit the model.
    """
    # An unknown code is an error before anything is loaded.
    linter = Linter(selected(settings, select, ignore))
    from bnscope.fixing.engine import Fixer
    from bnscope.rewriting.training import Carried, carry_training

    model, notes = _model(model_or_path, custom_objects)
    fixer = Fixer(model, linter, verify_data)
    fixer.run(unsafe=unsafe)
    training = Carried()
    if fixer.variables is not None:
        training = carry_training(model, fixer.model, fixer.variables, fixer.changed)
        notes = (*notes, *_lost_class(model))
    else:
        notes = ()  # nothing was made, so nothing was lost
    is_file = isinstance(model_or_path, (str, os.PathLike))
    name = os.fspath(model_or_path) if is_file else None
    return FixResult(
        model=fixer.model,
        applied=tuple(fixer.applied),
        skipped=tuple(fixer.skipped.values()),
        remaining=linter.lint_graph(fixer.graph(trace=True), name).report,
        verification=tuple(fixer.proofs),
        training=training,
        notes=tuple(dict.fromkeys([*notes, *fixer.notes, *training.notes])),
        parameters=(_count(model), _count(fixer.model)),
    )


def _lost_class(model: Any) -> tuple[str, ...]:
    kind = type(model)
    if kind.__module__.startswith("keras."):
        return ()
    text = (
        "The new model is a plain keras.Model; what {} adds, such as a train_step, is gone."
    )
    return (text.format(kind.__name__),)


def _count(model: Any) -> int:
    return int(model.count_params()) if model.built else 0


def _model(
    model_or_path: Any, custom_objects: Mapping[str, Any] | None
) -> tuple[Any, tuple[str, ...]]:
    if not isinstance(model_or_path, (str, os.PathLike)):
        return model_or_path, ()
    from bnscope.rewriting import files

    return files.load_compiled(model_or_path, custom_objects)
