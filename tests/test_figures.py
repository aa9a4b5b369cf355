"""Figures: that they show what was recorded, early steps, extremes and NaN included."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from bnscope import figures, plots
from bnscope.errors import BnscopeError
from bnscope.events.run import Record, Run
from bnscope.figures import labels, scales, theme
from bnscope.figures.thinning import Bins
from bnscope.health import examine
from bnscope.statistics.channels import FIELDS
from bnscope.statistics.layout import STATISTICS, Layout, Status
from bnscope.statistics.quantiles import COLUMNS
from bnscope.watching.recorder import Recorder

VARIANCE, MEAN = STATISTICS.index("moving_variance"), STATISTICS.index("moving_mean")
LAYERS = ("net/stem_bn", "net/block/bn", "net/<b>bold</b>_bn")
WIDTHS = (3, 5, 4)


@pytest.fixture
def run(rng):
    """Twelve steps of three layers; every channel at every fourth step."""
    made = Run(LAYERS, WIDTHS)
    for step in range(10, 130, 10):
        summary = rng.normal(size=(3, len(STATISTICS), len(COLUMNS)))
        summary[..., :7] = np.sort(summary[..., :7], -1)
        positive = (VARIANCE, 5, 7)
        summary[:, positive] = np.sort(np.abs(summary[:, positive]) + 1e-3, -1)
        summary[..., 8] = summary[..., 11] = 0
        summary[..., 9], summary[..., 10] = summary[..., 0], summary[..., 6]
        fields = rng.random((3, len(FIELDS)))
        made.add(Record(step, summary.astype(np.float32), fields.astype(np.float32)))
        if step % 40 == 0:
            variables = rng.normal(size=(4, sum(WIDTHS))).astype(np.float32)
            variables[3] = np.exp(variables[3])
            made.add_channels(step, variables)
    rows = [
        {"layer": name, "channels": width, "momentum": 0.9, "epsilon": 1e-3}
        for name, width in zip(LAYERS, WIDTHS, strict=True)
    ]
    made.starts.append({"layers": rows, "model": "net", "params": {"counting": "exact"}})
    return made


def traces(figure, kind):
    return [trace for trace in figure.data if trace.type == kind]


@pytest.mark.parametrize("statistic", [*STATISTICS, "dead_share"])
def test_the_map_holds_every_layer_at_every_step(run, statistic):
    (cells,) = traces(figures.layer_map(run, statistic), "heatmap")
    column = "min" if statistic == "moving_variance" else "q50"
    expected = (
        run.field(statistic) if statistic == "dead_share" else run.across(statistic, column)
    )
    np.testing.assert_allclose(cells.customdata, expected.T, rtol=1e-6)
    assert list(cells.x) == list(run.steps)
    assert list(cells.y) == [labels.text(path) for path in LAYERS]


def test_an_extreme_does_not_hide_the_other_colours(run):
    run._records[5].summary[1, VARIANCE, 0] = 1e-36
    (cells,) = traces(figures.layer_map(run), "heatmap")
    ordinary = np.log10(run.across("moving_variance", "min"))
    middle = float(np.median(ordinary))
    assert middle - 5.1 < cells.zmin < middle
    assert cells.colorbar.ticktext[0].startswith("≤")
    assert cells.customdata[1][5] == np.float32(1e-36)


def test_values_that_are_not_finite_are_crossed(run):
    record = run._records[7]
    record.summary[2, VARIANCE, :8] = np.nan
    record.summary[2, VARIANCE, 11] = 4
    figure = figures.layer_map(run)
    (crosses,) = traces(figure, "scatter")
    assert (list(crosses.x), list(crosses.y)) == ([80], [labels.text(LAYERS[2])])
    assert crosses.customdata.tolist() == [[4, 2]]
    assert crosses.meta["layers"][2] == LAYERS[2]
    assert np.isnan(figure.data[0].z[2][7])


@pytest.mark.parametrize("statistic", ["gamma", "beta", "moving_mean", "moving_variance"])
def test_each_variable_has_its_own_crosses(run, statistic):
    run._records[3].summary[1, STATISTICS.index(statistic), 11] = 2
    for each in ("gamma", "beta", "moving_mean", "moving_variance"):
        (crosses,) = traces(figures.layer_map(run, each), "scatter")
        assert list(crosses.x) == ([40] if each == statistic else [])


def test_what_was_never_finite_is_crossed_and_not_called_untold(run):
    for record in run._records:
        record.summary[:, MEAN, :8] = np.nan
        record.summary[:, MEAN, 9:11] = np.nan
        record.summary[:, MEAN, 11] = 4
    (crosses,) = traces(figures.layer_map(run, "moving_mean"), "scatter")
    assert len(crosses.x) == 3 * 12
    for record in run._records:
        record.summary[:, 4:] = np.nan
        record.summary[:, VARIANCE] = np.nan
    for figure in (
        figures.bands(run, LAYERS[0]),
        figures.trends({"run": run}),
        figures.comparison({"run": run}, LAYERS[0]),
    ):
        said = [note.text for note in figure.layout.annotations]
        assert said.count("mini-batch values could not be told") in {1, 3}
        assert "no finite value" in said


def test_what_has_no_logarithm_is_drawn_below_and_told_as_it_is(run):
    for record in run._records:
        record.summary[0, VARIANCE, :5] = [-0.5, 0, 0, 0, 0.25]
        record.summary[0, VARIANCE, 9] = -0.5
    panel = [t for t in figures.bands(run, LAYERS[0]).data if t.meta["panel"] == "variance"]
    outer, inner, lowest, _, median = panel[:5]
    floor = min(lowest.y)
    assert floor > 0
    assert list(median.y) == [floor] * 12
    assert list(median.customdata[0][:5]) == [-0.5, 0, 0, 0, 0.25]
    assert median.customdata[0][median.meta["columns"].index("since_min")] == -0.5
    assert min(outer.y) == min(inner.y) == floor  # one floor, so no band between two
    smallest = figures.trends({"run": run}).data[0]
    assert min(smallest.y) > 0
    assert list(smallest.customdata[0]) == [-0.5]
    run._channels[-1][1][3, 0] = -0.5
    followed = [t for t in figures.channel(run, LAYERS[0], 0).data if t.name == "channel 0"]
    assert followed[-1].y[-1] > 0
    assert followed[-1].customdata[-1][0] == -0.5
    variances = figures.histograms(run, LAYERS[0]).data[-1]
    assert variances.text[1].startswith("-0.5 to ")


def test_a_run_has_its_colour_in_every_figure(run):
    runs = {"unreadable": None, "bare": Run(("other",), (1,)), "run": run}
    colors = {
        trace.line.color
        for figure in (figures.trends(runs), figures.comparison(runs, LAYERS[0]))
        for trace in figure.data
        if trace.name == "run" and trace.line.color
    }
    assert colors == {theme.RUNS[2]}


def test_a_long_run_shows_its_first_step_its_extremes_and_its_nan():
    count = 4000
    steps = np.arange(1, count + 1) * 25
    values = np.ones((count, 1))
    values[1111] = 7.0
    values[2222] = np.nan
    values[2900:2960] = np.nan
    bins = Bins(steps)
    assert len(bins.steps) <= 600
    assert (bins.steps[0], bins.steps[-1]) == (25, 100_000)
    for column in ("max", "q50"):
        binned = bins(values, column)
        assert np.nanmax(binned) == 7.0
        where = bins.steps[np.nanargmax(binned)]
        assert steps[1111] <= where < steps[1111] + 25 * bins.size
    assert np.isnan(bins(values, "q50")).sum() >= 60 // bins.size - 1
    assert np.nanmin(bins(-values, "min")) == -7.0


@pytest.mark.slow
def test_a_run_of_100000_steps_shows_early_steps_extremes_and_nan():
    """As the monitor records it: every tenth step is read, and thinned more and more."""
    layout = Layout(("bn",), (4,), (0.9,), (1e-3,), (Status.EXACT,), (True,), (True,))
    recorder = Recorder(layout, None, details=False, failed=pytest.fail)
    values = np.ones((4, 4))
    for step in range(10, 100_001, 10):
        shown = values
        if step == 70_010:
            shown = values * 1e6
        if step >= 95_000:
            shown = values * np.nan
        recorder.step(step, shown, None, warm=frozenset())
    recorder.close()
    run = recorder.run
    assert len(run.steps) <= 4000
    figure = figures.layer_map(run, "moving_variance", "since_max")
    (cells,) = traces(figure, "heatmap")
    assert (cells.x[0], cells.x[-1]) == (10, 100_000)
    assert 70_010 <= cells.x[int(np.nanargmax(cells.customdata[0]))] < 70_500
    (crosses,) = traces(figure, "scatter")
    assert 95_000 <= min(crosses.x) < 95_500
    largest = next(
        t
        for t in figures.trends({"run": run}).data
        if t.meta["panel"] == "largest moving variance"
    )
    assert np.nanmax(largest.y) == pytest.approx(1e6)


def test_the_bands_of_a_layer_hold_its_quantiles(run):
    figure = figures.bands(run, LAYERS[1])
    medians = {
        trace.meta["panel"]: trace for trace in figure.data if trace.customdata is not None
    }
    hover = medians["gamma"].customdata
    np.testing.assert_allclose(
        hover[:, :7], run.quantiles(LAYERS[1], "gamma")[:, :7], rtol=1e-6
    )
    inner = next(
        t for t in figure.data if t.fill == "toself" and t.meta["panel"] == "gamma"
    )
    low, high = (run.statistic(LAYERS[1], "gamma", column) for column in ("q05", "q95"))
    np.testing.assert_allclose(inner.y, [*low, *high[::-1]], rtol=1e-6)


def test_a_band_with_a_gap_is_drawn_in_two_pieces(run):
    run._records[4].summary[1, 0, :8] = np.nan
    figure = figures.bands(run, LAYERS[1])
    area = next(t for t in figure.data if t.fill == "toself" and t.meta["panel"] == "gamma")
    assert np.isnan(area.x).sum() == 1
    assert len(area.x) == 2 * 4 + 1 + 2 * 7


def test_alerts_and_epsilon_are_marked(run):
    run.alerts.append({"layer": LAYERS[1], "code": "BN304", "step": 70})
    run.alerts.append({"layer": LAYERS[0], "code": "BN501", "step": 30})
    run.marks.append({"act": "recalibrate", "step": 90, "layers": [LAYERS[1]]})
    run.marks.append({"act": "freeze", "step": 100, "layers": [LAYERS[0]]})
    figure = figures.bands(run, LAYERS[1])
    assert {shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1} == {70, 90}
    texts = {note.text for note in figure.layout.annotations}
    assert {"BN304", "recalibrate", "epsilon 0.001"} <= texts
    assert not {"BN501", "freeze"} & texts


@pytest.mark.parametrize(
    ("variable", "worst"),
    [("moving_variance", np.argmin), ("moving_mean", lambda v: np.argmax(np.abs(v)))],
)
def test_the_worst_channel_stands_at_the_top(run, variable, worst):
    figure = figures.channel_map(run, LAYERS[1], variable)
    last = run.channels(LAYERS[1], variable)[-1]
    assert figure.data[0].y[0] == f"channel {worst(last)}"
    number = int(worst(last))
    np.testing.assert_allclose(
        figure.data[0].customdata[0],
        run.channels(LAYERS[1], variable)[:, number],
        rtol=1e-6,
    )


def test_channels_that_are_never_finite_are_crossed_and_said(run):
    for _, variables in run._channels:
        variables[3] = np.nan
    run._channels[1][1][0, WIDTHS[0] + 2] = np.inf
    cells, crosses = figures.channel_map(run, LAYERS[1]).data
    assert len(cells.y) == len(crosses.x) == WIDTHS[1]
    assert set(crosses.x) == {40}
    (crosses,) = traces(figures.channel_map(run, LAYERS[1], "gamma"), "scatter")
    assert (list(crosses.x), list(crosses.y)) == ([80], ["channel 2"])
    (note,) = [
        note
        for note in figures.channel(run, LAYERS[1], 0).layout.annotations
        if note.text == "no finite value"
    ]
    assert note.xref == "x4 domain"


def test_of_few_steps_none_stands_between_two(run):
    assert figures.bands(run, LAYERS[0]).layout.xaxis3.dtick is None
    for number, record in enumerate(run._records):
        record.step = 3 + number // 2
    for figure in (
        figures.bands(run, LAYERS[0]),
        figures.layer_map(run),
        figures.trends({"run": run}),
        figures.comparison({"run": run}, LAYERS[0]),
    ):
        assert figure.layout.xaxis.dtick == 1


def test_a_single_record_is_seen(run):
    del run._records[1:]
    drawn = figures.bands(run, LAYERS[0]).data
    medians = [trace for trace in drawn if trace.hovertemplate]
    assert len(medians) == 8
    assert {trace.mode for trace in medians} == {"lines+markers"}


def test_a_negative_variance_is_worse_than_a_small_one(run):
    run._channels[-1][1][3, WIDTHS[0] : WIDTHS[0] + WIDTHS[1]] = [1, -5, 3, 1e-9, 2]
    shown = figures.channel_map(run, LAYERS[1]).data[0].y
    assert list(shown) == [f"channel {number}" for number in (1, 3, 0, 4, 2)]


def test_a_channel_that_is_not_finite_is_worse_than_any(run):
    run._channels[0][1][3, WIDTHS[0] + 2] = np.nan
    assert figures.channel_map(run, LAYERS[1]).data[0].y[0] == "channel 2"


def test_one_channel_is_followed(run):
    figure = figures.channel(run, LAYERS[1], 4)
    followed = [trace for trace in figure.data if trace.name == "channel 4"]
    assert len(followed) == 4
    np.testing.assert_allclose(
        followed[0].y, run.channels(LAYERS[1], "gamma")[:, 4], rtol=1e-6
    )
    lowest = int(np.argmin(run.channels(LAYERS[1], "moving_variance")[-1]))
    assert f"channel {lowest}" in figures.channel(run, LAYERS[1]).layout.title.text


def test_the_middle_of_the_channels_is_that_of_the_finite_ones(run):
    for place, value in ((1, np.nan), (2, -np.inf)):
        run._channels[1][1][0, WIDTHS[0] + place] = value
    run._channels[2][1][0, WIDTHS[0] : WIDTHS[0] + WIDTHS[1]] = np.nan
    (followed, *_) = (
        trace
        for trace in figures.channel(run, LAYERS[1], 4).data
        if trace.name == "channel 4"
    )
    values = run.channels(LAYERS[1], "gamma")
    expected = [np.quantile(row[np.isfinite(row)], [0.05, 0.95]) for row in values[:2]]
    np.testing.assert_allclose(followed.customdata[:2, 1:], expected, rtol=1e-6)
    assert np.isnan(followed.customdata[2, 1:]).all()


def test_histograms_count_every_channel_and_name_those_that_are_not_finite(run):
    run._channels[-1][1][0, :2] = np.inf
    figure = figures.histograms(run, LAYERS[0])
    counts = [int(trace.y.sum()) for trace in figure.data]
    assert counts == [1, 3, 3, 3]
    assert "gamma (2 not finite)" in {note.text for note in figure.layout.annotations}
    assert "at step 120" in figure.layout.title.text
    assert "at step 40" in figures.histograms(run, LAYERS[0], 55).layout.title.text


def test_trends_name_the_layer_that_a_value_is_of(run):
    run._records[3].summary[2, VARIANCE, 9] = 1e-9
    (smallest, *_) = figures.trends({"run": run}).data
    assert smallest.y[3] == np.float32(1e-9)
    assert smallest.text[3] == labels.text(LAYERS[2])


def test_runs_are_compared_at_the_layers_they_have(run):
    other = Run(("other",), (3,))
    figure = figures.comparison({"a <i>": run, "b": other}, LAYERS[0])
    assert {trace.name for trace in figure.data} == {"a &lt;i&gt;"}
    with pytest.raises(ValueError, match="There is no layer 'x' in these runs"):
        figures.comparison({"a": run}, "x")


def test_what_is_not_recorded_is_said_and_not_drawn(run):
    for record in run._records:
        record.summary[:, 4:6] = np.nan
    said = {note.text for note in figures.layer_map(run, "batch_mean").layout.annotations}
    assert "the mini-batch mean could not be told in this run" in said
    bare = Run(LAYERS, WIDTHS)
    for figure in (
        figures.layer_map(bare),
        figures.bands(bare, LAYERS[0]),
        figures.trends({"a": bare}),
        figures.channel_map(bare, LAYERS[0]),
        figures.channel(bare, LAYERS[0]),
        figures.histograms(bare, LAYERS[0]),
        figures.comparison({"a": bare}, LAYERS[0]),
    ):
        assert not figure.data
        assert len(figure.layout.annotations) == 1


def test_labels_are_short_and_none_twice():
    long = "backbone/" + "x" * 30 + "/first_long_name_bn"
    other = "backbone/" + "x" * 30 + "/final_long_name_bn"
    found = labels.shortened(["backbone/a", long, other])
    assert found[0] == "a"
    assert all(len(label) <= 34 for label in found)
    assert len(set(found)) == 3
    assert labels.shortened(["only/one"]) == ["only/one"]
    assert labels.texts(["a\u00a0b", "a\u3000b", "<c>"]) == [
        "a\\xa0b",
        "a\\u3000b",
        "&lt;c&gt;",
    ]
    assert labels.texts(["a\x00", "a\\x00"]) == ["a\\x00", "a\\x00 (2)"]


def test_a_name_is_no_template(run):
    figure = figures.comparison({"100%{y}": run}, LAYERS[0])
    templates = [trace.hovertemplate for trace in figure.data if trace.hovertemplate]
    assert templates
    assert all("<extra>100%&#123;y}</extra>" in each for each in templates)


def test_zero_and_negative_variances_stand_below_the_others():
    shown = scales.positive(np.array([0.0, -1.0, 1e-3, np.nan, np.inf]))
    assert shown[0] == shown[1] == pytest.approx(1e-4)
    assert np.isnan(shown[3])
    assert np.isinf(shown[4])


def test_health_names_the_worst_that_lasts_first(run):
    for layer, code, severity, step, channel in (
        (LAYERS[0], "BN304", "warning", 20, 1),
        (LAYERS[1], "BN304", "warning", 60, 0),
        (LAYERS[1], "BN304", "warning", 100, 3),
        (LAYERS[2], "BN777", "error", 90, None),
    ):
        run.alerts.append(
            {
                "layer": layer,
                "code": code,
                "severity": severity,
                "step": step,
                "channel": channel,
                "channels": [] if channel is None else [channel],
                "others": int(step == 60) + int(step == 100),
                "message": "m",
                "advice": "a",
                "value": 1.0,
            }
        )
    run._channels[-1][1][3, WIDTHS[0] + 3] = 1e-9
    health = examine(run)
    assert health.verdict == "error"
    found = [(each.layer, each.since, each.until) for each in health.troubles]
    assert found == [(LAYERS[2], 90, None), (LAYERS[1], 60, None), (LAYERS[0], 20, 120)]
    lasting = health.troubles[1]
    assert lasting.channels == ((0, 60), (3, 100))
    assert lasting.value == pytest.approx(1e-9)
    assert "1e-09 in channel 3 of 5" in lasting.message
    assert lasting.message.endswith(" The same in 2 more layers.")


def test_what_a_validation_met_is_told_as_it_was_then(run):
    said = "Validation starts after 16 updates at momentum 0.99: 85% are initial."
    run.starts[-1]["layers"][0]["momentum"] = 0.99
    run.alerts.append(
        {
            "layer": LAYERS[0],
            "code": "BN503",
            "severity": "warning",
            "step": 16,
            "message": said,
            "value": 0.85,
        }
    )
    (cold,) = examine(run).troubles
    assert (cold.message, cold.value, cold.until) == (said, 0.85, None)
    run.starts[-1]["layers"][0]["momentum"] = 0.9
    assert examine(run).troubles[0].until == 120


def test_health_takes_an_unknown_severity_for_a_warning(run):
    run.alerts.append({"layer": LAYERS[0], "code": "BN777", "severity": "fatal", "step": 9})
    run._records[-1].fields[:, FIELDS.index("dead_share")] = np.inf
    health = examine(run)
    assert (health.verdict, health.troubles[0].severity) == ("warning", "warning")
    assert health.dead is None


def test_plots_take_a_run_from_wherever_it_is(run, tmp_path):
    class Monitor:
        history = run

    expected = figures.layer_map(run).to_json()
    assert plots.layers(run).to_json() == plots.layers(Monitor()).to_json() == expected
    with pytest.raises(BnscopeError, match="There is no run in int 3"):
        plots.layers(3)
    with pytest.raises(BnscopeError, match="holds no events of bnscope"):
        plots.layers(tmp_path)


def test_without_plotly_it_is_said_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(
        BnscopeError, match=r"plotly is not installed. .*bnscope\[tensorboard\]"
    ):
        plots.layers(run)


def test_without_tensorboard_it_is_said_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "bnscope").mkdir()
    monkeypatch.setitem(sys.modules, "tensorboard.util.tensor_util", None)
    with pytest.raises(BnscopeError, match="read by TensorBoard, which is not installed"):
        plots.layers(tmp_path)
