"""Output formats: each valid for its consumer, stable, and safe with hostile names."""

from __future__ import annotations

import html.parser
import io
import json
import os
import re
import stat
from pathlib import Path
from xml.etree.ElementTree import fromstring

import jsonschema
import keras
import numpy as np
import pytest
from conftest import randomize_batch_norms
from keras import layers
from rich.cells import cell_len

import bnscope
from bnscope.cli import output
from bnscope.errors import UnreadableModelError
from bnscope.graph.model import NotAnalysed
from bnscope.linting import Finding, Report, formats
from bnscope.linting.formats import notebook
from bnscope.rules.base import Severity

SCHEMA = json.loads(
    (Path(__file__).parent / "data" / "sarif" / "sarif-schema-2.1.0.json").read_text()
)
BLOCKS = 14
# A terminal escape, a C1 control, a line separator, a reversed direction, half a character,
# and what means something in HTML, XML, URLs and workflow commands.
HOSTILE = "\x1b[31m\x9b\u2028\n\r\u202e\ud800]]><b>&\"'%0A::error::,=#?é"


def make_model(rng):
    blocks = [
        part
        for i in range(BLOCKS)
        for part in (
            layers.Conv2D(4, 3, padding="same", name=f"block{i}_conv"),
            layers.BatchNormalization(name=f"block{i}_bn"),
            layers.ReLU(),
        )
    ]
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), *blocks, layers.Flatten(), layers.Dense(2)], name="net"
    )
    randomize_batch_norms(model, rng)
    return model


def with_faults(model):
    bn = model.get_layer("block3_bn")
    bn.moving_mean.assign([np.nan, 0.0, np.inf, 0.0])
    bn.beta.assign([np.nan, 0.0, 0.0, 0.0])
    model.get_layer("block4_bn").moving_variance.assign([1e-9, 1.0, 2.0, 3.0])
    return model


