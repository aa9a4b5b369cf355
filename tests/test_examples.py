from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example as a script, in an empty folder; gives what it prints."""

    def run(script: str, *arguments: str) -> str:
        path = str(EXAMPLES / script)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        runpy.run_path(path, run_name="__main__")
        return capsys.readouterr().out

    return run


def run_alone(script: str, *arguments: str, cwd: Path, temporary: Path) -> str:
    """Runs an example in a process of its own, as a reader would."""
    environment = {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def largest_difference(output: str, words: str) -> float:
    return float(re.search(rf"{words}\D*([\d.]+e[-+]\d+)", output).group(1))


def test_every_example_is_run_here():
    source = Path(__file__).read_text()
    assert [
        path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in source
    ] == []


def test_what_bn_computes_agrees_with_keras_to_rounding(run):
    output = run("what_bn_computes.py")
    assert "All 11 agree to the rounding of float32" in output
    for line in ("training mode", "inference mode", "update of the moving variance"):
        assert re.search(rf"^{line} ", output, re.MULTILINE)


def test_the_tabular_network_shows_its_faults_and_folds(run, tmp_path):
    output = run("tabular_mlp.py", "--quick")
    assert list(tmp_path.iterdir()) == []
    for text in ("BN101 redundant-bias in 3 layers", "BN104 bn-at-output", "BN503"):
        assert text in output
    assert output.count("folded into dense") == 3
    assert largest_difference(output, "verified:") < 1e-5
    assert largest_difference(output, "reloaded, on all 569 patients:") < 1e-5


def test_the_tabular_network_is_the_published_one_layer_by_layer():
    import keras

    model = runpy.run_path(str(EXAMPLES / "tabular_mlp.py"))["build"]()
    stage = ["Dense", "BatchNormalization", "Activation"]
    hidden = [*stage, "Dropout"]
    assert [type(x).__name__ for x in model.layers] == [*hidden, *hidden, *stage]
    assert [x.units for x in model.layers[::4]] == [64, 64, 2]
    assert [x.activation.__name__ for x in model.layers[2::4]] == [
        "tanh",
        "tanh",
        "softmax",
    ]
    assert {x.rate for x in model.layers[3::4]} == {0.5}
    default = keras.layers.BatchNormalization().get_config()
    for dense, bn in zip(model.layers[::4], model.layers[1::4], strict=True):
        config = dense.kernel_initializer.get_config()
        assert (type(dense.kernel_initializer).__name__) == "RandomUniform"
        assert (config["minval"], config["maxval"]) == (-0.05, 0.05)
        assert dense.activation.__name__ == "linear"
        assert bn.get_config() == {**default, "name": bn.name}


@pytest.mark.slow  # `make test` trains the same network in the demo
def test_alexnet_shows_its_faults_and_folds(run, tmp_path):
    output = run("alexnet_photos.py", "--quick")
    assert list(tmp_path.iterdir()) == []
    for text in ("BN101 redundant-bias in 8 layers", "BN104 bn-at-output", "BN503"):
        assert text in output
    assert len(re.findall(r"_bn +folded into (conv|dense)\d", output)) == 8
    assert largest_difference(output, "verified:") < 1e-5
    assert largest_difference(output, "reloaded, on the validation crops:") < 1e-5


def test_folding_for_serving_keeps_the_outputs_through_every_format(tmp_path):
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    output = run_alone("fold_for_serving.py", "--quick", cwd=here, temporary=temporary)
    assert list(here.iterdir()) == []
    assert len(re.findall(r"batch_normalization\w* +into (depthwise_)?conv2d", output)) == 6
    for name in ("folded", "folded, saved, reloaded", "folded, exported, served"):
        assert largest_difference(output, f"{name} +differs from the original by") < 1e-5
    assert len(re.findall(r"[\d.]+ times as fast", output)) == 2


@pytest.fixture
def served_model(tmp_path):
    import keras

    layers = [
        keras.Input((None, 6)),
        keras.layers.Conv1D(4, 3),
        keras.layers.BatchNormalization(),
        keras.layers.GlobalMaxPooling1D(),
    ]
    keras.Sequential(layers).save(tmp_path / "mine.keras")
    return tmp_path / "mine.keras"


def test_folding_for_serving_takes_a_model_of_yours_and_overwrites_nothing(
    run, served_model, tmp_path
):
    arguments = ["fold_for_serving.py", str(served_model), "--output", "made", "--quick"]
    assert "into conv1d" in run(*arguments)
    made = sorted(path.name for path in (tmp_path / "made").iterdir())
    assert made == ["folded", "folded.keras", "original"]
    with pytest.raises(SystemExit, match=r"folded\.keras exists\. Name another --output"):
        run(*arguments)
