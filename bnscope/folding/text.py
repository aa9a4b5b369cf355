"""What folding did, for people: what is kept and why first, the numbers last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bnscope.bn import WIDE_SPREAD
from bnscope.folding.plan import Plan, Verdict
from bnscope.folding.ranges import KernelRange, Ranges
from bnscope.folding.report import Change, Report
from bnscope.rules.base import plural
from bnscope.sections import Section

if TYPE_CHECKING:
    from bnscope.folding.benchmark import Benchmark
    from bnscope.folding.result import FoldResult

# So many kernels are shown of those whose ranges differ, and so many names in a sentence.
_MOST_KERNELS = 5
_MOST_NAMES = 5
_THOUSAND = 1000


def report_sections(
    report: Report, benchmark: Benchmark | None = None, proof: Sequence[str] = ()
) -> list[Section]:
    """The sections of a report, what most needs attention first.

    Args:
        report: the numbers.
        benchmark: inference times, if they were taken.
        proof: what is said of the verification.
    """
    if not report.plan.verdicts:
        return [Section("", sentences=["There is no BN layer to fold.", *proof])]
    return [
        *verdict_sections(report.plan),
        *_ranges(report.ranges),
        _numbers(report, benchmark),
        Section("", sentences=[*proof, *_footnotes(report, benchmark)]),
    ]


def result_sections(
    result: FoldResult, benchmark: Benchmark | None = None
) -> list[Section]:
    """The sections of a finished fold."""
    proof = (
        f"Verified: outputs differ by at most {result.max_error:.1e} of their scale "
        f"({result.tolerance:.1e} allowed)."
    )
    return report_sections(result.report, benchmark, [proof, *result.notes])


def verdict_sections(plan: Plan) -> list[Section]:
    """One row a BN layer: kept and why, or folded into what."""
    reasons = dict.fromkeys(str(verdict.reason) for verdict in plan.kept)
    kept = [_kept(reason, plan.kept) for reason in reasons]
    return [*kept, _folded(plan.folded)] if plan.folded else kept


def _kept(reason: str, verdicts: Sequence[Verdict]) -> Section:
    rows = [(v.layer, v.detail) for v in verdicts if str(v.reason) == reason]
    columns = [("BN layer", "left"), ("what was found", "left")]
    return Section(f"Kept: {reason} ({len(rows)})", columns, rows)


def _folded(verdicts: Sequence[Verdict]) -> Section:
    optional = {
        "through": [", ".join(verdict.through) for verdict in verdicts],
        "direction": [
            "" if verdict.direction == "backward" else str(verdict.direction)
            for verdict in verdicts
        ],
    }
    shown = [name for name, cells in optional.items() if any(cells)]
    columns = [(name, "left") for name in ("BN layer", "into", *shown)]
    rows = [
        [
            verdict.layer,
            ", ".join(verdict.layers),
            *(optional[name][index] for name in shown),
        ]
        for index, verdict in enumerate(verdicts)
    ]
    return Section(f"Folded ({len(rows)})", columns, rows)


def _ranges(ranges: Ranges | None) -> Iterator[Section]:
    if ranges is None or not (ranges.kernels or ranges.not_read):
        return
    wide = ranges.wide()
    sentences = [_unread(ranges)] if ranges.not_read else []
    if not wide:
        yield Section("", sentences=[*_narrow(ranges.kernels), *sentences])
        return
    more = len(wide) - _MOST_KERNELS
    if more > 0:
        sentences.insert(0, f"{more} more: to_dict() and JSON name them all.")
    sentences.append(
        f"The channels of {plural(len(wide), 'kernel')} differ by more than "
        f"{WIDE_SPREAD:g} in range (BN602): int8 with one scale for the whole kernel rounds "
        "the narrow ones away. Quantize with one scale a channel."
    )
    columns = [
        ("kernel", "left"),
        ("before", "right"),
        ("after", "right"),
        ("widest channel", "left"),
        ("narrowest", "left"),
    ]
    rows = [_range_row(kernel) for kernel in wide[:_MOST_KERNELS]]
    yield Section(
        "Largest weight range of a channel over the smallest", columns, rows, sentences
    )


def _range_row(kernel: KernelRange) -> list[str]:
    into = "" if kernel.along == "output" else " (inputs)"
    wide, narrow = kernel.widest, kernel.narrowest
    return [
        f"{kernel.layer}{into}",
        _factor(kernel.before),
        _factor(kernel.after),
        f"{wide.channel}: {wide.range:.2g}",
        f"{narrow.channel}: {narrow.range:.2g}",
    ]


def _narrow(kernels: Sequence[KernelRange]) -> Iterator[str]:
    if kernels:
        worst = max(kernels, key=lambda kernel: kernel.after)
        yield (
            f"Weight ranges: after folding, the channels of a kernel differ by a factor of "
            f"{_factor(worst.after)} at most, in {worst.layer} ({_factor(worst.before)} before)."
        )


def _unread(ranges: Ranges) -> str:
    names = [part.layer for part in ranges.not_read]
    return f"Weight ranges not known: {_listed(names)}: {ranges.not_read[0].reason}."


def _numbers(report: Report, benchmark: Benchmark | None) -> Section:
    rows = [_row("BN layers", report.batch_norms)]
    if report.layers is not None:
        rows.append(_row("layers", report.layers))
    if report.parameters is not None:
        rows.append(_row("parameters", report.parameters))
    elif report.parameters_saved is not None:
        rows.append(["parameters", "", "", f"{report.parameters_saved:,}", ""])
    if report.multiply_adds.before:
        rows.append(_row("multiply-adds", report.multiply_adds))
    if benchmark is not None:
        rows.append(_time_row(benchmark))
    titles = ("before", "after", "saved", "")
    return Section("", [("", "left"), *((title, "right") for title in titles)], rows)


def _row(name: str, change: Change) -> list[str]:
    saved = change.saved
    return [
        name,
        "?" if change.before is None else f"{change.before:,}",
        "?" if change.after is None else f"{change.after:,}",
        "" if saved is None else f"{saved:,}",
        f"{saved / change.before:.1%}" if saved and change.before else "",
    ]


def _time_row(benchmark: Benchmark) -> list[str]:
    before, after = benchmark.before.median, benchmark.after.median
    times = [f"{value * _THOUSAND:.3g} ms" for value in (before, after, before - after)]
    return ["inference", *times, ""]


def _footnotes(report: Report, benchmark: Benchmark | None) -> Iterator[str]:
    if benchmark is not None:
        yield f"Inference: {benchmark}"
    if report.multiply_adds.before or report.uncounted:
        yield "".join(_counting(report))
    if report.constrained:
        yield (
            f"Constraints and regularizers stay on the changed weights of "
            f"{_listed(list(report.constrained))}; they act in training only, and the folded "
            "weights need not meet them."
        )
    if report.plan.folded and report.compile_state:
        yield (
            f"The compile state ({report.compile_state}) is dropped: compile the folded model "
            "before training or evaluating it."
        )


def _counting(report: Report) -> Iterator[str]:
    known = [str(shape) for shape in report.samples if shape is not None]
    of = f" of shape {' and '.join(known)}" if known else ""
    yield (
        f"Multiply-adds are those of one sample{of}: one an element for BN, none for biases "
        "and activations."
    )
    if report.uncounted:
        calls = [
            kind if count == 1 else f"{kind} ({count} calls)"
            for kind, count in report.uncounted.items()
        ]
        yield f" Not counted: {_listed(calls)}."


def _factor(value: float) -> str:
    return f"{value:.3g}" if value < _THOUSAND else f"{value:,.0f}"


def _listed(names: Sequence[Any]) -> str:
    shown = [str(name) for name in names[:_MOST_NAMES]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
