"""A small tabular network with Batch Normalization: lint it, watch it train, fold it.

The data are scikit-learn's breast cancer measurements: 569 patients, 30 features, each
divided by its standard deviation but not centred. After k training steps `momentum**k` of
every moving mean and variance is still the initial 0 or 1, and validation normalizes with
these. With Keras's default momentum of 0.99 it takes 299 steps (eleven epochs here) until
less than 5 % is left, with 0.9 it takes 29, a single epoch.

The network is a classic of tutorials for Keras 1. What they wrote, and today's spelling:

    from keras.layers.normalization import BatchNormalization
        -> keras.layers.BatchNormalization
    Dense(64, input_dim=30, init='uniform')
        -> keras.Input((30,)), then Dense(64, kernel_initializer="random_uniform")
    SGD(lr=0.1, decay=1e-6, momentum=0.9, nesterov=True)
        -> SGD(InverseTimeDecay(0.1, decay_steps=1, decay_rate=1e-6), momentum=0.9,
               nesterov=True)
    model.fit(x, y, nb_epoch=20, show_accuracy=True)
        -> model.compile(..., metrics=["accuracy"]), then model.fit(x, y, epochs=20)

Run it: python examples/tabular_mlp.py [--quick]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_breast_cancer

import bnscope
from bnscope.callbacks import BatchNormMonitor

BATCH_SIZE = 16


def build(momentum: float = 0.99) -> Any:
    """Dense 64 -> BN -> tanh -> Dropout, twice, then Dense 2 -> BN -> softmax."""
    layers: list[Any] = [keras.Input((30,))]
    uniform = "random_uniform"
    stages = ((64, "tanh"), (64, "tanh"), (2, "softmax"))
    for number, (units, activation) in enumerate(stages, start=1):
        layers += [
            keras.layers.Dense(units, kernel_initializer=uniform, name=f"dense{number}"),
            keras.layers.BatchNormalization(momentum=momentum, name=f"bn{number}"),
            keras.layers.Activation(activation),
        ]
        if activation == "tanh":
            layers.append(keras.layers.Dropout(0.5))
    return keras.Sequential(layers, name="mlp")


def train(model: Any, x: Any, y: Any, epochs: int) -> list[float]:
    """Compiles and trains the model, watched by bnscope; gives the validation accuracies."""
    # `decay=1e-6` of Keras 1: the rate after k steps is 0.1 / (1 + 1e-6 * k).
    rate = keras.optimizers.schedules.InverseTimeDecay(0.1, decay_steps=1, decay_rate=1e-6)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
    model.compile(optimizer, loss="binary_crossentropy", metrics=["accuracy"])
    # Alerts are printed as they are seen. With BatchNormMonitor("logs/mlp") TensorBoard
    # shows every BN layer over time.
    history = model.fit(
        x,
        y,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        validation_split=0.2,
        callbacks=[BatchNormMonitor()],
        verbose=0,
    )
    return list(history.history["val_accuracy"])


def main() -> None:
    epochs = 3 if "--quick" in sys.argv else 20
    x, labels = load_breast_cancer(return_X_y=True)
    trained_on = int(0.8 * len(x))  # what `validation_split=0.2` leaves to train on
    x = (x / x[:trained_on].std(axis=0)).astype("float32")
    y = keras.utils.to_categorical(labels)

    print("1. Lint the network\n")
    print(bnscope.lint(build()))

    print("\n2. Train it twice: Keras's default momentum, and the remedy\n")
    accuracy = {}
    for momentum in (0.99, 0.9):
        keras.utils.set_random_seed(0)  # the same weights and the same order of the data
        model = build(momentum)
        accuracy[momentum] = train(model, x, y, epochs)
    steps = int(np.ceil(trained_on / BATCH_SIZE))
    print("\nvalidation accuracy       momentum 0.99                momentum 0.9")
    for epoch in range(epochs):
        print(f"after {steps * (epoch + 1):3} steps", end="")
        for momentum in (0.99, 0.9):
            share = momentum ** (steps * (epoch + 1))
            print(f"{accuracy[momentum][epoch]:12.1%} ({share:3.0%} initial)", end="")
        print()

    print("\n3. Fold the second one: at inference BN is a scale and a shift\n")
    result = bnscope.fold(model)
    for verdict in result.verdicts:
        print(f"{verdict.layer} folded into {verdict.into}")
    print(
        f"largest difference of the outputs, verified: {result.max_error:.1e} of their scale"
    )

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.keras"
        result.model.save(path)
        reloaded = keras.models.load_model(path)
    difference = abs(reloaded.predict(x, verbose=0) - model.predict(x, verbose=0)).max()
    print(f"saved, reloaded, on all {len(x)} patients:      {difference:.1e}")


if __name__ == "__main__":
    main()
