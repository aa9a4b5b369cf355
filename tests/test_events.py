"""The event schema: bounded, readable when truncated, shown by TensorBoard's own dashboards."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from bnscope.errors import BnscopeError
from bnscope.events import find, last_step, read, schema
from bnscope.events.reader import run_names
from bnscope.events.run import Record, Run
from bnscope.events.writer import RunWriter
from bnscope.statistics.channels import FIELDS, Window, channel_statistics, layer_fields
from bnscope.statistics.layout import STATISTICS, Layout, Status
from bnscope.statistics.quantiles import COLUMNS, LEVELS, summarize


@pytest.fixture
def layout():
    return Layout(
        paths=("a", "b/bn", "c"),
        widths=(4, 7, 4),
        momentum=(0.9, 0.99, 0.9),
        epsilon=(1e-3, 1e-3, 1e-5),
        statuses=(Status.EXACT, Status.EXACT, Status.FROZEN),
        has_gamma=(True, False, True),
        has_beta=(True, True, True),
    )


def variables(rng, layout):
    values = rng.normal(size=(4, layout.channels))
    values[3] = np.exp(rng.normal(size=layout.channels))
    return values


def window(rng, layout):
    return Window(variables(rng, layout)[2:], variables(rng, layout)[2:], 1)


def test_quantiles_are_those_of_numpy(rng, layout):
    values = channel_statistics(layout, variables(rng, layout), window(rng, layout))
    summary = summarize(layout, values)
    for index in range(len(layout)):
        for row, name in enumerate(STATISTICS):
            channels = values[row, layout.part(index)]
            if layout.paths[index] == "c" and name in {"batch_mean", "batch_variance"}:
                assert np.isnan(summary[index, row, :8]).all()
                continue
            if not np.isfinite(channels).all():
                continue
            expected = np.quantile(channels, LEVELS)
            np.testing.assert_allclose(summary[index, row, :7], expected, rtol=1e-12)
            assert summary[index, row, 7] == pytest.approx(channels.mean())


def test_values_that_are_not_finite_are_counted_and_spoil_nothing(rng, layout):
    values = channel_statistics(layout, variables(rng, layout), None)
    values[2, 4:7] = [np.nan, np.inf, -np.inf]
    summary = summarize(layout, values)
    kept = values[2, 7:11]
    assert summary[1, 2, COLUMNS.index("nonfinite")] == 3
    np.testing.assert_allclose(summary[1, 2, :7], np.quantile(kept, LEVELS), rtol=1e-12)


def test_dead_channels_are_counted(rng, layout):
    after = variables(rng, layout)
    after[0] = 1.0
    after[3] = 1.0
    after[3, 0] = 1e-5  # below epsilon / 10
    after[0, 5] = 0.0
    after[3, -1] = 1e-5  # above it, with the smaller epsilon
    fields = layer_fields(layout, after, None)
    assert list(fields[:, FIELDS.index("dead_share")]) == [1 / 4, 1 / 7, 0]


def test_absent_gamma_and_beta_are_one_and_zero(layout):
    count = 4 + 4 + 15 + 15 + 15
    values = layout.unpack(np.arange(count, dtype=np.float32))
    assert list(values[0, layout.part(1)]) == [1.0] * 7
    assert list(values[0, layout.part(2)]) == [4, 5, 6, 7]
    assert values[3, -1] == count - 1
    assert layout.state(values, 1).gamma is None


def write_run(tmp_path, layout, rng, steps):
    writer = RunWriter(tmp_path, layout)
    writer.start(0, {"version": 1, "layers": [], "bad": float("nan")}, "# start")
    summaries = []
    for step in range(1, steps + 1):
        after = variables(rng, layout)
        values = channel_statistics(layout, after, window(rng, layout))
        summaries.append(summarize(layout, values).astype(np.float32))
        fields = layer_fields(layout, after, window(rng, layout))
        writer.record(step, summaries[-1], fields, {"batch_norm/x": float(step)})
    writer.channels(steps, after)
    writer.histograms(
        steps, {"batch_norm/gamma": after[0], "batch_norm/none": after[0] * np.nan}
    )
    writer.alert(steps, {"code": "BN304", "step": steps, "value": float("inf")}, "an alert")
    writer.close()
    return summaries


def test_a_run_is_read_back_as_it_was_written(tmp_path, layout, rng):
    summaries = write_run(tmp_path, layout, rng, 6)
    run = read(tmp_path)
    assert (run.layers, run.widths) == (layout.paths, layout.widths)
    np.testing.assert_array_equal(run.statistics, np.stack(summaries).astype(np.float64))
    assert run.alerts == [{"code": "BN304", "step": 6, "value": "Infinity"}]
    assert run.starts[0]["bad"] == "NaN"
    assert run.channels("b/bn", "beta").shape == (1, 7)
    assert read(tmp_path / "bnscope").steps[-1] == 6


def test_a_truncated_file_gives_what_it_still_holds(tmp_path, layout, rng):
    write_run(tmp_path, layout, rng, 6)
    (path,) = (tmp_path / "bnscope").iterdir()
    content = path.read_bytes()
    found = set()
    for share in (0.4, 0.6, 0.8, 1.0):
        path.write_bytes(content[: int(len(content) * share)])
        found.add(len(read(tmp_path).steps))
    assert max(found) == 6
    assert len(found) > 1


def test_a_run_begun_anew_takes_the_place_of_what_lies_behind_its_start(
    tmp_path, layout, rng
):
    write_run(tmp_path, layout, rng, 6)
    again = write_run(tmp_path, layout, rng, 4)
    run = read(tmp_path)
    assert list(run.steps) == [1, 2, 3, 4]
    assert (len(run.channel_steps), len(run.alerts)) == (1, 1)
    np.testing.assert_array_equal(run.statistics, np.stack(again).astype(np.float64))


def test_another_model_in_the_same_directory_takes_the_place_of_the_first(
    tmp_path, layout, rng
):
    write_run(tmp_path, layout, rng, 6)
    other = Layout(("z",), (3,), (0.9,), (1e-3,), (Status.EXACT,), (True,), (True,))
    write_run(tmp_path, other, rng, 2)
    run = read(tmp_path)
    assert (run.layers, list(run.steps), len(run.starts)) == (("z",), [1, 2], 1)
    assert run.statistics.shape[:2] == (2, 1)
    assert run.channels("z", "gamma").shape == (1, 3)


def test_a_later_version_and_an_empty_directory_are_refused(
    tmp_path, layout, rng, monkeypatch
):
    with pytest.raises(BnscopeError, match="holds no events of bnscope"):
        read(tmp_path)
    monkeypatch.setattr(schema, "VERSION", 2)
    write_run(tmp_path, layout, rng, 1)
    monkeypatch.undo()
    with pytest.raises(BnscopeError, match="version 2, and this bnscope reads up to 1"):
        read(tmp_path)


def test_what_others_wrote_is_skipped_or_told(tmp_path, layout, rng):
    write_run(tmp_path / "shapes", layout, rng, 2)
    writer = RunWriter(tmp_path / "shapes", layout)
    writer.record(3, np.zeros((1, 2)), np.zeros((3, len(FIELDS))), {})
    writer.channels(3, np.zeros((4, 2)))
    writer.close()
    run = read(tmp_path / "shapes")
    assert (list(run.steps), list(run.channel_steps)) == ([1, 2], [2])
    for name, content in (("text", b"not ours"), ("list", b"[1]"), ("keys", b"{}")):
        writer = RunWriter(tmp_path / name, layout)
        writer._content = content
        writer.start(0, {}, "")
        writer.close()
        with pytest.raises(BnscopeError, match=r"cannot be read|have version None"):
            read(tmp_path / name)
        assert last_step(tmp_path / name) is None


@pytest.mark.parametrize(
    ("kind", "record", "said"),
    [
        ("start", {"layers": {"a": 1}}, "layers of bnscope/start is no list"),
        ("start", {"layers": ["a"]}, "an entry of layers of bnscope/start is no dict"),
        ("start", {"layers": [{"layer": 1}]}, "layer of an entry of layers"),
        ("start", {"findings": [[]]}, "an entry of findings of bnscope/start is no dict"),
        ("start", {"params": "x"}, "params of bnscope/start is no dict"),
        ("alert", {"step": "x"}, "step of bnscope/alert is no int"),
        ("alert", {"channels": [True]}, "an entry of channels of bnscope/alert is no int"),
        ("mark", {"layers": "a"}, "layers of bnscope/mark is no list"),
    ],
)
def test_records_of_another_form_are_told_as_they_are_read(
    tmp_path, layout, kind, record, said
):
    writer = RunWriter(tmp_path, layout)
    getattr(writer, kind)(3, record, "")
    writer.close()
    with pytest.raises(BnscopeError, match=rf"cannot be read \(ValueError: {said}"):
        read(tmp_path)


@pytest.mark.parametrize(
    "axes",
    [
        {"layers": [], "widths": []},
        {"layers": "ab", "widths": [1, 1]},
        {"layers": ["a", "a"], "widths": [1, 1]},
        {"layers": ["a", "b"], "widths": [1]},
        {"layers": ["a"], "widths": [0]},
        {"layers": ["a"], "widths": [float("inf")]},
        {"layers": ["a"], "widths": [2.7]},
        {"layers": ["a"], "widths": [10**30]},
        {"layers": ["a"], "widths": [1], "statuses": [{}]},
    ],
)
def test_axes_of_no_model_are_told(tmp_path, layout, axes):
    writer = RunWriter(tmp_path, layout)
    writer._content = json.dumps({"version": 1, **axes}).encode()
    writer.start(0, {}, "")
    writer.close()
    with pytest.raises(BnscopeError, match=r"cannot be read \(ValueError"):
        read(tmp_path)


def test_names_hold_no_half_of_a_character(tmp_path, layout):
    name = "a\ud800b"
    writer = RunWriter(tmp_path, dataclasses.replace(layout, paths=(name, "b", "c")))
    writer.start(0, {"layers": [{"layer": name}]}, "")
    writer.close()
    run = read(tmp_path)
    assert run.layers[0] == run.start["layers"][0]["layer"] == "a?b"


def test_json_that_is_too_deep_is_told(tmp_path, layout, monkeypatch):
    writer = RunWriter(tmp_path, layout)
    monkeypatch.setattr("bnscope.events.writer.dumps", lambda _: "[" * 100_000)
    writer.start(0, {}, "")
    writer.close()
    with pytest.raises(BnscopeError, match=r"cannot be read \(RecursionError"):
        read(tmp_path)


def test_runs_are_called_by_their_directories_and_none_twice(tmp_path, layout, rng):
    assert run_names(["bnscope", "old_bnscope", "x", "x/bnscope", "y/bnscope"]) == {
        "bnscope": "bnscope",
        "old_bnscope": "old_bnscope",
        "x": "x",
        "x/bnscope": "x/bnscope",
        "y/bnscope": "y",
    }
    assert run_names(["one\\bnscope"]) == {"one\\bnscope": "one"}
    write_run(tmp_path, layout, rng, 3)
    write_run(tmp_path / "bnscope", layout, rng, 2)
    found = find(tmp_path)
    counts = {name: len(read(path, exact=True).steps) for name, path in found.items()}
    assert counts == {"bnscope": 3, "bnscope/bnscope": 2}


def test_the_cadence_doubles_so_that_a_run_stays_bounded():
    thinning = schema.Thinning(100)
    kept = [step for step in range(100_000) if thinning.keep()]
    assert kept[:100] == list(range(100))
    assert len(kept) < 100 + 50 * 11
    assert thinning.every == 1024
    assert kept[-1] > 98_000


def test_memory_stays_bounded_and_extremes_survive(monkeypatch):
    from bnscope.events import run as run_module

    monkeypatch.setattr(run_module, "MAX_RECORDS", 8)
    run = Run(("a",), (1,))
    for step in range(1000):
        summary = np.zeros((1, len(STATISTICS), len(COLUMNS)))
        summary[..., 9:11] = -5.0 if step == 777 else 0.0
        run.add(Record(step, summary, np.zeros((1, len(FIELDS)))))
    assert len(run.steps) <= 8
    found = run.statistic("a", "gamma", "since_min")
    # In the record that covers step 777, which is the first at or behind it.
    assert list(np.flatnonzero(found == -5.0)) == [np.searchsorted(run.steps, 777)]


def test_names_that_do_not_exist_are_refused():
    run = Run(("a",), (1,))
    with pytest.raises(ValueError, match="There is no layer 'b'; there are a"):
        run.statistic("b", "gamma")
    with pytest.raises(
        ValueError, match="There is no statistic 'gama'; there are gamma, beta"
    ):
        run.statistic("a", "gama")
    assert "0 records" in repr(run)


def test_tensorboard_finds_every_tag_under_its_plugin(tmp_path, layout, rng):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_run(tmp_path, layout, rng, 3)
    accumulator = EventAccumulator(str(tmp_path / "bnscope"), {"tensors": 0})
    accumulator.Reload()
    found = {
        plugin: set(accumulator.PluginTagToContent(plugin))
        for plugin in ("bnscope", "scalars", "histograms", "text")
    }
    assert found == {
        "bnscope": {
            schema.START,
            schema.STATISTICS_TAG,
            schema.LAYERS,
            schema.CHANNELS,
            schema.ALERT,
        },
        "scalars": {"batch_norm/x"},
        "histograms": {"batch_norm/gamma"},
        "text": {"bnscope/alerts", "bnscope/start_text"},
    }
