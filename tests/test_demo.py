from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bnscope import cli, demo
from bnscope.demo import alexnet, photo_crops
from bnscope.demo.photos import _photographs
from bnscope.demo.timing import interleaved_medians
from bnscope.errors import BnscopeError

TINY = demo.Settings(
    epochs=1, training_crops=16, validation_crops=8, batch_size=8, timed_calls=2
)

# layer, output shape without the batch, parameters with the untrained ones of BN
ALEXNET = [
    ("Conv2D", (25, 25, 96), 11 * 11 * 3 * 96 + 96),
    ("BatchNormalization", (25, 25, 96), 4 * 96),
    ("relu", (25, 25, 96), 0),
    ("MaxPooling2D", (13, 13, 96), 0),
    ("Conv2D", (13, 13, 256), 5 * 5 * 96 * 256 + 256),
    ("BatchNormalization", (13, 13, 256), 4 * 256),
    ("relu", (13, 13, 256), 0),
    ("MaxPooling2D", (7, 7, 256), 0),
    ("Conv2D", (7, 7, 384), 3 * 3 * 256 * 384 + 384),
    ("BatchNormalization", (7, 7, 384), 4 * 384),
    ("relu", (7, 7, 384), 0),
    ("Conv2D", (7, 7, 384), 3 * 3 * 384 * 384 + 384),
    ("BatchNormalization", (7, 7, 384), 4 * 384),
    ("relu", (7, 7, 384), 0),
    ("Conv2D", (7, 7, 256), 3 * 3 * 384 * 256 + 256),
    ("BatchNormalization", (7, 7, 256), 4 * 256),
    ("relu", (7, 7, 256), 0),
    ("MaxPooling2D", (4, 4, 256), 0),
    ("Flatten", (4096,), 0),
    ("Dense", (2000,), 4096 * 2000 + 2000),
    ("BatchNormalization", (2000,), 4 * 2000),
    ("relu", (2000,), 0),
    ("Dropout", (2000,), 0),
    ("Dense", (512,), 2000 * 512 + 512),
    ("BatchNormalization", (512,), 4 * 512),
    ("relu", (512,), 0),
    ("Dropout", (512,), 0),
    ("Dense", (1,), 512 + 1),
    ("BatchNormalization", (1,), 4),
    ("sigmoid", (1,), 0),
]


@pytest.fixture(scope="module")
def network():
    return alexnet()


def kind(layer):
    name = type(layer).__name__
    return layer.activation.__name__ if name == "Activation" else name


def test_alexnet_is_the_published_network_layer_by_layer(network):
    layers = [(kind(x), x.output.shape[1:], x.count_params()) for x in network.layers]
    assert network.input_shape == (None, 100, 100, 3)
    assert layers == ALEXNET


def test_the_convolutions_of_alexnet_have_the_published_kernels_and_strides(network):
    convolutions = [x for x in network.layers if kind(x) == "Conv2D"]
    assert [x.kernel_size[0] for x in convolutions] == [11, 5, 3, 3, 3]
    assert [x.strides for x in convolutions] == [(4, 4)] + 4 * [(1, 1)]
    assert {x.padding for x in network.layers if hasattr(x, "padding")} == {"same"}
    assert {x.pool_size for x in network.layers if kind(x) == "MaxPooling2D"} == {(2, 2)}
    assert {x.rate for x in network.layers if kind(x) == "Dropout"} == {0.4}


def test_batch_norm_in_alexnet_has_the_default_arguments_of_keras(network):
    import keras

    default = keras.layers.BatchNormalization().get_config()
    for layer in network.layers:
        if kind(layer) == "BatchNormalization":
            assert layer.get_config() == {**default, "name": layer.name}


def test_the_momentum_reaches_every_batch_norm_of_alexnet():
    layers = alexnet(0.5).layers
    assert [x.momentum for x in layers if kind(x) == "BatchNormalization"] == 8 * [0.5]


def covered(crops):
    """Which pixels of which photograph are in a set of crops."""
    pixels = np.zeros((2, 427, 640), bool)
    for label, (row, column) in zip(crops.labels, crops.corners, strict=True):
        pixels[int(label), row : row + 100, column : column + 100] = True
    return pixels


def test_training_and_validation_crops_share_no_pixel():
    training, validation = photo_crops(600, "training"), photo_crops(600, "validation")
    assert not (covered(training) & covered(validation)).any()
    assert covered(training).mean() > 0.35
    assert covered(validation).mean() > 0.35


