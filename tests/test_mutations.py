"""Damaged files of every kind: read, or refused in one line; nothing else ever happens.

Each example changes a real file: bytes are flipped, cut or moved, and values of the configuration
are deleted, replaced, copied and swapped. HDF5 is a C library, so its files are read in a process
of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

import bnscope
from bnscope.errors import BnscopeError

HERE = Path(__file__).parent
FUZZ = HERE / "fuzz" / "fuzz_read.py"
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="limits are set as on Linux"
)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Small models of several kinds, saved in every format."""
    import keras

    folder = tmp_path_factory.mktemp("seeds")
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Add()([x, layers.Conv2D(4, 1)(inputs)])
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.BatchNormalization(center=False), layers.ReLU()],
        name="inner",
    )
    x = layers.GlobalAveragePooling2D()(inner(inner(x)))
    x = layers.Dropout(0.1)(layers.Dense(4)(x))
    x = layers.BatchNormalization(axis=1, gamma_initializer="zeros")(x)
    branched = keras.Model(inputs, layers.Softmax()(x))
    branched.compile("adam", "mse")
    wrapped = keras.Sequential(
        [
            keras.Input((5, 4)),
            layers.TimeDistributed(layers.BatchNormalization()),
            layers.LSTM(3),
            layers.Dense(2),
        ]
    )
    for name, model in (("branched", branched), ("wrapped", wrapped)):
        model.save(folder / f"{name}.keras")
        model.save(folder / f"{name}.h5")
        (folder / f"{name}.json").write_text(model.to_json())
    return folder


def run(seeds, examples, seed):
    finished = subprocess.run(
        [
            sys.executable,
            str(FUZZ),
            str(seeds),
            "--examples",
            str(examples),
            "--seed",
            str(seed),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HERE.parent), "OPENBLAS_NUM_THREADS": "1"},
    )
    assert finished.stdout, finished.stderr
    return json.loads(finished.stdout)


def check(result, examples):
    assert result["failures"] == []
    # The HDF5 library crashes, or runs on for ever, on some damaged files.
    assert len(result["crashes"]) <= examples / 100, result["crashes"]
    assert result["examples"] == examples
    # Mutations that all end alike would test nothing.
    assert result["read"] > examples / 20
    assert result["refused"] > examples / 20


def test_damaged_files_are_read_or_refused(seeds):
    check(run(seeds, 300, seed=1), 300)


@pytest.mark.slow
def test_many_damaged_files_are_read_or_refused(seeds):
    check(run(seeds, 10_000, seed=2), 10_000)


NAMES = st.sampled_from(
    ["", "x", "bn", "linear", "\x1b[2J\u202e", "__keras_tensor__", "a" * 600]
)
NUMBERS = st.integers() | st.floats() | st.just(10**4000)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | NAMES | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)


def places(value, path=()):
    """The paths of all values in a JSON document."""
    yield path
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from places(inner, (*path, key))


def changed(document, path, action, value, other):
    """The document with the value at a path deleted, replaced, or put in another's place."""
    *way, last = path
    for key in way:
        document = document[key]
    if action == "delete":
        del document[last]
    elif action == "replace":
        document[last] = value
    else:
        document[last] = json.loads(json.dumps(other))


@pytest.mark.parametrize("name", ["branched", "wrapped"])
@hypothesis.settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(data=st.data())
def test_a_changed_configuration_is_read_or_refused(name, seeds, tmp_path, data):
    with zipfile.ZipFile(seeds / f"{name}.keras") as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    whole = json.loads(members["config.json"])
    for _ in range(data.draw(st.integers(1, 3))):
        paths = list(places(whole))[1:]
        path = data.draw(st.sampled_from(paths))
        other = whole
        for key in data.draw(st.sampled_from(paths)):
            other = other[key]
        action = data.draw(st.sampled_from(["delete", "replace", "copy"]))
        changed(whole, path, action, data.draw(ANYTHING), other)
    target = tmp_path / "changed.keras"
    with zipfile.ZipFile(target, "w") as archive:
        for member, content in members.items():
            text = json.dumps(whole).encode() if member == "config.json" else content
            archive.writestr(member, text)
    for look in (bnscope.lint, bnscope.inspect):
        try:
            text = str(look(target))
        except BnscopeError as error:
            text = str(error)
        assert all(char.isprintable() or char == "\n" for char in text)
