"""What callbacks tell people while `fit` prints its progress."""

from __future__ import annotations

import sys

from bnscope.printing import printable


def say(text: str) -> None:
    """A line of its own in the progress output, whose last line may be open."""
    sys.stdout.write(f"\nbnscope: {printable(text)}\n")
    sys.stdout.flush()