def write_hostile(model, path):
    config = json.loads(model.to_json())
    for layer in config["config"]["layers"]:
        if "name" in layer["config"]:
            layer["config"]["name"] = layer["config"]["name"].replace("block", HOSTILE)
    path.write_text(json.dumps(config))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models of all sorts, to be named relative to this folder."""
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    model = make_model(rng)
    write_hostile(model, folder / "hostile.json")
    model.save_weights(folder / "only.weights.h5")
    with_faults(model).save(folder / "a model.keras")
    clean = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(4, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(1),
        ]
    )
    randomize_batch_norms(clean, rng)
    clean.save(folder / "clean.keras")
    noted = keras.Sequential(
        [keras.Input((8,)), layers.Dense(4, use_bias=False), layers.BatchNormalization()]
    )
    randomize_batch_norms(noted, rng)
    noted.save(folder / "noted.keras")
    (folder / "broken.keras").write_text("hello")
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


REFUSED = (
    "is the name of a model, which a report must not replace. "
    "Choose another name for --output-file."
)
ALL = [
    "a model.keras",
    "broken.keras",
    "clean.keras",
    "hostile.json",
    "noted.keras",
    "only.weights.h5",
]


@pytest.fixture
def output_of(here, run_cli):
    """What the command prints for all models in a format."""

    def run(name, *paths):
        assert Path.cwd() == here
        return run_cli("lint", *(paths or ALL), "--output-format", name)[1]

    return run


def strict_json(text):
    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def validate(sarif):
    jsonschema.Draft4Validator(
        SCHEMA, format_checker=jsonschema.Draft4Validator.FORMAT_CHECKER
    ).validate(sarif)


@pytest.mark.usefixtures("here")
def test_the_command_line_offers_every_format():
    assert formats.NAMES == output.FORMATS
    for name in formats.NAMES:
        assert formats.render(name, [bnscope.lint("a model.keras")])


@pytest.mark.parametrize("name", formats.NAMES)
def test_no_format_lets_a_control_character_of_a_name_through(name, output_of):
    text = output_of(name)
    assert all(char.isprintable() or char == "\n" for char in text)
    text.encode()  # half a character could not be written


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", formats.NAMES)
def test_a_file_that_cannot_be_read_is_one_line_on_stderr(name, run_cli):
    code, out, err = run_cli("lint", "clean.keras", "broken.keras", "--output-format", name)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("bnscope: error: broken.keras is no Keras model.")
    assert "bnscope: error" not in out


def test_json_formats_stay_valid_with_nan(output_of):
    files = strict_json(output_of("json"))["files"]
    assert files[0]["findings"][0]["data"]["value"] == "NaN"
    sarif = strict_json(output_of("sarif"))
    assert sarif["runs"][0]["results"][0]["properties"]["data"]["value"] == "NaN"
    strict_json(output_of("gitlab"))


def test_json_lines_hold_what_json_holds(output_of):
    entries = [strict_json(text) for text in output_of("json-lines").splitlines()]
    expected = [
        {"path": file["path"], "kind": "finding", **finding}
        for file in strict_json(output_of("json"))["files"]
        for finding in file["findings"]
    ]
    assert [entry for entry in entries if entry["kind"] == "finding"] == expected
    others = [(e["kind"], e["path"]) for e in entries if e["kind"] != "finding"]
    assert others == [("error", "broken.keras"), ("not_analysed", "only.weights.h5")]


# Formats for people


def test_full_groups_repeats_and_names_layers_and_numbers(output_of):
    lines = output_of("full", "a model.keras").splitlines()
    start = lines.index("  warning BN101 redundant-bias in 14 layers")
    assert lines[start + 1].startswith("    block0_conv: Conv2D has a bias of 4 values, ")
    assert lines[start + 2].startswith("    also block1_conv, block2_conv, ")
    assert lines[start + 2].endswith(", block10_conv and 3 more")
    assert lines[-3] == "2 errors, 15 warnings in 1 model."
    assert lines[-1] == "14 findings have a safe fix (`bnscope fix`)."


@pytest.mark.parametrize("name", formats.NAMES)
def test_no_format_hides_a_second_finding_at_one_layer(name, output_of):
    text = output_of(name, "a model.keras")
    assert "moving_mean is nan in channels 0 and 2 of 4." in text
    assert "beta is nan in channel 0 of 4." in text
    if name == "full":
        assert "  error BN303 invalid-statistics\n" in text  # one layer


def test_concise_is_one_line_a_rule_and_file(output_of):
    lines = output_of("concise").splitlines()
    assert lines[-1] == "2 errors, 29 warnings, 1 note in 5 models."
    rules = [re.match(r"(.+?): (\w+) (BN\d+) [a-z-]+: ", text) for text in lines[:-2]]
    assert [match.groups() for match in rules] == [
        ("a model.keras", "error", "BN303"),
        ("a model.keras", "warning", "BN101"),
        ("a model.keras", "warning", "BN304"),
        ("hostile.json", "warning", "BN101"),
        ("noted.keras", "info", "BN104"),
    ]
    assert "block0_conv (and 13 more layers): Conv2D has a bias" in lines[1]
    assert lines[-2].startswith("only.weights.h5: not analysed: ")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", formats.WITH_STYLES)
def test_a_narrow_terminal_is_kept_to(name, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    reports = [bnscope.lint(path) for path in ALL if path != "broken.keras"]
    formats.write(name, reports, terminal)
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert "\x1b" in terminal.getvalue()
    assert "\x1b" not in text
    assert max(cell_len(part) for part in text.splitlines()) <= 60
    assert "redundant-bias" in text


# SARIF


def test_sarif_is_valid(output_of):
    validate(strict_json(output_of("sarif")))


@pytest.mark.usefixtures("here")
def test_sarif_of_nothing_and_of_a_live_model_is_valid():
    validate(strict_json(formats.render("sarif", [])))
    report = bnscope.lint(make_model(np.random.default_rng(1)))
    document = strict_json(report.to_sarif())
    validate(document)
    location = document["runs"][0]["results"][0]["locations"][0]
    assert location == {
        "logicalLocations": [
            {
                "name": "block0_conv",
                "fullyQualifiedName": "block0_conv",
                "kind": "layer",
            }
        ]
    }


def test_the_schema_refuses_what_is_no_sarif(output_of):
    document = strict_json(output_of("sarif"))
    document["runs"][0]["results"][0]["level"] = "critical"
    with pytest.raises(jsonschema.ValidationError, match="critical"):
        validate(document)


def test_a_sarif_result_has_level_rule_and_places(output_of):
    run = strict_json(output_of("sarif"))["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["BN101", "BN104", "BN303", "BN304"]
    assert [rule["defaultConfiguration"]["level"] for rule in rules] == [
        "warning",
        "warning",
        "error",
        "warning",
    ]
    assert rules[0]["help"]["markdown"].startswith("# BN101 redundant-bias\n")
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    result = next(r for r in run["results"] if r["ruleId"] == "BN101")
    file = {"artifactLocation": {"uri": "a%20model.keras", "uriBaseId": "%SRCROOT%"}}
    (place,) = result["locations"]
    assert place["physicalLocation"] == file
    assert place["logicalLocations"][0]["fullyQualifiedName"] == "block0_conv"
    (related,) = result["relatedLocations"]
    assert related["logicalLocations"][0]["fullyQualifiedName"] == "block0_bn"
    assert {r["level"] for r in run["results"]} == {"error", "warning", "note"}
    assert [f["location"]["uri"] for f in run["artifacts"]][:2] == [
        "a%20model.keras",
        "broken.keras",
    ]


def test_sarif_says_what_was_not_read_or_not_analysed(output_of):
    (invocation,) = strict_json(output_of("sarif"))["runs"][0]["invocations"]
    assert invocation["executionSuccessful"] is False
    notes = invocation["toolExecutionNotifications"]
    assert [(n["descriptor"]["id"], n["level"]) for n in notes] == [
        ("unreadable-file", "error"),
        ("not-analysed", "warning"),
    ]
    (place,) = notes[0]["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "broken.keras"
    (invocation,) = strict_json(output_of("sarif", "clean.keras"))["runs"][0]["invocations"]
    assert invocation == {"executionSuccessful": True, "toolExecutionNotifications": []}


def marks(text):
    results = strict_json(text)["runs"][0]["results"]
    found = [result["partialFingerprints"] for result in results]
    assert all(
        mark["primaryLocationLineHash"] == mark["ruleLayerFile/v1"] for mark in found
    )
    return [mark["ruleLayerFile/v1"] for mark in found]


def test_fingerprints_are_unique_and_do_not_depend_on_the_numbers(
    tmp_path, monkeypatch, run_cli
):
    monkeypatch.chdir(tmp_path)
    model = with_faults(make_model(np.random.default_rng(0)))
    model.save("x.keras")
    before = run_cli("lint", "x.keras", "--output-format", "sarif")[1]
    model.get_layer("block4_bn").moving_variance.assign([1.0, 2e-9, 3e-9, 1.0])
    model.save("x.keras")
    after = run_cli("lint", "./x.keras", "--output-format", "sarif")[1]
    absolute = run_cli("lint", tmp_path / "x.keras", "--output-format", "sarif")[1]
    assert before != after
    assert marks(before) == marks(after) == marks(absolute)
    assert len(set(marks(before))) == len(marks(before)) == BLOCKS + 3
    Path("x.keras").rename("y.keras")
    other = run_cli("lint", "y.keras", "--output-format", "sarif")[1]
    assert not set(marks(other)) & set(marks(before))
    issues = strict_json(run_cli("lint", "y.keras", "--output-format", "gitlab")[1])
    assert [issue["fingerprint"] for issue in issues] == marks(other)


def test_a_file_elsewhere_has_an_absolute_uri(here, tmp_path, monkeypatch, run_cli):
    monkeypatch.chdir(tmp_path)
    _, out, _ = run_cli("lint", here / "a model.keras", "--output-format", "sarif")
    document = strict_json(out)
    validate(document)
    (artifact,) = document["runs"][0]["artifacts"]
    assert artifact["location"] == {"uri": (here / "a model.keras").as_uri()}


# GitLab, GitHub, JUnit


def test_gitlab_issues_have_every_key_it_asks_for(output_of):
    issues = strict_json(output_of("gitlab"))
    for issue in issues:
        assert set(issue) == {
            "description",
            "check_name",
            "fingerprint",
            "severity",
            "location",
        }
        assert issue["location"]["lines"] == {"begin": 1}
        assert issue["location"]["path"] in ALL
        assert issue["description"].isprintable()
    assert len({issue["fingerprint"] for issue in issues}) == len(issues)
    severities = {issue["check_name"]: issue["severity"] for issue in issues}
    assert severities == {
        "BN303 invalid-statistics": "critical",
        "BN101 redundant-bias": "major",
        "BN304 collapsed-variance": "major",
        "BN104 bn-at-output": "info",
        "unreadable-file": "blocker",
        "not-analysed": "info",
    }


def parse_command(text):
    """Reads a workflow command as GitHub's runner does."""
    kind, properties, data = re.fullmatch(r"::(\w+) (.*?)::(.*)", text).groups()
    pairs = (pair.split("=", 1) for pair in properties.split(","))

    def decode(value):
        for code, char in (("0D", "\r"), ("0A", "\n"), ("3A", ":"), ("2C", ",")):
            value = value.replace(f"%{code}", char)
        return value.replace("%25", "%")

    return kind, {key: decode(value) for key, value in pairs}, decode(data)


