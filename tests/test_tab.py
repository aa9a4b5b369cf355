"""The routes of the tab, with both data servers of TensorBoard, and without a browser."""

from __future__ import annotations

import base64
import json
import shutil
import time
from urllib.parse import urlencode

import numpy as np
import plotly
import pytest

from bnscope.events import read, schema
from bnscope.events.provider import SAMPLES, Source
from bnscope.events.writer import RunWriter
from bnscope.statistics.channels import Window
from bnscope.statistics.layout import Layout, Status
from bnscope.tensorboard import assets
from bnscope.watching.recorder import Recorder

PATHS, WIDTHS = ("a", "b/bn", "c"), (4, 7, 4)


def make_layout(paths=PATHS, widths=WIDTHS):
    count = len(paths)
    return Layout(
        paths=paths,
        widths=widths,
        momentum=(0.9,) * count,
        epsilon=(1e-3,) * count,
        statuses=(Status.EXACT,) * count,
        has_gamma=(True,) * count,
        has_beta=(True,) * count,
    )


def start_of(layout):
    rows = [
        {"layer": path, "channels": width, "momentum": 0.9, "epsilon": 1e-3}
        for path, width in zip(layout.paths, layout.widths, strict=True)
    ]
    return {"version": 1, "model": "net", "layers": rows}


def failed(reason):
    raise OSError(reason)


def write(folder, rng, layout=None, steps=6, begin=0):
    layout = layout or make_layout()
    recorder = Recorder(layout, folder, details=False, failed=failed)
    recorder.open()
    recorder.start(begin, start_of(layout), "")
    for step in range(begin + 1, begin + steps + 1):
        values = rng.normal(size=(4, layout.channels))
        values[3] = np.exp(values[3])
        window = Window(values[2:] * 0.9, values[2:], 1)
        recorder.step(step, values, window, warm=frozenset())
        if step % 2 == 0:
            recorder.channels(step, values)
    recorder.close()
    return recorder.run


class Server:
    """The application of a TensorBoard in this process, without threads that outlive it.

    Args:
        folder: the log directory.
        fast: whether the default data server reads it, or TensorBoard itself.
    """

    def __init__(self, folder, fast="true"):
        from tensorboard import default, program
        from tensorboard.backend import application
        from werkzeug.test import Client

        from bnscope.tensorboard.loader import Loader

        board = program.TensorBoard([*default.get_static_plugins(), Loader])
        arguments = ["--logdir", str(folder), "--load_fast", fast]
        # The data server reads anew by itself; TensorBoard when `wait` asks it to.
        once = ["--reload_interval", "0", "--reload_task", "blocking"]
        arguments += ["--reload_interval", "1"] if fast == "true" else once
        board.configure(["tensorboard", *arguments])
        self.flags = board.flags
        ingester = board._make_data_ingester()
        self._reload = ingester.start if fast == "false" else lambda: None
        app = application.TensorBoardWSGIApp(
            board.flags,
            board.plugin_loaders,
            ingester.data_provider,
            board.assets_zip_provider,
        )
        self._client = Client(app)

    def get(self, route, **query):
        path = f"/data/plugin/bnscope/{route}"
        answer = self._client.get(path, query_string=urlencode(query, doseq=True))
        return answer.status_code, answer.headers, answer.get_data()

    def json(self, route, **query):
        return json.loads(self.get(route, **query)[2])

    def wait(self, condition):
        end = time.monotonic() + 20
        while not (found := condition()):
            assert time.monotonic() < end, self.json("runs")
            time.sleep(0.05)
            self._reload()
        return found

    def names(self):
        return [run["name"] for run in self.json("runs")["runs"]]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    rng = np.random.default_rng(0)
    runs = {name: write(folder / name, rng) for name in ("one", "two & <b>")}
    return folder, runs


@pytest.fixture(scope="module", params=["true", "false"], ids=["fast", "slow-loader"])
def server(request, logs):
    started = Server(logs[0], request.param)
    started.wait(lambda: len(started.names()) == 2)
    started.wait(lambda: started.json("health", run="one/bnscope").get("records") == 6)
    return started


def values(array):
    """An array as plotly writes it."""
    if isinstance(array, list):
        return np.array(array)
    kinds = {"f4": "<f4", "f8": "<f8", "i1": "i1", "i2": "<i2", "i4": "<i4"}
    flat = np.frombuffer(base64.b64decode(array["bdata"]), kinds[array["dtype"]])
    shape = [int(size) for size in str(array.get("shape", len(flat))).split(",")]
    return flat.reshape(shape)


