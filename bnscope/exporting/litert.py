"""LiteRT artifacts in the LiteRT interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy.typing as npt

from bnscope.errors import UnsupportedModelError
from bnscope.exporting.formats import in_order

Array = npt.NDArray[Any]


class Artifact:
    """A `.tflite` file in the LiteRT interpreter."""

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.path = path
        self.version = f"LiteRT {version('ai-edge-litert')}"
        self.interpreter = Interpreter(str(path))
        self.runner = self.interpreter.get_signature_runner()
        self.inputs = tuple(self.runner.get_input_details())

    def run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name, in order."""
        try:
            found = self.runner(**arrays)
        except RuntimeError as error:
            if "Select TensorFlow op" not in str(error):
                raise
            raise UnsupportedModelError(
                "As LiteRT, this model needs operations of TensorFlow itself, which LiteRT "
                "does not have. Nothing was written.",
                "Recurrent layers need unroll=True, and half precision is not converted.",
            ) from error
        return {name: found[name] for name in in_order(found)}

    def count_affine(self) -> int | None:
        """The operations that multiply with more than one constant."""
        from ai_edge_litert.interpreter import Interpreter

        fresh = Interpreter(str(self.path))  # where only constants have values yet
        operations = getattr(fresh, "_get_ops_details", None)
        if operations is None:
            return None
        products = [item for item in operations() if item["op_name"] == "MUL"]
        return sum(
            any(_is_constant(fresh, index) for index in product["inputs"])
            for product in products
        )


def _is_constant(interpreter: Any, index: int) -> bool:
    try:
        return bool(interpreter.get_tensor(index).size > 1)
    except ValueError:
        return False