def test_crops_are_what_the_photographs_show_at_their_corners():
    crops = photo_crops(20, "training", seed=3)
    photographs = _photographs()
    for image, label, (row, column) in zip(
        crops.images, crops.labels, crops.corners, strict=True
    ):
        original = photographs[int(label)][row : row + 100, column : column + 100]
        np.testing.assert_array_equal(np.rint(image * 255), original)
    assert crops.images.dtype == np.float32
    assert crops.images.max() <= 1.0


def test_the_classes_are_balanced_and_mixed():
    crops = photo_crops(40, "training")
    assert crops.labels.sum() == 20
    assert 0 < crops.labels[:20].sum() < 20
    assert len(photo_crops(7, "validation").labels) == 7


def test_one_seed_gives_the_same_crops_and_another_gives_others():
    first, again, other = (photo_crops(8, "training", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.images, again.images)
    assert (first.corners != other.corners).any()


def test_the_timed_calls_take_turns():
    seen = []
    calls = [lambda: seen.append("a"), lambda: seen.append("b")]
    medians = interleaved_medians(calls, repeats=3, warm_up=1)
    assert "".join(seen) == "ab" + "ababab"
    assert len(medians) == 2
    assert min(medians) > 0


def test_the_demo_trains_alexnet_twice_rescues_and_folds_it(tmp_path, capfd):
    demo.run(TINY, tmp_path / "runs")
    out, err = capfd.readouterr()
    shown = ("BN101", "BN104", "BN503", "To do: ", "8 of 8 BN layers folded")
    for text in (*shown, "after bnscope.recalibrate"):
        assert text in out
    assert f"tensorboard --logdir {tmp_path / 'runs'}" in out
    assert "Validation accuracy" in out
    assert "Training" not in err  # the progress bar is for terminals
    for momentum in ("0.99", "0.9"):
        assert list((tmp_path / "runs" / f"momentum-{momentum}").rglob("*tfevents*"))


@pytest.mark.slow
def test_the_remedy_of_the_demo_helps(tmp_path, capfd):
    demo.run(demo.Settings(), tmp_path)
    line = next(
        x for x in capfd.readouterr().out.splitlines() if "Validation accuracy" in x
    )
    cold, warm = (float(word.rstrip("%")) for word in line.split() if word.endswith("%"))
    assert warm > cold + 5


@pytest.mark.slow
def test_the_demo_rescues_its_own_cold_statistics(tmp_path, capfd):
    demo.run(demo.Settings(), tmp_path)
    out = capfd.readouterr().out
    assert "alexnet: cold statistics" in out
    line = next(x for x in out.splitlines() if "after bnscope.recalibrate" in x)
    before, after = (float(word.rstrip("%")) for word in line.split() if word.endswith("%"))
    assert after > before + 5


def test_an_earlier_run_is_kept(tmp_path):
    from bnscope.demo.story import _run_dir

    first, second = _run_dir(tmp_path, 0.9), _run_dir(tmp_path, 0.9)
    assert (first.name, second.name) == ("momentum-0.9", "momentum-0.9-2")


def test_too_few_epochs_are_refused(tmp_path):
    with pytest.raises(BnscopeError) as refused:
        demo.main(epochs=0, log_dir=tmp_path)
    assert str(refused.value) == (
        "The demo cannot run with epochs = 0. Give a whole number of at least 1."
    )


def test_a_log_dir_that_is_a_file_gives_one_line_and_stays_as_it_was(tmp_path, capsys):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    assert cli.main(["demo", "--log-dir", str(file)]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(
        f"bnscope: error: Cannot write the events of the demo to {file}: "
    )
    assert err.count("\n") == 1
    assert out == ""
    assert file.read_text() == "mine"


def python(code: str, cwd: Path):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_without_the_extra_the_demo_says_in_one_line_what_to_install(tmp_path):
    code = (
        "import sys\n"
        "sys.modules['sklearn'] = sys.modules['PIL'] = None\n"  # as if not installed
        "from bnscope.cli import main\n"
        "sys.exit(main(['demo']))"
    )
    done = python(code, tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "bnscope: error: bnscope demo needs scikit-learn and pillow, not installed here. "
        'Run: pip install "bnscope[demo]"\n'
    )
    assert list(tmp_path.iterdir()) == []


def test_importing_the_demo_loads_neither_keras_nor_scikit_learn(tmp_path):
    code = (
        "import sys, bnscope.demo\n"
        "print({'keras', 'tensorflow', 'sklearn', 'PIL', 'rich'} & set(sys.modules))"
    )
    assert python(code, tmp_path).stdout == "set()\n"
