"""What tracking found, for people."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from bnscope.printing import Line, line
from bnscope.rules.base import plural
from bnscope.tracking.result import Checkpoint, TrackResult, Trouble, counted

# So many steps, and channels of each, are told of one layer; JSON has all.
_MOST = 8
_STYLES = {"error": "bold red", "warning": "bold yellow", "info": "bold blue"}


def table(checkpoints: Sequence[Checkpoint]) -> Iterator[Line]:
    """Which file is which step; the folder that all are in stands in the header."""
    known = [each for each in checkpoints if each.step is not None]
    folder = _folder([each.path for each in known])
    width = max([len("step"), *(len(str(each.step)) for each in known)])
    where = f" in {folder}" if folder else ""
    yield line((f"{'step':<{width}}  checkpoint{where}", "bold"))
    for each in known:
        name = os.path.relpath(each.path, folder) if folder else each.path
        yield line(f"{each.step:<{width}}  {name}")


def _folder(paths: Sequence[str]) -> str:
    try:
        return os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
    except ValueError:  # some are absolute and some are not
        return ""


def lines(result: TrackResult) -> Iterator[Line]:
    """The summary: which layers got worse, from which step on, the worst first."""
    for trouble in result.layers:
        yield from _trouble(trouble)
        yield line("")
    layers = plural(len(result.run.layers), "BN layer")
    worse = plural(len({each.layer for each in result.layers}), "layer")
    verdict = f"{worse} got worse" if result.layers else "no layer got worse"
    yield line(f"{counted(result)}, {layers}: ", (verdict, "bold"), ".")
    if result.log_dir is not None:
        yield line(f"The events are in {result.log_dir}.")


def _trouble(trouble: Trouble) -> Iterator[Line]:
    style = _STYLES.get(str(trouble.severity), "bold")
    yield line(
        (f"{trouble.severity} {trouble.code} {trouble.name}", style),
        ": ",
        (trouble.layer, "bold"),
        f", {_span(trouble)}",
    )
    by_step: dict[int, list[int]] = {}
    for channel, step in trouble.channels.items():
        by_step.setdefault(step, []).append(channel)
    for step, text in trouble.messages[:_MOST]:
        yield line(
            f"  step {step}{_fresh(by_step.pop(step, []))}: {text[:1].lower()}{text[1:]}"
        )
    if len(trouble.messages) > _MOST:
        yield line(f"  and at {plural(len(trouble.messages) - _MOST, 'later step')}")
    yield line(f"  {trouble.advice}")


def _span(trouble: Trouble) -> str:
    start = f"from step {trouble.since} on"
    before = "" if trouble.fine is None else f" (not yet at {trouble.fine})"
    end = "" if trouble.gone is None else f", no more at {trouble.gone}"
    return f"{start}{before}{end}"


def _fresh(channels: Sequence[int]) -> str:
    """The channels that a step added."""
    if not channels:
        return ""
    shown = ", ".join(map(str, channels[:_MOST]))
    more = f" and {len(channels) - _MOST} more" if len(channels) > _MOST else ""
    return f", channel{'s' if len(channels) > 1 else ''} {shown}{more}"
