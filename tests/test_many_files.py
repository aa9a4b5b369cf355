"""Directories, patterns, URLs and processes: what is read, in which order, and what is said."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import keras
import pytest
from keras import layers

import bnscope
from bnscope.errors import UnreadableModelError
from bnscope.linting import Settings, batch, discovery

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(bnscope.__file__).parents[1])}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One model in each format."""
    folder = tmp_path_factory.mktemp("models")
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(4, name="linear"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(1),
        ]
    )
    model.save(folder / "model.keras")
    model.save(folder / "model.h5")
    (folder / "model.json").write_text(model.to_json())
    return folder


@pytest.fixture
def tree(tmp_path, monkeypatch, models):
    """A folder of models and of other files."""
    root = tmp_path / "ckpt"
    for name in ("b/epoch_10.keras", "b/epoch_9.keras", "a.keras", ".hidden/x.keras"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(models / "model.keras", root / name)
    shutil.copy(models / "model.keras", root / "b" / "._epoch_9.keras")
    shutil.copy(models / "model.h5", root / "b" / "old.H5")
    shutil.copy(models / "model.json", root / "model.json")
    (root / "notes.txt").write_text("no model")
    (root / "package.json").write_text('{"name": "x"}')
    (root / "layers.json").write_text('{"deep": {"class_name": "A", "layers": []}}')
    with h5py.File(root / "data.h5", "w") as file:
        file["x"] = [1.0]
    monkeypatch.chdir(tmp_path)
    return root


FOUND = [
    "ckpt/a.keras",
    "ckpt/model.json",
    "ckpt/b/epoch_9.keras",
    "ckpt/b/epoch_10.keras",
    "ckpt/b/old.H5",
]


@pytest.fixture
def linted(run_cli):
    """Paths, statuses and exit code of a run."""

    def lint(*arguments):
        code, out, err = run_cli("lint", *arguments, "--output-format", "json")
        files = json.loads(out)["files"]
        return code, [file["path"] for file in files], err, files

    return lint


@pytest.mark.parametrize("jobs", ["1", "3"])
@pytest.mark.usefixtures("tree")
def test_a_directory_is_searched_in_a_stable_order(jobs, linted):
    code, paths, err, files = linted("ckpt", "--jobs", jobs)
    assert (code, err) == (1, "")
    assert paths == FOUND
    for file in files:
        assert next(finding["code"] for finding in file["findings"]) == "BN101"


@pytest.mark.usefixtures("tree")
def test_other_files_are_skipped_and_told_when_asked(run_cli):
    _, _, err = run_cli("lint", "ckpt", "--verbose")
    skipped = [line for line in err.splitlines() if "is no Keras model" in line]
    assert [line.split()[2] for line in skipped] == [
        "ckpt/data.h5",
        "ckpt/layers.json",
        "ckpt/package.json",
    ]


@pytest.mark.usefixtures("tree")
def test_a_file_that_is_named_is_always_read(linted):
    for name in ("ckpt/data.h5", "ckpt/package.json", "ckpt/layers.json", "ckpt/notes.txt"):
        code, paths, err, _ = linted(name)
        assert (code, paths, err.count("\n")) == (2, [name], 1)
        assert name in err
    assert linted("ckpt", "ckpt/data.h5")[0] == 2
    assert linted("ckpt/.hidden")[1] == ["ckpt/.hidden/x.keras"]


def test_a_damaged_file_that_is_found_is_reported(tree, linted):
    (tree / "b" / "cut.keras").write_bytes((tree / "a.keras").read_bytes()[:900])
    (tree / "b" / "cut.h5").write_bytes((tree / "b" / "old.H5").read_bytes()[:2000])
    (tree / "b" / "cut.json").write_text((tree / "model.json").read_text()[:-9])
    (tree / "b" / "empty.h5").write_bytes(b"")
    code, paths, err, files = linted("ckpt", "--jobs", "2")
    failed = [file["path"] for file in files if file["status"] == "failed"]
    assert code == 2
    assert failed == [
        "ckpt/b/cut.h5",
        "ckpt/b/cut.json",
        "ckpt/b/cut.keras",
        "ckpt/b/empty.h5",
    ]
    assert err.count("\n") == len(failed)
    assert set(FOUND) <= set(paths)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("ckpt/**/*.keras", [FOUND[0], FOUND[2], FOUND[3]]),
        ("ckpt/b/epoch_[0-9].keras", [FOUND[2]]),
        ("ckpt/b/epoch_??.keras", [FOUND[3]]),
        ("ckpt/[!a]/epoch*", FOUND[2:4]),
        ("ckpt/*", FOUND),
        ("ckpt/**", FOUND),
        ("**/old.H5", [FOUND[4]]),
        ("ck*", FOUND),
        ("ckpt/**/b/*_9.keras", [FOUND[2]]),
    ],
)
@pytest.mark.usefixtures("tree")
def test_a_quoted_pattern_is_expanded(pattern, expected, linted):
    assert sorted(linted(pattern)[1]) == sorted(expected)
    absolute = str(Path.cwd() / pattern)
    assert len(linted(absolute)[1]) == len(expected)


