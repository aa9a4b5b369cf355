"""Mutates saved models and reads them: any exception but bnscope's own is a failure.

    python tests/fuzz/fuzz_read.py SEEDS [--examples N] [--seed N]

SEEDS is a folder of small saved models (`.keras`, `.h5`, `.json`). Without atheris, random
mutations are made, in a process that is started again where HDF5 crashes; the result is JSON.
With atheris (`pip install atheris`), `--atheris CORPUS` lets coverage guide them, and what follows
goes to libFuzzer:

    python tests/fuzz/fuzz_read.py SEEDS --atheris corpus/ -max_total_time=600
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SECONDS = 10
MEGABYTES = 900
WRONG = (
    *(None, True, False, 0, -1, 3, 1.5, 1e300, 10**4000, float("nan"), float("inf")),
    *("", "x", "linear", "\x1b[2J\u202e", "a" * 600, "__keras_tensor__"),
    *(
        [],
        [[]],
        [None],
        [1, 2, 3],
        ["x", 0, 0],
        {},
        {"class_name": "Dense"},
        {"config": None},
    ),
)


def mutate_bytes(data, rng):
    """Flips, cuts, repeats or overwrites bytes in a few places."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data) or 1)
        kind = rng.randrange(5)
        if kind == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            other = rng.randrange(len(data) or 1)
            data[at : at + 64] = data[other : other + 64]
        elif kind == 3:
            data[at : at + 8] = rng.choice((b"\xff" * 8, b"\x00" * 8, b"\x7f" * 8))
        else:
            data[at : at + 4] = rng.randrange(1 << 16).to_bytes(4, "little")
    return bytes(data)


def containers(value):
    """Every list and dictionary of a JSON value that holds something."""
    found, stack = [], [value]
    while stack:
        item = stack.pop()
        if isinstance(item, (list, dict)) and item:
            found.append(item)
            stack.extend(item if isinstance(item, list) else item.values())
    return found


def mutate_json(text, rng):
    """Deletes, replaces, copies and swaps values of a configuration."""
    value = json.loads(text)
    for _ in range(rng.choice((1, 1, 2, 5))):
        places = containers(value)
        if not places:
            break
        place, other = rng.choice(places), rng.choice(places)
        keys = [list(p) if isinstance(p, dict) else range(len(p)) for p in (place, other)]
        key, other_key = rng.choice(keys[0]), rng.choice(keys[1])
        kind = rng.randrange(5)
        if kind == 0:
            del place[key]
        elif kind == 1:
            place[key] = rng.choice(WRONG)
        elif kind == 2:
            place[key] = json.loads(json.dumps(other[other_key]))
        elif kind == 3 and isinstance(place, list):
            place.insert(0, json.loads(json.dumps(place[key])))
        else:
            # By value: a value inside itself is no JSON.
            copies = [json.loads(json.dumps(v)) for v in (other[other_key], place[key])]
            place[key], other[other_key] = copies
    return json.dumps(value)


def mutate_hdf5(data, rng):
    """Deletes, replaces and links members and attributes."""
    import h5py
    import numpy as np

    stream = io.BytesIO(data)
    with h5py.File(stream, "r+") as store:
        names = []
        store.visit(names.append)
        for _ in range(rng.choice((1, 2, 4))):
            name = rng.choice(names)
            with contextlib.suppress(
                KeyError, ValueError, OSError, TypeError, RuntimeError
            ):
                mutate_member(store, name, rng.choice(names), rng, np)
    return stream.getvalue()


def mutate_member(store, name, other, rng, np):
    import h5py

    if rng.random() < 0.3 and store[name].attrs:
        key = rng.choice(list(store[name].attrs))
        values = (1, "x", [b"a", b"b/gamma:0"], np.zeros((2, 2)), np.nan, "\u202e")
        store[name].attrs[key] = rng.choice(values)
        return
    replacement = rng.choice(
        (
            None,
            np.full(4, np.nan, np.float32),
            *(np.float64(1), np.arange(3), np.ones((2, 2)), np.array([b"a"])),
            *(np.zeros(0, "f4"), h5py.SoftLink("/"), store[other]),
        )
    )
    del store[name]
    if replacement is not None:
        store[name] = replacement


