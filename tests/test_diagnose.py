"""Diagnosis: why inference is worse than training, and whether BN is to blame."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import diagnosis_cases
import keras
import numpy as np
import pytest
from conftest import randomize_batch_norms

import bnscope
from bnscope.bn import batch_from_moving
from bnscope.calibration.moments import Moments
from bnscope.diagnosis import Verdict
from bnscope.diagnosis.causes import find_cause
from bnscope.diagnosis.evidence import Evidence
from bnscope.diagnosis.probe import Mode, Probe
from bnscope.diagnosis.report import fitted, sections
from bnscope.diagnosis.result import LayerDiagnosis
from bnscope.diagnosis.samples import Sampling, read_samples
from bnscope.diagnosis.scoring import Apart
from bnscope.diagnosis.statistics import Flow, divergences, noise, remainder, unlikeness
from bnscope.errors import BnscopeError, UnsupportedModelError
from bnscope.sections import print_sections

layers = keras.layers
DOCS = Path(__file__).parents[1] / "docs"
PLANTED = [(name, case) for name, cases in diagnosis_cases.CASES.items() for case in cases]
QUICK = {diagnosis_cases.baked_true}


def network(width=6, **options):
    """Two BN layers and dropout, with statistics that fit nothing, and decided outputs."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((5,))
    x = layers.Dense(width)(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="one", **options)(x))
    x = layers.BatchNormalization(name="two", **options)(layers.Dense(width)(x))
    x = layers.Dropout(0.5)(layers.ReLU()(x))
    model = keras.Model(inputs, layers.Dense(3)(x), name="network")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    randomize_batch_norms(model, np.random.default_rng(5))
    model.layers[-1].kernel.assign(1.5 * model.layers[-1].kernel)
    return model


def samples(count=70):
    rng = np.random.default_rng(7)
    return rng.normal(2.0, 3.0, (count, 5)).astype("float32"), rng.integers(0, 3, count)


# What is measured.


def test_losses_are_those_of_evaluate_before_and_after_recalibration():
    model, (x, y) = network(), samples()
    found = bnscope.diagnose(model, x, y, batch_size=16).losses["training"]
    evaluated = {
        "inference": model.evaluate(x, y, verbose=0, return_dict=True),
        "recalibrated": bnscope.recalibrate(model, x).evaluate(
            x, y, verbose=0, return_dict=True
        ),
    }
    for mode, expected in evaluated.items():
        assert found[mode] == pytest.approx(expected, rel=1e-5)
    assert abs(found["inference"]["loss"] - found["recalibrated"]["loss"]) > 1e-3


@pytest.fixture(scope="module")
def probed():
    model, (x, y) = network(), samples(32)
    norms = {name: model.get_layer(name) for name in ("one", "two")}
    (batch,) = read_samples(x, y, Sampling(32, 32, 0))
    return model, batch, Probe(model, norms, [batch])


@pytest.mark.parametrize("one", list(Mode))
@pytest.mark.parametrize("two", list(Mode))
def test_each_layer_normalizes_in_its_own_mode(probed, one, two):
    model, batch, probe = probed
    given = [(np.full(6, 0.5), np.full(6, 2.0)), (np.full(6, -1.0), np.full(6, 0.3))]
    probe.give(given)
    seen = probe(batch, np.array([one, two], np.int32))
    x = np.asarray(batch.inputs, np.float64)
    for name, mode, statistics in zip(("one", "two"), (one, two), given, strict=True):
        norm = model.get_layer(name)
        dense = norm.input._keras_history.operation
        kernel, bias = dense.get_weights()
        x = x @ kernel + bias
        gamma, beta, *moving = (np.asarray(w, np.float64) for w in norm.get_weights())
        mean, variance = {
            Mode.MOVING: moving,
            Mode.BATCH: (x.mean(0), x.var(0)),
            Mode.GIVEN: statistics,
        }[mode]
        x = np.maximum((x - mean) / np.sqrt(variance + norm.epsilon) * gamma + beta, 0.0)
    kernel, bias = model.layers[-1].get_weights()
    np.testing.assert_allclose(seen.outputs, x @ kernel + bias, atol=2e-4)


