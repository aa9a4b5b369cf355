"""The pages are those of the rules, and what the docs show works."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from keras import layers
from ruamel.yaml import YAML

import bnscope
from bnscope.cli import _parser
from bnscope.rules import all_rules

ROOT = Path(__file__).parents[1]
RULES = all_rules()
PAGES = runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]()
CI = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
DRIFT = "docs/rules has drifted from the rules: run `make docs`"


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("name", PAGES)
def test_the_page_of_a_rule_is_what_its_class_says(name):
    path = ROOT / "docs" / "rules" / name
    assert path.exists(), DRIFT
    assert path.read_text(encoding="utf-8") == PAGES[name], DRIFT


def test_there_is_a_page_for_each_rule_and_no_other():
    names = {path.name for path in (ROOT / "docs" / "rules").iterdir()}
    assert names == {"README.md"} | {f"{rule.code}.md" for rule in RULES}, DRIFT


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_page_has_its_sections_in_order(rule):
    titles = re.findall(r"^## (.+)$", rule.page(), re.MULTILINE)
    expected = ["What it does", "Why is this bad", "What to do", "When it is quiet"]
    if rule.examples("bad"):
        expected.insert(2, "Example")
        assert "\nUse instead:\n\n```python\n" in rule.page()
    assert [title for title in titles if title in expected] == expected
    assert "References" not in titles[:-1]
    for code in blocks(rule.page(), "python"):
        compile(code, rule.code, "exec")
        assert "model = " in code


def test_the_table_has_a_row_for_each_rule_with_what_shows_it():
    rows = re.findall(r"^\| \[(BN\d{3})\].*\| (.+) \|$", PAGES["README.md"], re.MULTILINE)
    assert [code for code, _ in rows] == [rule.code for rule in RULES]
    for code, shown in rows:
        assert re.fullmatch(r"\d+ bad, \d+ good|`test_\w+\.py::test_\w+`", shown), code


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if rule.examples("bad")], ids=lambda rule: rule.code
)
def test_the_fix_of_a_rule_is_that_of_its_findings(rule):
    keras.utils.clear_session()
    fixes = {
        finding.fix
        for name, make in rule.examples("bad").items()
        if "_config_" not in name
        for finding in bnscope.lint(make(keras), select=rule.code)
    } or {None}
    assert rule.fix in {None, "safe", "unsafe"}
    message = f"{rule.code} says {rule.fix}, its findings {fixes}: set {rule.code}'s `fix`"
    assert fixes <= {rule.fix, None}, message
    assert rule.fix in fixes, message


@pytest.mark.parametrize(
    ("start", "schema"),
    [
        ("name: Models", ["vendor.github-workflows"]),
        ("bnscope:", ["vendor.gitlab-ci", "--data-transform", "gitlab-ci"]),
    ],
)
def test_the_pipelines_of_the_docs_are_valid(start, schema, tmp_path):
    found = [text for text in blocks(CI, "yaml") if text.startswith(start)]
    assert found
    for number, text in enumerate(found):
        path = tmp_path / f"{number}.yml"
        path.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "check_jsonschema", path, "--builtin-schema", *schema],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def lint_commands():
    texts = [CI, (ROOT / "docs" / "lint.md").read_text(encoding="utf-8")]
    return re.findall(
        r"(?:run: |- |\$ )bnscope (lint .*?)\s*(?:#.*)?$", "\n".join(texts), re.MULTILINE
    )


@pytest.mark.parametrize("command", lint_commands())
def test_the_lint_commands_of_the_docs_are_understood(command):
    assert _parser().parse_args(command.split()).paths


def test_the_docs_show_several_commands():
    assert len(lint_commands()) >= 6


def test_the_test_suite_of_the_docs_passes():
    (code,) = blocks(CI, "python")
    names = {}
    exec(compile(code, "ci.md", "exec"), names)  # noqa: S102
    names["test_batch_norm_is_used_well"]()


def hook():
    (entry,) = YAML(typ="safe").load(ROOT / ".pre-commit-hooks.yaml")
    return entry


def test_the_pre_commit_hook_takes_models_and_nothing_else():
    pattern = re.compile(hook()["files"])
    for name in ("a.keras", "models/b.h5", "c.weights.h5", "d.hdf5"):
        assert pattern.search(name)
    for name in ("keras.py", "a.h5.txt", "h5", "models.keras/x"):
        assert not pattern.search(name)
    (shown,) = (text for text in blocks(CI, "yaml") if text.startswith("repos:"))
    (used,) = YAML(typ="safe").load(shown)["repos"][0]["hooks"]
    assert used["id"] == hook()["id"]


def test_the_pre_commit_hook_runs(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(4),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(1),
        ]
    )
    model.save(tmp_path / "model.keras")
    program, *arguments = hook()["entry"].split()
    assert program == "bnscope"
    done = subprocess.run(
        [sys.executable, "-m", program, *arguments, "model.keras"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "BN101" in done.stdout


def test_a_finding_that_cannot_be_fixed_says_so_whatever_its_rule_can():
    bn = layers.BatchNormalization(gamma_initializer="zeros")
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(4, use_bias=False), bn, layers.ReLU()]
    )
    assert [f.fix for f in bnscope.lint(model, select="BN201")] == ["unsafe"]
    bn.gamma.assign([0.5, -1.0, 1.0, 2.0])
    assert [f.fix for f in bnscope.lint(model, select="BN201")] == [None]
