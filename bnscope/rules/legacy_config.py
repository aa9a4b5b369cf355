"""BN209: a configuration that today's Keras does not take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bnscope.graph import batchnorm
from bnscope.graph.model import Layer
from bnscope.rules.base import Context, Problem, Rule, Severity

_GONE = ("fused", "virtual_batch_size", "adjustment", "mode")


class LegacyConfig(Rule):
    """The layer is written as an older Keras wrote it, which Keras 3 may refuse to load.

    ## What it does
    Finds BN layers in files whose `axis` is a list, that have the arguments `fused`,
    `virtual_batch_size`, `adjustment` or `mode`, or a class name of TensorFlow 1.

    ## Why is this bad
    Keras 3 has none of these; `from_config` raises, so the model cannot be loaded, or only by
    the legacy `.h5` path, which drops some of them silently.

    ## What to do
    Load the model with the version that wrote it (`tf_keras` for Keras 2) and save it again,
    or edit the configuration: `axis` as a number, the others left out.

    ## When it is quiet
    Live models, which cannot hold such a configuration; arguments that are there but empty.

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


def _legacy(layer: Layer) -> Iterator[str]:
    if isinstance(layer.config.get("axis"), (list, tuple)):
        yield f"axis={list(layer.config['axis'])}"
    yield from (f"{key}={layer.config[key]}" for key in _GONE if layer.config.get(key))
    if layer.kind in batchnorm.KINDS and layer.kind not in {
        "BatchNormalization",
        "SyncBatchNormalization",
    }:
        yield f"class {layer.kind}"