def test_distance_and_divergence_are_those_of_the_data():
    model, (x, y) = network(), samples()
    found = bnscope.diagnose(model, x, y).layers[0]
    seen = np.asarray(keras.Model(model.input, model.get_layer("one").input)(x), np.float64)
    mean, sigma = seen.mean(0), np.sqrt(seen.var(0) + 1e-3)
    moving = np.asarray(model.get_layer("one").moving_mean)
    assert found.shift == pytest.approx(np.median(np.abs(moving - mean) / sigma), rel=1e-4)
    assert found.worst_shift == pytest.approx(
        np.max(np.abs(moving - mean) / sigma), rel=1e-4
    )


def test_divergence_is_the_integral_that_defines_it():
    def density(x, mean, variance):
        return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)

    x = np.linspace(-12.0, 12.0, 200_001)
    p, q = density(x, 0.7, 2.0), density(x, -0.4, 0.5)
    expected = np.sum(p * np.log(p / q)) * (x[1] - x[0])
    data, moving = (np.array([0.7]), np.array([1.9])), (np.array([-0.4]), np.array([0.4]))
    assert divergences(data, moving, 0.1) == pytest.approx([expected], rel=1e-6)
    assert divergences(data, (moving[0], np.array([-1.0])), 0.1) == [np.inf]


def test_the_share_that_is_still_initial_is_found_again(rng):
    data = Moments(100, rng.normal(0.0, 2.0, 50), rng.uniform(0.1, 9.0, 50))
    for share in (0.0, 0.3, 1.0):
        mean = (1.0 - share) * data.mean
        variance = (1.0 - share) * data.variance + share
        assert remainder(data, (mean, variance)) == pytest.approx(share, abs=1e-6)


def flow_of(batches):
    flow = Flow()
    for batch in batches:
        flow.add([Moments(len(batch), batch.mean(0), batch.var(0))])
    return flow


def test_batches_of_one_kind_are_told_from_random_ones(rng):
    x = rng.normal(0.0, 1.0, (40, 16, 8))
    assert unlikeness(flow_of(x), 16, 0.0) == pytest.approx(1.0, abs=0.3)
    apart = x + np.where(np.arange(40) % 2, 2.0, -2.0)[:, None, None]
    assert unlikeness(flow_of(apart), 16, 0.0) > 10.0
    assert unlikeness(flow_of(x[:2]), 16, 0.0) is None


def test_the_noise_is_that_of_a_moving_average(rng):
    x = rng.normal(0.0, 1.0, (4000, 8, 5))
    moving, seen = np.zeros(5), []
    for batch in x:
        moving = 0.8 * moving + 0.2 * batch.mean(0)
        seen.append(moving)
    measured = np.std(seen[100:], axis=0)
    assert noise(flow_of(x), 0.8, 0.0) == pytest.approx(np.median(measured), rel=0.1)
    assert batch_from_moving(seen[0], seen[1], 0.8) == pytest.approx(x[1].mean(0))


def spoiled():
    """A network that is right about all samples but for the statistics of one layer."""
    x, _ = samples()
    model = bnscope.recalibrate(network(), x)
    y = np.argmax(model.predict(x, verbose=0), axis=1)
    model.get_layer("two").moving_mean.assign(np.full(6, 4.0))
    return model, x, y


def test_swapping_the_only_stale_layer_repairs_all_and_causes_all():
    model, x, y = spoiled()
    found = bnscope.diagnose(model, x, y, batch_size=35)
    one, two = found.layers
    assert two.causes == pytest.approx(1.0, abs=0.25)
    assert two.repairs == pytest.approx(1.0, abs=0.25)
    assert abs(one.causes) < 0.25
    assert found.swap_samples > 0
    assert '"two" alone explains' in found.explanation


def test_the_model_is_left_as_it_was():
    model, (x, y) = network(), samples()
    model.fit(x, y, verbose=0)
    model.evaluate(x, y, verbose=0)
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    functions = model.train_function, model.test_function
    bnscope.diagnose(model, x, y, validation_data=(x, y))
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert (model.train_function, model.test_function) == functions
    assert "call" not in vars(model.get_layer("one"))


