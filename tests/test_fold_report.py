"""What folding reports: savings, costs, ranges of weights, times, and what the model keeps."""

from __future__ import annotations

import json

import h5py
import keras
import numpy as np
import pytest
from conftest import randomize_batch_norms
from keras import layers

import bnscope
from bnscope.errors import BnscopeError
from bnscope.folding import fold
from bnscope.folding.plan import make_plan
from bnscope.folding.ranges import channel_ranges, fold_ranges
from bnscope.folding.report import expected
from bnscope.folding.text import result_sections
from bnscope.graph import archive, live
from bnscope.graph.costs import multiply_adds
from bnscope.sections import as_text

BN = layers.BatchNormalization


def randomize(model, seed=3):
    randomize_batch_norms(model, np.random.default_rng(seed))
    return model


def small(**options):
    """One BN folded backward, one forward, one kept."""
    inputs = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(8, 3, use_bias=False, name="conv", **options)(inputs)
    x = layers.ReLU(name="relu")(BN(name="bn")(layers.Dropout(0.1, name="drop")(x)))
    x = layers.ReLU(name="relu_2")(BN(name="kept")(x))
    x = layers.Conv2D(5, 1, use_bias=False, name="behind")(BN(name="before")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(layers.ReLU(name="relu_3")(x))
    return randomize(keras.Model(inputs, layers.Dense(2, name="head")(x), name="small"))


def wide(variances=(1e-4, 1.0, 1e4, 1.0), **options):
    """A kernel of ones, so that the ranges after folding are the scales."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(len(variances), 3, kernel_initializer="ones", name="conv"),
            BN(name="bn", epsilon=0.0, **options),
            layers.ReLU(),
        ]
    )
    model.get_layer("bn").moving_variance.assign(variances)
    return model


# --- multiply-adds


@pytest.mark.parametrize(
    ("shape", "layer", "count"),
    [
        ((10, 9, 4), lambda: layers.Conv2D(6, 3, strides=2), 4 * 4 * 6 * 9 * 4),
        ((10, 9, 4), lambda: layers.Conv2D(6, (3, 1), groups=2), 8 * 9 * 6 * 3 * 2),
        ((10, 9, 4), lambda: layers.Conv2D(6, 3, dilation_rate=2), 6 * 5 * 6 * 9 * 4),
        ((10, 4), lambda: layers.Conv1D(6, 3, padding="causal"), 10 * 6 * 3 * 4),
        ((5, 5, 5, 2), lambda: layers.Conv3D(3, 2), 4**3 * 3 * 8 * 2),
        ((10, 9, 4), lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), 8 * 7 * 8 * 9),
        ((10, 4), lambda: layers.SeparableConv1D(6, 3), 8 * (4 * 3 + 4 * 6)),
        ((5, 4, 3), lambda: layers.Conv2DTranspose(6, 3, strides=2), 5 * 4 * 3 * 9 * 6),
        ((7,), lambda: layers.Dense(5), 35),
        ((6, 7), lambda: layers.Dense(5), 6 * 35),
        ((6, 7), lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)), 6 * 7 * 6),
        ((6, 7), lambda: layers.EinsumDense("...x,xy->...y", 4), 6 * 7 * 4),
        ((6, 7), lambda: layers.LSTM(4), 6 * 4 * 4 * (7 + 4)),
        ((6, 7), lambda: layers.Bidirectional(layers.GRU(4)), 2 * 6 * 3 * 4 * (7 + 4)),
        ((6, 7), lambda: layers.TimeDistributed(layers.Dense(5)), 6 * 35),
        ((10, 9, 4), BN, 360),
        ((10, 9, 4), layers.ReLU, 0),
        ((10, 9, 4), lambda: layers.MaxPooling2D(2), 0),
    ],
)
def test_the_multiply_adds_of_a_layer_are_those_of_its_formula(shape, layer, count):
    costs = multiply_adds(live.read(keras.Sequential([keras.Input(shape), layer()])))
    assert (costs.total, dict(costs.uncounted)) == (count, {})


def test_the_multiply_adds_of_attention_are_those_of_its_projections_and_scores():
    query, value = keras.Input((5, 8)), keras.Input((7, 6))
    attention = layers.MultiHeadAttention(2, 3, value_dim=4)
    model = keras.Model([query, value], attention(query, value))
    projections = 5 * 8 * 6 + 7 * 6 * 6 + 7 * 6 * 8 + 5 * 8 * 8
    assert multiply_adds(live.read(model)).total == projections + 2 * 5 * 7 * (3 + 4)


def test_they_agree_with_the_operations_that_tensorflow_counts():
    import tensorflow as tf

    model = keras.Sequential(
        [
            keras.Input((12, 12, 4)),
            layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False),
            layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
            layers.Conv2D(5, 1, use_bias=False),
            layers.Flatten(),
            layers.Dense(3, use_bias=False),
        ]
    )
    function = tf.function(model).get_concrete_function(tf.TensorSpec((1, 12, 12, 4)))
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    counted = tf.compat.v1.profiler.profile(
        function.graph, options={**options, "output": "none"}
    )
    assert 2 * multiply_adds(live.read(model)).total == counted.total_float_ops


def test_what_is_not_counted_is_named_with_its_calls():
    inputs = keras.Input((6, 7))
    shared = layers.LayerNormalization()
    x = layers.Attention()([shared(inputs), shared(shared(inputs))])
    costs = multiply_adds(live.read(keras.Model(inputs, layers.Dense(4)(x))))
    assert dict(costs.uncounted) == {"LayerNormalization": 3, "Attention": 1}
    assert costs.total == 6 * 7 * 4


def test_open_sizes_are_filled_in_and_said():
    inputs = keras.Input((None, None, 3))
    x = keras.ops.relu(layers.Conv2D(4, 3, padding="same", strides=2)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(BN()(x))))
    costs = multiply_adds(live.read(model))
    assert costs.samples == ((224, 224, 3),)
    assert costs.total == 112 * 112 * 4 * (27 + 1) + 8


@pytest.mark.parametrize(
    "kernel_size", ["x", [3] * 1_000_000, [10**400, 3], -3, None, [[3], 3]]
)
def test_a_configuration_that_makes_no_sense_is_not_counted(tmp_path, kernel_size):
    config = json.loads(small().to_json())
    conv = next(each for each in config["config"]["layers"] if each["name"] == "conv")
    conv["config"]["kernel_size"] = kernel_size
    (tmp_path / "model.json").write_text(json.dumps(config))
    costs = multiply_adds(archive.read(tmp_path / "model.json"))
    assert costs.uncounted == {"Conv2D": 1}


# --- savings


def models():
    inputs = keras.Input((6, 8))
    x = layers.EinsumDense("abc,cde->abde", (None, 4, 3))(inputs)
    einsum = keras.Model(inputs, layers.ReLU()(BN()(x)))
    chain = keras.Sequential(
        [
            *(keras.Input((9, 4)), layers.DepthwiseConv1D(3, depth_multiplier=2), BN()),
            *(layers.ReLU(), BN(center=False), layers.ReLU(), BN(), layers.Conv1D(3, 1)),
            *(layers.SeparableConv1D(5, 2, use_bias=False), BN(scale=False)),
        ]
    )
    twice = keras.Sequential(
        [
            *(keras.Input((4,)), layers.ReLU(), BN(scale=False, center=False), BN()),
            *(layers.ReLU(), layers.Dense(2, use_bias=False), BN(), layers.Softmax()),
        ]
    )
    return [small(), einsum, chain, twice]


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("suffix", [".keras", ".h5", ".json"])
def test_a_dry_run_says_the_savings_that_the_fold_then_has(tmp_path, index, suffix):
    model = randomize(models()[index])
    path = tmp_path / f"model{suffix}"
    path.write_text(model.to_json()) if suffix == ".json" else model.save(path)
    result = fold(model)
    graph = archive.read(path)
    if suffix == ".json" and make_plan(graph).to_dict() != result.plan.to_dict():
        pytest.skip("without statistics another plan is made")
    report = expected(graph, make_plan(graph))
    before, after = model.count_params(), result.model.count_params()
    assert result.report.parameters.to_dict() == {
        "before": before,
        "after": after,
        "saved": before - after,
    }
    assert report.parameters_saved == before - after > 0
    assert report.multiply_adds == result.report.multiply_adds
    assert result.report.multiply_adds.saved > 0


def test_layers_are_counted_before_and_after():
    result = fold(small())
    assert result.report.layers.to_dict() == {"before": 11, "after": 9, "saved": 2}
    assert result.report.batch_norms.to_dict() == {"before": 3, "after": 1, "saved": 2}
    assert result.report.reasons == {"no-linear-neighbour": 1}


# --- ranges of weights


def test_the_ranges_after_folding_are_the_scales_where_the_kernel_is_one():
    result = fold(wide())
    (kernel,) = result.report.ranges.kernels
    assert (kernel.layer, kernel.variable, kernel.along) == ("conv", "kernel", "output")
    assert kernel.before == 1
    assert kernel.after == pytest.approx(1e4, rel=1e-6)
    assert (kernel.widest.channel, kernel.narrowest.channel) == (0, 2)
    assert kernel.widest.range == pytest.approx(100.0)
    assert kernel.narrowest.range == pytest.approx(0.01)


def test_channels_that_compute_nothing_are_left_out():
    model = wide((1.0, 1.0, 0.25, 1.0))
    model.get_layer("bn").gamma.assign([0.0, 1.0, 1.0, 1e-9])
    (kernel,) = fold(model).report.ranges.kernels
    assert (kernel.after, kernel.left_out) == (pytest.approx(2.0), 2)
    assert kernel.before == 1


@pytest.mark.parametrize(
    ("shape", "layer", "axes"),
    [
        ((9, 4), lambda: layers.Conv1D(6, 3), 2),
        ((8, 8, 4), lambda: layers.Conv2DTranspose(6, 3), 2),
        ((8, 8, 4), lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (2, 3)),
        ((8, 8, 4), lambda: layers.SeparableConv2D(6, 3), 3),
        ((5,), lambda: layers.Dense(6), 1),
        ((6, 7), lambda: layers.EinsumDense("abc,cde->abde", (6, 4, 3)), (1, 2)),
    ],
)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_files_and_live_models_give_the_same_ranges(tmp_path, shape, layer, axes, suffix):
    model = keras.Sequential(
        [keras.Input(shape), layer(), BN(), layers.ReLU(), layers.Flatten(), BN()]
    )
    model.save(tmp_path / f"model{suffix}")
    randomize(model).save(tmp_path / f"model{suffix}")
    result = fold(model)
    (kernel,) = result.report.ranges.kernels
    variable = {v.name: v for v in result.model.layers[0].variables}[kernel.variable]
    values = np.abs(keras.ops.convert_to_numpy(variable))
    kept = np.atleast_1d(axes)
    if isinstance(result.model.layers[0], layers.Conv1D):
        kept = np.array([2])
    others = tuple(axis for axis in range(values.ndim) if axis not in kept)
    ranges = values.max(others)
    assert kernel.after == pytest.approx(ranges.max() / ranges.min())
    graph = archive.read(tmp_path / f"model{suffix}")
    with graph.with_kernels() as opened:
        found = fold_ranges(opened, make_plan(graph))
    (saved,) = found.kernels
    assert not found.not_read
    assert (saved.widest.channel, saved.narrowest.channel) == (
        kernel.widest.channel,
        kernel.narrowest.channel,
    )
    assert saved.after == pytest.approx(kernel.after, rel=1e-5)
    assert saved.before == pytest.approx(kernel.before, rel=1e-5)


def test_a_forward_fold_is_judged_along_the_inputs_that_it_scales():
    inputs = keras.Input((6,))
    x = layers.ReLU()(inputs)
    x = layers.Dense(3, name="dense", kernel_initializer="ones")(BN(epsilon=0.0)(x))
    model = keras.Model(inputs, x)
    model.layers[2].moving_variance.assign([1e-4, 1, 1, 1, 1, 1e4])
    (kernel,) = fold(model).report.ranges.kernels
    assert (kernel.along, kernel.widest.channel, kernel.narrowest.channel) == (
        "input",
        0,
        5,
    )
    assert kernel.after == pytest.approx(1e4, rel=1e-6)


def test_the_range_of_a_channel_is_its_largest_absolute_weight():
    kernel = np.array([[[1.0, -4.0], [2.0, 3.0]], [[-5.0, 0.0], [0.5, -1.0]]])
    assert channel_ranges(kernel, (-1,)).tolist() == [5.0, 4.0]
    assert channel_ranges(kernel, (-2,)).tolist() == [5.0, 3.0]
    assert channel_ranges(kernel, (-3, -1)).tolist() == [2.0, 4.0, 5.0, 1.0]
    assert channel_ranges(np.zeros((0, 3)), (-1,)).size == 0


# --- BN602


def found(path_or_model, **options):
    return list(bnscope.lint(path_or_model, select="BN602", **options))


def test_the_rule_names_the_layer_the_factors_and_the_channels(tmp_path):
    wide().save(tmp_path / "model.keras")
    (finding,) = found(tmp_path / "model.keras")
    assert (finding.layer, str(finding.severity)) == ("conv", "info")
    assert finding.message == (
        "after folding, the weights of its output channels differ by a factor of 1e+04 "
        "(1 before): up to 100 in channel 0, 0.01 in channel 2. With one int8 scale for the "
        "whole kernel, narrow channels are rounded to a few steps or to zero."
    )
    assert finding.data["after"] == pytest.approx(1e4)
    assert [each.data for each in found(wide())] == [finding.data]


def test_the_rule_is_off_unless_selected(tmp_path):
    wide().save(tmp_path / "model.keras")
    assert "BN602" not in {
        finding.code for finding in bnscope.lint(tmp_path / "model.keras")
    }


def damaged(tmp_path, damage):
    path = tmp_path / "model.h5"
    wide().save(path)
    with h5py.File(path, "a") as store:
        group = store["model_weights/conv"]
        (name,) = [name for name in group.attrs["weight_names"] if "kernel" in str(name)]
        damage(group, name)
    return path


def claim(group, name, **options):
    del group[name]
    group.create_dataset(name, **{"shape": (1 << 13, 1 << 13), "dtype": "f4", **options})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (claim, "claims 67,108,864 values, more than any kernel that is read"),
        (lambda g, n: claim(g, n, shape=(2, 2)), "does not fit its configuration"),
        (lambda g, n: claim(g, n, shape=(3, 3, 3, 5)), "does not fit its configuration"),
        (lambda g, n: claim(g, n, shape=(4,), dtype="S3"), "holds no numbers"),
        (lambda g, n: g.__delitem__(n), "does not fit its configuration"),
        (
            lambda g, n: claim(
                g, n, shape=(900, 4), compression="lzf", data=np.ones((900, 4))
            ),
            "is packed by the HDF5 filters",
        ),
    ],
)
def test_a_kernel_that_cannot_be_read_is_named_and_nothing_else_suffers(
    tmp_path, damage, message
):
    path = damaged(tmp_path, damage)
    (finding,) = found(path)
    assert finding.layer == "conv"
    assert finding.message.startswith("its weight ranges were not checked: ")
    assert message in finding.message
    assert bnscope.lint(path).ok is not None


def test_weights_that_are_not_finite_are_named():
    model = wide()
    kernel = np.ones((3, 3, 3, 4), "float32")
    kernel[0, 0, 0, 1] = np.nan
    model.get_layer("conv").kernel.assign(kernel)
    (finding,) = found(model)
    assert "not checked: its weights are not all finite" in finding.message


def test_a_link_to_another_file_is_not_followed_and_other_rules_do_not_meet_it(tmp_path):
    def link(group, name):
        group.file.create_dataset("/elsewhere", data=np.ones((3, 3, 3, 4)))
        del group[name]
        group[name] = h5py.ExternalLink("other.h5", "/elsewhere")

    path = damaged(tmp_path, link)
    assert bnscope.lint(path)
    with pytest.raises(BnscopeError, match="Links are never followed"):
        found(path)


def test_kernels_of_nested_models_and_wrappers_are_found_in_files(tmp_path):
    inputs = keras.Input((8, 8, 3))
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name="c")], name="in"
    )
    x = layers.ReLU()(BN(name="bn")(inner(inputs)))
    x = BN(name="bn2")(layers.DepthwiseConv2D(3, name="d")(x))
    model = randomize(keras.Model(inputs, layers.ReLU()(x)))
    live_ranges = fold(model).report.ranges
    assert [kernel.layer for kernel in live_ranges.kernels] == ["in/c", "d"]
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"model{suffix}")
        graph = archive.read(tmp_path / f"model{suffix}")
        with graph.with_kernels() as opened:
            ranges = fold_ranges(opened, make_plan(graph))
        assert not ranges.not_read
        for one, other in zip(ranges.kernels, live_ranges.kernels, strict=True):
            assert one.after == pytest.approx(other.after, rel=1e-5)


def test_weights_with_a_configuration_are_checked_too(tmp_path):
    model = wide()
    model.save_weights(tmp_path / "model.weights.h5")
    (tmp_path / "model.json").write_text(model.to_json())
    (finding,) = found(tmp_path / "model.weights.h5", config=tmp_path / "model.json")
    assert finding.data["after"] == pytest.approx(1e4)
    assert found(tmp_path / "model.json") == []


def test_a_file_that_is_gone_when_the_kernels_are_read_is_one_error(tmp_path):
    wide().save(tmp_path / "model.keras")
    graph = archive.read(tmp_path / "model.keras")
    (tmp_path / "model.keras").unlink()
    with pytest.raises(BnscopeError, match="does not exist"), graph.with_kernels():
        pass


# --- times


def test_both_models_are_timed_in_turns_and_left_as_they_were():
    model = keras.Sequential(
        [
            *(keras.Input((5, 3), batch_size=2), layers.LSTM(4, stateful=True)),
            *(layers.Dense(3), BN()),
        ]
    )
    result = fold(randomize(model))
    before = [keras.ops.convert_to_numpy(v) for v in model.layers[0].states]
    benchmark = result.benchmark(rounds=5)
    after = [keras.ops.convert_to_numpy(v) for v in model.layers[0].states]
    assert all(np.array_equal(*pair) for pair in zip(before, after, strict=True))
    assert (benchmark.batch_size, benchmark.rounds) == (2, 5)
    assert benchmark.shapes == ((2, 5, 3),)
    for times in (benchmark.before, benchmark.after, benchmark.ratio):
        assert 0 < times.lower <= times.median <= times.upper
    assert json.loads(json.dumps(benchmark.to_dict()))["backend"] == keras.backend.backend()
    assert "times as fast" in str(benchmark)
    assert not model.compiled


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 3}, r"The batch size cannot be 3\. The model takes batches of 2\."),
        ({"batch_size": 0}, "The batch size cannot be 0"),
        ({"rounds": 0}, "There cannot be 0 rounds"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    inputs = keras.Input((4,), batch_size=2)
    result = fold(randomize(keras.Model(inputs, BN()(layers.Dense(3)(inputs)))))
    with pytest.raises(BnscopeError, match=message):
        result.benchmark(**arguments)


def test_models_with_several_inputs_and_of_integers_are_timed():
    words, other = (
        keras.Input((None,), dtype="int32", name="w"),
        keras.Input((3,), name="o"),
    )
    x = layers.GlobalAveragePooling1D()(BN()(layers.Embedding(10, 4)(words)))
    model = keras.Model({"w": words, "o": other}, [layers.Concatenate()([x, other])])
    benchmark = fold(randomize(model)).benchmark(batch_size=3, rounds=2)
    assert {shape[0] for shape in benchmark.shapes} == {3}


# --- what is printed


def test_the_report_reads_from_what_is_kept_to_the_numbers(tmp_path):
    model = small(kernel_constraint="max_norm")
    model.compile("adam", "mse")
    result = fold(model)
    text = str(result)
    order = ["Kept: no-linear-neighbour (1)", "Folded (2)", "Weight ranges", "parameters"]
    places = [text.index(part) for part in [*order, "Verified", "Multiply-adds are"]]
    assert places == sorted(places)
    assert text.splitlines()[7].split() == ["before", "behind", "forward"]
    assert "(12, 12, 3)" in text
    assert "Constraints and regularizers stay on the changed weights of conv;" in text
    assert "The compile state (optimizer Adam, loss and metrics) is dropped" in text
    model.save(tmp_path / "model.keras")
    assert str(fold(tmp_path / "model.keras")) == text


def test_wide_ranges_are_shown_with_the_worst_first():
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for index in range(8):
        x = layers.Conv2D(2, 1, name=f"conv{index}", kernel_initializer="ones")(x)
        x = layers.ReLU()(BN(name=f"bn{index}", epsilon=0.0)(x))
    model = keras.Model(inputs, x)
    for index in range(8):
        model.get_layer(f"bn{index}").moving_variance.assign([1.0, 16.0 ** -(index + 2)])
    lines = str(fold(model)).splitlines()
    start = lines.index("Largest weight range of a channel over the smallest")
    assert [line.split()[0] for line in lines[start + 2 : start + 7]] == [
        f"conv{index}" for index in (7, 6, 5, 4, 3)
    ]
    assert lines[start + 2].split()[1:3] == ["1", "262,144"]
    assert lines[start + 7].startswith("1 more:")
    assert lines[start + 8].startswith("The channels of 6 kernels differ by more than 100")


def test_a_model_without_batch_norm_is_said_in_a_sentence(run_cli, tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    assert as_text(result_sections(fold(model))).startswith("There is no BN layer to fold.")
    model.save(tmp_path / "model.keras")
    code, out, err = run_cli("fold", tmp_path / "model.keras", "--dry-run")
    assert (code, out, err) == (0, "There is no BN layer to fold.\n", "")


def test_the_command_prints_the_report_and_json(run_cli, tmp_path):
    small().save(tmp_path / "model.keras")
    code, out, _ = run_cli("fold", tmp_path / "model.keras", "--dry-run")
    assert code == 0
    assert out.splitlines()[-1] == (
        "2 of 3 BN layers can be folded; kept: 1 no-linear-neighbour."
    )
    arguments = ["fold", tmp_path / "model.keras", "--output-format", "json"]
    code, out, _ = run_cli(*arguments, "--dry-run")
    planned = json.loads(out)
    assert planned["multiply_adds"]["samples"] == [[12, 12, 3]]
    assert planned["not_analysed"] == []
    code, out, _ = run_cli(*arguments, "-o", tmp_path / "out.keras", "--benchmark")
    made = json.loads(out)
    assert made["benchmark"]["before"]["median"] > 0
    assert made["parameters"]["saved"] == planned["parameters"]["saved"]
    assert made["multiply_adds"] == planned["multiply_adds"]
    assert made["ranges"]["kernels"][0]["layer"] == "conv"


def test_options_that_do_nothing_are_refused(run_cli, tmp_path):
    small().save(tmp_path / "model.keras")
    path = tmp_path / "model.keras"
    code, _, err = run_cli("fold", path, "--dry-run", "--benchmark")
    assert (code, "no model whose inference could be timed" in err) == (2, True)
    code, _, err = run_cli("fold", path, "--dry-run", "-o", "folded.keras")
    assert code == 2
    assert "A dry run writes nothing." in err
    code, _, err = run_cli("fold", path, "--dry-run", "--batch-size", "0")
    assert (code, "--batch-size cannot be 0" in err) == (2, True)


def test_the_notebook_shows_escaped_html():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, BN(name="bn<b>")(layers.Dense(3, name="<i>")(inputs)))
    html = fold(randomize(model))._repr_html_()
    assert "bn&lt;b&gt;" in html
    assert "<i>" not in html
    assert "1 of 1 BN layer folded" in html


# --- what the new model keeps


def test_options_of_layers_are_kept_whether_they_take_up_batch_norm_or_not():
    inputs = keras.Input((8, 8, 3), name="image")
    options = {
        "kernel_regularizer": keras.regularizers.L2(0.25),
        "kernel_constraint": keras.constraints.MaxNorm(0.5, axis=(0, 1, 2)),
        "bias_regularizer": "l1",
        "bias_constraint": "non_neg",
        "activity_regularizer": "l2",
    }
    x = layers.Conv2D(4, 3, use_bias=False, name="changed", **options)(inputs)
    x = layers.ReLU(name="relu")(BN(name="bn")(x))
    x = layers.Conv2D(4, 3, name="untouched", trainable=False, **options)(x)
    model = randomize(keras.Model(inputs, layers.Flatten(name="flat")(x)))
    new = fold(model).model
    config = model.get_layer("changed").get_config()
    assert new.get_layer("changed").get_config() == {**config, "use_bias": True}
    for name in ("relu", "untouched", "flat"):
        assert new.get_layer(name).get_config() == model.get_layer(name).get_config()
        assert new.get_layer(name).trainable == model.get_layer(name).trainable
    changed = {variable.name: variable for variable in new.get_layer("changed").variables}
    assert isinstance(changed["kernel"].constraint, keras.constraints.MaxNorm)
    assert isinstance(changed["bias"].constraint, keras.constraints.NonNeg)
    assert changed["kernel"].regularizer.l2 == 0.25
    # A constraint acts after a step of training, never on the folded values themselves.
    assert np.any(keras.ops.convert_to_numpy(changed["bias"]) < 0)
    for old, made in zip(
        model.get_layer("untouched").variables,
        new.get_layer("untouched").variables,
        strict=True,
    ):
        assert (old.name, old.dtype, old.trainable) == (
            made.name,
            made.dtype,
            made.trainable,
        )
        assert np.array_equal(*map(keras.ops.convert_to_numpy, (old, made)))


def test_trainable_flags_survive_on_changed_layers_wherever_they_are():
    inner = keras.Sequential(
        [keras.Input((8,)), layers.Dense(4, name="a"), BN(name="n"), layers.ReLU()],
        name="in",
    )
    inputs = keras.Input((8,))
    x = layers.ReLU()(BN(name="m")(layers.Dense(3, name="b")(inner(inputs))))
    model = randomize(keras.Model(inputs, layers.Dense(2, name="c")(x)))
    inner.get_layer("a").trainable = False
    model.get_layer("b").trainable = False
    new = fold(model).model
    assert new.trainable
    assert new.get_layer("in").trainable
    assert not new.get_layer("in").get_layer("a").trainable
    assert not new.get_layer("b").trainable
    assert [v.path for v in new.trainable_variables] == ["c/kernel", "c/bias"]
    model.trainable = False
    assert not fold(model).model.trainable


def test_the_compile_state_is_dropped_from_the_new_model_alone(tmp_path):
    model = small()
    model.compile(keras.optimizers.SGD(0.5), "mse", metrics=["mae"])
    model.fit(np.zeros((2, 12, 12, 3)), np.zeros((2, 2)), verbose=0)
    result = fold(model)
    assert result.report.compile_state == "optimizer SGD, loss and metrics"
    assert not result.model.compiled
    assert getattr(result.model, "optimizer", None) is None
    assert model.compiled
    assert int(model.optimizer.iterations) == 1
    model.save(tmp_path / "model.keras")
    again = fold(tmp_path / "model.keras")
    assert again.report.compile_state == "optimizer SGD, loss and metrics"
    again.save(tmp_path / "out.keras")
    assert not keras.models.load_model(tmp_path / "out.keras").compiled
    assert fold(small()).report.compile_state is None


def test_dtype_policies_of_untouched_layers_are_kept():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="changed", dtype="mixed_bfloat16")(inputs)
    x = layers.ReLU(name="relu", dtype="bfloat16")(BN(name="bn", dtype="mixed_bfloat16")(x))
    x = layers.Flatten(name="flat", dtype="float32")(x)
    model = randomize(keras.Model(inputs, layers.Dense(2, name="d", dtype="float64")(x)))
    new = fold(model).model
    for name in ("changed", "relu", "flat", "d"):
        policies = [each.get_layer(name).dtype_policy.name for each in (model, new)]
        assert policies[0] == policies[1]
    assert [tensor.dtype for tensor in new.outputs] == ["float64"]


def test_sizes_that_a_model_cannot_take_give_way_to_those_it_was_verified_with():
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(10, 4, name="words")(inputs)
    x = layers.Lambda(lambda x: x[:, :40] + np.zeros((1, 16, 1), "float32"))(x)
    model = randomize(keras.Model(inputs, layers.Dense(2)(BN()(layers.Dense(3)(x)))))
    assert fold(model).benchmark(rounds=1).shapes == ((1, 16),)


@pytest.mark.slow
def test_what_a_file_makes_a_rule_read_has_an_end(tmp_path):
    count, width = 34, 4096
    parts = [keras.Input((width,))]
    for index in range(count):
        parts += [layers.Dense(1, use_bias=False, name=f"dense{index}")]
        parts += [BN(name=f"bn{index}"), layers.ReLU()]
    config = json.loads(keras.Sequential(parts).to_json())
    for layer in config["config"]["layers"]:
        layer.pop("build_config", None)
        if layer["class_name"] == "Dense":
            layer["config"]["units"] = width
    with h5py.File(tmp_path / "model.h5", "w") as store:
        store.attrs["model_config"] = json.dumps(config)
        kernel = store.create_dataset("kernel", (width, width), "f4")  # takes no room
        vector = store.create_dataset("vector", data=np.ones(width, "f4"))
        for index in range(count):
            for name, variables in {
                f"dense{index}": {"kernel": kernel},
                f"bn{index}": dict.fromkeys(
                    ("gamma", "beta", "moving_mean", "moving_variance"), vector
                ),
            }.items():
                group = store.create_group(f"model_weights/{name}")
                group.attrs["weight_names"] = [f"{name}/{key}" for key in variables]
                for key, data in variables.items():
                    group[f"{name}/{key}"] = data
    findings = found(tmp_path / "model.h5")
    assert [finding.layer for finding in findings] == ["dense32", "dense33"]
    assert "more than 536,870,912 values" in findings[0].message
