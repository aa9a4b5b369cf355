"""Files from strangers: each ends in a clear error or a correct result, in time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_files import CASES

HERE = Path(__file__).parent
SECONDS = 10
MEGABYTES = 500
COMMANDS = 4

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="limits are set as on Linux"
)


def results_of(paths):
    """What every command says of these files, in processes with a limited memory."""
    left, found, errors = list(paths), {}, {}
    while left:
        more, error = results_of_one_process(left)
        found.update(more)
        done = [path for path in left if len(more.get(path, [])) == COMMANDS]
        left = [path for path in left if path not in done]
        if left:  # the process did not survive this one
            errors[left.pop(0)] = error
    return found, errors


def results_of_one_process(paths):
    finished = subprocess.run(
        [sys.executable, str(HERE / "hostile_worker.py"), "800", str(6 * SECONDS)],
        input="".join(f"{path}\n" for path in paths),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HERE.parent), "OPENBLAS_NUM_THREADS": "1"},
    )
    found = {}
    for line in finished.stdout.splitlines():
        result = json.loads(line)
        found.setdefault(result["path"], []).append(result)
    return found, finished.stderr


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    made = {}
    for name, (make, _) in CASES.items():
        folder = tmp_path_factory.mktemp(name[:30])
        made[name] = str(make(folder))
    found, errors = results_of(made.values())
    return {name: (found.get(path, []), errors.get(path)) for name, path in made.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_an_error_or_a_result_within_the_limits(name, results):
    found, errors = results[name]
    expected = CASES[name][1]
    assert len(found) == COMMANDS, errors
    for result in found:
        assert not result["problems"], result
        assert result["seconds"] < SECONDS, result
        if expected is None:
            assert result["code"] in {0, 1}, result
            assert result["length"], result
    if expected is not None:
        assert any(result["code"] == 2 for result in found), found
        assert all(expected in result["err"] for result in found if result["code"] == 2), (
            found
        )


def test_all_of_them_together_take_no_more_memory_than_the_limit(results):
    peaks = {name: found[-1]["megabytes"] for name, (found, _) in results.items() if found}
    assert max(peaks.values()) < MEGABYTES, peaks
