"""The linter as a command: output, exit codes, and input that is none."""

from __future__ import annotations

import json
import re
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import bnscope
from bnscope.errors import UnreadableModelError, UnsupportedModelError


def make_model():
    return keras.Sequential(
        [
            keras.Input((8,), name="table"),
            layers.Dense(4, name="first"),
            layers.BatchNormalization(name="first_bn"),
            layers.ReLU(),
            layers.Dense(4, name="second"),
            layers.BatchNormalization(name="second_bn"),
            layers.ReLU(),
            layers.Dense(1),
        ],
        name="net",
    )


@pytest.fixture
def saved(tmp_path, randomized):
    path = tmp_path / "model.keras"
    randomized(make_model()).save(path)
    return path


@pytest.fixture
def clean(tmp_path, randomized):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(4, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(1),
        ]
    )
    path = tmp_path / "clean.keras"
    randomized(model).save(path)
    return path


def test_findings_give_exit_code_1_and_are_grouped_for_people(saved, run_cli):
    code, out, err = run_cli("lint", saved)
    assert code == 1
    assert "warning BN101 redundant-bias in 2 layers" in out
    assert out.count("BN101 redundant-bias") == 1
    assert "also second" in out
    assert "0 errors, 2 warnings in 1 model." in out
    assert not err


def test_a_clean_model_gives_exit_code_0(clean, run_cli):
    code, out, err = run_cli("lint", clean)
    assert (code, err) == (0, "")
    assert "nothing found" in out


def test_json_has_one_finding_a_layer(saved, run_cli):
    code, out, _ = run_cli("lint", saved, "--output-format", "json")
    assert code == 1
    document = json.loads(out)
    assert document["version"] == 1
    (file,) = document["files"]
    assert set(file) == {"path", "status", "error", "not_analysed", "findings"}
    assert (file["status"], file["error"], file["not_analysed"]) == ("analysed", None, [])
    assert [finding["layer"] for finding in file["findings"]] == ["first", "second"]
    assert file["findings"][0] == {
        "code": "BN101",
        "name": "redundant-bias",
        "severity": "warning",
        "message": "Dense has a bias of 4 values, and the mean that BatchNormalization "
        '"first_bn" subtracts cancels it.',
        "layer": "first",
        "related": ["first_bn"],
        "fix": "safe",
        "data": {"bias": 4},
    }


def test_json_stays_valid_with_nan_in_it(tmp_path, run_cli):
    model = make_model()
    for name in ("first_bn", "second_bn"):
        model.get_layer(name).moving_mean.assign([np.nan, 0, np.inf, 0])
    model.save(tmp_path / "nan.keras")
    _, out, _ = run_cli("lint", tmp_path / "nan.keras", "--output-format", "json")

    def refuse(constant):
        raise AssertionError(constant)

    findings = json.loads(out, parse_constant=refuse)["files"][0]["findings"]
    assert findings[0]["data"]["value"] == "NaN"


def test_selection_by_code_prefix_and_name(saved, run_cli):
    assert run_cli("lint", saved, "--ignore", "redundant-bias")[0] == 0
    assert run_cli("lint", saved, "--select", "BN2,BN3")[0] == 0
    assert run_cli("lint", saved, "--select", "BN1", "--ignore", "BN101")[0] == 0
    assert run_cli("lint", saved, "--fail-on", "error")[0] == 0


def test_an_unknown_code_is_a_usage_error(saved, run_cli):
    code, out, err = run_cli("lint", saved, "--select", "BN999")
    assert (code, out) == (2, "")
    assert err == (
        "bnscope: error: There is no rule 'BN999'. `bnscope rule --all` lists them.\n"
    )


def test_one_bad_file_does_not_hide_the_others(saved, tmp_path, run_cli):
    code, out, err = run_cli("lint", tmp_path / "missing.keras", saved)
    assert code == 2
    assert "BN101" in out
    assert err.count("\n") == 1
    assert "missing.keras does not exist" in err
    _, out, _ = run_cli(
        "lint", tmp_path / "missing.keras", saved, "--output-format", "json"
    )
    files = json.loads(out)["files"]
    assert [file["status"] for file in files] == ["failed", "analysed"]
    assert set(files[0]["error"]) == {"message", "hint"}


