"""What a model is: a graph of calls, read from files and from live models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bnscope.errors import BnscopeError
from bnscope.graph.model import Graph


def read(model_or_path: Any, config_path: str | os.PathLike[str] | None = None) -> Graph:
    """The graph of a saved or live model.

    Args:
        model_or_path: the path of a saved model, or a `keras.Model`.
        config_path: the JSON of `model.to_json()`, for a file with only weights.

    Returns:
        The graph; what is not known of it stands in `not_analysed`.

    Raises:
        UnreadableModelError: if the file is missing, damaged or no Keras model.
        UnsupportedModelError: if a live object is no Keras 3 model.
    """
    if isinstance(model_or_path, (str, os.PathLike)):
        from bnscope.graph import archive

        config = None if config_path is None else Path(config_path)
        return archive.read(Path(model_or_path), config)
    if config_path is not None:
        raise BnscopeError(
            "A live model has its own configuration, so none can be added.",
            "Leave out the configuration, or pass the path of a weights file.",
        )
    from bnscope.graph import live

    return live.read(model_or_path, trace=True)
