"""How much a file may ask for. Files come from strangers: each of these ends in a clear error.

Together they hold `lint`, `inspect` and `fold --dry-run` to 10 s and 500 MB but for a damaged HDF5
structure that keeps HDF5 itself busy and names that share one long text (docs/security.md), and
each is several times what the largest models known need (some 20,000 layers).
"""

from __future__ import annotations

from bnscope.errors import UnreadableModelError

# ResNet152's configuration has 0.4 MB, some 0.8 KB a layer.
MAX_CONFIG = 32 << 20
# What the values of a configuration take once they are read; ResNet152's take 4 MB.
MAX_CONFIG_VALUES = 256 << 20
# Directory of a zip archive. Keras writes three members; this holds some 10,000.
MAX_ZIP_DIRECTORY = 1 << 20
# A compressed weights member is inflated in memory. Keras compresses nothing.
MAX_INFLATED = 192 << 20
# Texts of one HDF5 attribute, where each may be the whole piece of the file that holds it.
MAX_TEXTS = 1 << 30
# Layers, calls and nested models' calls once a model is flattened.
MAX_CALLS = 30_000
# Tensors among the arguments and results of all calls; a DenseNet has 2 a call.
MAX_TENSORS = 200_000
# Models inside models.
MAX_NESTING = 64
# Length of a layer's path; names are repeated in messages, so long ones multiply.
MAX_NAME = 512
# Rank and sizes of a tensor; numpy itself stops at 64 dimensions.
MAX_RANK = 32
MAX_SIZE = 1 << 62
# Steps from call to call that rules and the fold plan take; a rule takes some 2 a layer.
MAX_STEPS = 2_000_000
# Channels of one BN layer; the widest real layers have some 100,000.
MAX_CHANNELS = 1 << 20
# Values of all BN layers of a file; EfficientNet-L2, the largest known, has 5 million.
MAX_VALUES = 8_000_000
# Values of one kernel, and of all that a rule reads of a file. EfficientNetB7's largest kernel
# has 1.6 million, the whole of EfficientNet-L2 480 million.
MAX_KERNEL = 1 << 24
MAX_KERNELS = 1 << 29
# Compressed values and chunks of one variable: deflate can make a thousand bytes out of one.
MAX_COMPRESSED = 128 << 10
MAX_CHUNK = 16 << 20
# Groups inside groups, and members of one group.
MAX_GROUP_DEPTH = 64
MAX_MEMBERS = 200_000

HINT = (
    "Expected a model that Keras saved; a larger one can be linted live, with bnscope.lint."
)


def too_much(what: str, limit: float, unit: str = "") -> UnreadableModelError:
    """The error of a file that asks for more than a limit."""
    return UnreadableModelError(f"{what}; at most {limit:,}{unit} are read.", HINT)


def megabytes(size: float) -> str:
    """A size in bytes as a text."""
    return f"{size / (1 << 20):,.1f} MB"


class Steps:
    """Counts steps through a graph, and refuses a graph that takes too many.

    The walks of rules are linear in real models; a file can be made in which they are not.
    """

    __slots__ = ("left",)

    def __init__(self, most: int = MAX_STEPS) -> None:
        self.left = most

    def spend(self, steps: int) -> None:
        """Takes steps.

        Raises:
            UnreadableModelError: if none are left.
        """
        self.left -= steps
        if self.left < 0:
            raise UnreadableModelError(
                f"The calls of the model are so entangled that following them takes more than "
                f"{MAX_STEPS:,} steps.",
                HINT,
            )