def test_github_commands_group_repeats_and_say_what_to_do(output_of):
    commands = [parse_command(text) for text in output_of("github").splitlines()]
    assert [(kind, given["file"], given["title"]) for kind, given, _ in commands] == [
        ("error", "a model.keras", "BN303 invalid-statistics"),
        ("warning", "a model.keras", "BN101 redundant-bias"),
        ("warning", "a model.keras", "BN304 collapsed-variance"),
        ("error", "broken.keras", "unreadable-file"),
        ("warning", "hostile.json", "BN101 redundant-bias"),
        ("notice", "noted.keras", "BN104 bn-at-output"),
        ("notice", "only.weights.h5", "not-analysed"),
    ]
    lines = commands[1][2].splitlines()
    assert lines[0].startswith("block0_conv: Conv2D has a bias of 4 values, ")
    assert lines[1].endswith("block10_conv and 3 more.")
    assert lines[2].startswith("To do: Build the layer with use_bias=False")
    # The name's own %0A stays text.
    assert "%0A::error::,=#?é0_conv" in commands[4][2]
    assert commands[4][2].count("\n") == 2


def test_github_escapes_the_name_of_a_file(tmp_path, monkeypatch, run_cli):
    monkeypatch.chdir(tmp_path)
    name = "a,b:c%0A=d\n::error::.keras"
    Path(name).write_text("hello")
    _, out, _ = run_cli("lint", name, "--output-format", "github")
    assert out.count("\n") == 1
    kind, given, _ = parse_command(out.rstrip("\n"))
    assert (kind, set(given)) == ("error", {"file", "title"})
    assert given["file"] == "a,b:c%0A=d\\n::error::.keras"