def test_the_server_never_drops_records(server):
    assert server.flags.samples_per_plugin["bnscope"] == SAMPLES > schema.MAX_RECORDS


def test_the_runs_are_listed_by_what_people_call_them(server):
    runs = {run["name"]: run["label"] for run in server.json("runs")["runs"]}
    assert runs == {"one/bnscope": "one", "two & <b>/bnscope": "two & <b>"}


def test_the_map_shows_the_values_that_were_written(server, logs):
    figure = server.json("figure", figure="layers", run="one/bnscope", column="q50")
    (cells, _) = figure["data"]
    expected = logs[1]["one"].across("moving_variance", "q50").T
    np.testing.assert_allclose(values(cells["customdata"]), expected, rtol=1e-6)
    np.testing.assert_allclose(values(cells["z"]), np.log10(expected), rtol=1e-5)
    assert cells["y"] == list(PATHS)
    assert list(values(cells["x"])) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("query", "title"),
    [
        (
            {"figure": "trends", "run": ["one/bnscope", "two & <b>/bnscope"]},
            "The model over",
        ),
        ({"figure": "bands", "run": "one/bnscope", "layer": "b/bn"}, "b/bn"),
        (
            {"figure": "histograms", "run": "one/bnscope", "layer": "a", "step": 3},
            "at step 2",
        ),
        ({"figure": "channels", "run": "one/bnscope", "layer": "a"}, "every channel"),
        (
            {"figure": "channel", "run": "one/bnscope", "layer": "a", "channel": 2},
            "channel 2",
        ),
        ({"figure": "compare", "run": "two & <b>/bnscope", "layer": "a"}, "a"),
    ],
)
def test_each_figure_is_drawn(server, query, title):
    figure = server.json("figure", **query)
    assert title in figure["layout"]["title"]["text"]
    assert len(figure["data"]) >= 1
    names = {trace.get("name") for trace in figure["data"]}
    if query["figure"] in {"trends", "compare"}:
        assert "two &amp; &lt;b&gt;" in names


def test_steps_and_layers_are_told(server):
    assert server.json("steps", run="one/bnscope") == {"steps": [2, 4, 6]}
    layers = server.json("model", run="one/bnscope")["layers"]
    assert [(row["layer"], row["watched"], row["status"]) for row in layers] == [
        (path, width, "exact") for path, width in zip(PATHS, WIDTHS, strict=True)
    ]


@pytest.mark.parametrize(
    ("route", "query", "said"),
    [
        ("figure", {"figure": "layers", "run": "gone"}, "There is no run 'gone' any more."),
        ("figure", {"figure": "layers"}, "No run is chosen."),
        (
            "figure",
            {"figure": "../../etc/passwd"},
            "There is no figure '../../etc/passwd'.",
        ),
        (
            "figure",
            {"figure": "bands", "run": "one/bnscope", "layer": "<x>"},
            "There is no layer '<x>' in this run.",
        ),
        (
            "figure",
            {"figure": "layers", "run": "one/bnscope", "statistic": "x"},
            "There is no statistic 'x'; there are moving_variance,",
        ),
        (
            "figure",
            {"figure": "channel", "run": "one/bnscope", "layer": "a", "channel": 4},
            "There is no channel 4; a has channels 0 to 3.",
        ),
        (
            "figure",
            {"figure": "histograms", "run": "one/bnscope", "layer": "a", "step": "1e3"},
            "step must be a whole number, got '1e3'.",
        ),
        (
            "figure",
            {"figure": "histograms", "run": "one/bnscope", "layer": "a", "step": "9" * 20},
            "step must be a number up to 9007199254740992, got",
        ),
        ("model", {"run": "../one"}, "There is no run '../one' any more."),
    ],
)
def test_questions_without_an_answer_are_refused(server, route, query, said):
    status, headers, body = server.get(route, **query)
    assert (status, headers["Content-Type"]) == (400, "application/json")
    assert json.loads(body)["error"].startswith(said)


@pytest.mark.parametrize(
    "route",
    [
        "static/index.js",
        "../../../etc/passwd",
        "..%2fplugin.py",
        "plugin.py",
        "%00",
    ],
)
def test_paths_that_are_no_routes_are_refused(server, route):
    assert server.get(route)[0] == 404


