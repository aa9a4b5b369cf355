"""BN401 and BN402: a `training=` value that is written into the graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph import kinds
from bnscope.graph.batchnorm import is_batch_norm, is_frozen
from bnscope.graph.model import Layer
from bnscope.rewriting.edits import DropTraining, Edit, SetTrainable
from bnscope.rules.base import Context, Problem, Rule, Severity

# Batch and channels beside at least one spatial dimension.
_IMAGE_RANK = 4


class TrainingTrueBaked(Rule):
    """`training=True` is written into the graph, so the model gives two different answers.

    ## What it does
    Finds trainable BN layers that are called with `training=True` while the model is built,
    themselves or through a model around them.

    ## Why is this bad
    `fit`, `evaluate` and `predict` ignore the value, so `predict` uses the moving statistics.
    A bare `model(x)` and an exported SavedModel obey it: they normalize with the batch they are
    given, and change the moving statistics. One model, two answers, and one that depends on
    what else is in the batch.

    ## What to do
    Leave `training=` out when the model is built.

    ## When it is quiet
    Frozen layers, which use the moving statistics in any case. Generators after pix2pix, which
    mean it: the model goes from images to images and calls dropout with `training=True` as
    well.

    ## References
    - <https://github.com/tensorflow/tfjs/issues/562>
    - Isola et al. 2017, section 3.4, <https://arxiv.org/abs/1611.07004>
    """

    code = "BN401"
    name = "training-true-baked"
    severity = Severity.WARNING
    fix = "unsafe"
    advice = "Leave training=True out when the model is built; fit sets it by itself."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        if _is_noisy_generator(context):
            return
        for layer in _called_with(context, training=True):
            if not is_frozen(layer):
                yield Problem(
                    layer.path,
                    "training=True is written into its call: model(x) and exports normalize "
                    "with each batch and change the moving statistics, predict does not.",
                )

    def repair(self, context: Context, layer: str) -> tuple[Edit, ...]:  # noqa: ARG002
        """Takes the value out; `predict` stays the same, `model(x)` and exports change."""
        return (DropTraining(layer),)

    @staticmethod
    def bad_called_in_training_mode(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((8,))
        x = keras.layers.Dense(4, use_bias=False)(inputs)
        x = keras.layers.BatchNormalization()(x, training=True)
        return keras.Model(inputs, keras.layers.ReLU()(x))

    @staticmethod
    def good_without_a_value(keras: Any) -> Any:  # noqa: D102
        inputs = keras.Input((8,))
        x = keras.layers.Dense(4, use_bias=False)(inputs)
        x = keras.layers.BatchNormalization()(x)
        return keras.Model(inputs, keras.layers.ReLU()(x))


class TrainingFalseIneffective(Rule):
    """`training=False` is written into the graph, but `fit` updates the layer all the same.

    ## What it does
    Finds trainable BN layers that are called with `training=False` while the model is built,
    themselves or through a model around them, in a model that is compiled.

    ## Why is this bad
    `fit` ignores the value: it normalizes with the batch and updates the moving statistics.
    Fine-tuning with small batches so destroys the statistics that `training=False` was meant
    to keep.

    ## What to do
    Freeze the BN layers, after `base.trainable = True` and before `compile`:
    `layer.trainable = False` for each of them.

    ## When it is quiet
    Frozen layers. In a model that is not compiled it is only a note, since nothing says that it
    will be trained.

    ## References
    - <https://github.com/keras-team/keras/issues/20285>
    - <https://keras.io/guides/transfer_learning/>
    """

    code = "BN402"
    name = "training-false-ineffective"
    severity = Severity.ERROR
    fix = "unsafe"
    advice = "Set trainable=False on the BN layer before compile; training=False alone does not hold."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        compiled = context.graph.training.compiled is True
        effect = "updates" if compiled else "would update"
        for layer in _called_with(context, training=False):
            if not is_frozen(layer):
                yield Problem(
                    layer.path,
                    "training=False is written into its call, but the layer is trainable: fit "
                    f"ignores the value and {effect} the moving statistics.",
                    severity=None if compiled else Severity.INFO,
                )

    def repair(self, context: Context, layer: str) -> tuple[Edit, ...]:  # noqa: ARG002
        """Freezes the layer, which also ends the training of gamma and beta."""
        return (SetTrainable(layer, value=False),)

    @staticmethod
    def bad_unfrozen_base(keras: Any) -> Any:  # noqa: D102
        base = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.ReLU(),
            ]
        )
        base.trainable = True
        inputs = keras.Input((8,))
        outputs = keras.layers.Dense(2)(base(inputs, training=False))
        model = keras.Model(inputs, outputs)
        model.compile("adam", "mse")
        return model

    @staticmethod
    def good_frozen_batch_norm(keras: Any) -> Any:  # noqa: D102
        base = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(trainable=False),
                keras.layers.ReLU(),
            ]
        )
        inputs = keras.Input((8,))
        outputs = keras.layers.Dense(2)(base(inputs, training=False))
        model = keras.Model(inputs, outputs)
        model.compile("adam", "mse")
        return model


def _called_with(context: Context, *, training: bool) -> list[Layer]:
    """The BN layers that some call reaches with this value, through wrappers too."""
    found: dict[str, Layer] = {}
    for call in context.graph.calls:
        if call.training is training:
            for layer in _batch_norms_of(call.layer):
                found.setdefault(layer.path, layer)
    return list(found.values())


def _batch_norms_of(layer: Layer) -> Iterator[Layer]:
    if is_batch_norm(layer):
        yield layer
    elif not layer.is_custom:  # what a custom layer does with the value is not known
        for child in layer.children:
            yield from _batch_norms_of(child)


def _is_noisy_generator(context: Context) -> bool:
    """Whether images become images, and dropout is kept on by name, as in pix2pix."""
    ends = (*context.graph.inputs, *context.graph.outputs)
    return all((tensor.rank or 0) >= _IMAGE_RANK for tensor in ends) and any(
        call.kind in kinds.DROPOUT and call.kwargs.get("training") is True
        for call in context.graph.calls
    )
