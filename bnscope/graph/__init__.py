"""What a model is: a graph of calls, read from files and from live models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bnscope.graph.model import Graph


def read(model_or_path: Any) -> Graph:
    """The graph of a saved or live model.

    Args:
        model_or_path: the path of a saved model, or a `keras.Model`.

    Returns:
        The graph; what is not known of it stands in `not_analysed`.

    Raises:
        UnreadableModelError: if the file is missing, damaged or no Keras model.
        UnsupportedModelError: if a live object is no Keras 3 model.
    """
    if isinstance(model_or_path, (str, os.PathLike)):
        from bnscope.graph import archive

        return archive.read(Path(model_or_path))
    from bnscope.graph import live

    return live.read(model_or_path, trace=True)
