"""The event schema: what a watched run leaves on disk, and how it is read back.

Nothing else knows the tags.
"""

from bnscope.events.reader import find, last_step, read
from bnscope.events.run import Run

__all__ = ["Run", "find", "last_step", "read"]