# Which samples.


def test_one_seed_takes_the_same_samples_in_batches_as_equal_as_can_be():
    x = np.arange(100.0)[:, None]
    first, again, other = (read_samples(x, x, Sampling(9, 65, seed)) for seed in (1, 1, 2))
    taken = [
        np.concatenate([b.inputs for b in each])[:, 0] for each in (first, again, other)
    ]
    np.testing.assert_array_equal(taken[0], taken[1])
    assert set(taken[0]) != set(taken[2])
    assert len(set(taken[0])) == 65
    assert {len(batch) for batch in first} == {9, 10}
    for batch in first:
        np.testing.assert_array_equal(batch.inputs, batch.targets)


def test_a_data_set_is_taken_as_it_comes_with_targets_and_weights():
    model, (x, y) = network(), samples()

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 7

        def __getitem__(self, index):
            part = slice(10 * index, 10 * index + 10)
            return x[part], y[part], np.ones(10)

    found = bnscope.diagnose(model, Batches(), max_samples=40)
    assert (found.samples, found.batch_size) == ({"training": 40}, 10)
    expected = model.evaluate(x[:40], y[:40], verbose=0)[0]
    assert found.losses["training"]["inference"]["loss"] == pytest.approx(
        expected, rel=1e-5
    )


def test_without_targets_or_a_loss_the_outputs_are_compared():
    model, (x, y) = network(), samples()
    found = bnscope.diagnose(model, x)
    assert found.losses == {}
    assert found.notes == (
        "no targets were given (y), so the outputs themselves are compared",
    )
    predicted = model.predict(x, verbose=0)
    better = bnscope.recalibrate(model, x).predict(x, verbose=0)
    apart = np.sqrt(
        np.sum((predicted - better) ** 2) / np.sum((better - better.mean(0)) ** 2)
    )
    assert found.apart["training"]["inference_recalibrated"] == pytest.approx(
        apart, rel=1e-3
    )
    twin = keras.Model(model.inputs, model.outputs)
    assert "not compiled" in bnscope.diagnose(twin, x, y).notes[0]
    found = bnscope.diagnose(twin, x, y, loss=model.loss)
    assert found.losses["training"]["inference"].keys() == {"loss"}


def test_outputs_whose_size_differs_between_batches(rng):
    inputs = keras.Input((None, 3))
    x = layers.BatchNormalization()(layers.Dense(4)(inputs))
    model = keras.Model(inputs, layers.Dense(1)(x))
    model.compile("adam", "mse")

    class Padded(keras.utils.PyDataset):
        def __len__(self):
            return len(batches)

        def __getitem__(self, index):
            return batches[index]

    def draw(*shape):
        return rng.normal(size=shape).astype("float32")

    batches = [(draw(n, t, 3), draw(n, t, 1)) for n, t in [(9, 5), (16, 4), (7, 5)]]
    found = bnscope.diagnose(model, Padded())
    expected = model.evaluate(Padded(), verbose=0)
    assert found.losses["training"]["inference"]["loss"] == pytest.approx(
        expected, rel=1e-5
    )


def test_outputs_of_several_shapes_lie_apart_by_one_number(rng):
    apart = Apart()
    pairs = [(rng.normal(size=shape), rng.normal(size=shape)) for shape in [(6, 4), (5, 3)]]
    for one, other in pairs:
        apart.add(one, other)
    squares = sum(np.sum((one - other) ** 2) for one, other in pairs)
    spread = sum(np.sum((other - other.mean(0)) ** 2) for _, other in pairs)
    assert apart.value == pytest.approx(np.sqrt(squares / spread))


