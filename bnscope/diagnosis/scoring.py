"""How good outputs are, and how far those of two modes lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnscope.diagnosis.samples import Batch, mapped
from bnscope.errors import BnscopeError, first_line
from bnscope.rewriting.training import compile_arguments

LOSS = "loss"
# Outputs are scored when there are so many samples of them, or so many bytes.
_SAMPLES, _BYTES = 256, 2**26


class Scorer:
    """Loss and metrics of outputs, as Keras's `evaluate` works them out, without regularization.

    They are worked out by another model, compiled alike, so that the metrics of the user's keep
    their state.

    Args:
        model: the model; its loss and metrics are used if it is compiled.
        loss: a loss in the place of the model's own.
        batch: samples with targets.
        outputs: what the model gives for them.

    Raises:
        BnscopeError: if the targets do not fit the outputs, or the loss makes no sense.
    """

    def __init__(self, model: Any, loss: Any, batch: Batch, outputs: Any) -> None:
        self._judge = _judge(model, loss)
        self._metrics = True
        self.reset()
        self.add(outputs, batch)
        self.loss()  # raises if something does not fit
        self.reset()

    def reset(self, *, metrics: bool = True) -> None:
        """Begins anew.

        Args:
            metrics: whether metrics are wanted, and not the loss alone.
        """
        self._judge.reset_metrics()
        self._metrics = metrics
        self._total, self._count = 0.0, 0
        self._waiting: list[tuple[Any, Any, Any]] = []
        self._waits = 0
        self._shapes: list[tuple[int, ...]] = []

    def add(self, outputs: Any, batch: Batch) -> None:
        """Counts one batch in. Small batches are put together: each call costs milliseconds."""
        import keras

        given = batch.targets, outputs, batch.weights
        shapes = [np.shape(array)[1:] for array in keras.tree.flatten(given)]
        if shapes != self._shapes:
            self._score()  # those of other shapes
            self._shapes = shapes
        self._waiting.append(given)
        self._waits += len(batch)
        size = sum(y.nbytes for y in keras.tree.flatten(outputs)) * len(self._waiting)
        if self._waits >= _SAMPLES or size >= _BYTES:
            self._score()

    def _score(self) -> None:
        import keras

        if not self._waiting:
            return
        targets, outputs, weights = (
            _joined(parts) for parts in zip(*self._waiting, strict=True)
        )
        given = [
            mapped(keras.ops.convert_to_tensor, x) for x in (targets, outputs, weights)
        ]
        try:
            loss = self._judge.compute_loss(None, *given, training=False)
            if self._metrics:
                self._judge.compute_metrics(None, *given)
        except Exception as error:
            shapes = [str(np.shape(y)) for y in keras.tree.flatten([targets, outputs])]
            raise BnscopeError(
                "The loss cannot be computed of targets and outputs of the shapes "
                f"{', '.join(shapes)}: {first_line(error)}.",
                "Pass the targets that fit takes (y, validation_data), and the loss as in compile.",
            ) from error
        self._total += float(keras.ops.convert_to_numpy(loss)) * self._waits
        self._count += self._waits
        self._waiting, self._waits = [], 0

    def loss(self) -> float:
        """The loss of what was added."""
        self._score()
        return self._total / self._count

    def values(self) -> dict[str, float]:
        """Loss and metrics of what was added, by name."""
        import keras

        loss = self.loss()
        found = self._judge.get_metrics_result()
        flat = {
            name: float(np.mean(keras.ops.convert_to_numpy(v))) for name, v in found.items()
        }
        return {**flat, LOSS: loss}


class Apart:
    """How far outputs lie from those of another mode, in standard deviations of the latter.

    One number for all outputs: the root of the mean square, 0 if they are the same. Outputs of
    batches that differ in more than the number of samples spread around the mean of their shape.
    """

    def __init__(self) -> None:
        self._squares: dict[int, float] = {}
        self._moments: dict[tuple[int, tuple[int, ...]], list[Any]] = {}

    def add(self, outputs: Any, reference: Any) -> None:
        """Counts one batch in."""
        import keras

        pairs = zip(keras.tree.flatten(outputs), keras.tree.flatten(reference), strict=True)
        for place, (one, other) in enumerate(pairs):
            a, b = (np.asarray(y, np.float64) for y in (one, other))
            distance = float(np.sum((a - b) ** 2))
            self._squares[place] = self._squares.get(place, 0.0) + distance
            key = place, b.shape[1:]
            count, total, squares = self._moments.get(key, [0, 0.0, 0.0])
            self._moments[key] = [
                count + len(b),
                total + b.sum(0),
                squares + (b * b).sum(0),
            ]

    @property
    def value(self) -> float:
        """The distance of all that was added; infinite if some of it is not finite."""
        spreads = dict.fromkeys(self._squares, 0.0)
        for (place, _), (count, total, squares) in self._moments.items():
            spreads[place] += float(np.sum(squares - total * total / count))
        shares = [self._squares[p] / max(spread, 1e-30) for p, spread in spreads.items()]
        found = float(np.sqrt(np.mean(shares)))
        return found if np.isfinite(found) else float("inf")


def _joined(parts: Sequence[Any]) -> Any:
    """The arrays of several batches as those of one, in their structure."""
    import keras

    if parts[0] is None:
        return None
    leaves = zip(*(keras.tree.flatten(part) for part in parts), strict=True)
    joined = [np.concatenate([np.asarray(x) for x in same]) for same in leaves]
    return keras.tree.pack_sequence_as(parts[0], joined)


def _judge(model: Any, loss: Any) -> Any:
    import keras

    judge = keras.Model(name=f"{model.name}_judge")
    if getattr(model, "output_names", None):
        judge.output_names = list(model.output_names)
    given = compile_arguments(model) if getattr(model, "compiled", False) else {}
    chosen = {
        key: given.get(key)
        for key in ("loss", "loss_weights", "metrics", "weighted_metrics")
    }
    if loss is not None:
        chosen.update(loss=loss)
    try:
        judge.compile(**chosen)
    except Exception as error:
        raise BnscopeError(
            f"The loss or the metrics cannot be used: {first_line(error)}.",
            'Pass loss= as compile takes it, for instance loss="sparse_categorical_crossentropy".',
        ) from error
    return judge
