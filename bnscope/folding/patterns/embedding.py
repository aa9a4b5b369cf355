"""Embedding → BN: the table itself is scaled and shifted."""

from __future__ import annotations

from functools import partial
from typing import Any

from bnscope.bn import ScaleShift
from bnscope.folding.patterns.base import Pattern, times
from bnscope.graph.model import Layer
from bnscope.rewriting.edits import Edit, TransformWeights, Weights


class EmbeddingPattern(Pattern):
    """Into a table (vocabulary, out), whose rows are the outputs; a mask is of the indices."""

    kinds = frozenset({"Embedding"})
    kernel = "embeddings"

    def edits(self, layer: Layer, values: ScaleShift) -> tuple[Edit, ...]:
        """The edits that take up a scale and shift of the output."""
        return (TransformWeights(layer.path, partial(self.fold, values)),)

    def fold(self, values: ScaleShift, weights: Weights) -> Weights:
        """The table with each column scaled and shifted."""
        scale, shift = values
        return {self.kernel: times(weights[self.kernel], scale) + shift}

    @staticmethod
    def folds_embedding(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6,), dtype="int32"),
                keras.layers.Embedding(11, 4),
                keras.layers.BatchNormalization(),
            ]
        )

    @staticmethod
    def refuses_axis_mismatch(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((6,), dtype="int32"),
                keras.layers.Embedding(9, 4),
                keras.layers.BatchNormalization(axis=1),
            ]
        )