def test_several_inputs_and_outputs_and_a_fixed_batch_size(rng):
    a, b = (keras.Input((3,), batch_size=8, name=name) for name in "ab")
    x = layers.BatchNormalization()(layers.Dense(4)(layers.Concatenate()([a, b])))
    outputs = {"p": layers.Dense(1, name="p")(x), "q": layers.Dense(2, name="q")(x)}
    model = keras.Model({"a": a, "b": b}, outputs)
    model.compile("adam", {"p": "mse", "q": "mae"}, metrics={"q": ["mse"]})
    data = {name: rng.normal(size=(40, 3)) for name in "ab"}
    targets = {"p": rng.normal(size=(40, 1)), "q": rng.normal(size=(40, 2))}
    found = bnscope.diagnose(model, data, targets, batch_size=32)
    assert found.batch_size == 8
    expected = model.evaluate(data, targets, batch_size=8, verbose=0, return_dict=True)
    values = found.losses["training"]["inference"]
    for name in ("loss", "q_mse"):
        assert values[name] == pytest.approx(expected[name], rel=1e-5)


# Verdicts.


def layer(**changes):
    """A layer whose statistics fit."""
    values = {
        "layer": "bn",
        "momentum": 0.9,
        "epsilon": 1e-3,
        "frozen": False,
        "mean": np.zeros(4),
        "variance": np.ones(4),
        "moving_mean": np.zeros(4),
        "moving_variance": np.ones(4),
        "shifts": np.full(4, 0.01),
        "divergences": np.full(4, 0.001),
        "calls": 1,
        "values": 64,
        "initial": 0.0,
        "noise": 0.01,
        "unlike": 1.0,
        "calls_apart": 0.0,
    }
    return LayerDiagnosis(**{**values, **changes})


STALE = {"shifts": np.full(4, 0.5), "divergences": np.full(4, 0.3)}


def evidence(losses, *found, validation=None, steps=1000, batch_recalibrated=0.1):
    """Evidence of an inference, a batch and a recalibrated loss."""
    modes = ("inference", "batch", "recalibrated")
    data = {"training": losses}
    if validation is not None:
        data["validation"] = validation
    apart = {
        "inference_batch": 0.6,
        "inference_recalibrated": 0.6 if losses[0] > 1.1 * losses[2] else 0.01,
        "batch_recalibrated": batch_recalibrated,
    }
    return Evidence(
        losses={
            name: {mode: {"loss": value} for mode, value in zip(modes, values, strict=True)}
            for name, values in data.items()
        },
        apart=dict.fromkeys(data, apart),
        layers=found or (layer(),),
        findings=(),
        samples=dict.fromkeys(data, 100),
        batch_size=32,
        steps=steps,
    )


GAP, NONE = (2.0, 0.3, 0.3), (0.3, 0.3, 0.3)


@pytest.mark.parametrize(
    ("expected", "given"),
    [
        (
            "cold_statistics",
            evidence(GAP, layer(initial=0.4, momentum=0.99, **STALE), steps=50),
        ),
        ("momentum", evidence(GAP, layer(initial=0.4, momentum=0.999, **STALE), steps=500)),
        ("momentum", evidence(GAP, layer(initial=0.4, momentum=0.99, **STALE))),
        ("momentum", evidence(GAP, layer(momentum=1.5, **STALE))),
        ("momentum", evidence(GAP, layer(momentum=0.1, noise=0.4, **STALE))),
        ("small_batch", evidence(GAP, layer(noise=0.4, **STALE))),
        ("data_shift", evidence(GAP, layer(frozen=True, **STALE))),
        ("small_batch", evidence((0.3, 0.9, 0.3), layer(values=4), batch_recalibrated=0.8)),
        (
            "not_batch_norm",
            evidence((0.3, 0.9, 0.3), layer(values=64), batch_recalibrated=0.8),
        ),
        (
            "shared_across_domains",
            evidence(
                (2.0, 0.3, 1.5), layer(calls=2, calls_apart=2.0), batch_recalibrated=0.8
            ),
        ),
        (
            "shared_across_domains",
            evidence((2.0, 0.3, 1.5), layer(unlike=9.0), batch_recalibrated=0.8),
        ),
        (
            "data_shift",
            evidence(NONE, layer(validation_kl=0.2), validation=(3.0, 0.5, 3.0)),
        ),
        (
            "data_shift",
            evidence(NONE, layer(validation_kl=0.9), validation=(3.0, 3.0, 3.0)),
        ),
        (
            "not_batch_norm",
            evidence(NONE, layer(validation_kl=0.2), validation=(3.0, 3.0, 3.0)),
        ),
        ("not_batch_norm", evidence(NONE, validation=(3.0, 3.0, 3.0))),
        ("not_batch_norm", evidence(NONE)),
        ("not_batch_norm", evidence((0.36, 0.3, 0.3), layer(**STALE))),
        (
            "not_batch_norm",
            evidence((0.5, 0.3, 0.3), layer(**STALE), validation=(5.0, 5.0, 5.0)),
        ),
        ("momentum", evidence(NONE, layer(**STALE), validation=(2.0, 0.4, 0.4))),
    ],
)
def test_evidence_gives_the_verdict(expected, given):
    if given.loss("inference", "validation") == 2.0:  # on the validation data alone
        apart = {**given.apart["validation"], "inference_recalibrated": 0.6}
        given = replace(given, apart={**given.apart, "validation": apart})
    assert find_cause(given).verdict == expected


