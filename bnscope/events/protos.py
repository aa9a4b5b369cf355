"""Summaries as TensorBoard stores them, made quickly: they are made while a model trains.

TensorBoard's own `make_tensor_proto` checks and converts whatever it is given, which takes ten
times as long as filling in the few fields that are known here.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.events.schema import PLUGIN


def scalar(tag: str, value: float) -> Any:
    """A summary for the Scalars dashboard."""
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_FLOAT

    tensor = TensorProto(dtype=DT_FLOAT, float_val=[value])
    tensor.tensor_shape.SetInParent()  # a scalar's shape has no dimensions
    return _summary(tag, tensor, _scalar_metadata())


def tensor(tag: str, values: npt.NDArray[Any], content: bytes) -> Any:
    """A float32 tensor of this plugin."""
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.types_pb2 import DT_FLOAT

    dims = [TensorShapeProto.Dim(size=size) for size in values.shape]
    made = TensorProto(
        dtype=DT_FLOAT,
        tensor_shape=TensorShapeProto(dim=dims),
        tensor_content=np.ascontiguousarray(values, "<f4").tobytes(),
    )
    return _summary(tag, made, _plugin_metadata(content))


def text(tag: str, value: str, content: bytes) -> Any:
    """A string of this plugin."""
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    made = TensorProto(dtype=DT_STRING, string_val=[value.encode()])
    made.tensor_shape.SetInParent()
    return _summary(tag, made, _plugin_metadata(content))


def _summary(tag: str, made: Any, metadata: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=tag, tensor=made, metadata=metadata)])


@cache
def _scalar_metadata() -> Any:
    from tensorboard.plugins.scalar import metadata

    return metadata.create_summary_metadata(display_name=None, description=None)


@lru_cache(maxsize=8)  # of as many models
def _plugin_metadata(content: bytes) -> Any:
    # Without both the name and the class of data the default server drops the tensors.
    from tensorboard.compat.proto import summary_pb2

    plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name=PLUGIN, content=content)
    return summary_pb2.SummaryMetadata(
        plugin_data=plugin, data_class=summary_pb2.DATA_CLASS_TENSOR
    )
