"""What the README shows, runs, in the order in which it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_python_of_the_readme_runs_and_prints_what_it_says(
    tmp_path, monkeypatch, capsys
):
    import keras

    keras.utils.clear_session()
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks("python"):
        exec(compile(code, str(README), "exec"), names)  # noqa: S102
    report = next(text for text in blocks("text") if text.startswith("sequential"))
    assert report.strip() in capsys.readouterr().out
    assert [alert.code for alert in names["monitor"].alerts] == ["BN503"]
    assert names["result"].verdicts[0].into == "conv"
    assert (tmp_path / "folded.keras").exists()


def test_the_commands_of_the_readme_exist(run_cli):
    commands = re.findall(r"^\$ bnscope (\w+)", README.read_text(), re.MULTILINE)
    assert set(commands) == {
        "lint",
        "fix",
        "rule",
        "inspect",
        "diagnose",
        "recalibrate",
        "fold",
    }
    for command in commands:
        with pytest.raises(SystemExit) as leave:
            run_cli(command, "--help")
        assert leave.value.code == 0
