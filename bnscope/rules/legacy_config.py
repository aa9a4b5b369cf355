"""BN209: a configuration that today's Keras does not take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph import batchnorm
from bnscope.graph.limits import MAX_RANK
from bnscope.graph.model import Layer
from bnscope.rules.base import Context, Problem, Rule, Severity

_GONE = ("fused", "virtual_batch_size", "adjustment", "mode", "gamma_init", "beta_init")
_MOST_AXES = 8


class LegacyConfig(Rule):
    """The layer is written as an older Keras wrote it, which Keras 3 may refuse to load.

    ## What it does
    Finds BN layers in files whose `axis` is a list, that have the arguments `fused`,
    `virtual_batch_size`, `adjustment`, `mode`, `gamma_init` or `beta_init`, or a class name of
    TensorFlow 1.

    ## Why is this bad
    Keras 3 has none of these. It refuses the arguments whatever their value, in `.keras` and in
    `.h5` files, so the model cannot be loaded; `axis` as a list it takes from `.h5` files only.

    ## What to do
    Load the model with the version that wrote it (`tf_keras` for Keras 2) and save it again,
    or edit the configuration: `axis` as a number, the others left out. There is no fix, since
    a fix would have to load the model.

    ## When it is quiet
    Live models, which cannot hold such a configuration.

    ## References
    - <https://github.com/keras-team/tf-keras>
    """

    code = "BN209"
    name = "legacy-config"
    severity = Severity.INFO
    advice = "Save the model again with tf_keras, or write axis as a number."

    def check(self, context: Context) -> Iterator[Problem]:
        """Yields what it finds in a model."""
        for layer in context.batch_norms:
            found = list(_legacy(layer))
            if found:
                yield Problem(
                    layer.path,
                    f"is written as an older Keras wrote it: {', '.join(found)}.",
                    data={"legacy": found},
                )

    @staticmethod
    def bad_config_axis_as_list(keras: Any) -> Any:  # noqa: D102
        model = keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(name="bn"),
                keras.layers.ReLU(),
            ]
        )
        config = model.to_json().replace('"axis": -1', '"axis": [1]')
        return config.replace('"momentum"', '"fused": true, "momentum"')

    @staticmethod
    def good_axis_as_number(keras: Any) -> Any:  # noqa: D102
        return keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(4, use_bias=False),
                keras.layers.BatchNormalization(axis=-1),
                keras.layers.ReLU(),
            ]
        )


def _is_plain(axis: list[Any] | tuple[Any, ...]) -> bool:
    """Whether a list of axes is short enough to be shown."""
    return len(axis) <= _MOST_AXES and all(
        isinstance(item, int) and abs(item) < MAX_RANK for item in axis
    )


def _legacy(layer: Layer) -> Iterator[str]:
    axis = layer.config.get("axis")
    if isinstance(axis, (list, tuple)):
        yield f"axis={list(axis)}" if _is_plain(axis) else "axis as a list"
    for key in _GONE:
        if key in layer.config:
            value = layer.config[key]
            # Texts and numbers of a file have any length.
            scalar = value is None or isinstance(value, bool)
            yield f"{key}={value}" if scalar else key
    if layer.kind in batchnorm.KINDS and layer.kind not in {
        "BatchNormalization",
        "SyncBatchNormalization",
    }:
        yield f"class {layer.kind}"
