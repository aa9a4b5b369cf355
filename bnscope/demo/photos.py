"""Two classes of images without a download: crops of the photographs in scikit-learn.

Each photograph is cut into quadrants. Training crops come from two quadrants that lie
diagonally, validation crops from the other two, so that no pixel is in both sets:

    training   | validation
    validation | training
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bnscope.demo.network import IMAGE_SIZE

CLASSES = ("china", "flower")  # labels 0 and 1: a temple above a lake, a dahlia
FILES = ("china.jpg", "flower.jpg")
SIDES = {"training": 0, "validation": 1}


@dataclass(frozen=True)
class Photos:
    """Images with their labels, and where each was cut out.

    Args:
        images: float32 in [0, 1], shape `(n, 100, 100, 3)`.
        labels: float32, 0 for china and 1 for flower, shape `(n,)`.
        corners: row and column of each crop's upper left pixel, shape `(n, 2)`.
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    corners: npt.NDArray[np.int64]


def photo_crops(count: int, side: str, seed: int = 0) -> Photos:
    """Cuts random crops out of one side of the photographs, in random order.

    Args:
        count: how many crops, half of them of each class.
        side: `"training"` or `"validation"`; the two share no pixel.
        seed: the same seed gives the same crops.

    Returns:
        The crops with their labels.
    """
    random = np.random.default_rng([seed, SIDES[side]])
    images, labels, corners = [], [], []
    for label, photo in enumerate(_photographs()):
        for number in range((count + 1 - label) // 2):
            row, column = _corner(photo.shape, number, SIDES[side], random)
            images.append(photo[row : row + IMAGE_SIZE, column : column + IMAGE_SIZE])
            labels.append(label)
            corners.append((row, column))
    order = random.permutation(len(images))
    return Photos(
        images=(np.stack(images)[order] / 255.0).astype(np.float32),
        labels=np.array(labels, np.float32)[order],
        corners=np.array(corners, np.int64)[order],
    )


def _corner(
    shape: tuple[int, ...], number: int, side: int, random: np.random.Generator
) -> tuple[int, int]:
    """The upper left pixel of a crop that lies wholly within one quadrant of its side."""
    height, width = shape[0] // 2, shape[1] // 2
    down = number % 2
    right = down ^ side
    row = down * height + int(random.integers(height - IMAGE_SIZE + 1))
    column = right * width + int(random.integers(width - IMAGE_SIZE + 1))
    return row, column


def _photographs() -> list[npt.NDArray[np.uint8]]:
    """Both photographs, each of shape `(427, 640, 3)`, in the order of `CLASSES`."""
    from sklearn.datasets import load_sample_images

    bundle: Any = load_sample_images()
    by_name = dict(zip(map(_base_name, bundle.filenames), bundle.images, strict=True))
    return [by_name[name] for name in FILES]


def _base_name(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]
