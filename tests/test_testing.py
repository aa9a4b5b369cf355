"""`bnscope.testing.assert_clean`, without pytest's help and with it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings

import keras
import pytest
from keras import layers

import bnscope
from bnscope.errors import BnscopeError, UnknownCodeError, UnreadableModelError
from bnscope.testing import NotAnalysedWarning, assert_clean


@pytest.fixture
def biased(randomized):
    return randomized(
        keras.Sequential(
            [
                keras.Input((8,)),
                layers.Dense(4, name="dense"),
                layers.BatchNormalization(name="bn"),
                layers.ReLU(),
                layers.Dense(1, name="head"),
            ]
        )
    )


def test_a_model_with_findings_fails_with_the_readable_report(biased):
    with pytest.raises(AssertionError) as caught:
        assert_clean(biased)
    message = str(caught.value)
    assert message.startswith("bnscope found misuse of BN.\n\n")
    assert message.endswith(str(bnscope.lint(biased)))
    assert "dense: Dense has a bias of 4 values" in message


def test_what_is_ignored_not_selected_or_below_the_level_passes(biased, tmp_path):
    assert assert_clean(biased, ignore="BN101").ok
    assert assert_clean(biased, select=["BN2", "BN3"]).ok
    report = assert_clean(biased, fail_on="error")
    assert [finding.code for finding in report] == ["BN101"]
    biased.save(tmp_path / "model.keras")
    assert assert_clean(tmp_path / "model.keras", ignore=["redundant-bias"]).ok


def test_notes_fail_only_when_asked_for(randomized):
    model = randomized(
        keras.Sequential([keras.Input((8,)), layers.Dense(3), layers.BatchNormalization()])
    )
    assert_clean(model, select="BN104")
    with pytest.raises(AssertionError, match="BN104"):
        assert_clean(model, select="BN104", fail_on="info")


def test_what_cannot_be_analysed_is_told(biased, tmp_path):
    path = tmp_path / "only.weights.h5"
    biased.save_weights(path)
    with pytest.warns(NotAnalysedWarning, match="only weights") as caught:
        report = assert_clean(path)
    assert report.status == "partly"
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotAnalysedWarning)
        assert_clean(biased, ignore="BN101")


def test_wrong_arguments_are_errors_and_no_failed_assertions(biased, tmp_path):
    with pytest.raises(BnscopeError, match="There is no severity 'off'"):
        assert_clean(biased, fail_on="off")
    with pytest.raises(UnknownCodeError):
        assert_clean(biased, ignore="BN999")
    with pytest.raises(UnreadableModelError):
        assert_clean(tmp_path / "missing.keras")


def test_it_needs_no_pytest_and_is_loaded_when_used(biased, tmp_path):
    biased.save(tmp_path / "model.keras")
    code = f"""
    import sys
    sys.modules["pytest"] = None
    import bnscope
    assert "bnscope.linting" not in sys.modules
    assert "testing" in dir(bnscope)
    bnscope.testing.assert_clean({str(tmp_path / "model.keras")!r}, ignore="BN101")
    assert "keras" not in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