def test_junit_counts_failures_errors_and_skipped_parts(output_of):
    root = fromstring(output_of("junit"))  # noqa: S314  it is our own
    counts = {
        suite.get("name"): tuple(
            int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")
        )
        for suite in root
    }
    assert counts == {
        "a model.keras": (BLOCKS + 3, BLOCKS + 3, 0, 0),
        "broken.keras": (1, 0, 1, 0),
        "clean.keras": (1, 0, 0, 0),
        "hostile.json": (BLOCKS, BLOCKS, 0, 0),
        "noted.keras": (1, 0, 0, 0),
        "only.weights.h5": (1, 0, 0, 1),
    }
    assert (root.get("tests"), root.get("errors")) == (str(2 * BLOCKS + 7), "1")
    case = root.find("testsuite[@name='a model.keras']/testcase")
    assert case.get("name") == "BN303 invalid-statistics block3_bn"
    assert case.get("file") == "a model.keras"
    assert case.find("failure").get("type") == "error"
    noted = root.find("testsuite[@name='noted.keras']/testcase/system-out")
    assert "the last layer of the model" in noted.text
    cases = [case.get("classname") + case.get("name") for case in root.iter("testcase")]
    assert len(set(cases)) == len(cases)
    hostile = root.find("testsuite[@name='hostile.json']/testcase/failure")
    assert "]]><b>&\"'%0A" in hostile.text


