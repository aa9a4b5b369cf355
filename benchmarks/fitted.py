"""Applications with random statistics that fit them, to fold and to compare.

Fresh BN is nearly the identity and hides every mistake; random statistics alone give outputs
that overflow, or that do not depend on the input. So gamma and beta are random, one pass in
training mode at momentum 0 makes the statistics those of the network, and they are perturbed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def application(name: str, size: int, *, seed: int = 0) -> Any:
    """An application without downloaded weights and without an activation at its end.

    Args:
        name: the function in `keras.applications`.
        size: height and width of the input.
        seed: seed of the weights and the statistics.

    Returns:
        The model, with statistics that fit it and are perturbed, 30 % of the gammas negative.
    """
    import keras

    keras.utils.set_random_seed(seed)
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3), classifier_activation=None)
    fit_statistics(model, pictures(model, 8, seed), seed)
    return model


def batch_norms(model: Any) -> list[Any]:
    """The BN layers of a model, nested models included."""
    import keras

    kind = keras.layers.BatchNormalization
    return [layer for layer in model._flatten_layers() if isinstance(layer, kind)]  # noqa: SLF001


def fit_statistics(model: Any, inputs: Any, seed: int = 0) -> None:
    """Random gamma and beta, and statistics that fit inputs, then perturbed."""
    rng = np.random.default_rng(seed)
    found = batch_norms(model)
    momenta = [layer.momentum for layer in found]
    for layer in found:
        _randomize(layer, rng)
        layer.momentum = 0.0
    model(inputs, training=True)
    for layer, momentum in zip(found, momenta, strict=True):
        layer.momentum = momentum
        _perturb(layer, rng)


def pictures(model: Any, count: int, seed: int = 0) -> Array:
    """Random images that differ in colour, contrast and texture, as photographs do.

    Images of noise alone look alike to a deep network, whose last layers then normalize
    what little differs between them, and amplify rounding.
    """
    import keras

    rng = np.random.default_rng(seed)
    shape = tuple(model.input_shape[1:3])
    coarse = rng.standard_normal((count, 6, 6, 3))
    blocks = keras.ops.image.resize(coarse.astype("float32"), shape, "bilinear")
    noise = rng.standard_normal((count, *shape, 3)) * rng.uniform(
        0.1, 1.0, (count, 1, 1, 1)
    )
    colour = rng.standard_normal((count, 1, 1, 3))
    images = np.asarray(keras.ops.convert_to_numpy(blocks)) + noise + colour
    if any(type(layer).__name__ == "Rescaling" for layer in model.layers):
        images = 127.5 + 50.0 * images  # it takes pixels
    return np.asarray(images, np.float32)


def _randomize(layer: Any, rng: np.random.Generator) -> None:
    size = int(layer.moving_mean.shape[0])
    if layer.scale:
        sign = np.where(rng.random(size) < 0.3, -1.0, 1.0)
        layer.gamma.assign(sign * rng.uniform(0.5, 1.5, size))
    if layer.center:
        layer.beta.assign(rng.normal(0.0, 0.5, size))


def _perturb(layer: Any, rng: np.random.Generator) -> None:
    mean, variance = np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)
    moved = 0.1 * np.sqrt(variance) * rng.standard_normal(mean.shape)
    layer.moving_mean.assign(mean + moved)
    layer.moving_variance.assign(variance * rng.uniform(0.8, 1.25, mean.shape))