def test_each_file_is_read_once_at_its_first_place(tree, linted):
    (tree / "link.keras").symlink_to("a.keras")
    model = str(tree / "model.json")
    arguments = ("ckpt/b", "./ckpt/a.keras", "ckpt", model, "ckpt/**")
    assert linted(*arguments)[1] == [*FOUND[2:], "./ckpt/a.keras", model]


@pytest.mark.usefixtures("tree")
def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(linted):
    shutil.copy("ckpt/a.keras", "ckpt/run[1].keras")
    assert linted("ckpt/run[1].keras")[:2] == (1, ["ckpt/run[1].keras"])


@pytest.mark.parametrize("argument", ["ckpt", "ckpt/**"])
def test_links_that_go_round_are_harmless(argument, tree, linted):
    for name in ("round", "b/up", "b/again"):
        (tree / name).symlink_to(tree, target_is_directory=True)
    begin = time.monotonic()
    assert sorted(linted(argument)[1]) == sorted(FOUND)
    assert time.monotonic() - begin < 5


def test_a_place_without_models_is_one_line(tree, run_cli):
    (tree / "none").mkdir()
    (tree / "none" / "package.json").write_text("{}")
    (tree / "empty").mkdir()
    for argument, message in {
        "ckpt/none": "ckpt/none contains no Keras model.",
        "ckpt/empty": "ckpt/empty contains no Keras model.",
        "ckpt/*.hdf5": "No model matches ckpt/*.hdf5.",
        "gone/**/*.keras": "No model matches gone/**/*.keras.",
        "gone": "gone does not exist.",
    }.items():
        code, out, err = run_cli("lint", argument)
        assert (code, out, err.count("\n")) == (2, "", 1), argument
        assert err.startswith(f"bnscope: error: {message}")
    code, out, err = run_cli("lint", "ckpt/none", "ckpt/a.keras")
    assert (code, err.count("\n")) == (2, 1)
    assert "BN101" in out


def test_nothing_to_lint_is_a_usage_error(run_cli):
    assert run_cli("lint") == (
        2,
        "",
        "bnscope: error: There is nothing to lint. Name a file, a directory or a pattern.\n",
    )


def test_the_output_is_the_same_whatever_the_jobs(tree, run_cli):
    (tree / "b" / "cut.keras").write_bytes(b"PK")
    arguments = ("lint", "ckpt", "ckpt/data.h5", "gone", "--output-format", "json")
    one = run_cli(*arguments, "--jobs", "1")
    assert one[0] == 2
    assert run_cli(*arguments, "--jobs", "2") == one
    assert run_cli(*arguments, "--jobs", "auto") == one


def test_few_files_start_no_processes():
    few = [discovery.Source(str(i), ("x",)) for i in range(40)]
    many = few * 20
    assert batch._processes(0, few) == 1
    assert batch._processes(0, many) == min(batch.cores(), 25)
    assert batch._processes(3, few[:2]) == 2
    remote = [discovery.Source("s3://x/y", ("x",))]
    assert batch._processes(4, remote) == 1


CRASH = """
import os, pathlib
from bnscope.graph import archive
real = archive.read
def read(path, *rest):
    if "crash" in str(path):
        os.kill(os.getpid(), 9)
    return real(path, *rest)
archive.read = read
from bnscope.cli import main
if __name__ == "__main__":
    raise SystemExit(main(["lint", "ckpt", "--jobs", "2", "--output-format", "json"]))
"""


def test_a_file_that_ends_its_process_is_an_error_line_and_no_more(tree):
    for name in ("b/crash.keras", "crash.keras"):
        shutil.copy(tree / "a.keras", tree / name)
    Path("run.py").write_text(CRASH)  # the processes import it too, and crash for real
    result = subprocess.run(
        [sys.executable, "run.py"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(result.stderr.splitlines()) == [
        f"bnscope: error: ckpt/{name} ended the process that read it. It is damaged, or too "
        "large for the memory; save the model again."
        for name in ("b/crash.keras", "crash.keras")
    ]
    files = json.loads(result.stdout)["files"]
    assert [f["path"] for f in files if f["status"] == "analysed"] == FOUND


@pytest.mark.usefixtures("tree")
def test_a_mistake_in_a_rule_costs_one_file(monkeypatch):
    linter = batch.Linter(Settings())
    monkeypatch.setattr(linter, "lint", lambda *_: 1 / 0)
    source = discovery.Source("ckpt/a.keras", ("ckpt",), found=True)
    report = batch.lint_source(linter, source).report
    assert report.error.message == (
        "ckpt/a.keras: internal error: ZeroDivisionError: division by zero."
    )


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("delay", [0.4, 1.2])
def test_an_interrupt_leaves_quietly_and_leaves_no_process(jobs, delay, tree):
    for index in range(600):
        shutil.copy(tree / "a.keras", tree / f"copy_{index}.keras")
    process = subprocess.Popen(
        [sys.executable, "-m", "bnscope", "lint", "ckpt", "--jobs", jobs],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: the whole group
    # The pipes end only when no process is left that could write to them.
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


def on_a_terminal(arguments, columns):
    """What a command writes to a terminal, and its exit code."""
    import fcntl
    import pty
    import struct
    import termios

    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in ENVIRONMENT.items() if k not in {"COLUMNS", "NO_COLOR"}}
    with subprocess.Popen(
        [sys.executable, "-c", *arguments],
        stdout=side,
        stderr=side,
        env={**environment, "TERM": "xterm"},
    ) as process:
        os.close(side)
        parts = []
        with contextlib.suppress(OSError):  # the other side is closed
            while part := os.read(main, 65536):
                parts.append(part)
    os.close(main)
    return process.returncode, b"".join(parts).decode()


SLOW = """
import sys, time
from bnscope import progress
from bnscope.cli import main
from bnscope.linting import batch
real = batch.lint_source
def slow(*arguments):
    time.sleep({seconds})
    return real(*arguments)
batch.lint_source = slow
sys.exit(main(["lint", "ckpt", "--jobs", "1"]))
"""


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has it")
def test_a_full_disk_is_one_line(tree):
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "bnscope", "lint", str(tree / "a.keras")],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
            timeout=60,
            check=False,
        )
    assert result.returncode == 2
    assert result.stderr == (
        "bnscope: error: The output cannot be written: No space left on device. "
        "Make room, or write it elsewhere.\n"
    )


