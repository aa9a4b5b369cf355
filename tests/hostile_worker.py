"""Reads files with every command and prints one line of JSON for each: run by the tests.

In a process of its own, so that its time and memory can be limited, and HDF5 may crash.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import signal
import sys
import time
from pathlib import Path

from bnscope.cli import main

COMMANDS = (
    ["lint", "--select", "ALL"],
    ["lint", "--output-format", "json"],
    ["inspect"],
    ["fold", "--dry-run"],
)


def limit_memory(megabytes):
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = now + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def peak():
    """Peak memory of this program; `ru_maxrss` also knows that of the process it came from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) >> 10


def run(command, path):
    """Exit code, standard output, standard error and seconds of one command."""
    out, err = io.StringIO(), io.StringIO()
    begin = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*command, path])
    return code, out.getvalue(), err.getvalue(), time.process_time() - begin


def report(path, seconds):
    for command in COMMANDS:
        signal.alarm(seconds)
        code, out, err, took = run(command, path)
        signal.alarm(0)
        problems = []
        if code not in ({0, 1, 2} if command[0] == "lint" else {0, 2}):
            problems.append(f"exit code {code}")
        if "internal error" in err or "Traceback" in out + err:
            problems.append("an internal error")
        if not all(char.isprintable() or char == "\n" for char in out + err):
            problems.append("characters that are not printable")
        if "json" not in command and code == 2 and err.count("\n") != 1:
            problems.append("an error of several lines")
        yield {
            "command": " ".join(command),
            "code": code,
            "err": (err or (out if code == 2 else ""))[:1000],
            "length": len(out),
            "seconds": round(took, 2),
            "megabytes": peak(),
            "problems": problems,
        }


if __name__ == "__main__":
    limit_memory(int(sys.argv[1]))
    for line in sys.stdin:
        path = line.rstrip("\n")
        for result in report(path, int(sys.argv[2])):
            print(json.dumps({"path": path, **result}), flush=True)  # noqa: T201