def test_the_files_have_types_that_browsers_take_and_name_no_other_host(server):
    kinds = {"js": "text/javascript", "css": "text/css"}
    for name in assets.own():
        status, headers, body = server.get(name)
        assert (status, headers["Content-Type"].split(";")[0]) == (
            200,
            kinds[name.split(".")[1]],
        )
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert b"http://" not in body.replace(b"http://www.w3.org", b"")
        assert b"https://" not in body
    status, headers, body = server.get("plotly.min.js")
    assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
    assert b"plotly" in body[:500]
    themes = server.json("themes")
    assert themes["plotly"] == plotly.__version__  # with which the script is asked for
    assert (
        themes["dark"]["layout"]["paper_bgcolor"]
        != themes["light"]["layout"]["paper_bgcolor"]
    )


@pytest.mark.parametrize("fast", ["true", "false"])
def test_alerts_of_one_step_all_arrive(tmp_path, fast):
    """The default data server keeps one value of a tag at a step."""
    layout = make_layout()
    writer = RunWriter(tmp_path, layout)
    writer.start(0, start_of(layout), "")
    for step, layer in ((3, "a"), (3, "b/bn"), (3, "c"), (4, "a")):
        alert = {"code": "BN304", "severity": "warning", "layer": layer, "step": step}
        writer.alert(step, alert, "an alert")
    for act in ("freeze", "recalibrate"):
        writer.mark(3, {"act": act, "step": 3, "layers": ["a"]}, act)
    writer.close()
    assert [alert["layer"] for alert in read(tmp_path).alerts] == ["a", "b/bn", "c", "a"]
    assert [mark["act"] for mark in read(tmp_path).marks] == ["freeze", "recalibrate"]
    server = Server(tmp_path, fast)
    server.wait(lambda: len(server.names()) == 1)

    def all_there():
        found = server.json("health", run="bnscope").get("troubles", [])
        return {each["layer"] for each in found} == set(PATHS)

    server.wait(all_there)


@pytest.mark.parametrize("fast", ["true", "false"])
def test_a_run_begun_anew_and_another_model_take_the_place_of_the_first(
    tmp_path, rng, fast
):
    write(tmp_path / "again", rng, steps=6)
    write(tmp_path / "again", rng, steps=4)
    write(tmp_path / "other", rng, steps=6)
    write(tmp_path / "other", rng, make_layout(("z",), (3,)), steps=8)
    write(tmp_path / "alike", rng, steps=6)  # as many layers, and as many channels
    write(
        tmp_path / "alike", rng, make_layout(("x", "y", "z"), (7, 4, 4)), steps=8, begin=4
    )
    server = Server(tmp_path, fast)
    server.wait(lambda: len(server.names()) == 3)
    server.wait(lambda: server.json("health", run="again/bnscope").get("last") == 4)
    server.wait(lambda: server.json("health", run="other/bnscope").get("last") == 8)
    again = server.json("health", run="again/bnscope")
    assert (again["records"], again["layers"]) == (4, 3)
    other = server.json("model", run="other/bnscope")["layers"]
    assert [(row["layer"], row["watched"]) for row in other] == [("z", 3)]
    server.wait(lambda: server.json("health", run="alike/bnscope").get("last") == 12)
    alike = server.json("model", run="alike/bnscope")["layers"]
    shown = [(row["layer"], row["watched"]) for row in alike]
    assert shown == [("x", 7), ("y", 4), ("z", 4)]
    assert list(zip(*shown, strict=True)) == [
        (run := read(tmp_path / "alike")).layers,
        run.widths,
    ]
    assert server.json("health", run="alike/bnscope")["first"] == run.steps[0] == 5
    assert server.json("steps", run="alike/bnscope")["steps"] == [6, 8, 10, 12]