SCALED = {**STALE, "moving_variance": np.full(4, 1e-4), "epsilon": 0.0}


@pytest.mark.parametrize(
    ("given", "said", "not_said"),
    [
        (evidence(NONE), ["inference is as good as training"], ["hardly"]),
        (
            evidence((0.345, 0.31, 0.3), layer(**STALE)),
            [
                "0.345 at inference and 0.3 after recalibration",
                "15% more is less than the 25% that count as a gap",
                "little harm",
            ],
            ["as good as"],
        ),
        (
            evidence((0.5, 0.3, 0.4), validation=(5.0, 5.0, 5.0)),
            ["0.3 with batch statistics, and that is less than 20% of what validation"],
            ["as good as"],
        ),
        (
            evidence(NONE, layer(validation_kl=0.01), validation=(3.0, 3.0, 3.0)),
            ["The statistics of the validation data are alike", "it overfits"],
            ["differ"],
        ),
        (
            evidence(NONE, layer(validation_kl=0.06), validation=(3.0, 2.9, 3.0)),
            ["differ from the training data", "0.06 nats", "loss is 2.9 instead of 3"],
            ["alike", "overfits"],
        ),
        (
            evidence(GAP, layer(**SCALED), validation=(0.4, 0.4, 3.0)),
            [
                "x looks prepared differently",
                "about 100 times as large, as on another scale",
                "loss is 0.4 instead of 0.4",
            ],
            ["lag"],
        ),
    ],
)
def test_an_explanation_says_what_its_figures_say(given, said, not_said):
    text = " ".join(find_cause(given).sentences)
    assert [part for part in said if part not in text] == [], text
    assert [part for part in not_said if part in text] == [], text


@pytest.mark.parametrize(
    "found",
    [
        layer(momentum=1.5, **STALE),
        layer(initial=0.4, momentum=0.99, **STALE),
        layer(momentum=0.1, noise=0.4, **STALE),
        layer(frozen=True, **STALE),
        layer(**STALE),
        layer(**SCALED),
    ],
)
@pytest.mark.parametrize("validation", [(2.0, 0.3, 2.1), (0.4, 0.4, 3.0)])
def test_no_step_is_advised_that_makes_validation_worse(found, validation):
    given = evidence(GAP, found, validation=validation, steps=50)
    advice = find_cause(given).advice
    assert "ecalibrate (bnscope" not in advice
    assert f"would go from {validation[0]:.3g} to {validation[2]:.3g}" in advice
    helpful = find_cause(evidence(GAP, found, validation=(2.0, 0.3, 0.4), steps=50)).advice
    assert "ecalibrate (bnscope.recalibrate): the validation loss goes from 2 to" in helpful


@pytest.mark.parametrize(
    ("expected", "case"),
    [
        pytest.param(
            name,
            case,
            id=case.__name__,
            marks=() if case in QUICK else pytest.mark.slow,
        )
        for name, case in PLANTED
    ],
)
def test_a_planted_cause_is_named(expected, case):
    keras.utils.set_random_seed(1)
    model, given, options = case()
    found = bnscope.diagnose(model, *given, **options)
    assert found.verdict == expected, str(found)
    if "training" in found.losses:
        shown = f"{found.losses['training']['inference']['loss']:.3g} at inference"
        assert shown in found.explanation


