"""Puts the report of some runs together, and writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from bnscope.errors import BnscopeError, OutputExistsError
from bnscope.events.run import Run
from bnscope.figures import theme
from bnscope.health import Health
from bnscope.linting.formats.common import listed
from bnscope.reporting.page import Page
from bnscope.writing import replace_text

# Layers of a run that get figures of their own: each takes some hundred kilobytes.
_MOST_LAYERS = 6
# Layers that are named where none matches.
_MOST_TOLD = 12


def check(output: Path, *, overwrite: bool) -> None:
    """Checks where the report goes, before anything is read.

    Raises:
        OutputExistsError: if something is there already and `overwrite` is not set.
        BnscopeError: if no file can be there.
    """
    if output.is_dir():
        raise BnscopeError(f"{output} is a directory.", "Give the name of a file.")
    if not output.parent.is_dir():
        raise BnscopeError(
            f"The directory {output.parent} does not exist.", "Create it first."
        )
    if output.suffix.lower() not in {".html", ".htm"}:
        raise BnscopeError(
            f"The report is HTML, and {output} is another kind of file.",
            "Choose a name that ends in .html.",
        )
    if output.exists() and not overwrite:
        raise OutputExistsError(
            f"{output} exists.", "Choose another name, or replace it with --overwrite."
        )


def write(
    runs: Mapping[str, Run], output: Path, layers: Sequence[str] | None = None
) -> list[str]:
    """Writes the report of some runs: one file, which needs nothing else and no network.

    Args:
        runs: the runs by name.
        output: the file; what is there is replaced.
        layers: globs of the layers that get figures of their own; None for those in trouble.

    Returns:
        What is not in the report, as sentences.

    Raises:
        BnscopeError: if plotly is not installed, no layer matches, or the file cannot be
            written.
    """
    shown = dict(list(runs.items())[: len(theme.RUNS)])
    notes = []
    if len(runs) > len(shown):
        notes.append(f"Only the first {len(shown)} of {len(runs)} runs are in the report.")
    page = Page(shown)
    for name, run in shown.items():
        chosen = _chosen(run, page.healths[name], layers)
        page.add_run(name, chosen[:_MOST_LAYERS])
        if len(chosen) > _MOST_LAYERS:
            notes.append(
                f"{name}: {len(chosen) - _MOST_LAYERS} more layers are left out; choose with "
                "--layer, or see all in TensorBoard."
            )
    if layers is not None and not page.layers:
        known = list(dict.fromkeys(path for run in shown.values() for path in run.layers))
        raise BnscopeError(
            f"No layer matches {', '.join(layers)}.",
            f"There are {listed(known, _MOST_TOLD)}.",
        )
    try:
        replace_text(output, page.text())
    except OSError as error:
        raise BnscopeError(
            f"{output} cannot be written: {error.strerror or error}.",
            "Choose another place.",
        ) from error
    return notes


def _chosen(run: Run, health: Health, globs: Sequence[str] | None) -> list[str]:
    """The layers that get figures of their own, the worst first."""
    troubled = dict.fromkeys(each.layer for each in health.troubles)
    known = [layer for layer in troubled if layer in run.layers]
    if globs is None:
        return known
    ordered = dict.fromkeys([*known, *run.layers])
    return [layer for layer in ordered if any(fnmatchcase(layer, glob) for glob in globs)]