# Notebooks and pages


class Tags(html.parser.HTMLParser):
    """The tags of a text that is well-formed, and its words."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], set(), ""
        self.targets, self.anchors = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.targets += [value for name, value in attrs if name == "href"]
        self.anchors += [f"#{value}" for name, value in attrs if name == "id"]
        if tag not in {"br", "meta"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


@pytest.mark.usefixtures("here")
def test_a_report_shows_itself_in_a_notebook():
    text = bnscope.lint("a model.keras")._repr_html_()
    page = Tags(text)
    assert page.words.count("redundant-bias in 14 layers") == 1
    assert "beta is nan" in page.words
    assert "and 3 more" in page.words
    assert "2 errors, 15 warnings in 1 model." in page.words
    assert "nothing found" in Tags(bnscope.lint("clean.keras")._repr_html_()).words


@pytest.mark.usefixtures("here")
def test_notebook_html_is_escaped():
    page = Tags(bnscope.lint("hostile.json")._repr_html_())
    assert page.tags <= {"div", "span", "b", "i", "code", "br"}
    assert "\\x1b[31m" in page.words
    assert "]]><b>&\"'%0A" in page.words
    report = Report(
        path="<script>",
        findings=(
            Finding("BN101", "<i>", Severity.WARNING, "<script>", "<a>", fix="safe"),
        ),
        not_analysed=(NotAnalysed("<x>", "<y>"),),
    )
    page = Tags(report._repr_html_())
    assert page.tags <= {"div", "span", "b", "i", "code", "br"}
    failed = Report(path="x", error=UnreadableModelError("<b>broken</b>."))
    assert "<b>broken</b>" in Tags(failed._repr_html_()).words


@pytest.mark.usefixtures("here")
def test_a_page_names_every_layer_and_leads_to_every_model(output_of):
    page = Tags(output_of("html"))
    assert "2 errors, 29 warnings, 1 note in 5 models. 1 file could not be read." in (
        page.words
    )
    assert {f"block{i}_conv: " for i in range(1, BLOCKS)} <= set(
        re.findall(r"block\d+_conv: ", page.words)
    )
    assert "28 findings have a safe fix" in page.words
    assert page.targets == page.anchors == [f"#model-{n + 1}" for n in range(len(ALL))]
    assert "only.weights.h5" in page.words
    assert page.words.count("unreadable") == 2  # in the overview, and at its place
    alone = Tags(output_of("html", "clean.keras", "broken.keras")).words
    assert "unreadable 0 errors, 0 warnings in 1 model. 1 file could not" in alone
    assert "`" not in page.words
    assert Tags(output_of("html", "clean.keras")).targets == []


@pytest.mark.usefixtures("here")
def test_a_page_runs_nothing_and_asks_for_nothing(output_of):
    text = output_of("html")
    assert text.isascii()
    assert Tags(text).tags <= {
        *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p"),
        *("div", "span", "table", "thead", "tbody", "tr", "th", "td"),
        *("a", "b", "i", "code", "details", "summary", "ul", "li"),
    }
    assert "url(" not in text
    assert "@import" not in text


@pytest.mark.usefixtures("here")
def test_an_inspection_is_a_page_too(run_cli):
    code, out, err = run_cli("inspect", "hostile.json", "--output-format", "html")
    assert (code, err) == (0, "")
    page = Tags(out)
    assert out.count("<tr>") == 1 + BLOCKS
    assert out.count("<b>") == BLOCKS
    assert "]]><b>&\"'%0A" in page.words
    assert "script" not in page.tags
    _, out, _ = run_cli("inspect", "only.weights.h5", "--output-format", "html")
    assert "not analysed: " in Tags(out).words


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("color", [*notebook._COLORS.values(), notebook._NOT_ANALYSED])
def test_notebook_badges_are_readable_and_stand_out_on_dark_and_light(color):
    own = luminance(color)
    assert 1.05 / (own + 0.05) >= 4.5  # white text on the badge: WCAG AA
    assert (own + 0.05) / (luminance("#111111") + 0.05) >= 3  # the badge on a dark page


# Files and statistics


@pytest.mark.usefixtures("here")
def test_the_report_goes_to_a_file_and_replaces_an_older_one(tmp_path, run_cli):
    target = tmp_path / "report.sarif"
    target.write_text("old")
    target.chmod(0o640)
    arguments = ["a model.keras", "--output-format", "sarif", "--output-file", target]
    code, out, err = run_cli("lint", *arguments)
    assert (code, out, err) == (1, "", "")
    validate(strict_json(target.read_text()))
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["report.sarif"]


@pytest.mark.usefixtures("here")
def test_a_report_in_a_file_is_what_a_pipe_gets(tmp_path, run_cli):
    for name in formats.NAMES:
        _, out, _ = run_cli("lint", *ALL, "--output-format", name)
        target = tmp_path / name
        run_cli("lint", *ALL, "--output-format", name, "--output-file", target)
        assert target.read_text(encoding="utf-8") == out, name


@pytest.mark.usefixtures("here")
def test_a_link_to_a_report_stays_a_link_and_a_pipe_a_pipe(tmp_path, run_cli):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    run_cli("lint", "clean.keras", "--output-file", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert "nothing found" in (tmp_path / "real").read_text()
    assert run_cli("lint", "clean.keras", "--output-file", os.devnull)[0] == 0
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/report.txt", "The directory missing does not exist. Create it first."),
        (".", ". is a directory. Give the name of a file."),
        (
            "clean.keras",
            f"clean.keras {REFUSED}",
        ),
        (
            "hostile.json",
            f"hostile.json {REFUSED}",
        ),
    ],
)
def test_a_report_that_cannot_be_written_is_one_line_and_loses_nothing(
    name, message, here, run_cli
):
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    code, out, err = run_cli("lint", "hostile.json", "--output-file", name)
    assert (code, out) == (2, "")
    assert err == f"bnscope: error: {message}\n"
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


@pytest.mark.usefixtures("here")
def test_statistics_count_each_rule(run_cli):
    code, out, _ = run_cli("lint", *ALL, "--statistics")
    assert code == 2
    assert out.splitlines() == [
        "findings  models  rule                      severity  fix",
        "      28       2  BN101 redundant-bias      warning   safe",
        "       2       1  BN303 invalid-statistics  error     none",
        "       1       1  BN104 bn-at-output        info      none",
        "       1       1  BN304 collapsed-variance  warning   none",
        "2 errors, 29 warnings, 1 note in 5 models.",
    ]
    _, out, _ = run_cli("lint", *ALL, "--statistics", "--output-format", "json")
    document = strict_json(out)
    assert (document["models"], document["failed"]) == (5, 1)
    assert document["statistics"][0] == {
        "code": "BN101",
        "name": "redundant-bias",
        "count": 28,
        "models": 2,
        "severities": {"warning": 28},
        "fixes": {"safe": 28},
    }


@pytest.mark.usefixtures("here")
def test_statistics_of_a_clean_model_and_of_a_format_without_them(run_cli):
    assert run_cli("lint", "clean.keras", "--statistics")[1] == (
        "0 errors, 0 warnings in 1 model.\n"
    )
    code, out, err = run_cli("lint", "clean.keras", "--statistics", "--output-format=sarif")
    assert (code, out) == (2, "")
    assert err == (
        "bnscope: error: --statistics has no sarif format. "
        "Use --output-format full, concise or json.\n"
    )
