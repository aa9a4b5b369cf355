"""The one way in which a model is rewritten: apply the steps, compare, or find what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bnscope.errors import UnsupportedModelError, VerificationError
from bnscope.graph.model import Graph
from bnscope.rewriting.apply import apply_edits
from bnscope.rewriting.comparison import Verification
from bnscope.rewriting.edits import Edit, Step
from bnscope.rewriting.verify import Verifier, find_culprit


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A new model, and the proof that it computes what the original computes.

    Args:
        model: the new model.
        verification: the comparison with the original.
        notes: what making it again has fixed, in sentences.
    """

    model: Any
    verification: Verification
    notes: tuple[str, ...] = ()


def rewrite(
    model: Any,
    steps: Sequence[Step],
    *,
    verify_data: Any = None,
    graph: Graph | None = None,
    opened: bool = False,
) -> Rewritten:
    """Applies steps to a model and verifies the result through real inference.

    Args:
        model: a built Sequential or Functional model. It is not changed.
        steps: what to change, in order.
        verify_data: samples to verify with: an array, a list in the order of the inputs, or
            a mapping by input names. None for random inputs with a fixed seed.
        graph: the model's graph, where it is known already.
        opened: whether subclassed models and custom layers may become Functional models.

    Returns:
        The new model and its verification.

    Raises:
        VerificationError: if the new model computes something else; the message names the
            worst output and the step that causes it.
        UnsupportedModelError: if the model cannot be made again.
        BnscopeError: if the data do not fit the model.
    """
    apply = partial(apply_edits, model, opened=opened)
    notes: list[str] = []
    rewritten = apply(_edits(steps), notes=notes)
    verifier = Verifier(model, verify_data, graph)
    try:
        verification = verifier.compare(rewritten)
    except VerificationError as error:
        raise UnsupportedModelError(
            f"The model cannot be made again: {error.message}",
            "A layer or `call` depends on sizes that are known only when it runs.",
        ) from error
    if not verification.passed:
        raise failure(apply, steps, verifier, verification)
    return Rewritten(rewritten, verification, tuple(notes))


def failure(
    apply: Callable[[list[Edit]], Any],
    steps: Sequence[Step],
    verifier: Verifier,
    verification: Verification,
) -> VerificationError:
    """What to raise where steps changed what a model computes, with the step that did.

    Args:
        apply: makes the model with edits.
        steps: the steps, in order.
        verifier: compares with the model that counts as the original.
        verification: the comparison that failed.
    """
    if not verifier.repeats():
        return VerificationError(
            "The original model gives other outputs each time it is run, so nothing can be "
            "verified.",
            "Make it deterministic at inference.",
        )
    if verifier.is_drowned(verification):
        return VerificationError(
            f"{verification.difference}; rounding its inputs alone moves the original's by "
            f"{verifier.sensitivity:.2g}, so nothing can be verified.",
            "Pass samples such as the network is made for (verify_data, --data). Nothing was "
            "returned or written.",
        )

    def fails(count: int) -> bool:
        return not verifier.compare(apply(_edits(steps[:count]))).passed

    what = verification.difference
    if not steps or fails(0):
        return VerificationError(
            f"{what}: the model cannot be made again.",
            "A layer holds something that its get_config() leaves out, or a `call` does not do "
            "the same each time. Nothing was written.",
        )
    culprit = steps[find_culprit(len(steps), fails)]
    return VerificationError(
        f"{what}; {culprit.title} causes it.", "Nothing was returned or written."
    )


def _edits(steps: Sequence[Step]) -> list[Edit]:
    return [edit for step in steps for edit in step.edits]
