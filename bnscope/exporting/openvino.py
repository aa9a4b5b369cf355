"""OpenVINO artifacts in the OpenVINO runtime."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_NUMBERED = re.compile(r"Identity(?:_(\d+))?:0")


class Artifact:
    """An OpenVINO IR in the OpenVINO runtime, on the CPU, in float32."""

    def __init__(self, path: Path) -> None:
        import openvino

        version = openvino.get_version().partition("-")[0]
        self.version = f"OpenVINO {version}"
        core = openvino.Core()
        self.model = core.read_model(path)
        options = {"INFERENCE_PRECISION_HINT": "f32"}
        self.compiled = core.compile_model(self.model, "CPU", options)
        self.inputs = tuple(given.any_name for given in self.model.inputs)

    def run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name, in order."""
        found = self.compiled(dict(arrays))
        return {
            _output_name(output.get_names(), index): np.array(found[output])
            for index, output in enumerate(self.compiled.outputs)
        }

    def count_affine(self) -> int:
        """The operations that normalize, or multiply with more than one constant."""
        return sum(_is_affine(operation) for operation in self.model.get_ops())


def _output_name(names: Collection[str], index: int) -> str:
    """What to call an output of which several names are known.

    OpenVINO sorts them by name, so that `Identity_10:0` comes before `Identity_2:0`; the number is
    the place among the model's outputs.
    """
    numbered = [match for match in map(_NUMBERED.fullmatch, names) if match]
    if numbered:
        return f"output_{numbered[0].group(1) or 0}"
    return next(iter(names)) if len(names) == 1 else f"output_{index}"


def _is_affine(operation: Any) -> bool:
    kind = operation.get_type_name()
    if kind == "BatchNormInference":
        return True
    if kind != "Multiply":
        return False
    sizes = [_constant_size(value.get_node()) for value in operation.input_values()]
    return sizes.count(None) == 1 and any(size is not None and size > 1 for size in sizes)


def _constant_size(node: Any) -> int | None:
    """The number of values of a constant; None for what is computed."""
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    return math.prod(int(size) for size in node.get_output_shape(0))