def test_every_verdict_is_planted():
    assert set(diagnosis_cases.CASES) == {str(verdict) for verdict in Verdict}
    assert len(PLANTED) >= 20


def test_one_network_healthy_never_updated_and_on_other_data():
    keras.utils.set_random_seed(1)
    model, (x, y), options = diagnosis_cases.on_digits(
        diagnosis_cases.trained(diagnosis_cases.mlp(), epochs=4)
    )
    assert bnscope.diagnose(model, x, y, **options).verdict == "not_batch_norm"
    x_val, y_val = options["validation_data"]
    found = bnscope.diagnose(model, x, y, validation_data=(16 * x_val, y_val))
    assert found.verdict == "data_shift"
    found = bnscope.diagnose(model, 255 * x, y, **options)
    assert found.verdict == "data_shift"
    assert "x looks prepared differently" in found.explanation
    assert "would not help" in found.advice
    for norm in model.layers[1::4]:
        norm.moving_mean.assign(np.zeros(64))
        norm.moving_variance.assign(np.ones(64))
    assert bnscope.diagnose(model, x, y, **options).verdict == "cold_statistics"


def test_the_case_of_the_docs_gives_its_figures(capsys):
    text = (DOCS / "why-validation-is-worse.md").read_text(encoding="utf-8")
    keras.utils.clear_session()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, "why-validation-is-worse.md", "exec"), names)  # noqa: S102
    (shown,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    printed = capsys.readouterr().out
    number = re.compile(r"-?\d[\d.,e-]*")
    start = printed.index(shown.splitlines()[0])
    wanted = shown.splitlines()
    for line, other in zip(wanted, printed[start:].splitlines(), strict=False):
        assert re.sub(r"\s+", " ", number.sub("#", line)) == re.sub(
            r"\s+", " ", number.sub("#", other)
        )
    found = names["diagnosis"]
    assert found.verdict == "cold_statistics"
    rows = re.findall(
        r"(?:inference\)|batch|recalibrated) +([\d.]+) +([\d.]+)$", shown, re.MULTILINE
    )
    measured = [v for data in found.losses.values() for v in data.values()]
    assert len(rows) == len(measured) == 6
    for (loss, accuracy), values in zip(rows, measured, strict=True):
        assert values["loss"] == pytest.approx(float(loss), abs=0.03)
        assert values["accuracy"] == pytest.approx(float(accuracy), abs=0.02)
    after = names["better"].evaluate(names["x_val"], names["y_val"], verbose=0)
    assert after == pytest.approx([0.78, 0.896], abs=0.03)


# How it is shown.


@pytest.fixture(scope="module")
def stale():
    """A diagnosis with a gap, and the files that it is about."""
    model, x, y = spoiled()
    return model, x, y, bnscope.diagnose(model, x, y, validation_data=(x, y))


def test_a_diagnosis_is_text_html_json_and_a_figure(stale):
    found = stale[3]
    text = str(found)
    assert text.splitlines()[0].startswith("network: ")
    assert "To do: " in text
    assert f"{found.losses['training']['batch']['loss']:.4g}" in text
    assert "<table>" in found._repr_html_()
    value = json.loads(found.to_json())
    assert value["verdict"] == str(found.verdict)
    assert [each["layer"] for each in value["layers"]] == ["one", "two"]
    figure = found.plot()
    bars = {trace.name: list(trace.y) for trace in figure.data}
    assert bars["moving statistics"] == [
        found.losses[data]["inference"]["loss"] for data in ("training", "validation")
    ]
    assert bars["alone repairs"] == [each.repairs for each in found.layers]
    assert figure.to_json()


def test_a_narrow_terminal_breaks_no_word_of_a_heading(stale):
    given = sections(stale[3])
    assert list(fitted(given, 10_000)) == given
    stream = io.StringIO()
    for width in (50, 60):
        narrow = list(fitted(given, width))
        stream.isatty = lambda: True
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLUMNS", str(width))
            print_sections(narrow, stream)
    text = stream.getvalue()
    for column in ("variance, moving / data", "alone repairs", "mean off, in sigma"):
        assert text.count(f"  {column} ") == 4, text
    assert text.count("training, statistics of each batch") == 2


def test_no_zero_is_negative(stale):
    found = stale[3]
    first, second = (replace(each, causes=-0.001, repairs=-0.004) for each in found.layers)
    text = str(replace(found, layers=(first, second)))
    assert " 0%" in text
    assert "-0%" not in text


def test_a_negative_moving_variance_is_no_harmless_nan():
    model, x, y = spoiled()
    model.get_layer("two").moving_variance.assign(np.full(6, -1.0))
    found = bnscope.diagnose(model, x, y)
    assert np.isnan(found.losses["training"]["inference"]["loss"])
    assert found.verdict != "not_batch_norm"
    assert found.layers[1].kl == np.inf
    assert json.loads(found.to_json())["layers"][1]["kl"] == "Infinity"
    assert found.plot().to_json()


def test_names_in_html_are_escaped(stale):
    found = replace(stale[3], model="<script>")
    assert "<script>" not in found._repr_html_()


def test_the_command_prints_and_exits_by_the_verdict(stale, tmp_path, run_cli):
    model, x, y, found = stale
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=x, y=y, x_val=x, y_val=y)
    given = ["diagnose", tmp_path / "model.keras", "--data", tmp_path / "data.npz"]
    code, text, errors = run_cli(*given)
    assert (code, errors) == (1, "")
    assert text.startswith(f"network: {str(found.verdict).replace('_', ' ')}\n")
    code, text, _ = run_cli(*given, "--output-format", "json", "--max-samples", "40")
    value = json.loads(text)
    assert (code, value["samples"]) == (1, {"training": 40, "validation": 40})
    bnscope.recalibrate(model, x).save(tmp_path / "better.keras")
    code, text, _ = run_cli("diagnose", tmp_path / "better.keras", *given[2:])
    assert code == 0
    assert text.startswith("network: not BN's fault")


