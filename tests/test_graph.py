"""Both readers make the same graph of the same model."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras import layers

from bnscope.graph import archive, live
from bnscope.graph.batchnorm import batch_norms, channel_axis, state


def sequential():
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(4, 3, strides=2),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


def nested():
    inner = keras.Sequential(
        [keras.Input((16, 16, 3)), layers.Conv2D(4, 3, name="conv")], name="inner"
    )
    middle_in = keras.Input((16, 16, 3))
    middle = keras.Model(middle_in, layers.BatchNormalization(name="bn")(inner(middle_in)))
    middle.name = "middle"
    inputs = keras.Input((16, 16, 3), name="image")
    x = layers.BatchNormalization(name="bn")(middle(inputs))
    return keras.Model(inputs, layers.ReLU()(x))


def shared():
    inputs = [keras.Input((8,), name="left"), keras.Input((8,), name="right")]
    tower = keras.Sequential(
        [keras.Input((8,)), layers.Dense(4), layers.BatchNormalization()], name="tower"
    )
    joined = layers.Concatenate()([tower(tensor) for tensor in inputs])
    return keras.Model(inputs, layers.Dense(1)(joined))


def with_operations():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    x = layers.BatchNormalization()(x)
    x = keras.ops.relu(x) * 2.0 + 1.0
    x = layers.TimeDistributed(
        layers.BatchNormalization(name="inside"), name="distributed"
    )(x)
    return keras.Model({"image": inputs}, {"out": layers.GlobalAveragePooling2D()(x)})


def two_outputs_and_dropped_parts():
    inputs = keras.Input((8, 5))
    sequence, last, _ = layers.LSTM(4, return_sequences=True, return_state=True)(inputs)
    norm = layers.BatchNormalization(scale=False)
    return keras.Model(inputs, [norm(sequence, training=True), layers.Dense(2)(last)])


MODELS = [sequential, nested, shared, with_operations, two_outputs_and_dropped_parts]


def describe(graph):
    """A graph in values that can be compared."""
    return {
        "calls": [
            (
                call.layer.path,
                call.kind,
                [tensor.index for tensor in call.inputs],
                call.training,
            )
            for call in graph.calls
        ],
        "inputs": [(tensor.name, tensor.shape) for tensor in graph.inputs],
        "outputs": [tensor.producer for tensor in graph.outputs],
        "batch_norms": [
            (layer.path, list(layer.variables), layer.trainable)
            for layer in batch_norms(graph)
        ],
        "not_analysed": [part.layer for part in graph.not_analysed],
    }


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_saved_model_gives_the_same_graph_as_the_live_one(
    make, suffix, tmp_path, randomized
):
    model = randomized(make())
    path = tmp_path / f"model{suffix}"
    model.save(path)
    saved, living = archive.read(path), live.read(model)
    assert _named(describe(saved)) == _named(describe(living))
    for layer in batch_norms(living):
        values, expected = state(saved.layer(layer.path)), state(layer)
        np.testing.assert_array_equal(values.moving_mean, expected.moving_mean)
        np.testing.assert_array_equal(values.moving_variance, expected.moving_variance)
        if expected.gamma is not None:
            np.testing.assert_array_equal(values.gamma, expected.gamma)


def _named(description):
    # Sequential models name their implied input in their own way in each format.
    return {**description, "inputs": [shape for _, shape in description["inputs"]]}


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_json_configuration_gives_the_same_calls_without_values(make, tmp_path):
    model = make()
    path = tmp_path / "model.json"
    path.write_text(model.to_json())
    graph = archive.read(path)
    assert describe(graph)["calls"] == describe(live.read(model))["calls"]
    assert not graph.has_weights
    assert all(state(layer) is None for layer in batch_norms(graph))


def test_nested_layers_keep_their_paths():
    paths = [layer.path for layer in live.read(nested()).layers]
    assert paths[:3] == ["middle/inner/conv", "middle/bn", "bn"]


def test_a_convolution_of_an_inner_model_feeds_the_bn_of_the_outer_one():
    graph = live.read(nested())
    bn = graph.calls_of(graph.layer("middle/bn"))[0]
    assert [call.layer.path for call in graph.predecessors(bn)] == ["middle/inner/conv"]


def test_a_layer_that_is_called_twice_is_one_layer_with_two_calls():
    graph = live.read(shared())
    bn = batch_norms(graph)
    assert len(bn) == 1
    assert len(graph.calls_of(bn[0])) == 2


def test_keras_layers_are_found_by_the_paths_of_the_graph():
    model = with_operations()
    found = live.keras_layers(model)
    assert set(found) == {layer.path for layer in live.read(model).layers}
    assert isinstance(found["distributed/inside"], layers.BatchNormalization)


def test_constants_of_operations_are_kept():
    graph = live.read(with_operations())
    multiply = next(call for call in graph.calls if call.kind == "ops.Multiply")
    assert multiply.args[1] == 2.0


def test_shapes_of_keras_2_configurations_are_inferred(tmp_path):
    model = keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3))
    graph = live.read(model)
    config = json.loads(model.to_json())
    _strip_shapes(config)
    path = tmp_path / "model.json"
    path.write_text(json.dumps(config))
    inferred = archive.read(path)
    assert len(inferred.calls) == len(graph.calls)
    for ours, theirs in zip(inferred.calls, graph.calls, strict=True):
        assert ours.outputs[0].shape == theirs.outputs[0].shape, ours


def _strip_shapes(value):
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            value["config"].pop("shape")
        for item in value.values():
            _strip_shapes(item)
    elif isinstance(value, list):
        for item in value:
            _strip_shapes(item)


def keras_2_config():
    """What Keras 2.0 wrote, in its own dialect."""

    def layer(kind, name, inbound, **config):
        nodes = [[[source, 0, 0, {}] for source in inbound]] if inbound else []
        return {
            "class_name": kind,
            "name": name,
            "config": {"name": name, **config},
            "inbound_nodes": nodes,
        }

    layers_ = [
        layer("InputLayer", "in", [], batch_input_shape=[None, 8, 8, 3], dtype="float32"),
        layer(
            "Conv2D",
            "conv",
            ["in"],
            filters=4,
            kernel_size=[3, 3],
            strides=[1, 1],
            padding="same",
            use_bias=True,
            activation="linear",
            data_format="channels_last",
        ),
        layer(
            "BatchNormalization",
            "bn",
            ["conv"],
            axis=[3],
            momentum=0.99,
            epsilon=0.001,
            scale=True,
            center=True,
            fused=True,
            virtual_batch_size=None,
            trainable=True,
        ),
        layer("Activation", "relu", ["bn"], activation="relu"),
        layer("Add", "add", ["relu", "conv"]),
    ]
    return {
        "class_name": "Model",
        "config": {
            "name": "old",
            "layers": layers_,
            "input_layers": [["in", 0, 0]],
            "output_layers": [["add", 0, 0]],
        },
    }  # fmt: skip


def test_a_keras_2_functional_configuration_is_read(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(keras_2_config()))
    graph = archive.read(path)
    assert [call.layer.path for call in graph.calls] == ["conv", "bn", "relu", "add"]
    bn = graph.calls[1]
    assert bn.inputs[0].shape == (None, 8, 8, 4)
    assert channel_axis(bn.layer, bn.inputs[0].rank) == 3
    assert len(graph.calls[3].inputs) == 2


def test_calls_of_nested_models_are_counted_from_one_in_keras_2(tmp_path):
    config = keras_2_config()
    conv, bn = config["config"]["layers"][1:3]
    conv["config"]["batch_input_shape"] = [None, 8, 8, 3]
    inner = {
        "class_name": "Sequential",
        "name": "inner",
        "config": {"name": "inner", "layers": [conv]},
        "inbound_nodes": [[["in", 0, 0, {}]]],
    }
    bn["inbound_nodes"] = [[["inner", 1, 0, {}]]]
    first = config["config"]["layers"][0]
    config["config"]["layers"] = [first, inner, bn]
    config["config"]["output_layers"] = [["bn", 0, 0]]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(config))
    graph = archive.read(path)
    assert [call.layer.path for call in graph.calls] == ["inner/conv", "bn"]


def test_a_keras_2_sequential_list_is_read(tmp_path):
    config = keras_2_config()["config"]["layers"][1:4]
    config[0]["config"]["batch_input_shape"] = [None, 8, 8, 3]
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"class_name": "Sequential", "config": config}))
    graph = archive.read(path)
    assert [call.layer.path for call in graph.calls] == ["conv", "bn", "relu"]
    assert graph.inputs[0].shape == (None, 8, 8, 3)


def test_steps_of_the_optimizer_are_read(tmp_path):
    model = sequential()
    model.compile("adam", "mse")
    x = np.zeros((6, 16, 16, 3), np.float32)
    model.fit(x, np.zeros((6, 2), np.float32), batch_size=2, epochs=2, verbose=0)
    for suffix in (".keras", ".h5"):
        path = tmp_path / f"model{suffix}"
        model.save(path)
        assert archive.read(path).training.optimizer_steps == 6
    assert live.read(model).training.optimizer_steps == 6


@keras.saving.register_keras_serializable("tests")
class Opaque(layers.Layer):
    def call(self, x):
        return x


def test_an_unknown_layer_does_not_stop_the_analysis(tmp_path):
    inputs = keras.Input((8,))
    x = Opaque(name="opaque")(layers.Dense(4)(inputs))
    model = keras.Model(inputs, layers.ReLU()(layers.BatchNormalization()(x)))
    path = tmp_path / "model.keras"
    model.save(path)
    for graph in (archive.read(path), live.read(model)):
        assert graph.layer("opaque").kind == "custom.Opaque"
        assert graph.layer("opaque").is_custom
        assert len(graph.calls) == 4


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)
        self.bn = layers.BatchNormalization()

    def call(self, x, training=None):
        return self.bn(self.dense(x), training=training)


def test_a_subclassed_model_gives_its_layers_and_says_what_is_missing(randomized):
    model = Subclassed(name="mine")
    model(np.zeros((2, 3), np.float32))
    graph = live.read(randomized(model))
    assert [layer.kind for layer in graph.layers] == ["Dense", "BatchNormalization"]
    assert not graph.calls
    assert graph.not_analysed[0].layer == ""
    assert state(batch_norms(graph)[0]) is not None


def test_a_functional_subclass_is_read_from_its_nodes():
    class Backbone(keras.Model):
        def __init__(self, width):
            inputs = keras.Input((8,))
            super().__init__(
                inputs, layers.BatchNormalization()(layers.Dense(width)(inputs))
            )
            self.width = width

        def get_config(self):
            return {"width": self.width}

    graph = live.read(Backbone(4))
    assert [call.kind for call in graph.calls] == ["Dense", "BatchNormalization"]
    assert not graph.not_analysed


def test_weights_files_give_their_bn_layers_by_name(tmp_path, randomized):
    model = randomized(nested())
    expected = sorted(
        float(state(bn).moving_mean[0]) for bn in batch_norms(live.read(model))
    )
    model.save_weights(tmp_path / "model.weights.h5")
    graph = archive.read(tmp_path / "model.weights.h5")
    found = sorted(float(state(bn).moving_mean[0]) for bn in batch_norms(graph))
    assert found == expected
    assert "only weights" in graph.not_analysed[0].reason


def test_only_batch_norm_is_read_of_a_large_file(tmp_path, monkeypatch):
    from bnscope.graph import hdf5

    model = sequential()
    model.save(tmp_path / "model.keras")
    read = []
    original = hdf5._read
    monkeypatch.setattr(
        hdf5, "_read", lambda data, *rest: read.append(data.shape) or original(data, *rest)
    )
    archive.read(tmp_path / "model.keras")
    assert read == [(4,)] * 4


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("sequential", [False, True])
def test_a_nested_model_whose_calls_are_outputs_and_arguments_is_read(
    suffix, sequential, tmp_path
):
    """Keras 3 counts the calls of Functional models from 1 in outputs, from 0 elsewhere."""
    start = keras.Input((4,))
    inner = keras.Model(start, keras.layers.Dense(4, name="d")(start), name="inner")
    if sequential:
        inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="d")])
    inputs = keras.Input((4,))
    first = inner(inputs)
    second = inner(first)
    model = keras.Model(inputs, [first, second, keras.layers.ReLU()(second)])
    model.save(tmp_path / f"model{suffix}")
    for graph in (live.read(model), archive.read(tmp_path / f"model{suffix}")):
        calls = [call.outputs[0].index for call in graph.calls]
        assert [call.kind for call in graph.calls] == ["Dense", "Dense", "ReLU"]
        assert [tensor.index for tensor in graph.outputs] == calls
        assert graph.calls[2].inputs[0].index == calls[1]
