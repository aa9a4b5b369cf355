"""AlexNet for 100x100 photographs, with Batch Normalization as old tutorials wrote it."""

from __future__ import annotations

from typing import Any

IMAGE_SIZE = 100  # pixels, height and width
DEFAULT_MOMENTUM = 0.99  # Keras's own default

# filters, kernel size, stride, and whether max pooling follows
CONVOLUTIONS = (
    (96, 11, 4, True),
    (256, 5, 1, True),
    (384, 3, 1, False),
    (384, 3, 1, False),
    (256, 3, 1, True),
)
DENSE_UNITS = (2000, 512)
DROPOUT_RATE = 0.4


def alexnet(momentum: float = DEFAULT_MOMENTUM) -> Any:
    """Builds AlexNet for two classes of 100x100 colour images.

    Five convolutions and three Dense layers, each followed by Batch Normalization, the last
    one included. Two things in it are what `bnscope lint` is for: each bias before a BN is
    cancelled by it (BN101), and the output itself is normalized (BN104). They are part of
    the network as it was published, so they stay.

    Tutorials of the time wrote it for Keras 1. What they wrote, and today's spelling:

        from keras.layers.normalization import BatchNormalization
            -> keras.layers.BatchNormalization
        Convolution2D(96, 11, 11, subsample=(4, 4), border_mode='same',
                      input_shape=(100, 100, 3))
            -> keras.Input((100, 100, 3)), then Conv2D(96, 11, strides=4, padding="same")
        MaxPooling2D(pool_size=(2, 2), border_mode='same')
            -> MaxPooling2D(2, padding="same")
        Dense(2000, init='glorot_uniform')
            -> Dense(2000, kernel_initializer="glorot_uniform"), which is the default
        Adam(lr=0.001)
            -> Adam(learning_rate=0.001), which is the default
        model.fit(x, y, nb_epoch=6, show_accuracy=True)
            -> model.compile(..., metrics=["accuracy"]), then model.fit(x, y, epochs=6)

    Args:
        momentum: momentum of every BN layer's moving statistics. Keras's default of 0.99
            needs 299 training steps until less than 5 % of a moving value is its initial
            value; 0.9 needs 29.

    Returns:
        A `keras.Sequential`, not compiled: images of shape `(batch, 100, 100, 3)` to the
        probability of class 1, shape `(batch, 1)`.
    """
    import keras

    layers: list[Any] = [keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))]
    for number, (filters, kernel, stride, pooled) in enumerate(CONVOLUTIONS, start=1):
        name = f"conv{number}"
        convolution = keras.layers.Conv2D(
            filters, kernel, strides=stride, padding="same", name=name
        )
        layers += [convolution, *_normalized(name, "relu", momentum)]
        if pooled:
            layers.append(
                keras.layers.MaxPooling2D(2, padding="same", name=f"pool{number}")
            )
    layers.append(keras.layers.Flatten(name="flatten"))
    for number, units in enumerate(DENSE_UNITS, start=6):
        name = f"dense{number}"
        layers += [
            keras.layers.Dense(units, name=name),
            *_normalized(name, "relu", momentum),
        ]
        layers.append(keras.layers.Dropout(DROPOUT_RATE, name=f"dropout{number}"))
    layers += [keras.layers.Dense(1, name="dense8")]
    layers += _normalized("dense8", "sigmoid", momentum)
    return keras.Sequential(layers, name="alexnet")


def _normalized(name: str, activation: str, momentum: float) -> list[Any]:
    """BN with Keras's default arguments but for the momentum, then the activation."""
    import keras

    return [
        keras.layers.BatchNormalization(momentum=momentum, name=f"{name}_bn"),
        keras.layers.Activation(activation, name=f"{name}_{activation}"),
    ]
