"""`python -m bnscope` is the command `bnscope`."""

from bnscope.cli import run

if __name__ == "__main__":
    run()
