"""SavedModels in TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from bnscope.exporting.formats import in_order

Array = npt.NDArray[Any]
_BATCH_NORM = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_MERGES = frozenset({"Mul", *_BATCH_NORM})


class Artifact:
    """A SavedModel's serving signature in TensorFlow."""

    def __init__(self, path: Path) -> None:
        import tensorflow as tf

        self.version = f"TensorFlow {tf.__version__}"
        self.module = tf.saved_model.load(str(path))
        self.function = self.module.signatures["serving_default"]
        self.specs = self.function.structured_input_signature[1]
        self.inputs = tuple(self.specs)

    def run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name, in order."""
        import tensorflow as tf

        given = {
            name: tf.constant(
                array.astype(str) if self.specs[name].dtype == tf.string else array,
                self.specs[name].dtype,
            )
            for name, array in arrays.items()
        }
        with tf.device("CPU:0"):
            found = self.function(**given)
        return {name: found[name].numpy() for name in in_order(found)}

    def count_affine(self) -> int | None:
        """The operations that normalize, or multiply with more than one constant."""
        from tensorflow.python.framework.convert_to_constants import (
            convert_variables_to_constants_v2,
        )

        graph = convert_variables_to_constants_v2(self.function).graph
        operations = graph.get_operations()
        if any(operation.type == "XlaCallModule" for operation in operations):
            return None  # compiled: what is inside cannot be told
        moving = _depending_on_inputs(operations)
        return sum(_is_affine(operation, moving) for operation in operations)


def _depending_on_inputs(operations: list[Any]) -> set[str]:
    """Names of the operations whose values depend on the inputs of the model."""
    moving: set[str] = set()
    for operation in operations:  # in the order of the computation
        if operation.type == "Placeholder" or any(
            value.op.name in moving for value in operation.inputs
        ):
            moving.add(operation.name)
    return moving


def _is_affine(operation: Any, moving: set[str]) -> bool:
    if operation.type not in _MERGES or operation.name not in moving:
        return False
    if operation.type in _BATCH_NORM:
        return True
    fixed = [value for value in operation.inputs if value.op.name not in moving]
    return any(value.shape.num_elements() != 1 for value in fixed)