@pytest.mark.parametrize("fast", ["true", "false"])
def test_damaged_and_foreign_events_are_told_and_spoil_no_other_run(tmp_path, rng, fast):
    write(tmp_path / "good", rng)
    write(tmp_path / "cut", rng)
    (path,) = (tmp_path / "cut" / "bnscope").iterdir()
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "VERSION", 2)
        write(tmp_path / "later", rng)
    foreign = RunWriter(tmp_path / "foreign", make_layout())
    foreign._content = b"not ours"
    foreign.start(0, {}, "")
    foreign.close()
    server = Server(tmp_path, fast)
    server.wait(lambda: len(server.names()) == 4)
    server.wait(lambda: server.json("health", run="good/bnscope").get("records") == 6)
    assert 0 < server.json("health", run="cut/bnscope")["records"] < 6
    later = server.json("health", run="later/bnscope")
    assert later["error"] == "The events have version 2, and this bnscope reads up to 1."
    other = server.json("health", run="foreign/bnscope")
    assert other["error"].startswith("The events of foreign/bnscope cannot be read")
    assert server.get("figure", figure="layers", run="later/bnscope")[0] == 400
    for figure in ("trends", "compare"):
        both = ["later/bnscope", "good/bnscope"]
        drawn = server.json("figure", figure=figure, run=both, layer=PATHS[0])
        assert {trace["name"] for trace in drawn["data"]} == {"good"}
    assert server.get("figure", figure="trends", run="later/bnscope")[0] == 400


@pytest.mark.parametrize("fast", ["true", "false"])
def test_a_run_that_is_deleted_is_gone(tmp_path, rng, fast):
    write(tmp_path / "one", rng)
    write(tmp_path / "two", rng)
    server = Server(tmp_path, fast)
    server.wait(lambda: len(server.names()) == 2)
    server.wait(lambda: server.json("health", run="one/bnscope").get("records") == 6)
    shutil.rmtree(tmp_path / "one")
    server.wait(lambda: server.names() == ["two/bnscope"])
    assert server.get("figure", figure="layers", run="one/bnscope")[0] == 400


@pytest.mark.parametrize("fast", ["true", "false"])
def test_of_two_writers_at_once_the_last_one_is_whole_and_in_order(tmp_path, rng, fast):
    """What the other one wrote before, the default data server drops, and `read` too."""
    layout = make_layout()
    writers = [RunWriter(tmp_path, layout) for _ in range(2)]
    for writer in writers:
        writer.start(0, start_of(layout), "")
    recorder = write(tmp_path / "elsewhere", rng)
    for step in range(1, 7):
        record = recorder._records[step - 1]
        writers[step % 2].record(step, record.summary, record.fields, {})
    for writer in writers:
        writer.close()
    assert list(read(tmp_path).steps) == [1, 3, 5]
    server = Server(tmp_path, fast)
    server.wait(lambda: len(server.names()) == 2)
    expected = [1, 3, 5] if fast == "true" else [1, 2, 3, 4, 5, 6]

    def steps():
        data = server.json("figure", figure="layers", run="bnscope")["data"]
        return data and list(values(data[0]["x"]))

    server.wait(lambda: steps() == expected)


def test_what_nobody_thought_of_is_told_too(server, monkeypatch):
    monkeypatch.setattr(Source, "names", lambda _: 1 / 0)
    status, _, body = server.get("runs")
    assert status == 500
    told = json.loads(body)
    assert told["error"] == "This cannot be shown (ZeroDivisionError: division by zero)."
    assert "report it" in told["hint"]


def test_a_request_asks_once_what_runs_there_are(server, monkeypatch):
    asked = []
    listing = Source._listed
    monkeypatch.setattr(
        Source,
        "_listed",
        lambda self, only: asked.append(len(self._known)) or listing(self, only),
    )
    names = server.names()
    server.json("figure", figure="trends", run=names)
    assert len(asked) > len(names)
    assert max(asked) == 1


def test_a_run_is_read_again_only_when_it_has_grown(tmp_path, rng, monkeypatch):
    write(tmp_path, rng)
    counted = []
    reading = Source.read
    monkeypatch.setattr(
        Source, "read", lambda self, name: counted.append(name) or reading(self, name)
    )
    server = Server(tmp_path, "true")
    server.wait(lambda: server.json("health", run="bnscope").get("records") == 6)
    version = server.json("runs")["runs"][0]["version"]
    counted.clear()
    for _ in range(3):
        server.json("figure", figure="trends", run="bnscope")
    assert counted == []
    write(tmp_path, rng, steps=4, begin=6)
    server.wait(lambda: server.json("health", run="bnscope").get("records") == 10)
    assert len(counted) >= 1
    assert server.json("runs")["runs"][0]["version"] != version
