"""Well-known architectures: quiet where nothing is wrong, and folded as far as can be."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import bnscope
from bnscope.rules.base import Severity

# One model a family, and the size of its input.
QUIET = [
    ("MobileNet", 96),
    ("MobileNetV2", 96),
    ("MobileNetV3Small", 96),
    ("EfficientNetB0", 64),
    ("EfficientNetV2B0", 64),
    ("NASNetMobile", 224),
    ("ResNet50V2", 64),
    ("DenseNet121", 64),
    ("InceptionV3", 96),
    ("Xception", 96),
    ("ConvNeXtTiny", 64),
    ("VGG16", 64),
]
MORE = [
    ("InceptionResNetV2", 96),
    ("DenseNet201", 64),
    ("ResNet152V2", 64),
    ("EfficientNetB7", 64),
]


@pytest.mark.parametrize(("name", "size"), QUIET)
def test_a_fresh_application_has_no_warning(name, size):
    check_quiet(name, size)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), MORE)
def test_a_large_fresh_application_has_no_warning(name, size):
    check_quiet(name, size)


def check_quiet(name, size):
    make = getattr(keras.applications, name)
    report = bnscope.lint(make(weights=None, input_shape=(size, size, 3), classes=10))
    assert not report.at_least(Severity.WARNING), str(report)
    assert report.status == "analysed"
    untrained = [finding for finding in report if finding.code == "BN301"]
    assert len(untrained) == (0 if name in {"ConvNeXtTiny", "VGG16"} else 1)


@pytest.mark.parametrize(("name", "count"), [("ResNet50", 53)])
def test_a_resnet_has_its_redundant_biases_and_nothing_else(name, count, tmp_path):
    check_resnet(name, count, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("ResNet101", 104)])
def test_a_larger_resnet_has_its_redundant_biases(name, count, tmp_path):
    check_resnet(name, count, tmp_path)


def check_resnet(name, count, tmp_path):
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(64, 64, 3), classes=10
    )
    report = bnscope.lint(model)
    warnings = report.at_least(Severity.WARNING)
    assert [finding.code for finding in warnings] == ["BN101"] * count
    model.save(tmp_path / "model.keras")
    assert bnscope.lint(tmp_path / "model.keras").findings == report.findings


@pytest.mark.parametrize("name", ["MobileNetV2", "InceptionV3"])
def test_a_headless_application_has_no_warning(name):
    make = getattr(keras.applications, name)
    report = bnscope.lint(make(weights=None, input_shape=(96, 96, 3), include_top=False))
    assert not report.at_least(Severity.WARNING), str(report)


# Name, size of the input, number of BN layers, and how many of them stay.
FOLDED = [
    ("MobileNet", 96, 27, 0),
    ("MobileNetV2", 96, 52, 0),
    ("MobileNetV3Small", 96, 34, 0),
    ("MobileNetV3Large", 96, 46, 0),
    ("EfficientNetB0", 64, 49, 0),
    ("EfficientNetV2B0", 64, 59, 0),
    ("ResNet50", 64, 53, 0),
    ("ResNet101", 64, 104, 0),
    ("ResNet152", 64, 155, 0),
    ("ResNet50V2", 64, 49, 17),
    ("DenseNet121", 64, 121, 62),
    ("InceptionV3", 96, 94, 0),
    ("InceptionResNetV2", 96, 204, 0),
    ("Xception", 96, 40, 0),
    ("NASNetMobile", 224, 192, 0),
    ("VGG16", 32, 0, 0),
    ("ConvNeXtTiny", 64, 0, 0),
]
# Max pooling lies before one BN of ResNet50V2, whose scales are negative in part.
REASONS = {"no-linear-neighbour", "negative-scale"}
# In float32, one unit of rounding in the images alone moves their outputs by up to 1e-4.
DEEP = {"ResNet101", "ResNet152"}


@pytest.fixture
def precise():
    """Lets models be made in float64."""
    before = keras.config.dtype_policy(), keras.config.floatx()

    def begin():
        keras.config.set_dtype_policy("float64")
        keras.config.set_floatx("float64")

    yield begin
    keras.config.set_dtype_policy(before[0])
    keras.config.set_floatx(before[1])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "count", "left"), FOLDED)
def test_an_application_is_folded_and_computes_the_same(name, size, count, left, precise):
    from fitted import application, batch_norms, pictures

    keras.utils.clear_session()
    if name in DEEP:
        precise()
    model = application(name, size)
    assert len(batch_norms(model)) == count
    images = pictures(model, 8)[:4]  # those that the statistics fit
    result = bnscope.fold(model, verify_data=images)
    reasons = Counter(str(verdict.reason) for verdict in result.plan.kept)
    assert reasons.total() == left == len(batch_norms(result.model)), reasons
    assert set(reasons) <= REASONS
    expected, found = (np.asarray(m(images, training=False)) for m in (model, result.model))
    scale = np.abs(expected).max()
    assert np.isfinite(expected).all()
    assert np.ptp(expected, axis=0).max() > 0.01 * scale
    allowed = 1e-11 if name in DEEP else 5e-5
    assert np.abs(found - expected).max() <= allowed * scale
