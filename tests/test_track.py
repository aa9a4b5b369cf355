"""Tracking saved checkpoints: steps out of names, alerts, events, and what goes wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import urllib.request

import numpy as np
import pytest

import bnscope
from bnscope.errors import BnscopeError, OutputExistsError
from bnscope.events import read, schema
from bnscope.tracking import steps

DEAD = 2  # the channel that dies
WIDTH = 6
STEPS = (1, 2, 5, 10)
HEAVY = ["keras", "tensorflow", "jax", "torch"]


def make_model(width=WIDTH, names=("first", "second")):
    import keras

    layers = [keras.Input((4,))]
    for name in names:
        layers += [
            keras.layers.Dense(width, use_bias=False),
            keras.layers.BatchNormalization(name=name, momentum=0.8, epsilon=1e-3),
            keras.layers.ReLU(),
        ]
    return keras.Sequential([*layers, keras.layers.Dense(2)])


def kill(model, layer, channel, variance):
    values = model.get_layer(layer).moving_variance.numpy()
    values[channel] = variance
    model.get_layer(layer).moving_variance.assign(values)


@pytest.fixture
def series(tmp_path, randomized):
    """Saves a series in which a channel of `second` dies at step 5, another at step 10."""

    def save(suffix=".keras", folder="ckpt"):
        (tmp_path / folder).mkdir(exist_ok=True)
        kept = {}
        for step in STEPS:
            model = randomized(make_model())
            if step >= 5:
                kill(model, "second", DEAD, 1e-5)
            if step >= 10:
                kill(model, "second", 4, 1e-20)
            path = tmp_path / folder / f"net6-{step}-0.{99 - step}{suffix}"
            write = model.save_weights if "weights" in suffix else model.save
            write(path)
            (tmp_path / "model.json").write_text(model.to_json())
            kept[step] = [
                model.get_layer(name).get_weights() for name in ("first", "second")
            ]
        return f"{tmp_path / folder}/*", kept

    return save


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_a_dying_channel_is_named_with_its_steps(tmp_path, series, suffix):
    pattern, kept = series(suffix)
    config = tmp_path / "model.json" if "weights" in suffix else None
    result = bnscope.track(pattern, tmp_path / "runs", config=config)
    (trouble,) = result.layers
    assert (trouble.layer, trouble.code, trouble.fine) == ("second", "BN304", 2)
    assert (trouble.since, trouble.last, trouble.gone) == (5, 10, None)
    assert trouble.channels == {DEAD: 5, 4: 10}
    assert [(a.step, a.channel, a.channels) for a in result.alerts] == [
        (5, DEAD, (DEAD,)),
        (10, 4, (4, DEAD)),
    ]
    run = read(tmp_path / "runs")
    assert list(run.steps) == list(run.channel_steps) == list(STEPS)
    assert run.layers == ("first", "second")
    for row, name in enumerate(("gamma", "beta", "moving_mean", "moving_variance")):
        for index, layer in enumerate(run.layers):
            expected = np.stack([kept[step][index][row] for step in STEPS])
            np.testing.assert_array_equal(run.channels(layer, name), expected)
    assert np.isnan(run.statistic("second", "batch_mean")).all()
    assert [alert["step"] for alert in run.alerts] == [5, 10]
    assert run.starts[0]["params"]["counting"] == "names"
    assert run.starts[0]["layers"][1]["momentum"] == 0.8


def test_alerts_and_events_are_those_of_the_monitor(tmp_path, rng, randomized):
    """The monitor writes while `fit` runs, and `track` of the checkpoints the same."""
    import keras

    from bnscope.callbacks import BatchNormMonitor

    model = randomized(make_model())
    model.compile("sgd", "mse")

    class Kill(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                kill(self.model, "second", DEAD, 1e-30)
                dense = self.model.layers[3]
                kernel = dense.kernel.numpy()
                kernel[:, DEAD] = 0
                dense.kernel.assign(kernel)
                kill(self.model, "second", DEAD, 1e-30)

    saved = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "step_{batch}.weights.h5"), save_freq=1, save_weights_only=True
    )
    monitor = BatchNormMonitor(tmp_path / "live", update_freq=1, channel_freq=1)
    x, y = rng.normal(size=(32, 4)), rng.normal(size=(32, 2))
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[Kill(), monitor, saved])
    (tmp_path / "model.json").write_text(model.to_json())
    result = bnscope.track(
        tmp_path / "*.weights.h5", tmp_path / "after", config=tmp_path / "model.json"
    )
    live, after = read(tmp_path / "live"), read(tmp_path / "after")
    assert list(live.steps) == list(after.steps) == [1, 2, 3, 4]
    for layer in live.layers:
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            np.testing.assert_array_equal(
                live.channels(layer, name), after.channels(layer, name)
            )
            np.testing.assert_array_equal(
                live.statistic(layer, name, "q25"), after.statistic(layer, name, "q25")
            )
    (one,) = [alert for alert in live.alerts if alert["code"] == "BN304"]
    (other,) = [alert for alert in after.alerts if alert["code"] == "BN304"]
    assert one == other
    assert (one["step"], one["channel"]) == (3, DEAD)
    assert [alert.step for alert in result.alerts] == [3]


def test_values_that_are_not_finite_name_the_first_layer(tmp_path, randomized):
    for step in (1, 2):
        model = randomized(make_model())
        if step == 2:
            kill(model, "first", 1, np.nan)
            kill(model, "second", 1, np.nan)
        model.save(tmp_path / f"{step}.keras")
    result = bnscope.track(tmp_path)
    assert [(a.code, a.layer, a.others) for a in result.alerts] == [("BN501", "first", 1)]
    assert result.layers[0].severity == "error"
    assert result.log_dir is None


def test_each_further_channel_is_told(tmp_path, randomized):
    for step, dead in ((1, (0, 3, 5)), (2, (0, 3, 5)), (3, (0, 1, 3, 5))):
        model = randomized(make_model())
        for channel in dead:
            kill(model, "first", channel, 1e-9 * (channel + 1))
        model.save(tmp_path / f"{step}.keras")
    result = bnscope.track(tmp_path)
    assert result.layers[0].channels == {0: 1, 3: 1, 5: 1, 1: 3}
    assert [(alert.step, alert.channel, alert.count) for alert in result.alerts] == [
        (1, 0, 3),
        (3, 1, 1),
    ]
    assert "step 3, channel 1: moving_variance has collapsed" in str(result)


def test_a_channel_is_seen_dying_over_its_checkpoints(tmp_path, randomized, run_cli):
    fall = (0.5, 0.6, 0.2, 0.06, 0.02, 6e-3, 2e-3, 6e-4, 2e-4, 5e-5)
    model = randomized(make_model())
    for step, variance in enumerate(fall):
        kill(model, "second", DEAD, variance)
        model.save(tmp_path / f"{step}.keras")
    dying, dead = bnscope.track(tmp_path).layers
    assert (dying.code, dying.layer, dying.since, dying.fine) == ("BN505", "second", 5, 4)
    assert (dying.channels, dying.gone) == ({DEAD: 5}, None)
    assert (dead.code, dead.layer, dead.since) == ("BN304", "second", 9)
    code, out, _ = run_cli("track", tmp_path)
    assert code == 1
    assert "BN505 dying-channel: second, from step 5 on (not yet at 4)" in out
    assert "from 0.6 at step 1 to 0.006 at step 5 in channel 2; at this rate" in out


def test_trouble_that_goes_away_says_so(tmp_path, randomized):
    for step in (1, 2, 3):
        model = randomized(make_model())
        if step == 2:
            kill(model, "first", 0, 1e-9)
        model.save(tmp_path / f"{step}.keras")
    (trouble,) = bnscope.track(tmp_path).layers
    assert (trouble.since, trouble.last, trouble.gone) == (2, 2, 3)
    assert "from step 2 on (not yet at 1), no more at 3" in str(bnscope.track(tmp_path))


def test_weights_without_a_configuration_say_that_epsilon_is_not_known(series):
    pattern, _ = series(".weights.h5")
    result = bnscope.track(pattern)
    assert [a.step for a in result.alerts] == [5, 10]
    assert "epsilon is not known and taken to be 0.001" in result.alerts[0].message


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.05-0.56.h5", "a.10-0.58.h5", "a.110-0.65.h5"], [5, 10, 110]),
        (["fer2013_X.00-0.47.hdf5", "fer2013_X.05-0.56.hdf5"], [0, 5]),
        (["0.56-3.keras", "0.47-12.keras"], [3, 12]),  # a decimal is no whole number
        (["m.05.0.56.weights.h5", "m.6.0.56.weights.h5"], [5, 6]),
        (["m.5.weights.h5", "m.10.weights.h5"], [5, 10]),
        (["v1-e2.keras", "v1-e10.keras"], [2, 10]),
        (["e1-s100.keras", "e1-s20.keras"], [20, 100]),
        (["e1/m.keras", "e20/m.keras"], [1, 20]),  # names alike: the folders count
        (["run8/e2.keras", "run9/e1.keras"][::-1], [1, 2]),  # else the names alone
    ],
)
def test_the_step_is_the_first_whole_number_that_differs(names, expected):
    found = steps.find(reversed(names))
    assert [each.step for each in found] == expected


def test_a_regex_takes_the_step_from_elsewhere():
    names = ["e1-s100.keras", "e2-s20.keras"]
    assert [c.step for c in steps.find(names, r"s(\d+)")] == [20, 100]
    assert [c.step for c in steps.find(names, r"(?<=s)\d+")] == [20, 100]
    assert [c.step for c in steps.find(["a5/x.h5"], r"a(\d+)")] == [5]


@pytest.mark.parametrize(
    ("names", "regex", "message"),
    [
        (
            ["a.keras", "b.keras"],
            None,
            "No whole number differs between the names of 2 check",
        ),
        (
            ["a-0.47.h5", "a-0.56.h5"],
            None,
            "No whole number differs between the names of 2 c",
        ),
        ([__file__], None, "test_track.py is one checkpoint, and a series has several."),
        (["none1.keras"], None, "none1.keras does not exist."),
        (
            ["a1.keras", "b1.keras", "b2.h5"],
            None,
            "a1.keras and b1.keras have the same step 1",
        ),
        (["a1.keras", "a2.keras"], "(", "'(' is no regular expression: missing )"),
        (["a1.keras", "a2.keras"], r"b(\d)", "finds no whole number in any of 2 names"),
        (["a1.keras", "a2.keras"], r"b()|a", "finds no whole number in any of 2 names"),
    ],
)
def test_steps_that_cannot_be_told_apart_are_refused(names, regex, message):
    with pytest.raises(BnscopeError, match=re.escape(message)) as raised:
        steps.find(names, regex)
    assert raised.value.hint


def test_one_without_a_number_and_a_url_are_left_out():
    found = steps.find(["a1.keras", "a2.keras", "final.keras", "s3://bucket/a3.keras"])
    assert [each.step for each in found] == [1, 2, None, None]
    errors = {str(each.error) for each in found if each.error is not None}
    assert any("final.keras has no step in its name" in text for text in errors)
    assert len(errors) == 2
    huge = steps.find(["a1.keras", f"a{10**25}.keras"])
    assert "is too large" in str(huge[1].error)


def test_bad_checkpoints_in_the_middle_cost_one_line_each(
    tmp_path, series, run_cli, randomized
):
    pattern, _ = series()
    folder = tmp_path / "ckpt"
    (folder / "net6-3-0.1.keras").write_bytes(
        (folder / "net6-2-0.97.keras").read_bytes()[:900]
    )
    randomized(make_model(width=5)).save(folder / "net6-4-0.1.keras")
    randomized(make_model(names=("first",))).save(folder / "net6-6-0.1.keras")
    more = randomized(make_model(names=("first", "second", "third")))
    more.save(folder / "net6-7-0.1.keras")
    code, out, err = run_cli("track", pattern, "--logdir", tmp_path / "runs")
    assert code == 2
    errors = [line for line in err.splitlines() if "error" in line]
    assert len(errors) == 3
    assert "net6-3-0.1.keras is a truncated or damaged zip archive" in errors[0]
    assert "another architecture: first has 5 channels, not 6" in errors[1]
    assert "another architecture: it has no BN layer second" in errors[2]
    assert "1 BN layer appears at step 7 and cannot be tracked from there on: third" in err
    assert "warning BN304 collapsed-variance: second, from step 5 on (not yet at 2)" in out
    assert list(read(tmp_path / "runs").steps) == [1, 2, 5, 7, 10]


def test_nothing_to_track_is_one_error(tmp_path, run_cli, randomized):
    import keras

    code, _, err = run_cli("track", tmp_path / "*.keras")
    assert (code, err.count("\n")) == (2, 1)
    for step in (1, 2):
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(
            tmp_path / f"{step}.keras"
        )
    code, _, err = run_cli("track", tmp_path, "--logdir", tmp_path / "a" / "b")
    assert code == 2
    assert "None of 2 checkpoints can be tracked." in err
    assert "1.keras has no BN layer." in err
    assert not (tmp_path / "a").exists()
    (tmp_path / "model1.json").write_text(randomized(make_model()).to_json())
    (tmp_path / "model2.json").write_text(randomized(make_model()).to_json())
    with pytest.raises(BnscopeError, match="holds no values of its BN layers"):
        bnscope.track([tmp_path / "model1.json", tmp_path / "model2.json"])


def test_a_json_beside_the_checkpoints_is_no_checkpoint(tmp_path, series):
    series(".weights.h5", folder=".")
    result = bnscope.track(tmp_path, config=tmp_path / "model.json")
    assert (len(result.tracked), result.errors) == (len(STEPS), ())


def test_events_of_a_run_are_kept_unless_told_otherwise(tmp_path, series, run_cli):
    pattern, _ = series()
    target = tmp_path / "runs"
    bnscope.track(pattern, target)
    (before,) = (target / "bnscope").iterdir()
    content = before.read_bytes()
    with pytest.raises(OutputExistsError, match="has the events of a run"):
        bnscope.track(pattern, target)
    code, out, err = run_cli("track", pattern, "--logdir", target)
    assert (code, out) == (2, "")
    assert "replace them with --overwrite" in err
    with pytest.raises(BnscopeError, match=r"matches nothing/\*"):
        bnscope.track(pattern, target, overwrite=True, layers=["nothing/*"])
    assert before.read_bytes() == content
    assert run_cli("track", pattern, "--logdir", target, "--overwrite")[0] == 1
    (after,) = (target / "bnscope").iterdir()
    assert after != before
    assert list(target.iterdir()) == [target / "bnscope"]
    assert list(read(target).steps) == list(STEPS)


def test_an_interrupted_run_leaves_what_was_there(tmp_path, series):
    pattern, _ = series()

    def interrupt(done, _total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bnscope.track(pattern, tmp_path / "new" / "run", progress=interrupt)
    assert not (tmp_path / "new").exists()
    bnscope.track(pattern, tmp_path / "runs")
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.bnscope")}
    with pytest.raises(KeyboardInterrupt):
        bnscope.track(pattern, tmp_path / "runs", overwrite=True, progress=interrupt)
    after = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*.bnscope")}
    assert before == after
    assert list((tmp_path / "runs").iterdir()) == [tmp_path / "runs" / "bnscope"]


def test_a_place_that_cannot_be_written_is_one_error(tmp_path, series, run_cli):
    pattern, _ = series()
    (tmp_path / "file").write_text("kept")
    for place in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nowhere"):
        code, _, err = run_cli("track", pattern, "--logdir", place)
        assert (code, err.count("\n")) == (2, 1), err
    assert (tmp_path / "file").read_text() == "kept"


def test_a_disk_that_fills_up_is_an_error(tmp_path, series, monkeypatch):
    from bnscope.events.file import EventFile

    pattern, _ = series()

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EventFile, "_write", full)
    with pytest.raises(BnscopeError, match=r"No events are written: .*No space left"):
        bnscope.track(pattern, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_shows_the_steps_and_writes_nothing(tmp_path, series, run_cli):
    pattern, _ = series()
    code, out, err = run_cli("track", pattern, "--logdir", tmp_path / "runs", "--dry-run")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()[1:] if line]
    assert [row[0] for row in rows] == ["1", "2", "5", "10"]
    assert rows[3][1].endswith("net6-10-0.89.keras")
    assert not (tmp_path / "runs").exists()


def test_json_has_the_alerts_the_steps_and_nothing_else(series, run_cli):
    pattern, _ = series()
    code, out, err = run_cli("track", pattern, "--output-format", "json")
    found = json.loads(out)
    assert code == 1
    assert "step  checkpoint" in err
    assert [(a["layer"], a["channel"], a["step"]) for a in found["alerts"]] == [
        ("second", DEAD, 5),
        ("second", 4, 10),
    ]
    assert found["layers"][0]["channels"][0] == {"channel": DEAD, "step": 5}
    assert [each["step"] for each in found["checkpoints"]] == list(STEPS)
    assert set(found) == {"log_dir", "checkpoints", "layers", "alerts", "notes"}


def test_chosen_layers_alone_are_tracked(tmp_path, series, run_cli):
    pattern, _ = series()
    code, out, _ = run_cli("track", pattern, "--layer", "fir*", "--logdir", tmp_path / "r")
    assert code == 0
    assert "4 checkpoints, steps 1 to 10, 1 BN layer: no layer got worse." in out
    assert read(tmp_path / "r").layers == ("first",)


def test_no_backend_is_imported(tmp_path, series):
    pattern, _ = series()
    code = f"""
        import sys
        for name in {HEAVY!r}:
            sys.modules[name] = None  # importing it raises ImportError
        from bnscope.cli import main
        code = main(["track", {pattern!r}, "--logdir", {str(tmp_path / "runs")!r}])
        assert code == 1, code
        """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert list(read(tmp_path / "runs").steps) == list(STEPS)
    quiet = code.replace("sys.modules[name] = None", "pass").replace(
        '"track", ', '"track", "--overwrite", '
    )
    quiet = textwrap.dedent(quiet) + f"\nassert not set({HEAVY!r}) & set(sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", quiet], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("fast", ["true", "false"])
def test_a_real_tensorboard_lists_and_reads_the_events(tmp_path, series, fast):
    pattern, _ = series()
    bnscope.track(pattern, tmp_path / "runs" / "x")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path / "runs")]
    command += ["--port", "0", "--load_fast", fast, "--reload_interval", "1"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as server:
        try:
            shown = iter(server.stdout.readline, "")
            address = next(
                found[0]
                for line in shown
                if (found := re.search(r"http://localhost:\d+/", line))
            )
            run = "x/bnscope"
            tags = _when_read(f"{address}data/plugin/scalars/tags", run)
            assert "batch_norm/smallest_moving_variance" in tags[run]
            tag = "batch_norm/smallest_moving_variance"
            rows = _fetch(f"{address}data/plugin/scalars/scalars?run={run}&tag={tag}")
            assert [row[1] for row in rows] == list(STEPS)
            assert rows[2][2] == pytest.approx(1e-5)
            texts = _fetch(f"{address}data/plugin/text/tags")
            assert set(texts[run]) == {"bnscope/alerts", "bnscope/start_text"}
            histograms = _fetch(f"{address}data/plugin/histograms/tags")
            assert "batch_norm/moving_variance" in histograms[run]
        finally:
            server.terminate()


def _when_read(url, run):
    import time

    for _ in range(120):
        found = _fetch(url)
        if run in found:
            return found
        time.sleep(0.5)
    pytest.fail(f"{run} is not shown")
    return None


def _fetch(url):
    with urllib.request.urlopen(url) as answer:  # noqa: S310  this machine
        return json.load(answer)


def test_the_tags_are_those_of_the_schema(tmp_path, series):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pattern, _ = series()
    bnscope.track(pattern, tmp_path / "runs")
    accumulator = EventAccumulator(str(tmp_path / "runs" / "bnscope"), {"tensors": 0})
    accumulator.Reload()
    assert set(accumulator.PluginTagToContent("bnscope")) == {
        schema.START,
        schema.STATISTICS_TAG,
        schema.LAYERS,
        schema.CHANNELS,
        schema.ALERT,
    }
    scalars = set(accumulator.PluginTagToContent("scalars"))
    # Cold statistics and mini-batches cannot be told from checkpoints.
    assert scalars == {
        "batch_norm/smallest_moving_variance",
        "batch_norm/largest_moving_variance",
        "batch_norm/largest_abs_gamma",
        "batch_norm/dead_channel_share",
        "batch_norm/nonfinite_values",
    }
