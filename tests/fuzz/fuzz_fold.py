"""Random models, folded and compared: any wrong output is a failure.

    python tests/fuzz/fuzz_fold.py --cases 10000 --seed 1                # about half an hour
    python tests/fuzz/fuzz_fold.py --cases 10000 --seed 1 --shard 0/2    # one of two processes

hypothesis draws the models, so that a failure is shrunk; what it prints at the end makes the
case again. The cases of one seed and shard are always the same.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from fold_cases import Tally, check_case
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from random_models import Choices

SETTINGS = settings(
    deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck)
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shard", default="0/1", help="which of how many parts, as 0/2")
    options = parser.parse_args()
    index, _, count = options.shard.partition("/")
    cases = len(range(int(index), options.cases, int(count)))
    gc.freeze()  # the modules imported so far; collections would go through all of them
    tally = run(cases, seed=options.seed * 1000 + int(index), every=100)
    print(tally)
    return 1 if tally.never_drawn else 0


def run(cases, *, seed, every=None):
    """Checks cases: always the same for a seed, and those of the tests without one.

    Args:
        cases: number of models.
        seed: seed of hypothesis; None derives it from the function.
        every: after how many cases a line is printed; None for no lines.

    Returns:
        What was seen.
    """
    tally, start = Tally(), time.perf_counter()

    @given(st.data())
    def check(data):
        check_case(Choices(lambda low, high: data.draw(st.integers(low, high))), tally)
        if every and tally.cases % every == 0:
            seconds = time.perf_counter() - start
            print(
                f"{tally.cases} cases, {seconds / tally.cases:.2f} s each, "
                f"{tally.folded.total()} BN folded, {tally.kept.total()} kept, "
                f"worst error {tally.worst:.1e}",
                flush=True,
            )

    if seed is not None:
        check = _seeded(check, seed)
    try:
        settings(SETTINGS, derandomize=seed is None, max_examples=cases)(check)()
    except BaseException:
        print("The model that failed:", *tally.last, sep="\n  ", flush=True)
        raise
    return tally


def _seeded(check, number):
    return seed(number)(check)


if __name__ == "__main__":
    sys.exit(main())
