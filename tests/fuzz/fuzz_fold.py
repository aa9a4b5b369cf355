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
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shard", default="0/1", help="which of how many parts, as 0/2")
    options = parser.parse_args()
    index, _, count = options.shard.partition("/")
    cases = len(range(int(index), options.cases, int(count)))
    from fold_cases import run

    gc.freeze()  # the modules imported so far; collections would go through all of them
    tally = run(cases, seed=options.seed * 1000 + int(index), every=100)
    sys.stdout.write(f"{tally}\n")
    return 1 if tally.never_drawn else 0


if __name__ == "__main__":
    sys.exit(main())
