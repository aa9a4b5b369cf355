"""Diagnosis: a model and data in, the cause of the gap between training and inference out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from bnscope.calibration.engine import batch_norms, recalibration
from bnscope.calibration.fitting import check_fit
from bnscope.calibration.result import LayerStatistics
from bnscope.diagnosis import rows, wording
from bnscope.diagnosis.cause import Cause
from bnscope.diagnosis.causes import find_cause
from bnscope.diagnosis.evidence import CODES, TRAINING, VALIDATION, Evidence
from bnscope.diagnosis.measuring import MODES, measure, swaps
from bnscope.diagnosis.probe import Mode, Probe
from bnscope.diagnosis.result import Diagnosis
from bnscope.diagnosis.samples import Batch, Sampling, read_samples
from bnscope.diagnosis.scoring import Scorer
from bnscope.errors import BnscopeError
from bnscope.graph import kinds, read
from bnscope.graph.batchnorm import is_batch_norm
from bnscope.graph.model import Graph
from bnscope.linting.engine import lint_graph
from bnscope.progress import Bar, bar
from bnscope.rewriting.running import unchanged
from bnscope.rules import find

# Swapping all layers one at a time takes as long as so many passes over the samples at most...
SWAP_PASSES = 4
# ... but for so many batches, which are used in any case.
FEWEST_SWAP_BATCHES = 2


def diagnose(  # noqa: PLR0913  most have defaults
    model: Any,
    x: Any,
    y: Any = None,
    *,
    validation_data: Any = None,
    loss: Any = None,
    batch_size: int | None = None,
    max_samples: int = 2048,
    seed: int = 0,
) -> Diagnosis:
    """Finds out why a model is worse at inference than in training, and whether BN is to blame.

    On the same samples, with dropout off, it works out loss and metrics with the moving
    statistics (inference), with those of each batch (as training does), and with the exact ones
    of the samples (as after `bnscope.recalibrate`); how far the moving statistics of each BN
    layer are from the data's; and how much of the gap each layer explains alone.

    Args:
        model: a built `keras.Model`. Weights, optimizer, metrics and random state are left as
            they were. If it is compiled, its loss and metrics are used.
        x: training samples, prepared as for inference: whatever `fit` takes. Of arrays random
            samples are taken; the batches of a `tf.data.Dataset` or other data set are used as
            they come, which shows whether they are alike.
        y: targets, where `x` is arrays. Without targets, or a loss, the outputs themselves are
            compared.
        validation_data: as in `fit`: `(x_val, y_val)`, or a data set. With it, a shift between
            training and validation data can be told from a fault in the statistics.
        loss: a loss in the place of the compiled one, as `compile` takes it.
        batch_size: samples in a batch, where `x` is arrays; best what the model was trained
            with, 32 by default.
        max_samples: how many samples are used at most, of each data set.
        seed: which samples of arrays, and how they are put into batches.

    Returns:
        The diagnosis: `.verdict`, `.explanation`, `.losses`, `.layers`; print it, or `.plot()`.

    Raises:
        BnscopeError: if an argument has no meaning, the data do not fit the model, or they are
            not finite.
        UnsupportedModelError: if the model is not built, or has no BN layer.

    Example:
        ```python
        print(bnscope.diagnose(model, x, y, validation_data=(x_val, y_val), batch_size=64))
        ```
    """
    _check(batch_size, max_samples, seed)
    with bar("Diagnosing") as shown:
        run = _Run(
            model, loss, Sampling(batch_size, max_samples, seed, _fixed(model)), shown
        )
        return run.diagnosis(x, y, validation_data)


@dataclass
class _Run:
    model: Any
    loss: Any
    sampling: Sampling
    shown: Bar | None
    done: int = 0
    total: int = 0

    def diagnosis(self, x: Any, y: Any, validation_data: Any) -> Diagnosis:
        model = self.model
        norms = batch_norms(model, "so BN is not why it does worse at inference")
        batches = read_samples(x, y, self.sampling)
        others = self._validation(validation_data)
        check_fit(model, [batch.inputs for batch in batches], "the data in x")
        check_fit(model, [batch.inputs for batch in others], "validation_data")
        self.total = len(batches) + len(others)
        with unchanged(model):
            found = recalibrated(model, batches)
        with unchanged(model):
            probe = Probe(model, norms, [*batches, *others])
            probe.give([(layer.mean, layer.variance) for layer in found])
            scorer, note = self._scorer(probe, batches)
            evidence = self._measured(probe, found, scorer, batches, others)
            part = self._part(batches, len(norms)) if evidence.has_gap else []
            if part:
                evidence = self._swapped(probe, evidence, scorer, part)
        cause = find_cause(evidence)
        return Diagnosis(
            model=model.name,
            verdict=cause.verdict,
            sentences=tuple(_sentences(cause, evidence)),
            advice=cause.advice,
            losses=evidence.losses,
            apart=evidence.apart,
            layers=evidence.layers,
            samples=evidence.samples,
            batch_size=evidence.batch_size,
            swap_samples=sum(len(batch) for batch in part),
            notes=(note,) if note else (),
        )

    def tick(self, batches: int) -> None:
        """Some more batches are done."""
        self.done += batches
        if self.shown is not None:
            self.shown(self.done, self.total)

    def _validation(self, data: Any) -> list[Batch]:
        import keras

        if data is None:
            return []
        if not isinstance(data, (tuple, list)):
            return read_samples(data, None, self.sampling, "validation_data")
        x, y, weights = keras.utils.unpack_x_y_sample_weight(tuple(data))
        return read_samples(x, y, self.sampling, "validation_data", weights)

    def _scorer(
        self, probe: Probe, batches: Sequence[Batch]
    ) -> tuple[Callable[[], Scorer] | None, str]:
        """What makes a scorer, or why there is none."""
        first = batches[0]
        if first.targets is None:
            return None, "no targets were given (y), so the outputs themselves are compared"
        if self.loss is None and not has_loss(self.model):
            return None, (
                "the model is not compiled and no loss was given (loss=), so the targets are not "
                "used, and the outputs themselves are compared"
            )
        outputs = probe(first, probe.all(Mode.MOVING)).outputs
        return partial(Scorer, self.model, self.loss, first, outputs), ""

    def _measured(
        self,
        probe: Probe,
        found: Sequence[LayerStatistics],
        scorer: Callable[[], Scorer] | None,
        batches: Sequence[Batch],
        others: Sequence[Batch],
    ) -> Evidence:
        """All evidence but what swapping single layers gives."""
        training = measure(probe, batches, scorer, self.tick)
        given = {TRAINING: (training, batches)}
        layers = [
            rows.layer(*each, samples=np.median([len(batch) for batch in batches]))
            for each in zip(probe.norms.values(), found, training.flows, strict=True)
        ]
        if others:
            known = others[0].targets is not None
            validation = measure(probe, others, scorer if known else None, self.tick)
            given[VALIDATION] = (validation, others)
            layers = rows.shifted(layers, training, validation)
        graph = read(self.model)
        return Evidence(
            losses={name: m.losses for name, (m, _) in given.items() if m.losses},
            apart={name: m.apart for name, (m, _) in given.items()},
            layers=tuple(layers),
            findings=lint_graph(graph, [find(code) for code in CODES]).findings,
            samples={name: sum(len(x) for x in b) for name, (_, b) in given.items()},
            batch_size=int(np.median([len(batch) for batch in batches])),
            steps=graph.training.optimizer_steps,
            behind_dropout=frozenset(_behind_dropout(graph)),
        )

    def _swapped(
        self,
        probe: Probe,
        evidence: Evidence,
        scorer: Callable[[], Scorer] | None,
        part: Sequence[Batch],
    ) -> Evidence:
        """The evidence with what swapping single layers gives."""
        self.total += len(part) * (2 * len(probe.norms) + 2)
        made = scorer() if scorer is not None else None
        found = swaps(probe, part, made, MODES[evidence.better], self.tick)
        return replace(evidence, layers=tuple(rows.swapped(evidence.layers, found)))

    def _part(self, batches: Sequence[Batch], layers: int) -> list[Batch]:
        """The batches on which single layers are swapped."""
        whole = len(batches)
        count = max(FEWEST_SWAP_BATCHES, whole * SWAP_PASSES // (2 * layers + 2))
        return list(batches[: min(count, whole)])


def _sentences(cause: Cause, evidence: Evidence) -> list[str]:
    """The sentences of an explanation: the cause, and what was measured."""
    whole = [*cause.sentences, wording.losses(evidence), wording.main_layer(evidence)]
    return [sentence for sentence in whole if sentence]


def recalibrated(model: Any, batches: Sequence[Batch]) -> tuple[LayerStatistics, ...]:
    """The population statistics of each BN layer; they are in the model afterwards."""
    data = ((batch.inputs,) for batch in batches)
    return recalibration(model, data, inplace=True).layers


def has_loss(model: Any) -> bool:
    """Whether a model is compiled with a loss."""
    if not getattr(model, "compiled", False):
        return False
    with suppress(AttributeError):
        return bool(model._compile_config.config.get("loss") is not None)  # noqa: SLF001
    return False


def _behind_dropout(graph: Graph) -> Iterator[str]:
    """The BN layers that have dropout somewhere before them."""
    noisy: set[int] = set()
    for call in graph.calls:
        before = graph.predecessors(call)
        rate = call.layer.config.get("rate")
        if (call.kind in kinds.DROPOUT and rate) or any(x.index in noisy for x in before):
            noisy.add(call.index)
            if is_batch_norm(call.layer):
                yield call.layer.path


def _check(batch_size: int | None, max_samples: int, seed: int) -> None:
    given = {
        "batch_size": (batch_size, 2),
        "max_samples": (max_samples, 1),
        "seed": (seed, 0),
    }
    for name, (value, least) in given.items():
        if value is None and name == "batch_size":
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise BnscopeError(
                f"{name} must be a whole number, at least {least}, got {value!r}.",
                "Leave it out for the default.",
            )


def _fixed(model: Any) -> int | None:
    """The batch size that the inputs of a model fix; None where it is open."""
    sizes = {
        int(tensor.shape[0])
        for tensor in getattr(model, "inputs", None) or ()
        if tensor.shape and tensor.shape[0] is not None
    }
    return min(sizes, default=None)
