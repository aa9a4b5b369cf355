"""Folding from end to end: load, plan, rewrite, verify."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnscope.errors import UnsupportedModelError
from bnscope.folding.plan import Plan, Verdict, make_plan
from bnscope.folding.report import Report, compile_state, measured
from bnscope.graph.model import Graph
from bnscope.rewriting.comparison import Verification

if TYPE_CHECKING:
    from bnscope.exporting import Export
    from bnscope.folding.benchmark import Benchmark
    from bnscope.rewriting.engine import Rewritten


@dataclass(frozen=True, slots=True)
class FoldResult:
    """A folded model, with what was done to it and the proof that it is right.

    Args:
        model: the new Keras model, not compiled.
        plan: what was decided for each BN layer.
        verification: the comparison with the original.
        report: what folding saved, and what it changed in the ranges of weights.
        original: gives the original model, to be timed beside the new one.
        fixed: what following a `call` has fixed in the new model, in sentences.
    """

    model: Any = field(repr=False)
    plan: Plan
    verification: Verification
    report: Report = field(repr=False)
    original: Callable[[], Any] = field(repr=False)
    fixed: tuple[str, ...] = ()

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One verdict for each BN layer, in forward order."""
        return self.plan.verdicts

    @property
    def parameters(self) -> tuple[int | None, int | None]:
        """The number of parameters of the original and of the new model."""
        change = self.report.parameters
        return (None, None) if change is None else (change.before, change.after)

    @property
    def max_error(self) -> float:
        """The largest difference of an output, relative to that output's scale."""
        return self.verification.max_error

    @property
    def tolerance(self) -> float:
        """What `max_error` was allowed to be."""
        return self.verification.tolerance

    @property
    def informative(self) -> bool:
        """Whether every output varied with the inputs, so that an error would show."""
        return not self.verification.notes

    @property
    def notes(self) -> tuple[str, ...]:
        """What the new model cannot do, and what the verification could not show."""
        return (*self.fixed, *self.verification.notes)

    def to_dict(self) -> dict[str, Any]:
        """The result for JSON, without the model."""
        return {
            **self.plan.to_dict(),
            **self.report.to_dict(),
            "max_error": self.max_error,
            "tolerance": self.tolerance,
            "informative": self.informative,
            "notes": list(self.notes),
            "samples": self.verification.samples,
        }

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        format: str | None = None,  # noqa: A002  Keras's name
        overwrite: bool = False,
        verify_data: Any = None,
    ) -> Export:
        """Exports the model for another runtime, runs it there and compares.

        Args:
            path: where to: `.onnx`, `.tflite`, `.xml` (OpenVINO), or a directory for a
                SavedModel.
            format: the format's name, where the path does not tell.
            overwrite: whether an artifact that is there may be replaced.
            verify_data: samples to compare with; random ones by default.

        Returns:
            What was written, and the comparison.

        Raises:
            OutputExistsError: if the path exists and `overwrite` is false.
            UnsupportedModelError: if Keras or a converter cannot export the model.
            VerificationError: if the artifact computes something else.
            BnscopeError: if a package is missing, or nothing can be written there.
        """
        from bnscope.exporting import export

        return export(
            self.model, path, format=format, overwrite=overwrite, verify_data=verify_data
        )

    def benchmark(self, batch_size: int | None = None, rounds: int = 50) -> Benchmark:
        """Times compiled inference (`predict_on_batch`) of the original and the new model.

        The two take turns. A file is loaded again for that.

        Args:
            batch_size: samples of a call; None for 1, or the batch size that the model fixes.
            rounds: how often each is timed, after three calls that are not.

        Returns:
            Medians and quartiles of both, and of the ratio.

        Raises:
            BnscopeError: if a number is out of range, or the model takes another batch size.
        """
        from bnscope.folding.benchmark import compare

        return compare(self.original(), self.model, batch_size=batch_size, rounds=rounds)

    def __str__(self) -> str:
        from bnscope.folding.text import result_sections
        from bnscope.sections import as_text

        return as_text(result_sections(self))

    def _repr_html_(self) -> str:
        from bnscope.folding.html import render

        return render(self)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Saves the model: written beside, loaded again and compared, then moved.

        Args:
            path: where to; `.keras`, or `.h5` for the legacy format.
            overwrite: whether an existing file may be replaced.

        Returns:
            The path.

        Raises:
            OutputExistsError: if the file exists and `overwrite` is false.
            BnscopeError: if the model cannot be saved there.
        """
        from bnscope.rewriting import files

        return files.save(self.model, path, overwrite=overwrite)


def fold(
    model_or_path: Any,
    *,
    verify_data: Any = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> FoldResult:
    """Folds Batch Normalization into the layers before or behind it, in a new model.

    Args:
        model_or_path: a built `keras.Model`, or the path of a saved one. It is not changed. A
            subclassed one comes back as a Functional model.
        verify_data: samples to verify with: an array, a list of arrays in the order of the
            inputs, or a mapping by input names, samples along the first axis. By default
            random inputs with a fixed seed.
        custom_objects: the user's classes and functions by name, to load a file.

    Returns:
        The result: `.model`, `.verdicts`, `.max_error`, `.tolerance`, `.plan`.

    Raises:
        UnreadableModelError: if the file is missing, damaged or no Keras model.
        UnsupportedModelError: if the model cannot be loaded or made again.
        VerificationError: if the folded model computes something else.
        BnscopeError: if `verify_data` does not fit the model.
    """
    from bnscope.graph import live
    from bnscope.rewriting.structure import check_openable

    model = _model(model_or_path, custom_objects)
    graph = live.read(model, trace=True)
    check_openable(model, graph)
    graph, plan, rewritten = _rewritten(model, graph, verify_data)
    parameters = (model.count_params(), rewritten.model.count_params())
    report = measured(graph, live.read(rewritten.model), plan, parameters)
    return FoldResult(
        rewritten.model,
        plan,
        rewritten.verification,
        replace(report, compile_state=_compile_state(model_or_path, graph)),
        partial(_model, model_or_path, custom_objects),
        rewritten.notes,
    )


def _rewritten(model: Any, graph: Graph, verify_data: Any) -> tuple[Graph, Plan, Rewritten]:
    """The folded model; where a custom layer cannot be opened, all of them stay whole."""
    from bnscope.graph import live
    from bnscope.rewriting.engine import rewrite

    plan = make_plan(graph)
    try:
        done = rewrite(
            model, plan.steps(), verify_data=verify_data, graph=graph, opened=True
        )
    except UnsupportedModelError:
        if not graph.traced:
            raise
        closed = live.read(model)
        plan = make_plan(closed)
        with suppress(UnsupportedModelError):
            whole = rewrite(model, plan.steps(), verify_data=verify_data, graph=closed)
            return closed, plan, whole
        raise
    return graph, plan, done


def _compile_state(model_or_path: Any, graph: Graph) -> str | None:
    """What the original is compiled with; files are loaded without."""
    if not isinstance(model_or_path, (str, os.PathLike)):
        return compile_state(graph)
    from bnscope.graph import archive

    return compile_state(archive.read(model_or_path))


def _model(model_or_path: Any, custom_objects: Mapping[str, Any] | None) -> Any:
    if not isinstance(model_or_path, (str, os.PathLike)):
        return model_or_path
    from bnscope.rewriting import files

    return files.load(model_or_path, custom_objects)
