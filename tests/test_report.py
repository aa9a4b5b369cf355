"""`bnscope report`: one file, complete, escaped, refused where it must be."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from test_track import kill, make_model

from bnscope import reporting
from bnscope.cli import main
from bnscope.errors import BnscopeError
from bnscope.events.run import Run
from bnscope.statistics.channels import Window
from bnscope.statistics.layout import Layout, Status
from bnscope.watching.alerts import Watch
from bnscope.watching.recorder import Recorder

ROOT = Path(__file__).parents[1]
MARKUP = "<script>alert(1)</script>_bn"


def failed(reason):
    raise OSError(reason)


def write(folder, rng, paths=("a_bn", MARKUP), steps=6):
    count = len(paths)
    layout = Layout(
        paths=paths,
        widths=(4,) * count,
        momentum=(0.9,) * count,
        epsilon=(1e-3,) * count,
        statuses=(Status.EXACT,) * count,
        has_gamma=(True,) * count,
        has_beta=(True,) * count,
    )
    recorder = Recorder(layout, folder, details=False, failed=failed)
    recorder.open()
    rows = [
        {"layer": path, "channels": 4, "momentum": 0.9, "epsilon": 1e-3} for path in paths
    ]
    finding = {
        "code": "BN101",
        "name": "redundant-bias",
        "severity": "warning",
        "layer": MARKUP,
        "message": "a <i>bias</i>",
    }
    recorder.start(0, {"version": 1, "layers": rows, "findings": [finding]}, "")
    watch = Watch(layout)
    for step in range(1, steps + 1):
        values = rng.normal(size=(4, layout.channels))
        values[3] = np.exp(values[3])
        if count > 1 and step > 3:
            values[3, 5] = 1e-9  # of the second layer
        for alert in watch.reading(step, values):
            recorder.alert(alert)
        window = Window(values[2:] * 0.9, values[2:], 1)
        recorder.step(step, values, window, warm=frozenset())
        recorder.channels(step, values)
    recorder.close()


class Parts(HTMLParser):
    """Tags, texts, and the data of a report."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.data, self.scripts = [], [], {}, []
        self._open = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self._open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        tag, attributes = self._open[-1] if self._open else ("", {})
        if tag == "script" and attributes.get("type") == "application/json":
            self.data[attributes["id"]] = json.loads(data)
        elif tag == "script":
            self.scripts.append(data)
        elif tag != "style":
            self.texts.append(data)


def test_a_report_is_one_file_with_all_that_the_tab_says(tmp_path, rng, capsys):
    write(tmp_path / "logs" / "one", rng)
    write(tmp_path / "logs" / "two", rng, paths=("a_bn",))
    output = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "logs"), "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"The report is in {output}.\n"
    text = output.read_text(encoding="utf-8")
    parts = Parts(text)
    shown = " ".join(parts.texts)
    assert (
        f"Batch Normalization is in trouble in 1 layer: {MARKUP} since step 4 (one)."
        in shown
    )
    assert "BN304 collapsed-variance" in shown
    assert "a <i>bias</i>" in shown
    figures = [value for name, value in parts.data.items() if name != "themes"]
    places = [attrs for tag, attrs in parts.tags if attrs.get("class") == "plot"]
    # Trends, four maps a run, and four figures of the layer in trouble.
    assert len(figures) == len(places) == 1 + 4 * 2 + 4
    assert all(figure["data"] for figure in figures)
    assert set(parts.data["themes"]) == {"light", "dark"}


def test_a_report_asks_no_other_file_and_holds_no_markup_out_of_names(tmp_path, rng):
    write(tmp_path, rng)
    output = tmp_path / "report.html"
    assert main(["report", str(tmp_path), "-o", str(output)]) == 0
    parts = Parts(output.read_text(encoding="utf-8"))
    assert not [attrs for _, attrs in parts.tags if {"src", "href"} & set(attrs)]
    assert not any("alert(1)" in script for script in parts.scripts)
    assert sum(tag == "script" for tag, _ in parts.tags) == len(parts.data) + 3


def test_layers_are_chosen(tmp_path, rng, capsys):
    write(tmp_path, rng, paths=tuple(f"l{i}_bn" for i in range(8)))
    output = tmp_path / "report.html"
    assert main(["report", str(tmp_path), "-o", str(output), "--layer", "l*"]) == 0
    shown = Parts(output.read_text(encoding="utf-8")).texts
    headings = [text for text in shown if text.startswith("Layer ")]
    # The one in trouble first; six of eight.
    assert headings == [f"Layer l{i}_bn" for i in (1, 0, 2, 3, 4, 5)]
    assert "2 more layers are left out" in capsys.readouterr().err
    with pytest.raises(BnscopeError, match=r"No layer matches x\. There are b\."):
        reporting.write({"a": Run(("b",), (1,))}, output, ["x"])


