"""A mask as the runs of its pixels: small enough to keep by the thousand.

Letters: h rows, w columns, r runs. Pixels are counted down the columns, as COCO does it: the pixel
in row y and column x has the number x * h + y.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RunMask:
    """The pixels of one mask."""

    size: tuple[int, int]
    """h, w"""
    starts: Numbers
    """(r,) the first pixel of each run, ascending"""
    ends: Numbers
    """(r,) the pixel behind each run; never where the next one starts"""

    @classmethod
    def from_pixels(cls, pixels: NDArray[np.bool_]) -> "RunMask":
        """The runs of (h, w) bool."""
        columns = np.zeros(pixels.size + 2, dtype=np.int8)
        columns[1:-1] = pixels.T.ravel()
        steps = np.diff(columns)
        size = (pixels.shape[0], pixels.shape[1])
        return cls(size, np.flatnonzero(steps == 1), np.flatnonzero(steps == -1))

    @classmethod
    def from_counts(cls, size: tuple[int, int], counts: Numbers) -> "RunMask":
        """The inverse of `counts`."""
        borders = np.cumsum(counts)
        return cls(size, borders[:-1:2], borders[1::2])

    @classmethod
    def empty(cls, size: tuple[int, int]) -> "RunMask":
        """No pixel of an image of (h, w)."""
        return cls(size, np.empty(0, np.int64), np.empty(0, np.int64))

    def pixels(self) -> NDArray[np.bool_]:
        """(h, w) bool."""
        (height, width), counts = self.size, self.counts
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T

    @property
    def counts(self) -> Numbers:
        """Pixels off, on, off, ... down the columns; the first may be 0, the last never is."""
        borders = np.empty(2 * len(self.starts) + 2, dtype=np.int64)
        borders[0], borders[-1] = 0, self.size[0] * self.size[1]
        borders[1:-1:2], borders[2:-1:2] = self.starts, self.ends
        counts = np.diff(borders)
        return counts[:-1] if counts[-1] == 0 else counts

    @property
    def area(self) -> int:
        """Pixels that are set."""
        return int((self.ends - self.starts).sum())
