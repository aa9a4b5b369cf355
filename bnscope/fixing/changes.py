"""What edits change, layer by layer, in words: for reports and for `--diff`. No Keras."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.graph.model import Graph, Layer
from bnscope.rewriting.edits import Edit, LayerEdits, by_layer

# Configuration entries that decide whether a variable exists.
_SWITCHES = {"use_bias": "bias", "bias_axes": "bias", "scale": "gamma", "center": "beta"}
_LONGEST_VALUE = 60


@dataclass(frozen=True, slots=True)
class Change:
    """What changes at one layer.

    Args:
        layer: path of the layer.
        kind: its kind.
        lines: one line a change; each begins with `-` for what goes, `+` for what comes and
            `~` for what gets other values.
    """

    layer: str
    kind: str
    lines: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The change for JSON."""
        return {"layer": self.layer, "kind": self.kind, "changes": list(self.lines)}


def changes(graph: Graph, edits: Iterable[Edit]) -> tuple[Change, ...]:
    """What edits change in a model.

    Args:
        graph: the model; of its weights only those are read that the edits need.
        edits: the edits.

    Returns:
        One entry for each layer that changes.
    """
    return tuple(
        Change(path, graph.layer(path).kind, tuple(_lines(graph.layer(path), layer_edits)))
        for path, layer_edits in by_layer(edits).items()
    )


class _Weights(Mapping[str, npt.NDArray[Any]]):
    """The variables of a layer, read when asked for, with new values in front."""

    def __init__(self, layer: Layer) -> None:
        self.variables = layer.variables
        self.changed: dict[str, npt.NDArray[Any]] = {}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.changed[name] if name in self.changed else self.variables[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.variables, *self.changed]))

    def __len__(self) -> int:
        return len(list(iter(self)))


def _lines(layer: Layer, edits: LayerEdits) -> Iterator[str]:
    if edits.dropped:
        yield "- the layer is taken out"
        return
    if edits.unwrapped:
        inside = layer.children[0].kind if layer.children else "the layer inside it"
        yield f"- {layer.kind}"
        yield f"+ {inside}"
    config = dict(layer.config)
    if edits.trainable is not None:
        config["trainable"] = layer.trainable
        edits.config.setdefault("trainable", edits.trainable)
    for key, value in edits.config.items():
        if key not in config or config[key] != value:
            yield f"- {key}: {_short(config.get(key))}"
            yield f"+ {key}: {_short(value)}"
    if edits.drops_training:
        yield "- training= in its calls"
    yield from _weight_lines(layer, edits)


def _weight_lines(layer: Layer, edits: LayerEdits) -> Iterator[str]:
    for key, name in _SWITCHES.items():
        gone = key in edits.config and not edits.config[key]
        if gone:
            known = layer.variables.get(name)
            yield f"- {name}" if known is None else f"- {name} {known.shape}"
    weights = _Weights(layer)
    try:
        for function in edits.transforms:
            weights.changed.update(function(weights))
    except KeyError:  # of a file only BN's weights are read, without a Keras to name others
        yield "~ weights, by values that are read only when the model is loaded"
        return
    for name, value in weights.changed.items():
        if name not in layer.variables:
            yield f"+ {name} {value.shape}"
            continue
        before = np.asarray(layer.variables[name].read(), np.float64)
        difference = float(np.max(np.abs(value - before), initial=0.0))
        yield f"~ {name} {value.shape}: by up to {difference:.3g}"


def _short(value: Any) -> str:
    if isinstance(value, Mapping) and "class_name" in value:
        value = f"{value['class_name']} {value.get('config') or ''}".strip()
    text = repr(value) if not isinstance(value, str) else value
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "..."
