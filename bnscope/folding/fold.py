"""Folds a model: plan, apply, verify."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnscope.errors import UnsupportedModelError, VerificationError
from bnscope.folding.plan import Fold, Plan, Verdict, make_plan
from bnscope.graph import live


@dataclass(frozen=True, slots=True)
class FoldResult:
    """A folded model, proved.

    Args:
        model: the new `keras.Model`; not compiled.
        plan: the plan that was carried out.
        max_error: the largest difference from the original of any output, as a share of the
            output's scale.
        tolerance: the difference that was allowed.
        informative: whether the outputs varied with the input they were verified on; if not,
            verify on data of your own.
        parameters: number of parameters before and after.
    """

    model: Any = field(repr=False)
    plan: Plan = field(repr=False)
    max_error: float
    tolerance: float
    informative: bool
    parameters: tuple[int, int]

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What became of each BN layer, in forward order."""
        return self.plan.verdicts

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Saves the model as `.keras`: written beside, read back, compared, then moved.

        Raises:
            OutputExistsError: if the file exists and `overwrite` is not set.
            BnscopeError: if it cannot be written, or does not read back as it was.
        """
        from bnscope.rewriting.files import save

        return save(self.model, path, overwrite=overwrite)

    def to_dict(self) -> dict[str, Any]:
        """The result for JSON."""
        return {
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "max_error": self.max_error,
            "tolerance": self.tolerance,
            "informative": self.informative,
            "parameters": list(self.parameters),
        }


def fold(
    model_or_path: Any,
    *,
    verify_data: Any = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> FoldResult:
    """Folds every BN layer that can be folded exactly into the layer before it.

    The result is proved before it is returned: both models run on the same input. The model
    passed in is not changed; the new one shares no variable with it and is not compiled.

    Args:
        model_or_path: a built Sequential or Functional `keras.Model`, or the path of a saved
            one (`.keras`, `.h5`).
        verify_data: input to verify on, as `model.predict` takes it; None for random input.
        custom_objects: classes by name that a saved model needs and that are not registered.

    Returns:
        The folded model, with a verdict for each BN layer and the error that was measured.

    Raises:
        UnreadableModelError: if the file is missing, damaged or no Keras model.
        UnsupportedModelError: if the model cannot be loaded or built again.
        VerificationError: if the folded model does not compute what the original computes; it
            names the fold that causes it.
    """
    from bnscope.rewriting import apply, verify

    model = _live(model_or_path, custom_objects)
    plan = make_plan(live.read(model))
    folded = apply.apply(model, plan.edits)
    try:
        proof = verify.verify(model, folded, data=verify_data)
    except VerificationError as error:
        raise _blame(model, plan, verify_data, error) from None
    return FoldResult(
        model=folded,
        plan=plan,
        max_error=proof.max_error,
        tolerance=proof.tolerance,
        informative=proof.informative,
        parameters=(model.count_params(), folded.count_params()),
    )


def _live(model_or_path: Any, custom_objects: Mapping[str, Any] | None) -> Any:
    if isinstance(model_or_path, (str, os.PathLike)):
        from bnscope.rewriting.files import load

        return load(Path(model_or_path), custom_objects=custom_objects)
    if not getattr(model_or_path, "built", True):
        raise UnsupportedModelError(
            f"The model {model_or_path.name!r} is not built, so it has no weights to fold.",
            "Build it first: give it an Input, or call it once.",
        )
    return model_or_path


def _blame(
    model: Any, plan: Plan, data: Any, failure: VerificationError
) -> VerificationError:
    """The failure with the fold that causes it: the last of the fewest that fail together."""
    from bnscope.rewriting import apply, verify

    def fails(count: int) -> bool:
        edits = [edit for fold_ in plan.folds[:count] for edit in fold_.edits]
        try:
            verify.verify(model, apply.apply(model, edits), data=data)
        except VerificationError:
            return True
        return False

    passing, failing = 0, len(plan.folds)
    while failing - passing > 1:
        middle = (passing + failing) // 2
        passing, failing = (passing, middle) if fails(middle) else (middle, failing)
    if not plan.folds:
        return failure
    guilty: Fold = plan.folds[failing - 1]
    return VerificationError(
        f"{failure.message} Folding {guilty.layer!r} into {guilty.into!r} causes it.",
        failure.hint,
    )