def mutate(path, data, rng):
    """A changed copy of a saved model."""
    if rng.random() < 0.3:
        return mutate_bytes(data, rng)
    if path.suffix == ".json":
        return mutate_json(data, rng).encode("utf-8", "surrogatepass")
    if path.suffix == ".h5":
        return mutate_legacy(data, rng)
    members = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if rng.random() < 0.6:
        members["config.json"] = mutate_json(members["config.json"], rng)
    else:
        change = mutate_hdf5 if rng.random() < 0.6 else mutate_bytes
        members["model.weights.h5"] = change(members["model.weights.h5"], rng)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", rng.choice((0, 0, 8))) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def mutate_legacy(data, rng):
    import h5py

    if rng.random() < 0.5:
        return mutate_hdf5(data, rng)
    stream = io.BytesIO(data)
    with h5py.File(stream, "r+") as store:
        store.attrs["model_config"] = mutate_json(store.attrs["model_config"], rng)
    return stream.getvalue()


def read(path):
    """Reads a file with every function; whether it can be read. Anything else is raised."""
    import bnscope
    from bnscope.errors import BnscopeError
    from bnscope.folding.plan import make_plan
    from bnscope.graph import archive

    texts = []
    try:
        texts = [str(bnscope.lint(path, select="ALL")), str(bnscope.inspect(path))]
        texts += [
            bnscope.lint(path).to_json(),
            str(make_plan(archive.read(path)).to_dict()),
        ]
    except BnscopeError as error:
        texts = [str(error).replace("\n", "\x00")]  # an error is one line
        return False
    finally:
        assert all(
            char.isprintable() or char == "\n" for text in texts[:2] for char in text
        )
    return True


def work(seeds, folder, first, last, seed):
    """Reads examples; prints a line before and after each, so that a crash is seen."""
    most = MEGABYTES << 20
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    files = [(path, path.read_bytes()) for path in sorted(seeds.iterdir())]
    for number in range(first, last):
        rng = random.Random(f"{seed} {number}")  # noqa: S311
        path, data = rng.choice(files)
        target = folder / f"example{path.suffix}"
        target.write_bytes(mutate(path, data, rng))
        print(json.dumps({"begin": number, "path": path.name}), flush=True)  # noqa: T201
        signal.alarm(SECONDS)
        try:
            outcome = {"read": read(target)}
        except Exception as error:  # noqa: BLE001
            outcome = {"failure": f"{path.name} {number}: {trace(error)}"}
        signal.alarm(0)
        print(json.dumps(outcome), flush=True)  # noqa: T201


def trace(error):
    import traceback

    return "".join(traceback.format_exception(error))[-1500:]


def run(seeds, examples, seed):
    """Reads examples in processes of their own; the counts, failures and crashes."""
    result = {"examples": 0, "read": 0, "refused": 0, "failures": [], "crashes": []}
    number = 0
    with tempfile.TemporaryDirectory() as folder:
        while number < examples:
            command = [sys.executable, __file__, str(seeds), "--seed", str(seed)]
            worker = subprocess.run(
                [*command, "--work", folder, str(number), str(examples)],
                capture_output=True,
                text=True,
                check=False,
            )
            lines = [json.loads(line) for line in worker.stdout.splitlines()]
            for line in lines:
                result["read"] += line.get("read") is True
                result["refused"] += line.get("read") is False
                if "failure" in line:
                    result["failures"].append(line["failure"])
            begun = [line for line in lines if "begin" in line]
            if worker.returncode:
                last = begun[-1] if begun else {}
                result["crashes"].append(
                    f"{last} {worker.returncode} {worker.stderr[-500:]}"
                )
            if not begun:
                break
            result["examples"] += len(begun)
            number = begun[-1]["begin"] + 1
    return result


def fuzz(seeds, arguments):
    """Lets atheris choose: the bytes seed the mutations of one saved model."""
    import atheris

    files = [(path, path.read_bytes()) for path in sorted(seeds.iterdir())]
    folder = Path(tempfile.mkdtemp())

    def test_one(data):
        rng = random.Random(data)  # noqa: S311
        path, content = files[data[0] % len(files)] if data else files[0]
        target = folder / f"example{path.suffix}"
        target.write_bytes(mutate(path, content, rng))
        read(target)

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], *arguments], test_one)
    atheris.Fuzz()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=Path)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atheris", action="store_true")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.work:
        folder, first, last = options.work
        work(options.seeds, Path(folder), int(first), int(last), options.seed)
    elif options.atheris:
        fuzz(options.seeds, rest)
    else:
        print(json.dumps(run(options.seeds, options.examples, options.seed)))  # noqa: T201


if __name__ == "__main__":
    main()
