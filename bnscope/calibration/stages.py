"""The steps of a model -> stages, between which the statistics of BN layers are set. Pure.

The level of a tensor is the largest number of BN layers on a way to it. A stage runs the steps
on its level, the BN layers of the level before first, and ends where the inputs of the BN layers
on its level are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bnscope.calibration.steps import Norm, Step, Steps


@dataclass(frozen=True)
class Stage:
    """What runs between two settings of statistics.

    Args:
        steps: the steps, in order.
        given: slots of the tensors that they, or the steps measured, take from before.
        kept: slots of the tensors that later stages take.
        norms: calls of BN layers whose inputs are measured behind them.
        inside: steps with BN layers inside, which are measured by running them in part.
    """

    steps: tuple[Step, ...]
    given: tuple[int, ...]
    kept: tuple[int, ...]
    norms: tuple[Norm, ...]
    inside: tuple[Step, ...]


def make_stages(steps: Steps) -> list[Stage]:
    """The stages of a model, in order; steps that no BN layer depends on are left out."""
    needed = steps.needed
    runs, measures = _levels(needed)
    count = max(measures.values(), default=-1) + 1
    stages: list[Stage] = []
    live: set[int] = set()
    for level in reversed(range(count)):
        run = tuple(step for step in needed if runs[step] == level)
        measured = [step for step, at in measures.items() if at == level]
        norms = tuple(step.norm for step in measured if step.norm is not None)
        inside = tuple(step for step in measured if step.norm is None)
        kept = live | _inputs(inside)
        made = {slot for step in run for slot in step.outputs}
        live = (
            kept | _inputs(run) | {slot for norm in norms for slot in norm.slots}
        ) - made
        stages.append(Stage(run, tuple(sorted(live)), tuple(sorted(kept)), norms, inside))
    stages.reverse()
    return stages


def _inputs(steps: Iterable[Step]) -> set[int]:
    return {slot for step in steps for slot in step.inputs}


def _levels(steps: Sequence[Step]) -> tuple[dict[Step, int], dict[Step, int]]:
    """At which level each step runs, and at which the BN layers are measured."""
    level: dict[int, int] = {}
    runs: dict[Step, int] = {}
    measures: dict[Step, int] = {}
    for step in steps:
        at = max((level.get(slot, 0) for slot in step.inputs), default=0)
        if step.norm is not None or step.inside:
            measures[step] = at
            at += 1
        runs[step] = at
        level.update(dict.fromkeys(step.outputs, at))
    return runs, measures
