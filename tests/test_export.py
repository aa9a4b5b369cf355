"""Export: each artifact is run in its real runtime and compared with the Keras model."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import bnscope
from bnscope.cli import main
from bnscope.errors import (
    BnscopeError,
    OutputExistsError,
    UnsupportedModelError,
    VerificationError,
)
from bnscope.exporting import engine, export, find_format, onnx
from bnscope.exporting.placing import move_into_place
from bnscope.exporting.quiet import quietly

MISSING = [
    name
    for name in ("tf2onnx", "onnx", "onnxruntime", "ai_edge_litert", "openvino")
    if importlib.util.find_spec(name) is None
]
# In CI they have to be there: the extra `dev` brings them.
if MISSING and "CI" not in os.environ:
    pytest.skip(
        f"not installed: {', '.join(MISSING)} (the extra export)", allow_module_level=True
    )
layers = keras.layers
BN = layers.BatchNormalization
NAMES = {
    "tf_saved_model": "model",
    "onnx": "model.onnx",
    "litert": "model.tflite",
    "openvino": "model.xml",
}
each_format = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)


def network(**options):
    """A BN that is folded, and one that stays, behind an activation and before a maximum."""
    inputs = keras.Input((12, 12, 3), name="image", **options)
    x = layers.ReLU()(BN()(layers.Conv2D(4, 3)(inputs)))
    heads = {
        "zebra": layers.GlobalAveragePooling2D()(x),
        "ant": layers.GlobalMaxPooling2D()(BN(name="stays")(x)),
    }
    return keras.Model(inputs, heads)


def two_inputs():
    """Inputs and outputs that could be mixed up: of one shape, named against their order."""
    first, second = keras.Input((4,), name="b"), keras.Input((4,), name="a")
    ids = keras.Input((5,), dtype="int32", name="ids")
    x = first - 2.0 * second + layers.GlobalAveragePooling1D()(layers.Embedding(9, 4)(ids))
    outputs = [BN()(layers.Dense(3)(x)), layers.Dense(3)(second)]
    return keras.Model([first, second, ids], outputs)


def open_sizes():
    return keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.RandomFlip(),
            layers.Conv2D(4, 3),
            BN(),
            layers.GlobalAveragePooling2D(),
        ]
    )


@pytest.fixture
def folded(randomized):
    keras.utils.set_random_seed(20)
    return bnscope.fold(randomized(network()))


@each_format
@pytest.mark.parametrize("make", [network, two_inputs, open_sizes])
def test_an_artifact_computes_what_the_model_computes(make, name, randomized, tmp_path):
    keras.utils.set_random_seed(20)
    model = randomized(make())
    unfolded = export(model, tmp_path / f"un{name}")
    result = bnscope.fold(model)
    folded = result.export(tmp_path / name)
    for exported in (unfolded, folded):
        assert exported.verification.passed
        assert exported.batch_sizes in {(1, 2), (1, 7), (1, 2, 7)}
        assert 0.0 <= exported.verification.max_error <= 1e-4
    assert folded.bn_like == len(result.plan.kept)
    assert unfolded.bn_like in range(folded.bn_like, len(result.verdicts) + 1)
    assert folded.path.exists()
    if name == "model.xml":
        assert (tmp_path / "model.bin").exists()


def test_bn_that_stays_is_counted_before_a_convolution_takes_it_up(randomized, tmp_path):
    model = randomized(network())
    counts = {name: export(model, tmp_path / name).bn_like for name in NAMES.values()}
    # ONNX Runtime's converter keeps what TensorFlow has; the others fold the first one.
    assert counts["model"] == 2
    assert min(counts.values()) >= 1


@each_format
def test_an_artifact_that_computes_something_else_is_not_written(
    name, folded, tmp_path, monkeypatch
):
    convert = engine._convert

    def convert_another(model, path, format_):
        kernel = model.layers[1].kernel
        before = keras.ops.convert_to_numpy(kernel)
        kernel.assign(before * 1.01)
        try:
            convert(model, path, format_)
        finally:
            kernel.assign(before)

    monkeypatch.setattr(engine, "_convert", convert_another)
    with pytest.raises(VerificationError, match="computes something else"):
        folded.export(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@each_format
def test_what_is_there_stays_unless_it_may_be_replaced(name, folded, tmp_path):
    target = tmp_path / name
    folded.export(target)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(OutputExistsError, match="exists already"):
        folded.export(target)
    made = folded.export(target, overwrite=True)
    assert made.size > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_weights_beside_an_openvino_model_are_not_overwritten(folded, tmp_path):
    (tmp_path / "model.bin").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"model\.bin exists"):
        folded.export(tmp_path / "model.xml")
    assert (tmp_path / "model.bin").read_text() == "mine"


def test_a_directory_that_is_no_saved_model_is_never_replaced(folded, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(BnscopeError, match="is no SavedModel"):
        folded.export(folder, overwrite=True)
    assert (folder / "thesis.txt").read_text() == "mine"


def test_the_directory_must_exist(folded, tmp_path):
    with pytest.raises(BnscopeError, match="does not exist"):
        folded.export(tmp_path / "none" / "model.onnx")


def test_half_precision_is_compared_with_its_own_tolerance(randomized, tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = randomized(network())
    finally:
        keras.config.set_dtype_policy("float32")
    made = bnscope.fold(model).export(tmp_path / "model.onnx")
    assert 1e-5 < made.verification.tolerance < 1e-2


def test_operations_that_litert_does_not_have_are_named(tmp_path):
    looping = keras.Sequential([keras.Input((6, 3)), layers.LSTM(4)])
    if tuple(map(int, tf.__version__.split(".")[:2])) >= (2, 21):  # older ones convert it
        with pytest.raises(UnsupportedModelError, match="which LiteRT does not have"):
            export(looping, tmp_path / "model.tflite")
    unrolled = keras.Sequential([keras.Input((6, 3)), layers.LSTM(4, unroll=True)])
    assert export(unrolled, tmp_path / "model.tflite").verification.passed


def test_what_a_converter_cannot_take_is_one_line(tmp_path):
    inputs = keras.Input((3,))
    nested = keras.Model(inputs, {"x": [layers.Dense(2)(inputs), layers.Dense(3)(inputs)]})
    with pytest.raises(
        UnsupportedModelError, match="cannot export this model as ONNX"
    ) as e:
        export(nested, tmp_path / "model.onnx")
    assert "\n" not in str(e.value)
    text = keras.Model(
        t := keras.Input((), dtype="string"), layers.Hashing(5, output_mode="one_hot")(t)
    )
    with pytest.raises(UnsupportedModelError, match="takes text"):
        export(text, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_whose_inputs_are_not_known_is_refused(tmp_path):
    class Net(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(UnsupportedModelError, match="is not known"):
        export(Net(), tmp_path / "model.onnx")


def test_samples_can_be_given(folded, tmp_path):
    data = np.random.default_rng(0).normal(size=(5, 12, 12, 3))
    made = folded.export(tmp_path / "model.onnx", verify_data=data)
    assert made.verification.samples == 5


@pytest.mark.parametrize(
    ("path", "name", "found"),
    [
        ("a.onnx", None, "onnx"),
        ("a.tflite", None, "litert"),
        ("a.xml", None, "openvino"),
        ("folder", None, "tf_saved_model"),
        ("v1.2", "tf_saved_model", "tf_saved_model"),
        ("a.keras", None, None),
        ("a.h5", "h5", None),
    ],
)
def test_the_name_tells_the_format(path, name, found):
    known = find_format(path, name)
    assert (known and known.name) == found


@pytest.mark.parametrize(
    ("path", "name", "message"),
    [
        ("a.pb", None, "does not say"),
        ("a.keras", "onnx", "does not fit"),
        ("a.onnx", "keras", "does not fit"),
        ("a", "litert", "does not fit"),
        ("a.onnx", "coreml", "is no format"),
    ],
)
def test_a_name_that_contradicts_the_format_is_an_error(path, name, message):
    with pytest.raises(BnscopeError, match=message):
        find_format(path, name)


def test_a_missing_package_is_named_before_any_work(randomized, tmp_path):
    model = tmp_path / "model.keras"
    randomized(network()).save(model)
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, *a: None if n == 'tf2onnx' else find(n, *a)\n"
        "from bnscope.cli import main\n"
        f"code = main(['fold', {str(model)!r}, '-o', {str(tmp_path / 'm.onnx')!r}])\n"
        "assert 'keras' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert 'tf2onnx. Install them with pip install "bnscope[export]"' in done.stderr


def test_the_command_exports_and_keeps_stdout_for_json(randomized, tmp_path, capfd):
    model = tmp_path / "model.keras"
    randomized(network()).save(model)
    capfd.readouterr()
    for name in NAMES.values():
        target = str(tmp_path / f"out-{name}")
        assert main(["fold", str(model), "-o", target, "--output-format", "json"]) == 0
        facts = json.loads(capfd.readouterr().out)
        assert facts["export"]["path"] == target
        assert facts["export"]["max_error"] <= 1e-4
        assert facts["export"]["bn_like"] == facts["kept"] == 1
    assert main(["fold", str(model), "-o", str(tmp_path / "out-model.onnx")]) == 2
    shutil.rmtree(tmp_path / "out-model")
    target = str(tmp_path / "out-model")
    assert main(["fold", str(model), "-o", target, "--format", "tf_saved_model"]) == 0
    assert "Operations like BN left in it: 1." in capfd.readouterr().out


def test_weights_go_back_with_the_structure_when_the_move_fails(
    folded, randomized, tmp_path, monkeypatch
):
    target = tmp_path / "model.xml"
    folded.export(target)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    keras.utils.set_random_seed(21)
    other = bnscope.fold(randomized(network()))
    rename = Path.rename

    def full(self, place):
        if place == target and not self.parent.name.startswith(".bnscope-former-"):
            raise OSError(28, "No space left on device")
        return rename(self, place)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(BnscopeError, match="No space left"):
        other.export(target, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_cannot_be_put_back_is_named_and_kept(tmp_path, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "saved_model.pb").write_text(folder.name)
    rename = Path.rename

    def once(self, place):
        if place == old:
            raise OSError(28, "No space left on device")
        return rename(self, place)

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(BnscopeError, match="could not be put back") as error:
        move_into_place([(new, old)])
    kept = next(tmp_path.glob(".bnscope-former-*/old"))
    assert str(kept) in str(error.value)
    assert (kept / "saved_model.pb").read_text() == "old"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_an_interrupted_move_loses_nothing(stop, tmp_path, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "saved_model.pb").write_text(folder.name)
    rename = Path.rename

    def stopped(self, place):
        if self == new:
            raise stop
        return rename(self, place)

    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(stop):
        move_into_place([(new, old)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]
    assert (old / "saved_model.pb").read_text() == "old"


def test_a_saved_model_with_files_of_the_user_is_never_replaced(folded, tmp_path):
    folder = tmp_path / "model"
    folded.export(folder)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(BnscopeError, match=r"holds thesis\.txt besides"):
        folded.export(folder, overwrite=True)
    assert (folder / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["model", "model.onnx"])
def test_a_failed_replacement_leaves_the_former_artifact(
    name, folded, tmp_path, monkeypatch
):
    target = tmp_path / name
    folded.export(target)

    def contents():
        files = (path for path in tmp_path.rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in files}

    before = contents()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "export", full)
    with pytest.raises(BnscopeError, match="cannot be written: No space left on device"):
        folded.export(target, overwrite=True)
    assert contents() == before


def test_a_fixed_batch_is_run_as_it_is(tmp_path):
    inputs = keras.Input(batch_shape=(2, 4))
    model = keras.Model(inputs, layers.Dense(3)(inputs))
    assert export(model, tmp_path / "model.onnx").batch_sizes == (2,)


@each_format
def test_more_than_ten_outputs_keep_their_order(name, tmp_path):
    inputs = keras.Input((4,))
    outputs = [layers.Dense(3)(inputs) for _ in range(12)]
    assert export(keras.Model(inputs, outputs), tmp_path / name).verification.passed


def test_outputs_in_another_order_are_found(folded, tmp_path, monkeypatch):
    run = onnx.Artifact.run

    def swapped(self, arrays):
        first, second = run(self, arrays).items()
        return {first[0]: second[1], second[0]: first[1]}

    monkeypatch.setattr(onnx.Artifact, "run", swapped)
    with pytest.raises(VerificationError, match="computes something else"):
        folded.export(tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_native_code_and_python_print_nothing_meanwhile(capfd):
    with quietly():
        os.write(1, b"native")
        os.write(2, b"native")
        sys.stdout.write("python")
        sys.stderr.write("python")
        warnings.warn("warned", stacklevel=1)
    sys.stdout.write("after")
    assert capfd.readouterr() == ("after", "")


def test_openvino_is_loaded_without_its_telemetry(folded, tmp_path):
    folded.save(tmp_path / "model.keras")
    code = (
        "import sys; from bnscope.cli import main\n"
        f"code = main(['fold', {str(tmp_path / 'model.keras')!r}, '-o', "
        f"{str(tmp_path / 'm.xml')!r}])\n"
        "assert 'openvino' in sys.modules\n"
        "assert not any(name.startswith('openvino_telemetry') for name in sys.modules)\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_count_that_fails_does_not_lose_the_export(folded, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx.Artifact, "count_affine", lambda _: 1 // 0)
    assert folded.export(tmp_path / "model.onnx").bn_like is None


def test_a_blocked_package_is_a_missing_one(folded, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(BnscopeError, match="not installed: tf2onnx"):
        folded.export(tmp_path / "model.onnx")


def test_a_model_that_computes_with_batch_statistics_is_not_exported(randomized, tmp_path):
    inputs = keras.Input((8,))
    model = randomized(keras.Model(inputs, BN()(layers.Dense(3)(inputs), training=True)))
    with pytest.raises(VerificationError, match="is exported with the statistics"):
        export(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_one_line(folded, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(BnscopeError, match="Permission denied"):
        folded.export(tmp_path / "model.onnx")


@each_format
def test_open_sizes_are_run_in_several_sizes(name, randomized, tmp_path):
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3), BN()])
    checks = export(randomized(model), tmp_path / name).verification.outputs
    assert len({check.name for check in checks}) == 3


def test_a_converter_that_fails_says_what_it_lacks(tmp_path):
    looping = keras.Sequential([keras.Input((6, 3)), layers.LSTM(4)])
    with pytest.raises(UnsupportedModelError, match="TensorList") as error:
        export(looping, tmp_path / "model.xml")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_that_does_not_load_is_not_written(folded, tmp_path, monkeypatch):
    convert = engine._convert

    def damaged(model, path, format_):
        convert(model, path, format_)
        path.write_bytes(path.read_bytes()[:100])

    monkeypatch.setattr(engine, "_convert", damaged)
    for name in ("model.onnx", "model.tflite", "model.xml"):
        with pytest.raises(VerificationError, match="does not load") as error:
            folded.export(tmp_path / name)
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


class Shift(layers.Layer):
    """Holds a constant as a tensor."""

    def __init__(self, **options):
        super().__init__(**options)
        self.shift = keras.ops.convert_to_tensor(np.array([1.0, 2.0, 3.0], "float32"))

    def call(self, inputs):
        return inputs + self.shift


def test_constants_that_became_inputs_are_named(tmp_path):
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, layers.Conv2D(2, 3)(Shift()(inputs)))
    with pytest.raises(UnsupportedModelError, match="made inputs of constants: "):
        export(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def adapted():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(1).normal(3.0, 2.0, (50, 4, 4, 3)))
    return layer


@each_format
@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 4.0, 9.0]),
        adapted,
        lambda: layers.Normalization(mean=2.0, variance=4.0, invert=True),
    ],
    ids=["given", "adapted", "inverted"],
)
def test_a_normalization_is_exported_with_its_constants(make, name, tmp_path):
    inputs = keras.Input((4, 4, 3))
    inner = keras.Sequential([keras.Input((4, 4, 3)), make()])
    model = keras.Model(inputs, layers.Conv2D(2, 3)(inner(inputs)))
    held = inner.layers[-1].mean
    assert export(model, tmp_path / name).verification.passed
    assert inner.layers[-1].mean is held