@pytest.mark.parametrize(("width", "codes"), [(6, {0, 1}), (3, {2})])
def test_the_command_takes_a_sequential_model(width, codes, tmp_path, run_cli, rng):
    inner = [layers.Dense(4, use_bias=False), layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((6,)), *inner, layers.Dense(1)])
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=rng.normal(size=(64, width)).astype("float32"))
    given = tmp_path / "model.keras", "--data", tmp_path / "data.npz"
    code, _, errors = run_cli("diagnose", *given)
    assert code in codes
    assert "internal error" not in errors
    assert ("does not run" in errors) == (width == 3)


def test_the_command_takes_inputs_and_outputs_by_name(tmp_path, run_cli, rng):
    a, b = (keras.Input((3,), name=name) for name in "ab")
    x = layers.BatchNormalization()(layers.Dense(4)(layers.Concatenate()([a, b])))
    model = keras.Model(
        [a, b], [layers.Dense(1, name="p")(x), layers.Dense(2, name="q")(x)]
    )
    model.compile("adam", ["mse", "mae"])
    model.save(tmp_path / "model.keras")
    shapes = {"a": 3, "b": 3, "p": 1, "q": 2}
    arrays = {
        f"{name}{suffix}": rng.normal(size=(20, width))
        for name, width in shapes.items()
        for suffix in ("", "_val")
    }
    np.savez(tmp_path / "data.npz", **arrays)
    given = ["--data", tmp_path / "data.npz", "--output-format", "json"]
    code, text, errors = run_cli("diagnose", tmp_path / "model.keras", *given)
    assert code in {0, 1}, errors
    expected = model.evaluate(
        [arrays["a_val"], arrays["b_val"]],
        [arrays["p_val"], arrays["q_val"]],
        verbose=0,
        return_dict=True,
    )
    found = json.loads(text)["losses"]["validation"]["inference"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    for names, missing in (
        (["a", "p", "q"], "not the input b of the model"),
        (["p"], "not the inputs a, b of the model"),
        (["a", "b", "b_val"], "not the input a_val of the model"),
    ):
        part = {name: arrays[name] for name in names}
        np.savez(tmp_path / "data.npz", **part, x=arrays["a"])
        code, text, errors = run_cli("diagnose", tmp_path / "model.keras", *given)
        assert (code, text, errors.count("\n")) == (2, "", 1)
        assert missing in errors


# What cannot be used.


class Unbuilt(keras.Model):
    """A model without weights."""

    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization()

    def call(self, inputs, training=None):
        return self.norm(inputs, training=training)


def test_errors_are_clear_and_nothing_is_changed():
    model, (x, y) = network(), samples()
    before = model.get_weights()
    broken = x.copy()
    broken[3, 2] = np.nan
    cases = [
        ((broken, y), {}, "The inputs in x are not finite: 1 value"),
        ((x, np.where(y > 1, np.nan, 1.0)), {}, "The targets in x are not finite"),
        ((x[:, :4], y), {}, "does not run on the data"),
        ((x[:, :4, None], y), {}, r"of shape \(5,\), and these have \(4, 1\)"),
        ((x, np.full(70, "a")), {}, "The targets have dtype <U1"),
        ((np.full(70, "a"), y), {}, "The inputs have dtype <U1, and numbers are expected"),
        ((x, y), {"validation_data": (x[:, :4], y)}, "does not run on validation_data"),
        ((x, y[:9]), {}, "cardinality"),
        ((x, y + 5), {}, "The loss cannot be computed"),
        ((x, np.zeros((70, 7))), {}, r"of the shapes \(35, 7\), \(35, 3\)"),
        (
            (x, y),
            {"validation_data": (x, np.zeros((70, 7)))},
            "The loss cannot be computed",
        ),
        ((x, y), {"validation_data": (x, y, np.ones(9))}, "cardinality"),
        ((x[:1], y[:1]), {}, "x holds 1 sample, and"),
        ((x, y), {"validation_data": (x[:2], y[:2])}, "validation_data holds 2 samples"),
        ((None,), {}, "There are no data"),
        (("text",), {}, "cannot be read"),
        ((x, y), {"loss": "nonsense"}, "nonsense"),
        ((x, y), {"batch_size": 1}, "batch_size must be a whole number, at least 2, got 1"),
        ((x, y), {"max_samples": 0}, "max_samples must be"),
        ((x, y), {"seed": -1}, "seed must be"),
    ]
    for given, options, text in cases:
        with pytest.raises(BnscopeError, match=text) as raised:
            bnscope.diagnose(model, *given, **options)
        assert "\n" not in str(raised.value)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    plain = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
    with pytest.raises(UnsupportedModelError, match="so BN is not why it does worse"):
        bnscope.diagnose(plain, x, y)
    with pytest.raises(UnsupportedModelError, match="not built"):
        bnscope.diagnose(Unbuilt(), x, y)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--data FILE is missing"),
        (["--data", "no.npz"], "does not exist"),
        (["--data", "other.npz"], "but no input of the model"),
        (["--data", "wide.npz"], "does not run on the data"),
        (["--data", "data.npz", "--loss", "nonsense"], "nonsense"),
        (
            ["--data", "data.npz", "--batch-size", "0"],
            "argument --batch-size: expected a whole number of at least 2, got '0'",
        ),
        (["--data", "data.npz", "--max-samples", "0"], "argument --max-samples"),
        (["--data", "data.npz", "--seed", "-1"], "argument --seed"),
    ],
)
def test_errors_of_the_command_are_one_line(
    arguments, text, tmp_path, monkeypatch, run_cli
):
    monkeypatch.chdir(tmp_path)
    network().save("model.keras")
    x, y = samples()
    np.savez("data.npz", x=x, y=y)
    np.savez("wide.npz", x=np.zeros((20, 9)))
    np.savez("other.npz", images=x)
    code, out, errors = run_cli("diagnose", "model.keras", *arguments)
    assert (code, out) == (2, "")
    assert text in errors
    assert errors.count("\n") == 1
