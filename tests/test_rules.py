"""Every rule: documented, unique, and its examples run through both readers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import bnscope
from bnscope.bn import BatchNormState
from bnscope.errors import UnknownCodeError
from bnscope.rules import all_rules, find, matching
from bnscope.rules.base import Severity
from bnscope.rules.cold_stats_at_validation import ColdStatsAtValidation
from bnscope.rules.collapsed_variance import CollapsedVariance
from bnscope.rules.invalid_statistics import InvalidStatistics

RULES = all_rules()
EXAMPLES = [
    (rule, name, make)
    for rule in RULES
    for prefix in ("bad", "good")
    for name, make in rule.examples(prefix).items()
]


def codes(report, least=Severity.INFO):
    return sorted({finding.code for finding in report.at_least(least)})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_rule_is_documented(rule):
    page = rule.page()
    for section in ("What it does", "Why is this bad", "What to do", "When it is quiet"):
        assert f"## {section}\n" in page, section
    assert page.startswith(f"# {rule.code} {rule.name}\n")
    assert rule.advice.endswith(".")
    for name, value in rule.thresholds().items():
        assert f"{name} = {value:g}" in page


def test_codes_and_names_are_unique():
    assert len({rule.code for rule in RULES}) == len(RULES)
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if not rule.while_training], ids=lambda rule: rule.code
)
def test_a_linting_rule_has_examples_of_both_kinds(rule):
    assert rule.examples("bad")
    assert rule.examples("good")


@pytest.mark.parametrize(
    ("rule", "name", "make"),
    EXAMPLES,
    ids=[f"{rule.code}-{name}" for rule, name, _ in EXAMPLES],
)
def test_an_example_is_found_or_quiet_by_both_readers(rule, name, make, tmp_path):
    keras.utils.clear_session()
    model = make(keras)
    if "_config_" in name:  # what no live model can hold
        (tmp_path / "model.json").write_text(model, encoding="utf-8")
        assert bnscope.lint(tmp_path / "model.json", select=rule.code).findings
        return
    live = bnscope.lint(model, select=rule.code)
    assert bool(live.findings) == name.startswith("bad")
    if "_live_" in name:  # a class of the user's, whose inside no file holds
        return
    for suffix in (".keras", ".h5"):
        path = tmp_path / f"model{suffix}"
        model.save(path)
        saved = bnscope.lint(path, select=rule.code)
        assert repr(saved.findings) == repr(live.findings)


def test_rules_are_found_by_code_name_and_prefix():
    assert find("bn101").name == "redundant-bias"
    assert find("redundant-bias").code == "BN101"
    assert matching("BN50") == {f"BN50{digit}" for digit in range(1, 7)}
    assert matching("ALL") == {rule.code for rule in RULES}
    with pytest.raises(UnknownCodeError, match="Did you mean redundant-bias"):
        find("redundant-bais")


def conv_bn(*, bias=True, between=(), bn=None, after=()):
    return keras.Sequential(
        [
            keras.Input((12, 10, 3)),
            layers.Conv2D(6, 3, use_bias=bias),
            *between,
            bn or layers.BatchNormalization(),
            *after,
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


@pytest.mark.parametrize(
    ("between", "found"),
    [
        ([layers.MaxPooling2D()], True),
        ([layers.UpSampling2D(interpolation="bilinear")], True),
        ([layers.GlobalAveragePooling2D()], True),
        ([layers.Activation("linear"), layers.Dropout(0.0)], True),
        ([layers.LeakyReLU()], False),
        ([layers.Dropout(0.3)], False),
        ([layers.GaussianDropout(0.3)], False),
        ([layers.ZeroPadding2D()], False),
        ([layers.Reshape((10, 6, 8))], False),
    ],
)
def test_redundant_bias_looks_through_what_passes_a_shift(between, found):
    keras.utils.clear_session()
    between = [type(layer).from_config(layer.get_config()) for layer in between]
    assert bool(bnscope.lint(conv_bn(between=between), select="BN101").findings) == found


def test_redundant_bias_is_quiet_where_the_bias_is_used_elsewhere():
    inputs = keras.Input((8,))
    x = layers.Dense(4)(inputs)
    y = layers.ReLU()(layers.BatchNormalization()(x))
    assert not bnscope.lint(keras.Model(inputs, [y, x]), select="BN101").findings
    assert not bnscope.lint(
        keras.Model(inputs, layers.Add()([x, y])), select="BN101"
    ).findings


def test_redundant_bias_counts_every_bn_it_feeds():
    inputs = keras.Input((8,))
    x = layers.Dense(4, name="dense")(inputs)
    norms = [layers.BatchNormalization(name=f"bn{i}")(x) for i in range(2)]
    outputs = [layers.ReLU()(norm) for norm in norms]
    (finding,) = bnscope.lint(keras.Model(inputs, outputs), select="BN101")
    assert finding.layer == "dense"
    assert sorted(finding.related) == ["bn0", "bn1"]


def test_redundant_bias_is_quiet_before_a_frozen_bn():
    model = conv_bn(bn=layers.BatchNormalization(trainable=False))
    assert not bnscope.lint(model, select="BN101").findings


def test_missing_shift_ignores_a_bias_before_bn():
    model = conv_bn(bias=True, bn=layers.BatchNormalization(center=False))
    assert codes(bnscope.lint(model, select="BN102")) == ["BN102"]
    whitening = conv_bn(bn=layers.BatchNormalization(center=False, scale=False))
    assert not bnscope.lint(whitening, select="BN102").findings


def test_bn_on_input_sees_an_inner_models_input_and_joined_inputs():
    inner = keras.Sequential(
        [keras.Input((8,)), layers.BatchNormalization(name="bn"), layers.Dense(2)],
        name="inner",
    )
    inputs = [keras.Input((4,), name="a"), keras.Input((4,), name="b")]
    joined = layers.Concatenate()(inputs)
    (finding,) = bnscope.lint(keras.Model(inputs, inner(joined)), select="BN103")
    assert finding.layer == "inner/bn"
    assert "Concatenate" in finding.message


def test_bn_at_output_without_activation_is_a_note():
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(3), layers.BatchNormalization()]
    )
    (finding,) = bnscope.lint(model, select="BN104")
    assert finding.severity is Severity.INFO


def test_consecutive_bn_is_a_note_when_the_first_is_frozen():
    model = conv_bn(after=[layers.BatchNormalization()])
    assert bnscope.lint(model, select="BN105").findings[0].severity is Severity.WARNING
    frozen = layers.BatchNormalization(trainable=False)
    model = conv_bn(bn=frozen, after=[layers.BatchNormalization()])
    assert bnscope.lint(model, select="BN105").findings[0].severity is Severity.INFO


def test_wrong_axis_is_a_note_where_the_sizes_agree_and_a_warning_behind_dense():
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(6, 1, use_bias=False)(inputs)
    model = keras.Model(inputs, layers.ReLU()(layers.BatchNormalization(axis=1)(x)))
    assert bnscope.lint(model, select="BN108").findings[0].severity is Severity.INFO
    inputs = keras.Input((7, 5))
    x = layers.BatchNormalization(axis=1)(layers.Dense(4)(inputs))
    model = keras.Model(inputs, layers.ReLU()(x))
    assert bnscope.lint(model, select="BN108").findings[0].severity is Severity.WARNING
    x = layers.BatchNormalization(axis=1, name="per_timestep_bn")(layers.Dense(4)(inputs))
    assert not bnscope.lint(keras.Model(inputs, layers.ReLU()(x)), select="BN108").findings


def test_zero_gamma_that_has_left_zero_is_a_note():
    bn = layers.BatchNormalization(gamma_initializer="zeros")
    model = conv_bn(bn=bn)
    assert bnscope.lint(model, select="BN201").findings[0].severity is Severity.ERROR
    bn.gamma.assign(np.linspace(-1, 1, 6))
    assert bnscope.lint(model, select="BN201").findings[0].severity is Severity.INFO


@pytest.mark.parametrize(
    ("momentum", "severity"), [(1.0, "warning"), (-0.1, "error"), (0.0, "info")]
)
def test_momentum_at_and_below_the_range(momentum, severity):
    model = conv_bn(bn=layers.BatchNormalization(momentum=momentum))
    (finding,) = bnscope.lint(model, select="BN202")
    assert finding.severity == severity


def test_momentum_zero_is_not_of_torch():
    model = conv_bn(bn=layers.BatchNormalization(momentum=0.0))
    assert not bnscope.lint(model, select="BN203").findings


def test_statistics_never_updated_despite_optimizer_steps():
    model = conv_bn()
    model.compile("sgd", "mse")
    x = np.ones((4, 12, 10, 3), np.float32)
    model.fit(x, np.zeros((4, 2), np.float32), verbose=0)
    bn = model.layers[1]
    bn.moving_mean.assign(np.zeros(6))
    bn.moving_variance.assign(np.ones(6))
    (finding,) = bnscope.lint(model, select="BN301")
    assert finding.severity is Severity.ERROR
    assert "1 step" in finding.message


def state(**changes):
    values = {
        "gamma": np.array([1.0, -0.5, 2.0]),
        "beta": np.array([0.1, 0.0, -0.3]),
        "moving_mean": np.array([0.5, -1.0, 3.0]),
        "moving_variance": np.array([0.5, 2.0, 1e-2]),
    }
    values.update({name: np.array(value) for name, value in changes.items()})
    return BatchNormState(**values, momentum=0.99, epsilon=1e-3)


def test_invalid_statistics_name_the_variable_and_the_channel():
    (problem,) = InvalidStatistics().check_state(state(beta=[0.0, np.inf, 0.0]))
    assert (problem.statistic, problem.channels) == ("beta", (1,))
    (problem,) = InvalidStatistics().check_state(state(moving_variance=[-1.0, 1.0, -3.0]))
    assert (problem.channels, problem.value) == ((2, 0), -3.0)
    assert not InvalidStatistics().check_state(state())


def test_collapsed_variance_uses_epsilon_and_lists_the_worst_first():
    (problem,) = CollapsedVariance().check_state(state(moving_variance=[9e-5, 1.0, 1e-9]))
    assert problem.channels == (2, 0)
    assert problem.threshold == pytest.approx(1e-4)
    assert not CollapsedVariance().check_state(state(moving_variance=[1.1e-4, 1.0, 2.6e-3]))
    (problem,) = CollapsedVariance().check_state(state(moving_variance=[1.0, 2e6, 1.0]))
    assert problem.channels == (1,)


@pytest.mark.parametrize(
    ("momentum", "updates", "cold"),
    [
        (0.99, 298, True),
        (0.99, 299, False),
        (0.9, 28, True),
        (0.9, 29, False),
        (1.0, 5, False),
    ],
)
def test_statistics_are_cold_until_five_percent_are_left(momentum, updates, cold):
    problem = ColdStatsAtValidation().check_updates(momentum, updates)
    assert (problem is not None) == cold