def write_bad_files(folder, saved):
    content = saved.read_bytes()
    (folder / "empty.keras").write_bytes(b"")
    (folder / "text.keras").write_text("hello")
    (folder / "random.h5").write_bytes(np.random.default_rng(0).bytes(4000))
    (folder / "truncated.keras").write_bytes(content[: len(content) // 2])
    (folder / "list.json").write_text("[1, 2]")
    (folder / "broken.json").write_text('{"class_name": "Model", ')
    (folder / "other.json").write_text('{"hello": 1}')
    (folder / "folder.keras").mkdir()
    with zipfile.ZipFile(folder / "no_config.keras", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with zipfile.ZipFile(folder / "bad_config.keras", "w") as archive:
        archive.writestr("config.json", "{]")
    with h5py.File(folder / "foreign.h5", "w") as file:
        file["data"] = np.arange(3)
    model = keras.saving.load_model(saved)
    model.save(folder / "whole.h5")
    whole = (folder / "whole.h5").read_bytes()
    (folder / "whole.h5").unlink()
    (folder / "truncated.h5").write_bytes(whole[: len(whole) // 2])
    nested = '{"class_name": "Sequential", "config": {"layers": [' * 3000
    (folder / "deep.json").write_text(nested + "]}}" * 3000)


def test_bad_files_give_one_clear_line_and_exit_code_2(saved, tmp_path, run_cli):
    folder = tmp_path / "bad"
    folder.mkdir()
    write_bad_files(folder, saved)
    for path in sorted(folder.iterdir()):
        for command in (["lint"], ["inspect"], ["fold", "--dry-run"]):
            code, out, err = run_cli(*command, path)
            assert (code, out) == (2, ""), (path, out)
            assert re.fullmatch(r"bnscope: error: .*\.\n", err), (path, err)
            assert str(path) in err
            assert "internal error" not in err, err


def test_links_and_external_data_in_hdf5_are_refused(tmp_path, run_cli):
    model = make_model()
    path = tmp_path / "model.h5"
    model.save(path)
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.full(4, 42.0, np.float32).tobytes())
    name = "model_weights/first_bn/net/first_bn/moving_mean"
    with h5py.File(path, "a") as file:
        assert name in file, list(file["model_weights/first_bn"])
        del file[name]
        file.create_dataset(name, (4,), "f4", external=[(str(secret), 0, 16)])
    code, _, err = run_cli("lint", path)
    assert code == 2
    assert "another file" in err
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
    code, _, err = run_cli("lint", path)
    assert code == 2
    assert "link to another place" in err


def test_a_data_set_that_claims_too_much_is_refused(tmp_path, run_cli):
    path = tmp_path / "model.h5"
    make_model().save(path)
    name = "model_weights/first_bn/net/first_bn/moving_mean"
    with h5py.File(path, "a") as file:
        del file[name]
        file.create_dataset(name, (1 << 40,), "f4", chunks=(1 << 10,))
    code, _, err = run_cli("lint", path)
    assert code == 2
    assert "more than any BN layer has" in err


def test_control_characters_in_names_do_not_reach_the_terminal(tmp_path, run_cli):
    config = json.loads(make_model().to_json())
    for layer in config["config"]["layers"]:
        layer["config"]["name"] = layer["config"]["name"].replace(
            "first", "\x1b[31mfirst\n"
        )
    path = tmp_path / "model.json"
    path.write_text(json.dumps(config))
    _, out, _ = run_cli("lint", path)
    assert "\x1b" not in out
    assert "\\x1b[31mfirst\\n" in out


def test_a_lambda_layer_stays_text(tmp_path, run_cli):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Lambda(lambda x: x + 1),
            layers.Dense(2),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    )
    model.save(tmp_path / "model.keras")
    code, out, _ = run_cli("lint", tmp_path / "model.keras")
    assert code == 1
    assert "BN101" in out


def test_a_file_with_only_weights_is_checked_partly(tmp_path, run_cli, randomized):
    model = randomized(make_model())
    model.get_layer("first_bn").moving_variance.assign([1e-9, 1.0, 2.0, 3.0])
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    report = bnscope.lint(path)
    assert report.status == "partly"
    assert not report.ok
    assert [finding.code for finding in report.findings] == ["BN304"]
    assert "not analysed" in run_cli("lint", path)[1]


def test_python_errors_are_bnscope_errors(tmp_path):
    with pytest.raises(UnreadableModelError, match="does not exist"):
        bnscope.lint(tmp_path / "nothing.keras")
    with pytest.raises(
        UnsupportedModelError, match=r"Expected a Keras 3 model, got builtins\.int"
    ):
        bnscope.lint(3)


def test_a_report_reads_like_the_command_line(saved, run_cli):
    report = bnscope.lint(saved)
    assert str(report) == run_cli("lint", saved)[1].rstrip("\n")
    assert len(report) == 2
    assert not report.ok


def test_the_model_is_not_changed(randomized):
    model = randomized(make_model())
    before = [np.array(value) for value in model.get_weights()]
    bnscope.lint(model)
    bnscope.inspect(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("arguments", [["rule", "BN101"], ["rule", "--all"], ["rule"], []])
def test_rule_pages_and_usage_errors(arguments, run_cli):
    code, out, err = run_cli(*arguments)
    if arguments in (["rule"], []):
        assert (code, out) == (2, "")
        assert err.startswith("bnscope: error: ")
    else:
        assert code == 0
        assert "redundant-bias" in out


def test_rule_as_json(run_cli):
    _, out, _ = run_cli("rule", "BN304", "--output-format", "json")
    (rule,) = json.loads(out)
    assert rule["thresholds"] == {"SHARE_OF_EPSILON": 0.1, "LARGEST_VARIANCE": 1e6}


def test_inspect_shows_what_surrounds_each_bn(saved, run_cli):
    code, out, _ = run_cli("inspect", saved, "--output-format", "json")
    assert code == 0
    rows = json.loads(out)["layers"]
    assert [row["layer"] for row in rows] == ["first_bn", "second_bn"]
    row = rows[0]
    assert row["fed_by"] == ['Dense "first"']
    assert row["feeds"][0].startswith("ReLU")
    assert (row["channels"], row["axis"], row["momentum"]) == (4, -1, 0.99)
    assert (row["folds_into"], row["reason"]) == ("first", None)
    low, high = row["gamma"]
    state = keras.saving.load_model(saved).get_layer("first_bn")
    gamma = np.array(state.gamma)
    assert (low, high) == (float(gamma.min()), float(gamma.max()))
    assert "first_bn" in run_cli("inspect", saved)[1]


def test_inspect_counts_dead_channels():
    model = make_model()
    model.get_layer("first_bn").moving_variance.assign([1e-9, 1.0, 2.0, 3.0])
    model.get_layer("second_bn").gamma.assign([0.0, -1.0, 1e-6, 1.0])
    assert [row.dead_channels for row in bnscope.inspect(model)] == [1, 2]


def test_inspect_says_what_a_wrapped_bn_is_inside_of():
    inputs = keras.Input((4, 6))
    wrapped = layers.TimeDistributed(layers.BatchNormalization(name="bn"), name="steps")
    (row,) = bnscope.inspect(keras.Model(inputs, layers.Dense(2)(wrapped(inputs))))
    assert (row.layer, row.fed_by, row.calls) == (
        "steps/bn",
        ('inside TimeDistributed "steps"',),
        0,
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"text", "cannot be read as .npz"),
        (b"PK\x03\x04", "as .npz"),
    ],
)
def test_data_to_verify_on_that_cannot_be_read_is_one_line(
    content, message, saved, tmp_path, run_cli
):
    path = tmp_path / "x.npz"
    if content is not None:
        path.write_bytes(content)
    code, out, err = run_cli("fold", saved, "-o", tmp_path / "out.keras", "--data", path)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"bnscope: error: .*\.\n", err.splitlines(keepends=True)[-1])
    assert message in err
    assert not (tmp_path / "out.keras").exists()
