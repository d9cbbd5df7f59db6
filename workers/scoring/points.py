"""Masks at a few points of the picture, as `grid_sample` reads them, without unfolding to numbers.

Letters: N masks, M points, h rows and w columns of the picture. A point lies between four pixels,
which count by how near they are; what lies beyond the border counts as 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pixellm.run_lengths import RunMask

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where points lie in pictures of one size."""

    pixels: NDArray[np.int64]
    """(4, M) the numbers of the pixels around, down the columns; any, where there is none"""
    weights: Floats
    """(4, M) how much each counts; 0 where there is none"""


def find_places(points: Tensor, size: tuple[int, int]) -> Places:
    """The pixels around each point.

    Args:
        points: (M, 2) points (x, y) in 0..1.
        size: h, w.
    """
    height, width = size
    x, y = (points.numpy().astype(float) * (width, height) - 0.5).T  # pixel 0 has its middle at 0
    left, top = np.floor(x), np.floor(y)
    pixels, weights = [], []
    for column in (left, left + 1):
        for row in (top, top + 1):
            is_inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            pixels.append(np.where(is_inside, column * height + row, 0))
            weights.append((1 - abs(x - column)) * (1 - abs(y - row)) * is_inside)
    return Places(np.array(pixels, np.int64), np.array(weights, np.float32))


def sample_masks(masks: Sequence[RunMask], places: Places) -> Floats:
    """How much of each mask there is at each point, (N, M) 0 to 1."""
    found = np.empty((len(masks), places.pixels.shape[1]), np.float32)
    for values, mask in zip(found, masks, strict=True):
        flat = mask.pixels().T.ravel()  # down the columns, as the pixels are numbered: no copy
        np.sum(flat[places.pixels] * places.weights, axis=0, out=values)
    return found