def test_a_name_that_the_output_cannot_write_is_spelled_out(tree):
    shutil.copy(tree / "a.keras", tree / "é.keras")
    for command in (["lint"], ["lint", "--output-format", "github"], ["inspect"]):
        result = subprocess.run(
            [sys.executable, "-m", "bnscope", *command, str(tree / "é.keras")],
            capture_output=True,
            text=True,
            env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"},
            timeout=60,
            check=False,
        )
        assert result.returncode < 2, result.stderr
        assert "\\xe9.keras" in result.stdout


@pytest.mark.usefixtures("tree")
def test_a_bar_is_shown_on_a_terminal_when_it_takes_long():
    code, text = on_a_terminal([SLOW.format(seconds=0.4)], columns=60)
    assert code == 1
    assert "Linting" in text
    assert "/8" in text
    assert text.rindex("Linting") < text.index("redundant-bias")
    code, text = on_a_terminal([SLOW.format(seconds=0)], columns=60)
    assert code == 1
    assert "Linting" not in text


@pytest.mark.usefixtures("tree")
def test_a_pipe_sees_no_bar():
    result = subprocess.run(
        [sys.executable, "-c", SLOW.format(seconds=0.3)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert (result.returncode, result.stderr) == (1, "")
    assert "\x1b" not in result.stdout
    assert "Linting" not in result.stdout


@pytest.fixture
def memory(models):
    """fsspec's file system in memory, with models in it."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    for name in ("run/a.keras", "run/deep/b.h5", "run/.hidden/c.keras"):
        suffix = name.rpartition(".")[2]
        files.pipe(f"/{name}", (models / f"model.{suffix}").read_bytes())
    files.pipe("/run/cut.keras", b"PK")
    files.pipe("/run/readme.md", b"no model")
    yield files
    files.rm("/run", recursive=True)


@pytest.mark.usefixtures("memory")
def test_models_at_urls_are_read(linted):
    code, paths, _, files = linted("memory://run/a.keras")
    assert (code, len(paths)) == (1, 1)
    assert files[0]["findings"][0]["code"] == "BN101"
    assert next(f.code for f in bnscope.lint("memory://run/a.keras")) == "BN101"
    code, paths, err, _ = linted("memory://run", "--jobs", "2")
    assert code == 2
    assert [path.rpartition("run/")[2] for path in paths] == [
        "a.keras",
        "cut.keras",
        "deep/b.h5",
    ]
    assert err.count("\n") == 1
    assert "cut.keras is a truncated or damaged zip archive." in err
    assert "bnscope-" not in err
    assert len(linted("memory://run/**/*.h5")[1]) == 1


@pytest.mark.usefixtures("memory")
def test_urls_that_cannot_be_read_are_one_line(run_cli):
    for url, message in {
        "memory://run/gone.keras": "does not exist.",
        "memory://nothing/*.keras": "No model matches memory://nothing/*.keras.",
        "nosuch://x/y.keras": "cannot be read:",
    }.items():
        code, out, err = run_cli("lint", url)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert message in err


def test_without_fsspec_it_is_said_what_to_install(monkeypatch, run_cli):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    code, _, err = run_cli("lint", "s3://bucket/model.keras")
    assert (code, err) == (
        2,
        (
            "bnscope: error: s3://bucket/model.keras cannot be read: fsspec is not installed. "
            "Install it: pip install 'bnscope[remote]'.\n"
        ),
    )
    with pytest.raises(UnreadableModelError, match="fsspec is not installed"):
        bnscope.lint("s3://bucket/model.keras")