def test_checkpoints_are_reported_without_a_backend(tmp_path, randomized):
    for step in (1, 2, 5):
        model = randomized(make_model())
        if step == 5:
            kill(model, "second", 2, 1e-12)
        model.save(tmp_path / f"net-{step}.keras")
    code = f"""
        import sys
        for name in ("keras", "tensorflow", "jax", "torch"):
            sys.modules[name] = None
        from bnscope.cli import main
        assert main(["report", "--checkpoints", {str(tmp_path / "*.keras")!r}, "-o",
                     {str(tmp_path / "r.html")!r}]) == 0
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = " ".join(Parts((tmp_path / "r.html").read_text(encoding="utf-8")).texts)
    assert "in trouble in 1 layer: second since step 5." in shown


def alert(layer, severity, step, code="BN503", others=0):
    return {
        "code": code,
        "name": "rule",
        "severity": severity,
        "layer": layer,
        "step": step,
        "others": others,
        "channels": list(range(10)),
        "message": f"{layer} at {step}.",
    }


def test_the_worst_of_all_runs_stands_first_and_others_are_counted(tmp_path):
    layers = tuple(f"l{i}" for i in range(60))
    one, two = Run(layers, (16,) * 60), Run(layers, (16,) * 60)
    one.alerts += [alert("l3", "warning", 2), alert("l4", "error", 10, others=52)]
    one.alerts += [alert("l4", "error", 30, "BN777")]
    two.alerts += [alert("l1", "warning", 1), alert("l2", "error", 20, others=3)]
    output = tmp_path / "report.html"
    reporting.write({"one": one, "two": two}, output)
    shown = " ".join(Parts(output.read_text(encoding="utf-8")).texts)
    said = (
        "broken in 57 layers: l4 since step 10 (one), l2 since step 20 (two), and 55 more."
    )
    assert said in shown
    found = ("L4 at 10.", "L4 at 30.", "L2 at 20.", "L3 at 2.", "L1 at 1.")
    places = [shown.lower().index(text.lower()) for text in found]
    assert places == sorted(places)
    assert "7 (10) and 2 more" in shown


def test_an_alert_of_a_channel_that_is_none_spoils_nothing(tmp_path):
    run = Run(("a<b>",), (2,))
    run.alerts.append({**alert("a<b>", "warning", 2), "channels": [99, 1]})
    reporting.write({"one": run}, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'aria-label="a&lt;b&gt;: channel 1"' in text
    assert "99 (2)" in text


def test_what_cannot_be_reported_is_refused_in_one_line(tmp_path, rng, capsys):
    write(tmp_path / "logs", rng)
    (tmp_path / "there.html").write_text("mine")
    logs = str(tmp_path / "logs")
    for arguments, said in (
        ([logs, "-o", f"{tmp_path}/there.html"], "there.html exists."),
        ([logs, "-o", f"{tmp_path}/x.pdf"], "The report is HTML"),
        ([logs, "-o", f"{tmp_path}/no/x.html"], "does not exist. Create it first."),
        ([logs, "-o", str(tmp_path)], "is a directory."),
        (["-o", f"{tmp_path}/x.html"], "made of a log directory or of checkpoints."),
        ([f"{tmp_path}/none", "-o", f"{tmp_path}/x.html"], "There is no directory"),
        (
            [f"{tmp_path}/logs/bnscope/x", "-o", f"{tmp_path}/x.html"],
            "There is no directory",
        ),
        (["--checkpoints", f"{tmp_path}/*.keras", "-o", f"{tmp_path}/x.html"], "*.keras"),
    ):
        assert main(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("bnscope: error: ")
        assert said in error
        assert error.count("\n") == 1
    assert (tmp_path / "there.html").read_text() == "mine"
    assert not (tmp_path / "x.html").exists()
    assert main(["report", logs, "-o", f"{tmp_path}/there.html", "--overwrite"]) == 0


def test_a_run_that_is_unreadable_is_told_and_left_out(tmp_path, rng, capsys, monkeypatch):
    from bnscope.events import schema

    write(tmp_path / "good", rng)
    monkeypatch.setattr(schema, "VERSION", 2)
    write(tmp_path / "later", rng)
    monkeypatch.undo()
    monkeypatch.setattr(schema, "describe", lambda _: {"version": 1, "layers": 3})
    write(tmp_path / "odd", rng)
    monkeypatch.undo()
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "r.html")]) == 0
    error = capsys.readouterr().err
    assert re.search(r"error: later: The events have version 2", error)
    assert re.search(r"error: odd: The events of .* cannot be read \(ValueError", error)
    assert "good" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_monitor_draws_what_it_recorded(rng):
    from bnscope.callbacks import BatchNormMonitor

    model = make_model()
    model.compile("sgd", "mse")
    monitor = BatchNormMonitor(update_freq=1)
    assert not monitor.plot().data
    x, y = rng.normal(size=(32, 4)), rng.normal(size=(32, 2))
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[monitor])
    assert list(monitor.plot().data[0].x) == [1, 2, 3, 4]
    medians = [t for t in monitor.plot("second").data if t.customdata is not None]
    np.testing.assert_allclose(
        medians[0].customdata[:, 3],
        monitor.history.statistic("second", "moving_mean"),
        rtol=1e-6,
    )
    with pytest.raises(ValueError, match="There is no layer 'x'"):
        monitor.plot("x")


def test_the_python_of_the_docs_runs(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "tab.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "tab.md", "exec"), {})  # noqa: S102
    assert (tmp_path / "compare.html").stat().st_size > 1_000_000


def test_the_docs_show_each_view_light_and_dark():
    text = (ROOT / "docs" / "tab.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"\((pictures/[\w-]+\.png)\)", text))
    views = ("overview", "layers", "layer", "compare", "model")
    assert shown == {
        f"pictures/{v}-{look}.png" for v in views for look in ("light", "dark")
    }
    for name in shown:
        assert (ROOT / "docs" / name).read_bytes().startswith(b"\x89PNG")
