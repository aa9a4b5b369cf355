"""ONNX artifacts in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


class Artifact:
    """An ONNX file in ONNX Runtime, on the CPU."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self.path = path
        self.version = f"ONNX Runtime {onnxruntime.__version__}"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = tuple(given.name for given in self.session.get_inputs())

    def run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name, in order."""
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, dict(arrays)), strict=True))

    def count_affine(self) -> int:
        """The nodes that normalize, or multiply with more than one constant."""
        import onnx

        return _count(onnx.load(str(self.path)).graph, {})


def _count(graph: Any, constants: dict[str, int]) -> int:
    """Counts in a graph; `constants` are the sizes of those that an outer one knows."""
    import math

    known = dict(constants)
    known.update({value.name: math.prod(value.dims) for value in graph.initializer})
    found = 0
    for node in graph.node:
        sizes = [known.get(name) for name in node.input if name]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _count(attribute.g, known)
        if node.op_type == "Constant":
            size = max((math.prod(a.t.dims) for a in node.attribute), default=1)
            known.update(dict.fromkeys(node.output, size))
        elif sizes and None not in sizes:  # computed from constants
            size = max(size for size in sizes if size is not None)
            known.update(dict.fromkeys(node.output, size))
        elif node.op_type == "BatchNormalization" or (
            node.op_type == "Mul" and any(size is not None and size > 1 for size in sizes)
        ):
            found += 1
    return found
