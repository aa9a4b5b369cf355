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


def faults_of(name, found, errors):
    """What is wrong with the results of a file; none if it is as it should be."""
    expected = CASES[name][1]
    if len(found) != COMMANDS:
        return [f"{len(found)} of {COMMANDS} commands came to an end: {errors}"]
    faults = [f"{result}" for result in found if result["problems"]]
    faults += [f"too slow: {result}" for result in found if result["seconds"] >= SECONDS]
    faults += [f"too large: {r}" for r in found if r["megabytes"] >= MEGABYTES]
    refused = [result for result in found if result["code"] == 2]
    if expected is None:
        faults += [f"refused: {result}" for result in refused]
        faults += [f"said nothing: {result}" for result in found if not result["length"]]
    elif not refused:
        faults.append(f"was read: {found}")
    else:
        faults += [f"{result}" for result in refused if expected not in result["err"]]
    return faults


def check(names, folder):
    made = {}
    for name in names:
        (folder / name).mkdir()
        made[name] = str(CASES[name][0](folder / name))
    found, errors = results_of(made.values())
    faults = {
        name: faults_of(name, found.get(path, []), errors.get(path))
        for name, path in made.items()
    }
    assert not {name: fault for name, fault in faults.items() if fault}


# Each takes seconds, and all of them together minutes.
LARGE = (
    "ladder_of_adds",
    "twenty_thousand_layers_in_a_chain",
    "twenty_thousand_batch_norms_in_a_chain",
    "ends_all_along_a_chain",
    "every_dense_layer_reaches_every_batch_norm",
    "dense_graph",
    "many_models_without_a_graph",
    "names_that_match_nothing",
    "fifty_thousand_calls",
    "groups_that_bear_other_names",
)


def test_hostile_files_are_errors_or_results_within_the_limits(tmp_path):
    check([name for name in CASES if name not in LARGE], tmp_path)


@pytest.mark.slow
def test_large_hostile_files_are_errors_or_results_within_the_limits(tmp_path):
    check(LARGE, tmp_path)


def test_a_file_that_is_read_is_no_error():
    good = {"seconds": 0.1, "problems": [], "megabytes": 90, "code": 1, "err": ""}
    found = [{**good, "length": 9}] * COMMANDS
    readable = next(name for name, (_, expected) in CASES.items() if expected is None)
    assert faults_of(readable, found, None) == []
    assert faults_of(readable, [{**found[0], "code": 2}] * COMMANDS, None)
    assert faults_of(readable, found[:1], None)
    assert faults_of("zip_bomb_config", found, None)
