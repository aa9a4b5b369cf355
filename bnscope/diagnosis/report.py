"""A diagnosis for people: the verdict and why, the losses, the layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest

from bnscope.diagnosis.result import Diagnosis, LayerDiagnosis
from bnscope.rules.base import plural
from bnscope.sections import Section

# So many layers are shown, those furthest from the data; JSON has all.
_MOST_LAYERS = 20
_MODES = {
    "inference": "moving statistics (inference)",
    "batch": "statistics of each batch",
    "recalibrated": "recalibrated",
}
_TITLES = {"batch": "batch", "recalibrated": "recalibrated"}


def sections(diagnosis: Diagnosis) -> list[Section]:
    """The parts of the report."""
    return [
        Section(
            f"{diagnosis.model}: {words(diagnosis)}",
            sentences=[*diagnosis.sentences, f"To do: {diagnosis.advice}"],
        ),
        _losses(diagnosis) if diagnosis.losses else _outputs(diagnosis),
        _layers(diagnosis),
        Section("", sentences=list(_footnotes(diagnosis))),
    ]


def fitted(found: Iterable[Section], width: int) -> Iterator[Section]:
    """The parts with tables that are wider than a terminal as lines, some for each row."""
    for section in found:
        if _width(section) <= width:
            yield section
            continue
        yield Section(section.title)
        names: list[str] = []
        for row in section.rows:
            cells = list(zip(section.columns, row, strict=True))
            given = [cell for (_, side), cell in cells if side == "left"]
            # An empty one stands for that of the row above.
            names = [cell or above for cell, above in zip_longest(given, names)]
            facts = [
                [f"  {title}", cell] for (title, side), cell in cells if side != "left"
            ]
            yield Section(", ".join(names), [("", "left"), ("", "left")], facts)
        if section.sentences:
            yield Section("", sentences=section.sentences)


def _width(section: Section) -> int:
    """How wide a table is, with two spaces between columns."""
    titles = [title for title, _ in section.columns]
    columns = zip(titles, *section.rows, strict=True)
    return sum(max(map(len, column)) + 2 for column in columns)


def words(diagnosis: Diagnosis) -> str:
    """The verdict in words."""
    return (
        str(diagnosis.verdict)
        .replace("_", " ")
        .replace("batch norm", "BN's fault")
        .replace("before bn", "before BN")
    )


def _losses(diagnosis: Diagnosis) -> Section:
    names = list(next(iter(diagnosis.losses["training"].values())))
    names.sort(key=lambda name: name != "loss")
    columns = [("data", "left"), ("BN normalizes with", "left")]
    columns += [(name, "right") for name in names]
    rows = [
        [data if mode == "inference" else "", _MODES[mode]]
        + [f"{values[name]:z.4g}" for name in names]
        for data, modes in diagnosis.losses.items()
        for mode, values in modes.items()
    ]
    return Section("Losses", columns, rows)


def _outputs(diagnosis: Diagnosis) -> Section:
    columns = [
        ("data", "left"),
        ("outputs", "left"),
        ("apart, in standard deviations", "right"),
    ]
    rows = [
        [data, " and ".join(pair.split("_")), f"{apart:.3g}"]
        for data, pairs in diagnosis.apart.items()
        for pair, apart in pairs.items()
    ]
    return Section("Outputs", columns, rows)


def _layers(diagnosis: Diagnosis) -> Section:
    shown = sorted(diagnosis.layers, key=lambda layer: -layer.kl)[:_MOST_LAYERS]
    chosen = {layer.layer for layer in shown}
    validation = any(layer.validation_kl is not None for layer in shown)
    columns = [
        ("layer", "left"),
        ("mean off, in sigma", "right"),
        ("worst", "right"),
        ("variance, moving / data", "right"),
        ("KL, in nats", "right"),
    ]
    if validation:
        columns.append(("validation KL", "right"))
    if diagnosis.swap_samples:
        columns += [("alone causes", "right"), ("alone repairs", "right")]
    rows = [
        _row(layer, validation=validation, swapped=bool(diagnosis.swap_samples))
        for layer in diagnosis.layers
        if layer.layer in chosen
    ]
    left = len(diagnosis.layers) - len(rows)
    more = [f"{plural(left, 'layer')} nearer to the data left out."] if left else []
    return Section("BN layers", columns, rows, more)


def _row(layer: LayerDiagnosis, *, validation: bool, swapped: bool) -> list[str]:
    cells = [
        layer.layer + (" (frozen)" if layer.frozen else ""),
        f"{layer.shift:.2f}",
        f"{layer.worst_shift:.2f}",
        f"{layer.ratio:.3g}",
        f"{layer.kl:.2g}",
    ]
    if validation:
        cells.append("-" if layer.validation_kl is None else f"{layer.validation_kl:.2g}")
    if swapped:
        cells += [_share(layer.causes), _share(layer.repairs)]
    return cells


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:z.0%}"


def _footnotes(diagnosis: Diagnosis) -> Iterator[str]:
    if diagnosis.layers:
        yield (
            "Mean, variance and KL are those of the median channel, against the data once all "
            "layers before are recalibrated."
        )
    if diagnosis.swap_samples:
        yield (
            "Alone causes / repairs: the share of the gap that there is, or goes, if this layer "
            "alone uses the moving statistics, or does not; "
            f"{plural(diagnosis.swap_samples, 'sample')}."
        )
    for layer in diagnosis.layers:
        if layer.reason is not None:
            yield f"Not exact: {layer.layer}: {layer.reason}."
    for note in diagnosis.notes:
        yield f"Note: {note}."
