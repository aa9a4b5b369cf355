"""Well-known architectures: quiet where nothing is wrong."""

from __future__ import annotations

import keras
import pytest

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
