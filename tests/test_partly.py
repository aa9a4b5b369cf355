"""Files that do not hold the whole model: what is there is checked, the rest is named."""

from __future__ import annotations

import json
import zipfile
from functools import cache

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import bnscope
from bnscope.errors import BnscopeError, UnreadableModelError
from bnscope.folding.plan import make_plan
from bnscope.graph import archive, live, weight_sets
from bnscope.graph.batchnorm import AFFINE, VARIABLES, batch_norms, state

BN = layers.BatchNormalization


@keras.saving.register_keras_serializable("partly")
class Block(layers.Layer):
    """A custom layer with BN inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(4, 1, name="conv")
        self.norm = BN(name="inner_bn")
        self.more = keras.Sequential([layers.Conv2D(4, 1), BN(name="deep")], name="more")

    def build(self, shape):
        self.conv.build(shape)
        self.norm.build((*shape[:-1], 4))
        self.more.build((*shape[:-1], 4))

    def call(self, x):
        return self.more(self.norm(self.conv(x)))


@keras.saving.register_keras_serializable("partly")
class Network(keras.Model):
    """A subclassed model that keeps its layers in every way there is."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = layers.Conv2D(4, 1)
        self.norm = BN(name="my_norm")
        self.again = BN(renorm=True, name="again")
        self.blocks = [Block(name=f"block{i}") for i in range(2)]
        self.heads = {"a": BN(name="head_a"), "b": BN(name="head_b")}
        self.wrapped = layers.TimeDistributed(BN(name="each"), name="wrapped")
        self.other = layers.LayerNormalization(name="other")
        self.groups = layers.GroupNormalization(2, name="group_norm")

    def call(self, x):
        x = self.again(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        x = self.heads["b"](self.heads["a"](x))
        return self.groups(self.other(self.wrapped(x)))

    def get_config(self):
        return {"name": self.name}


@cache
def trained():
    model = Network(name="network")
    model.compile("adam", "mse")
    model(np.zeros((2, 2, 2, 3), np.float32))
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(7)
    return model


def functional():
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, name="conv")(x)
    x = BN(scale=False, momentum=0.1, epsilon=1e-5, name="first")(x)
    inner = keras.Sequential(
        [keras.Input((4, 4, 4)), layers.Conv2D(5, 1, name="c"), BN(name="n")], name="inner"
    )
    x = layers.TimeDistributed(BN(name="each"), name="wrapped")(inner(x))
    return keras.Model(inputs, layers.ReLU()(x), name="functional")


def values(graph):
    found = {layer.path: state(layer) for layer in batch_norms(graph)}
    return {
        path: (each.moving_mean, each.moving_variance)
        for path, each in found.items()
        if each
    }


def assert_same_values(ours, theirs):
    ours, theirs = values(ours), values(theirs)
    assert set(ours) == set(theirs)
    for path, pair in theirs.items():
        np.testing.assert_array_equal(ours[path], pair)


