"""What runs, where it is quiet, how bad it is: options, pyproject.toml and baselines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from keras import layers

import bnscope
from bnscope import Settings
from bnscope.errors import SettingsError, UnknownCodeError
from bnscope.linting import LayerIgnore
from bnscope.rules.base import Severity


def make_model():
    """BN103 at `first_bn`, BN101 at `dense` and `back/dense`, BN301 as info."""
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="dense"), layers.BatchNormalization()],
        name="back",
    )
    inputs = keras.Input((8,))
    x = layers.BatchNormalization(name="first_bn")(inputs)
    x = layers.Dense(4, name="dense")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(x))
    return keras.Model(inputs, layers.Dense(1, name="head")(layers.ReLU()(inner(x))))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    make_model().save(path)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch, model_file):
    """An empty project with the model in it; the working directory is below its top."""
    (tmp_path / "runs").mkdir()
    shutil.copy(model_file, tmp_path / "runs" / "model.keras")
    monkeypatch.chdir(tmp_path / "runs")
    return tmp_path


def configure(project, text):
    (project / "pyproject.toml").write_text(text)


@pytest.fixture
def found(run_cli):
    """Lints model.keras: (code, layer) of each finding."""

    def lint(*options):
        code, out, err = run_cli("lint", "model.keras", "--output-format", "json", *options)
        assert code in {0, 1}, err
        findings = json.loads(out)["files"][0]["findings"]
        return [(finding["code"], finding["layer"]) for finding in findings]

    return lint


def codes_of(settings):
    return [rule.code for rule in settings.rules()]


def test_the_more_specific_selector_wins_and_ignore_wins_a_draw():
    assert codes_of(Settings(select="BN101", ignore="BN1")) == ["BN101"]
    assert codes_of(Settings(select="redundant-bias", ignore="BN10")) == ["BN101"]
    assert "BN101" not in codes_of(Settings(select="BN1", ignore="BN101"))
    assert codes_of(Settings(select="BN101", ignore="redundant-bias")) == []
    assert codes_of(Settings(ignore="ALL")) == []
    assert codes_of(Settings(ignore="ALL", extend_select="BN304")) == ["BN304"]
    everything = codes_of(Settings(select="ALL", ignore="BN2"))
    assert "BN101" in everything
    assert not any(code.startswith("BN2") for code in everything)


@pytest.mark.usefixtures("project")
def test_options_repeat_and_take_commas(found):
    assert found("--select", "BN103", "--select", "BN2,BN101") == [
        ("BN101", "dense"),
        ("BN101", "back/dense"),
        ("BN103", "first_bn"),
    ]
    assert found("--select", "BN2", "--extend-select", "bn-on-input") == [
        ("BN103", "first_bn")
    ]
    assert found("--ignore", "BN101", "--extend-ignore", "BN3") == [("BN103", "first_bn")]


def test_the_nearest_file_with_the_table_is_read(project, found):
    configure(project, '[tool.bnscope]\nselect = ["BN101", "BN103"]\nignore = ["BN103"]\n')
    (project / "runs" / "pyproject.toml").write_text('[project]\nname = "bnscope-user"\n')
    assert found() == [("BN101", "dense"), ("BN101", "back/dense")]
    assert ("BN103", "first_bn") in found("--isolated")


def test_select_replaces_the_selection_of_the_file_and_the_others_add_to_it(project, found):
    configure(project, '[tool.bnscope]\nselect = ["BN1"]\nignore = ["BN103"]\n')
    assert found("--select", "BN103") == [("BN103", "first_bn")]
    assert found("--ignore", "BN1") == []
    assert ("BN103", "first_bn") in found("--extend-select", "BN103")


def test_a_config_file_holds_the_keys_in_the_table_or_at_its_top(project, found):
    configure(project, '[tool.bnscope]\nselect = ["BN101"]\n')
    (project / "other.toml").write_text('select = ["BN103"]\n')
    assert found("--config", "../other.toml") == [("BN103", "first_bn")]
    assert len(found("--config", "../pyproject.toml")) == 2
    assert Settings.from_pyproject(project / "other.toml").select == ("BN103",)
    assert Settings.from_pyproject(project / "runs").select == ("BN101",)


def test_python_functions_read_no_file(project):
    configure(project, '[tool.bnscope]\nselect = ["BN2"]\n')
    assert {f.code for f in bnscope.lint("model.keras")} == {"BN101", "BN103", "BN301"}
    settings = Settings.from_pyproject(project / "pyproject.toml")
    assert not bnscope.lint("model.keras", settings=settings).findings
    report = bnscope.lint("model.keras", settings=settings, select="BN103")
    assert [finding.code for finding in report] == ["BN103"]


@pytest.mark.parametrize(
    ("glob", "left"),
    [
        ("back/*", ["dense"]),
        ("*dense", []),
        ("dense", []),  # without a slash: the layer's own name, wherever it is
        ("d?nse", []),
        ("back/dense", ["dense"]),
        ("ack/dense", ["dense", "back/dense"]),
        ("Dense", ["dense", "back/dense"]),
    ],
)
@pytest.mark.usefixtures("project")
def test_rules_are_quiet_in_layers_that_match(glob, left, found):
    quiet = found("--select", "BN101", "--per-layer-ignore", f"{glob}:BN101,BN2")
    assert [layer for _, layer in quiet] == left


@pytest.mark.parametrize(
    "text",
    [
        'ignore = ["BN103", {layer = "back/*", rules = ["BN101"], reason = "on purpose"}]',
        (
            'extend-ignore = ["BN103"]\n[[tool.bnscope.ignore]]\nlayer = "back/*"\n'
            'rules = ["BN101"]'
        ),
        'ignore = ["BN103"]\n[tool.bnscope.per-layer-ignore]\n"back/*" = ["redundant-bias"]',
    ],
)
def test_codes_and_layers_to_ignore_stand_side_by_side(text, project, found):
    configure(project, f"[tool.bnscope]\n{text}\n")
    assert found("--ignore", "BN301") == [("BN101", "dense")]


def test_ignores_that_match_nothing_are_reported(project, run_cli):
    configure(
        project,
        '[[tool.bnscope.ignore]]\nlayer = "gone/*"\nrules = ["BN101"]\n'
        '[[tool.bnscope.ignore]]\nlayer = "dense"\nrules = ["BN101"]\n'
        '[[tool.bnscope.ignore]]\nlayer = "gone/*"\nrules = ["BN304"]\n',
    )
    code, _, err = run_cli("lint", "model.keras", "--select", "BN101")
    assert code == 0
    assert err == (
        "bnscope: note: ../pyproject.toml: the ignore 'gone/*: BN101' matched no finding.\n"
    )


def test_severities_are_set_and_decide_the_exit_code(project, run_cli):
    assert run_cli("lint", "model.keras", "--ignore", "BN103")[0] == 1
    arguments = ("lint", "model.keras", "--ignore", "BN103", "--severity", "BN1=info")
    code, out, _ = run_cli(*arguments)
    assert code == 0
    assert "info BN101" in out
    assert run_cli(*arguments, "--fail-on", "info")[0] == 1
    configure(project, '[tool.bnscope]\nfail-on = "error"\nseverity = {BN101 = "error"}\n')
    assert "error BN101" in run_cli("lint", "model.keras")[1]
    assert run_cli("lint", "model.keras", "--severity", "redundant-bias=info")[0] == 0


@pytest.mark.usefixtures("project")
def test_what_a_rule_calls_milder_than_usual_stays_mild():
    settings = Settings(severity={"BN3": Severity.ERROR, "BN301": Severity.WARNING})
    (finding,) = bnscope.lint("model.keras", settings=settings, select="BN301")
    assert finding.severity is Severity.INFO  # untrained: BN301 is an error elsewhere


BAD = {
    'selct = ["BN1"]': "tool.bnscope has no setting 'selct'. Did you mean select?",
    'fail_on = "error"': "tool.bnscope has no setting 'fail_on'. Did you mean fail-on?",
    'select = "BN1"': "tool.bnscope.select is 'BN1'. Expected a list of codes",
    "ignore = [3]": "tool.bnscope.ignore is 3. Expected a list of codes",
    'select = ["BN1O1"]': "tool.bnscope.select: there is no rule 'BN1O1'. Did you mean BN1",
    'fail-on = "warn"': "tool.bnscope.fail-on is 'warn'. Did you mean warning? Expected",
    "fail-on = [1]": "tool.bnscope.fail-on is a list. Expected",
    'severity = {BN101 = "off"}': "tool.bnscope.severity.BN101 is 'off'. Expected",
    'severity = {BN9 = "info"}': "tool.bnscope.severity: there is no rule 'BN9'",
    'severity = "info"': "tool.bnscope.severity is 'info'. Expected a table of codes",
    'ignore = [{layer = "a"}]': "tool.bnscope.ignore has no rules.",
    'ignore = [{rules = ["BN1"]}]': "tool.bnscope.ignore has no layer.",
    'ignore = [{layer = "a", rules = ["BN1"], why = "x"}]': (
        "tool.bnscope.ignore has no setting 'why'."
    ),
    'ignore = [{layer = 1, rules = ["BN1"]}]': "tool.bnscope.ignore.layer is 1. Expected a",
    'per-layer-ignore = ["a:BN1"]': "tool.bnscope.per-layer-ignore is a list. Expected a ta",
    'per-layer-ignore = {a = "BN1"}': "tool.bnscope.per-layer-ignore.\"a\" is 'BN1'. Expec",
    "baseline = true": "tool.bnscope.baseline is True. Expected a string.",
    "select = [": "is no valid TOML:",
    'ignore = ["BN1"]\n[[tool.bnscope.ignore]]\nlayer = "a"': "go into extend-ignore.",
}


@pytest.mark.parametrize("text", BAD)
def test_a_mistake_in_the_file_is_one_line_that_names_it(text, project, run_cli):
    configure(project, f"[tool.bnscope]\n{text}\n")
    code, out, err = run_cli("lint", "model.keras")
    assert (code, out) == (2, "")
    assert err.startswith("bnscope: error: ../pyproject.toml")
    assert BAD[text] in err
    assert err.count("\n") == 1
    assert run_cli("lint", "model.keras", "--isolated")[0] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[tool]\nbnscope = 3\n", "tool.bnscope is 3. Expected a table."),
        (b"[tool.bnscope]\n# \xff\n", "is no valid TOML"),
    ],
)
def test_a_file_that_is_no_table_or_no_text(content, message, project, run_cli):
    (project / "pyproject.toml").write_bytes(content)
    code, _, err = run_cli("lint", "model.keras")
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--per-layer-ignore", "BN101"], "is no pattern of layers with codes."),
        (["--per-layer-ignore", "a:BN999"], "There is no rule 'BN999'."),
        (["--severity", "BN101=bad"], "is no severity of a rule."),
        (["--severity", "BN999=info"], "There is no rule 'BN999'."),
        (["--config", "gone.toml"], "gone.toml does not exist."),
        (["--config", "pyproject.toml"], "pyproject.toml has no [tool.bnscope]."),
        (["--config", "gone.toml", "--isolated"], "--isolated reads no file"),
        (["--jobs", "-1"], "'-1' is no number of processes, nor auto"),
        (["--jobs", "0"], "'0' is no number of processes, nor auto"),
        (["--jobs", "two"], "'two' is no number of processes, nor auto"),
        (["--baseline", "gone.json"], "The baseline gone.json does not exist."),
        (["--baseline", "a", "--write-baseline", "b"], "not allowed with argument"),
        (["--write-baseline", "gone/b.json"], "The directory gone does not exist."),
    ],
)
def test_a_wrong_option_is_one_line(options, message, project, run_cli):
    (project / "runs" / "pyproject.toml").write_text("")
    code, out, err = run_cli("lint", "model.keras", *options)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err


def test_settings_are_shown_with_where_they_come_from(project, run_cli):
    configure(
        project,
        '[tool.bnscope]\nselect = ["BN1"]\nignore = ["BN103"]\nbaseline = "base.json"\n'
        'per-layer-ignore = {"back/*" = ["BN101"]}\n',
    )
    code, out, _ = run_cli(
        "lint", "--show-settings", "--ignore", "BN104", "--fail-on=error"
    )
    rows = {line[:18].strip(): line[18:] for line in out.splitlines()}
    assert code == 0
    assert rows["select"] == "BN1  (../pyproject.toml)"
    assert rows["ignore"] == "BN103, BN104  (../pyproject.toml, --ignore)"
    assert rows["fail-on"] == "error  (--fail-on)"
    assert rows["severity"] == "none  (default)"
    assert rows["per-layer-ignore"] == "back/*: BN101  (../pyproject.toml)"
    assert rows["baseline"].endswith("base.json  (../pyproject.toml)")
    assert "BN101" in rows["rules that run"]
    assert "BN103" not in rows["rules that run"]
    _, out, _ = run_cli(
        "lint", "--show-settings", "--select", "BN101", "--output-format=json"
    )
    document = json.loads(out)
    assert document["rules"] == ["BN101"]
    assert document["settings"]["select"] == {"values": ["BN101"], "from": ["--select"]}
    assert document["settings"]["ignore"] == {"values": [], "from": ["--select"]}


def test_wrong_settings_in_python_say_what_is_wrong():
    settings = Settings(per_layer_ignore=(LayerIgnore("a", "BN999"),))
    with pytest.raises(UnknownCodeError, match="There is no rule 'BN999'"):
        bnscope.lint("model.keras", settings=settings)
    with pytest.raises(SettingsError, match=r"gone\.toml does not exist"):
        Settings.from_pyproject("gone.toml")


def test_a_baseline_hides_what_is_in_it_and_nothing_else(project, run_cli):
    written = run_cli("lint", "model.keras", "--write-baseline", "../base.json")
    assert written == (
        0,
        "",
        "bnscope: note: 4 findings in 1 file accepted in ../base.json.\n",
    )
    document = json.loads((project / "base.json").read_text())
    assert document == {
        "version": 1,
        "files": {
            "runs/model.keras": {
                "BN101": ["back/dense", "dense"],
                "BN103": ["first_bn"],
                "BN301": ["first_bn"],
            }
        },
    }
    code, out, err = run_cli("lint", "model.keras", "--baseline", "../base.json")
    assert (code, err) == (0, "bnscope: note: 4 findings in the baseline ../base.json.\n")
    assert "nothing found" in out
    document["files"]["runs/model.keras"]["BN101"] = ["dense"]
    (project / "base.json").write_text(json.dumps(document))
    configure(project, '[tool.bnscope]\nbaseline = "base.json"\n')
    code, out, _ = run_cli("lint", "model.keras")
    assert code == 1
    assert "back/dense" in out
    assert "BN103" not in out


def test_a_baseline_holds_whatever_the_working_directory_and_message(
    project, run_cli, monkeypatch
):
    run_cli("lint", "model.keras", "--write-baseline", "../base.json")
    model = keras.saving.load_model("model.keras")
    for layer in (model.get_layer("dense"), model.get_layer("first_bn")):
        layer.set_weights([weight * 2 for weight in layer.get_weights()])
    model.save("model.keras")
    monkeypatch.chdir(project)
    arguments = ("lint", "runs/model.keras", "--select", "BN1")
    code, _, err = run_cli(*arguments, "--baseline", "base.json")
    assert (code, err) == (0, "bnscope: note: 3 findings in the baseline base.json.\n")


def test_entries_that_are_not_found_any_more_are_reported(project, run_cli):
    run_cli("lint", "model.keras", "--write-baseline", "base.json")
    document = json.loads((project / "runs" / "base.json").read_text())
    document["files"]["model.keras"]["BN101"].append("old")
    document["files"]["gone.keras"] = {"BN101": ["x"], "BN304": ["y"]}
    (project / "runs" / "other.keras").write_bytes(b"exists, and is not linted")
    document["files"]["other.keras"] = {"BN101": ["x"]}
    (project / "runs" / "base.json").write_text(json.dumps(document))
    _, _, err = run_cli(
        "lint", "model.keras", "--baseline", "base.json", "--ignore", "BN304"
    )
    assert err.splitlines()[1:] == [
        (
            "bnscope: note: 2 findings of base.json not found any more: gone.keras: BN101 x; "
            "model.keras: BN101 old. Write it again with --write-baseline."
        )
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no valid JSON"),
        ("[]", "is no baseline"),
        ('{"version": 2, "files": {}}', "has version 2, and 1 is known"),
        ('{"version": 1, "files": {"a": []}}', "does not list codes with layers for a"),
        ('{"version": 1, "files": {"a": {"BN1": "x"}}}', "does not list codes with layers"),
        ("[" * 100_000, "is no valid JSON"),
    ],
)
def test_a_broken_baseline_is_one_line_and_is_not_replaced(
    content, message, project, run_cli
):
    path = project / "runs" / "base.json"
    path.write_text(content)
    code, out, err = run_cli("lint", "model.keras", "--baseline", "base.json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    code, out, err = run_cli("lint", "model.keras", "--write-baseline", "base.json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is not replaced" in err
    assert path.read_text() == content


def test_a_baseline_is_not_written_from_half_of_the_files(project, run_cli):
    (project / "runs" / "bad.keras").write_bytes(b"PK")
    code, _, err = run_cli("lint", ".", "--write-baseline", "base.json")
    assert code == 2
    assert "base.json is not written: 1 path could not be linted." in err
    assert not (project / "runs" / "base.json").exists()


def test_one_small_file_loads_nothing_that_it_does_not_need(project):
    configure(project, '[project]\nname = "something"\n')
    code = """
        import sys
        from bnscope.cli import main
        main(["lint", "model.keras"])
        heavy = ("multiprocessing", "concurrent.futures", "tomllib", "rich.progress", "fsspec")
        loaded = [name for name in heavy if name in sys.modules]
        assert not loaded, loaded
    """
    lines = "\n".join(line.strip() for line in code.splitlines())
    result = subprocess.run(
        [sys.executable, "-c", lines],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(bnscope.__file__).parents[1])},
    )
    assert result.returncode == 0, result.stderr
