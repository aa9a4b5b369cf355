"""Trains AlexNet once, watched by the monitor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnscope.demo.network import alexnet
from bnscope.demo.photos import Photos, photo_crops
from bnscope.demo.settings import Settings


@dataclass(frozen=True)
class Data:
    """The crops to train on, and those to validate on."""

    training: Photos
    validation: Photos


@dataclass(frozen=True)
class Trained:
    """One training: the model, Keras's history by metric, and the monitor that watched."""

    momentum: float
    model: Any
    history: dict[str, list[float]]
    monitor: Any


def load_data(settings: Settings) -> Data:
    """Cuts the crops of both sides."""
    return Data(
        training=photo_crops(settings.training_crops, "training", settings.seed),
        validation=photo_crops(settings.validation_crops, "validation", settings.seed),
    )


def train(
    momentum: float,
    data: Data,
    settings: Settings,
    log_dir: Path,
    on_step: Callable[[], object],
) -> Trained:
    """Builds AlexNet and trains it; with one seed the same but for the momentum.

    Args:
        momentum: momentum of every BN layer.
        data: the crops.
        settings: epochs, batch size and seed.
        log_dir: where the monitor writes its events.
        on_step: called after each training step.

    Returns:
        The trained model and what was seen on the way.
    """
    import keras

    from bnscope.callbacks import BatchNormMonitor

    keras.utils.set_random_seed(settings.seed)
    model = alexnet(momentum)
    model.compile("adam", loss="binary_crossentropy", metrics=["accuracy"])
    # Otherwise TensorFlow traces the training step twice, the first time for these variables.
    model.optimizer.build(model.trainable_variables)
    monitor = BatchNormMonitor(str(log_dir))
    steps = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: on_step()  # noqa: ARG005  Keras names them
    )
    history = model.fit(
        data.training.images,
        data.training.labels,
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        validation_data=(data.validation.images, data.validation.labels),
        callbacks=[monitor, steps],
        verbose=0,
    )
    return Trained(momentum, model, history.history, monitor)