def save(model, path):
    """Saves a model, or its weights in either format."""
    if path.name.endswith(".keras") or path.name == "whole.h5":
        model.save(path)
    elif path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        from keras.src.legacy.saving import legacy_h5_format

        with h5py.File(path, "w") as store:
            legacy_h5_format.save_weights_to_hdf5_group(store, model)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models that several tests read."""
    path = tmp_path_factory.mktemp("partly")
    save(trained(), path / "network.keras")
    model = functional()
    (path / "functional.json").write_text(model.to_json())
    return path


# Models of which the file holds no graph


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5"])
def test_bn_of_a_subclassed_model_is_found_in_its_weights(name, tmp_path, randomized):
    model = randomized(trained())
    graph = archive.read(save(model, tmp_path / name))
    assert_same_values(graph, live.read(model))
    assert graph.training.optimizer_steps == 7
    (part,) = graph.not_analysed
    for missing in ("structure", "momentum, epsilon, axis, trainable"):
        assert missing in part.reason


def test_what_the_variables_say_of_the_configuration_is_known_and_no_more(folder):
    layer = archive.read(folder / "network.keras").layer("again")
    assert not layer.config_known
    assert layer.config == {"scale": True, "center": True, "renorm": True}
    assert list(layer.variables) == list(VARIABLES)


@keras.saving.register_keras_serializable("partly")
class Backbone(keras.Model):
    """A Functional subclass that saves its hyper-parameters only."""

    def __init__(self, width=4, **kwargs):
        inputs = keras.Input((8,))
        x = BN(name="bn", center=False)(layers.Dense(width, name="dense")(inputs))
        super().__init__(inputs, BN(name="last")(x), **kwargs)
        self.width = width

    def get_config(self):
        return {"width": self.width}


def test_bn_of_a_model_that_saves_its_hyper_parameters_only_is_found(tmp_path, randomized):
    model = randomized(Backbone())
    graph = archive.read(save(model, tmp_path / "m.keras"))
    assert_same_values(graph, live.read(model))
    assert bnscope.lint(tmp_path / "m.keras").status == "partly"


@pytest.mark.parametrize("name", ["m.keras", "whole.h5"])
def test_bn_inside_a_custom_layer_is_found_and_the_layer_named(name, tmp_path, randomized):
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, BN(name="outer")(Block(name="block")(inputs)))
    graph = archive.read(save(randomized(model), tmp_path / name))
    assert_same_values(graph, live.read(model))
    (part,) = graph.not_analysed
    assert part.layer == "block"
    assert part.reason.startswith("a custom layer")
    plans = [make_plan(each).verdicts for each in (graph, live.read(model))]
    saved, living = [{verdict.layer: verdict for verdict in plan} for plan in plans]
    assert saved == living


@keras.saving.register_keras_serializable("partly")
class OwnNorm(BN):
    """A subclass of BN."""


def test_a_subclass_of_bn_has_its_values_and_its_configuration(tmp_path, randomized):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, OwnNorm(momentum=0.1, scale=False, name="own")(inputs))
    graph = archive.read(save(randomized(model), tmp_path / "m.keras"))
    assert_same_values(graph, live.read(model))
    assert graph.layer("own").config_known
    assert not graph.not_analysed


def test_an_imitation_of_bn_with_other_variables_does_not_stop_the_reading(tmp_path):
    @keras.saving.register_keras_serializable("partly")
    class Imitation(BN):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(3, 2), name="kernel")
            super().build(shape)

    inputs = keras.Input((4,))
    model = keras.Model(inputs, BN(name="bn")(Imitation(name="own")(inputs)))
    graph = archive.read(save(model, tmp_path / "m.keras"))
    assert [layer.path for layer in batch_norms(graph)] == ["bn"]
    assert graph.layer("own").is_custom


# What is believed to be BN


def weights_file(path, sets):
    """A Keras 3 weights file: group -> (saved name, variables)."""
    with h5py.File(path, "w") as store:
        store.create_group("vars").attrs["name"] = "model"
        for group, (name, variables) in sets.items():
            made = store.create_group(f"{group}/vars")
            if name:
                made.attrs["name"] = name
            for index, variable in enumerate(variables):
                made[str(index)] = np.asarray(variable, np.float32)
    return path


MEAN, VARIANCE, GAMMA = [0.3, -0.2], [0.5, 2.5], [0.9, -1.1]
SETS = [
    ("any", "any", [GAMMA, MEAN, MEAN, VARIANCE], ["gamma", "beta"]),
    ("any", None, [GAMMA, MEAN, MEAN, VARIANCE], ["gamma", "beta"]),
    ("any", "any", [GAMMA, MEAN, MEAN, VARIANCE, VARIANCE, MEAN, VARIANCE], ["gamma", "beta"]),
    ("any", "batch_normalization_7", [MEAN, VARIANCE], []),
    ("layers/batch_normalization_7", None, [MEAN, VARIANCE], []),
    ("any", "conv1_bn", [GAMMA, MEAN, VARIANCE], [AFFINE]),
    ("norm1", None, [GAMMA, MEAN, VARIANCE], [AFFINE]),
    ("any", "conv1_bn", [[1, 1], MEAN, VARIANCE], ["gamma"]),
    ("any", "conv1_bn", [[0, 0], MEAN, VARIANCE], ["beta"]),
    ("any", "batch_normalization", [MEAN, VARIANCE, VARIANCE, MEAN, VARIANCE], []),
    ("any", "bn", [GAMMA, MEAN, MEAN, [0.5, -2.5]], ["gamma", "beta"]),
]  # fmt: skip
OTHERS = {
    "layer_norm": ("layer_norm", [GAMMA, MEAN]),
    "bn_by_name": ("bn", [GAMMA, MEAN]),
    "three": ("three", [GAMMA, MEAN, VARIANCE]),
    "negative": ("negative", [GAMMA, MEAN, MEAN, [0.5, -2.5]]),
    "auc": ("auc", [[3, 2], [1, 0], [5, 4], [2, 7]]),
    "longer": ("longer", [GAMMA, MEAN, MEAN, [1, 2, 3]]),
    "matrix": ("bn2", [GAMMA, MEAN, MEAN, [MEAN, VARIANCE]]),
    "empty": ("bn3", []),
    "optimizer": ("adam", [GAMMA, MEAN, MEAN, VARIANCE]),
}


@pytest.mark.parametrize(("group", "name", "variables", "affine"), SETS)
def test_bn_is_told_by_names_and_shapes(group, name, variables, affine, tmp_path):
    path = weights_file(tmp_path / "m.weights.h5", {group: (name, variables)})
    (layer,) = batch_norms(archive.read(path))
    assert layer.path == (name or group.rpartition("/")[2])
    assert list(layer.variables)[: len(affine) + 2] == [
        *affine,
        "moving_mean",
        "moving_variance",
    ]
    assert state(layer).moving_mean.tolist() == np.float32(MEAN).tolist()


def test_what_only_looks_like_bn_is_left_alone(tmp_path):
    path = weights_file(tmp_path / "m.weights.h5", OTHERS)
    assert not batch_norms(archive.read(path))


def test_numbered_layers_come_in_their_order(tmp_path):
    sets = {
        f"layers/block_{i}/bn": (None, [GAMMA, MEAN, MEAN, VARIANCE]) for i in range(11)
    }
    graph = archive.read(weights_file(tmp_path / "m.weights.h5", sets))
    assert len(batch_norms(graph)) == 11
    with h5py.File(tmp_path / "m.weights.h5") as store:
        places = [found.place for found in weight_sets.keras3_sets(store)]
    assert places == list(sets)


def test_a_group_inside_itself_is_searched_once(tmp_path):
    path = weights_file(
        tmp_path / "m.weights.h5", {"a/bn": ("bn", [GAMMA, MEAN, MEAN, VARIANCE])}
    )
    with h5py.File(path, "a") as store:
        for name in ("again", "and_again"):
            store["a"][name] = store["a"]
        store.create_group("layer_" + "9" * 5000)
        store.create_group("layer_\u00b2")
    assert [layer.path for layer in batch_norms(archive.read(path))] == ["bn"]


def test_layers_of_one_name_are_all_kept(tmp_path):
    variables = [GAMMA, MEAN, MEAN, VARIANCE]
    sets = {"a": ("same", variables), "b": ("same", variables)}
    graph = archive.read(weights_file(tmp_path / "m.weights.h5", sets))
    assert [layer.path for layer in batch_norms(graph)] == ["same", "same#2"]


def test_an_unnamed_gamma_or_beta_is_said_and_is_no_initial_value(tmp_path):
    sets = {"a": ("bn_a", [GAMMA, [0, 0], [1, 1]])}
    report = bnscope.lint(weights_file(tmp_path / "m.weights.h5", sets))
    assert [(finding.code, str(finding.severity)) for finding in report] == [
        ("BN301", "error")
    ]
    assert "frozen on purpose is not known" in next(iter(report)).message
    assert [part.layer for part in report.not_analysed] == ["", "bn_a"]
    assert "gamma or beta" in report.not_analysed[1].reason


# What is not known is not claimed


def test_rules_on_momentum_are_silent_where_it_is_not_known(folder):
    report = bnscope.lint(folder / "network.keras")
    assert not [
        finding for finding in report if finding.code in {"BN202", "BN203", "BN204"}
    ]


def test_a_rule_says_which_epsilon_it_assumed(tmp_path):
    sets = {"a": ("bn", [GAMMA, MEAN, MEAN, [0.5, 1e-9]])}
    (finding,) = bnscope.lint(weights_file(tmp_path / "m.weights.h5", sets))
    assert finding.code == "BN304"
    assert "epsilon is not known and taken to be 0.001, Keras's default" in finding.message


def test_inspect_shows_what_is_not_known(folder, run_cli):
    _, out, _ = run_cli("inspect", folder / "network.keras", "--output-format", "json")
    row = json.loads(out)["layers"][0]
    unknown = ("momentum", "epsilon", "axis", "trainable")
    assert {name: row[name] for name in unknown} == dict.fromkeys(unknown)
    assert row["channels"] == 4
    assert "  ?  " in run_cli("inspect", folder / "network.keras")[1]


# A configuration that completes weights


@pytest.mark.parametrize("name", ["m.weights.h5", "m.h5"])
def test_weights_and_their_configuration_are_the_whole_model(
    name, folder, tmp_path, randomized
):
    model = randomized(functional())
    path = save(model, tmp_path / name)
    config = folder / "functional.json"
    graph = archive.read(path, config)
    assert not graph.not_analysed
    assert_same_values(graph, live.read(model))
    save(model, tmp_path / "whole.keras")
    expected = bnscope.lint(tmp_path / "whole.keras")
    report = bnscope.lint(path, config=config)
    assert report.findings == expected.findings
    assert {finding.code for finding in report} == {"BN101", "BN110", "BN203", "BN204"}
    alone = bnscope.lint(path)
    assert (alone.status, len(alone)) == ("partly", 0)


def test_the_command_line_takes_a_configuration(folder, tmp_path, randomized, run_cli):
    path = save(randomized(functional()), tmp_path / "m.weights.h5")
    option = ("--model-config", folder / "functional.json")
    assert run_cli("lint", path)[0] == 0
    code, out, _ = run_cli("lint", path, *option)
    assert code == 1
    assert "BN203" in out
    _, out, _ = run_cli("inspect", path, *option, "--output-format", "json")
    row = json.loads(out)["layers"][0]
    assert (row["layer"], row["momentum"], row["epsilon"]) == ("first", 0.1, 1e-5)
    code, _, err = run_cli("lint", path, "--model-config", path)
    assert (code, err.count("\n")) == (2, 1)
    assert "m.weights.h5 is a saved model or weights, and no JSON. Give what" in err


def mismatch(tmp_path, *parts):
    model = keras.Sequential([keras.Input((6,)), *parts], name="other")
    path = tmp_path / "other.json"
    path.write_text(model.to_json())
    return path


def reasons(path, config):
    return {
        part.layer: part.reason for part in bnscope.lint(path, config=config).not_analysed
    }


@pytest.fixture
def two_layers(tmp_path, randomized):
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4), BN(name="a"), BN(name="b")]
    )
    return save(randomized(model), tmp_path / "m.weights.h5")


def test_a_layer_that_the_weights_lack_is_named(two_layers, tmp_path):
    config = mismatch(tmp_path, layers.Dense(4), BN(name="a"), BN(name="b"), BN(name="c"))
    assert reasons(two_layers, config) == {
        "c": "the weights hold no values for it; the configuration may be another's"
    }


def test_a_layer_that_the_configuration_lacks_is_named(two_layers, tmp_path):
    config = mismatch(tmp_path, layers.Dense(4), BN(name="a"))
    assert reasons(two_layers, config) == {
        "": "the configuration has no BN layer for these in the weights: b"
    }


def test_another_number_of_channels_is_named(two_layers, tmp_path):
    config = mismatch(tmp_path, layers.Dense(9), BN(name="a"), BN(name="b"))
    assert reasons(two_layers, config) == dict.fromkeys(
        ("a", "b"),
        "the weights hold 4 channels, and by the configuration it has 9; they are of different models",
    )


def test_the_configuration_of_another_model_is_an_error(two_layers, tmp_path):
    with pytest.raises(UnreadableModelError, match="is that of another model: of the 2 BN"):
        bnscope.lint(two_layers, config=mismatch(tmp_path, layers.Dense(4)))


def test_a_configuration_where_none_belongs_is_an_error(folder, tmp_path, two_layers):
    config = folder / "functional.json"
    with pytest.raises(UnreadableModelError, match="is no weights file"):
        bnscope.lint(folder / "network.keras", config=config)
    with pytest.raises(BnscopeError, match="A live model has its own configuration"):
        bnscope.lint(functional(), config=config)
    with pytest.raises(UnreadableModelError, match=r"none\.json does not exist"):
        bnscope.lint(two_layers, config=tmp_path / "none.json")


def test_an_hdf5_file_of_something_else_is_refused(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as store:
        store["data"] = [1.0, 2.0]
    with pytest.raises(UnreadableModelError, match="holds no weights that Keras wrote"):
        archive.read(tmp_path / "m.h5")


# Files of Keras 2, as tf_keras writes them


def keras_2(kind, name, *inbound, **config):
    nodes = [[[source, call, 0, {}] for source, call in inbound]] if inbound else []
    return {
        "class_name": kind,
        "name": name,
        "config": {"name": name, "trainable": True, "dtype": "float32", **config},
        "inbound_nodes": nodes,
    }


def keras_2_bn(name, *inbound, **config):
    options = {
        "axis": [3],
        "momentum": 0.99,
        "epsilon": 0.001,
        "scale": True,
        "center": True,
    }
    return keras_2("BatchNormalization", name, *inbound, **{**options, **config})


def keras_2_conv(name, *inbound):
    return keras_2(
        "Conv2D",
        name,
        *inbound,
        filters=2,
        kernel_size=[3, 3],
        strides=[1, 1],
        padding="same",
        data_format="channels_last",
        activation="linear",
        use_bias=True,
    )


def keras_2_input(name):
    return keras_2("InputLayer", name, batch_input_shape=[None, 8, 8, 3])


def keras_2_nested():
    """Input, a model with a Sequential inside and a BN, `x * 2`, a wrapped BN, and a BN."""
    sequential = keras_2("Sequential", "inner", ("in_2", 0))
    sequential["config"] = {
        "name": "inner",
        "layers": [keras_2_input("in_3"), keras_2_conv("conv"), keras_2_bn("inner_bn")],
    }
    middle = keras_2("Functional", "middle", ("in_1", 0))
    middle["config"] = {
        "name": "middle",
        "layers": [
            keras_2_input("in_2"),
            sequential,
            keras_2_bn("middle_bn", ("inner", 1)),
        ],
        "input_layers": [["in_2", 0, 0]],
        "output_layers": [["middle_bn", 0, 0]],
    }
    double = keras_2("TFOpLambda", "tf.math.multiply", function="math.multiply")
    double["inbound_nodes"] = [["middle", 1, 0, {"y": 2.0, "name": None}]]
    wrapped = keras_2(
        "TimeDistributed", "wrapped", ("tf.math.multiply", 0), layer=keras_2_bn("each")
    )
    return {
        "class_name": "Functional",
        "config": {
            "name": "outer",
            "layers": [
                keras_2_input("in_1"),
                middle,
                double,
                wrapped,
                keras_2_bn("last", ("wrapped", 0), scale=False, momentum=0.1),
            ],
            "input_layers": [["in_1", 0, 0]],
            "output_layers": [["last", 0, 0]],
        },
        "keras_version": "2.21.0",
        "backend": "tensorflow",
    }


# Path in the graph -> group and name by which Keras 2 saves it; place in its `.keras`.
KERAS_2 = {
    "middle/inner/inner_bn": ("middle", "inner_bn", "functional/layers/sequential/layers/batch_normalization"),
    "middle/middle_bn": ("middle", "middle_bn", "functional/layers/batch_normalization"),
    "wrapped/each": ("wrapped", "wrapped", "time_distributed/layer"),
    "last": ("last", "last", "batch_normalization"),
}  # fmt: skip


def keras_2_values():
    """Other values for each layer, negative gammas among them."""
    for number, path in enumerate(KERAS_2, 1):
        parts = {"gamma": [-number, 0.5], "beta": [0.1, number]}
        if path == "last":
            del parts["gamma"]
        statistics = {"moving_mean": [number, -0.5], "moving_variance": [number + 0.5, 2.5]}
        yield path, {**parts, **statistics}


def write_legacy(group):
    order = ["in_1", "middle", "tf.math.multiply", "wrapped", "last"]
    group.attrs["layer_names"] = np.array(order, "S")
    names = {name: [] for name in order}
    for path, parts in keras_2_values():
        layer, owner, _ = KERAS_2[path]
        for variable, content in parts.items():
            names[layer].append(f"{owner}/{variable}:0")
            group[f"{layer}/{owner}/{variable}:0"] = np.float32(content)
    for layer, found in names.items():
        group.require_group(layer).attrs["weight_names"] = np.array(found, "S")


def write_numbered(store, container):
    for path, parts in keras_2_values():
        place = KERAS_2[path][2].replace("layers", container)
        for index, content in enumerate(parts.values()):
            store[f"{container}/{place}/vars/{index}"] = np.float32(content)


def keras_2_file(folder, kind):
    config = json.dumps(keras_2_nested())
    if kind == ".h5":
        with h5py.File(folder / "m.h5", "w") as store:
            store.attrs.update(model_config=config, keras_version="2.21.0")
            write_legacy(store.create_group("model_weights"))
        return folder / "m.h5"
    with h5py.File(folder / "weights.h5", "w") as store:
        write_numbered(store, kind)
    with zipfile.ZipFile(folder / "m.keras", "w") as file:
        file.writestr("config.json", config)
        file.write(folder / "weights.h5", "model.weights.h5")
    return folder / "m.keras"


FORMATS = [".h5", "layers", "_layer_checkpoint_dependencies"]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_model_of_keras_2_is_read_with_its_values(kind, tmp_path):
    graph = archive.read(keras_2_file(tmp_path, kind))
    assert [call.layer.path for call in graph.calls] == [
        "middle/inner/conv",
        "middle/inner/inner_bn",
        "middle/middle_bn",
        "tf.math.multiply",
        "wrapped",
        "last",
    ]
    assert not graph.not_analysed
    for path, expected in keras_2_values():
        found = {
            name: each.read().tolist() for name, each in graph.layer(path).variables.items()
        }
        assert found == {name: np.float32(each).tolist() for name, each in expected.items()}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_model_of_keras_2_is_linted(kind, tmp_path):
    report = bnscope.lint(keras_2_file(tmp_path, kind))
    found = {(finding.code, finding.layer) for finding in report}
    assert {
        ("BN101", "middle/inner/conv"),
        ("BN105", "middle/middle_bn"),
        ("BN203", "last"),
    } <= found
    assert report.status == "analysed"


def test_legacy_weights_of_keras_2_alone_give_names_and_values(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as store:
        write_legacy(store)
    graph = archive.read(tmp_path / "w.h5")
    assert {path.rpartition("/")[2] for path in values(graph)} == {
        "inner_bn",
        "middle_bn",
        "wrapped",
        "last",
    }
    assert graph.layer("last").config == {"scale": False, "center": True, "renorm": False}


def test_legacy_weights_of_keras_2_are_completed_by_their_configuration(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as store:
        write_legacy(store)
    (tmp_path / "m.json").write_text(json.dumps(keras_2_nested()))
    graph = archive.read(tmp_path / "w.h5", tmp_path / "m.json")
    assert not graph.not_analysed
    assert_same_values(graph, archive.read(keras_2_file(tmp_path, ".h5")))


def test_cold_statistics_are_not_told_from_a_momentum_that_is_not_known(tmp_path):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.bn = layers.BatchNormalization(momentum=0.5)
            self.head = layers.Dense(1)

        def call(self, x, training=None):
            return self.head(self.bn(x, training=training))

    model = Net()
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(3.0, 2.0, (96, 4))
    model.fit(x, np.zeros((96, 1)), verbose=0)  # 3 steps, at 0.99 as cold as can be
    model.save(tmp_path / "net.keras")
    report = bnscope.lint(tmp_path / "net.keras")
    assert report.status == "partly"
    assert "BN302" not in {finding.code for finding in report}
