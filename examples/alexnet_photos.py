"""AlexNet on two photographs, with cold statistics and with the remedy.

The images are 100x100 crops of the photographs that scikit-learn ships; training and
validation crops share no pixel. The network is AlexNet as tutorials wrote it for Keras 1,
with Batch Normalization after every convolution and Dense layer; `bnscope.demo.alexnet`
builds it, and its documentation maps the old spelling to today's.

Trained this briefly, Keras's default momentum of 0.99 leaves the moving statistics close to
their initial values, and validation, which uses them, is poor although the weights are
good. Momentum 0.9 is all that has to change.

Run it: python examples/alexnet_photos.py [--epochs N] [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import keras

import bnscope
from bnscope.callbacks import BatchNormMonitor
from bnscope.demo import alexnet, photo_crops

BATCH_SIZE = 16


def train(momentum: float, epochs: int, training: Any, validation: Any) -> Any:
    """Builds and trains the network, watched by bnscope."""
    keras.utils.set_random_seed(0)  # the same weights and order of the data in each run
    model = alexnet(momentum)
    model.compile("adam", loss="binary_crossentropy", metrics=["accuracy"])
    model.fit(
        training.images,
        training.labels,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        validation_data=(validation.images, validation.labels),
        # Alerts are printed as they are seen. With BatchNormMonitor("logs/alexnet")
        # TensorBoard shows every BN layer over time.
        callbacks=[BatchNormMonitor()],
        verbose=2,
    )
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="AlexNet on two photographs.")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="one epoch on few crops")
    options = parser.parse_args()
    epochs, crops = (1, 32) if options.quick else (options.epochs, 256)
    training = photo_crops(crops, "training")
    validation = photo_crops(crops // 2, "validation")

    print("1. Lint the network\n")
    print(bnscope.lint(alexnet()))

    accuracy = {}
    for momentum in (0.99, 0.9):
        print(f"\n2. Train it with momentum {momentum}\n")
        model = train(momentum, epochs, training, validation)
        accuracy[momentum] = model.history.history["val_accuracy"][-1]

    print("\n3. Validation accuracy\n")
    steps = epochs * -(-crops // BATCH_SIZE)
    for momentum, value in accuracy.items():
        share = momentum**steps
        print(f"momentum {momentum:4}: {value:6.1%}, {share:4.0%} initial values left")

    print("\n4. Fold the second one: at inference BN is a scale and a shift\n")
    result = bnscope.fold(model)
    for verdict in result.verdicts:
        print(f"{verdict.layer:12} folded into {verdict.into}")
    print(
        f"largest difference of the outputs, verified: {result.max_error:.1e} of their scale"
    )

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.keras"
        result.model.save(path)
        reloaded = keras.models.load_model(path)
    x = validation.images
    difference = abs(reloaded.predict(x, verbose=0) - model.predict(x, verbose=0)).max()
    print(f"saved, reloaded, on the validation crops:    {difference:.1e}")


if __name__ == "__main__":
    main()
