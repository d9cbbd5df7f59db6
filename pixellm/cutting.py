"""The decoder's small masks -> runs of pixels in the frames of their images.

The same as `postprocess_masks` and a threshold, but only where a mask can be: a pixel lies between
a few values of the small mask, and is set only if one of those is above 0. Both resizings (to the
model's square, and from its valid part to the image) become one step along each axis.

Letters: n masks; m = side of the small masks; h0, w0 = the original size; Y, X = pixels of the
window that is looked at.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pixellm.run_lengths import Numbers, RunMask

PIXELS_TOGETHER = 128
"""Rows or columns of an image that a CPU makes together: large enough products, few zeros."""
PIXELS_AT_ONCE = 2**26
"""Of masks that a GPU cuts out together: 256 MB of float32 logits."""


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """How the pixels along one side of an image are made from a small mask."""

    matrix: Tensor
    """(pixels, m) float32: the share of each place in each pixel"""
    first: Tensor
    """(pixels,) long, ascending: the first place that has a share in a pixel"""
    last: Tensor
    """(pixels,) long, ascending: the last one"""

    def window(self, start: int, stop: int) -> slice:
        """Pixels that places `start` to `stop` have a share in."""
        begin = int(torch.searchsorted(self.last, start))
        return slice(begin, int(torch.searchsorted(self.first, stop, right=True)))

    def places(self, window: slice) -> slice:
        """Places that have a share in the pixels of a window."""
        return slice(int(self.first[window.start]), int(self.last[window.stop - 1]) + 1)

    def stretch(self, values: Tensor, window: slice) -> Tensor:
        """(n, m, k), what lies at the places -> (n, pixels of the window, k)."""
        # only few places have a share in a few pixels: most of the matrix is 0
        step = PIXELS_TOGETHER if values.device.type == "cpu" else window.stop
        made = list[Tensor]()
        for start in range(window.start, window.stop, step):
            pixels = slice(start, min(start + step, window.stop))
            places = self.places(pixels)
            made.append(self.matrix[pixels, places] @ values[:, places])
        return torch.cat(made, dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class CutMask:
    """One mask in the frame of its image."""

    runs: RunMask
    score: float
    """Mean probability of its pixels, 0 for an empty mask"""


def cut_masks(
    low: Tensor, resized: tuple[int, int], original: tuple[int, int], side: int
) -> list[CutMask]:
    """Brings the masks of one image into its frame.

    Args:
        low: (n, m, m) logits over the model's square, padding included.
        resized: (h, w) of the square's valid part.
        original: (h0, w0).
        side: of the model's square, in pixels.
    """
    rows = axis(low.shape[1], side, resized[0], original[0], low.device)
    columns = axis(low.shape[2], side, resized[1], original[1], low.device)
    if low.device.type == "cpu":  # the smaller the window, the better; elsewhere calls cost more
        return [cut for mask in low for cut in _cut(mask[None], rows, columns)]
    at_once = max(1, PIXELS_AT_ONCE // (original[0] * original[1]))
    return [cut for part in low.split(at_once) for cut in _cut(part, rows, columns)]


@lru_cache(maxsize=32)  # 2 MB each for photos of 4000 pixels; those of a data set are often alike
def axis(small: int, side: int, valid: int, original: int, device: torch.device) -> Axis:
    """Both resizings along one axis (bilinear, half-pixel centres).

    Args:
        small: m.
        side: of the square, in pixels.
        valid: pixels of the square that hold the image.
        original: pixels of the image.
        device: of the matrix; what is asked one by one stays at hand.
    """
    outer, inner = _resizing(valid, original), _resizing(small, side)
    matrix = outer @ inner[:valid]
    places = (matrix > 0).int()
    last = small - 1 - places.flip(1).argmax(1)
    return Axis(matrix.to(device), places.argmax(1), last)


def _resizing(old: int, new: int) -> Tensor:
    """(new, old): bilinear resizing along one axis."""
    return F.interpolate(torch.eye(old)[None], new, mode="linear", align_corners=False)[0].T


def _cut(low: Tensor, rows: Axis, columns: Axis) -> list[CutMask]:
    """Masks that are looked at through one window."""
    size = (len(rows.matrix), len(columns.matrix))
    inside = low > 0
    y, x = _window(rows, inside.any(2)), _window(columns, inside.any(1))
    if y is None or x is None:
        nothing = RunMask.empty(size)
        return [CutMask(nothing, 0.0) for _ in low]
    tall = rows.stretch(low.float(), y)  # (n, Y, m)
    logits = columns.stretch(tall.mT, x)  # (n, X, Y)
    runs = _runs(logits, size, y.start, x.start)
    # outside the mask relu leaves 0, of which the sigmoid is 1/2: nothing is left of it
    above = logits.relu_().sigmoid_().sub_(0.5).sum((1, 2)).tolist()
    return [
        CutMask(each, (total + each.area / 2) / (each.area + 1e-6))
        for each, total in zip(runs, above, strict=True)
    ]


def _window(along: Axis, inside: Tensor) -> slice | None:
    """Pixels along an axis that a mask may have, if it is anywhere in (n, m) places."""
    places = inside.any(0).nonzero()
    if not len(places):
        return None
    window = along.window(int(places[0]), int(places[-1]))
    return window if window.stop > window.start else None  # else it lies in the padding


def _runs(logits: Tensor, size: tuple[int, int], top: int, left: int) -> list[RunMask]:
    """(n, X, Y) logits, columns first, whose corner lies at (top, left) -> runs."""
    count, wide, tall = logits.shape
    changes = _changes(logits) + 1
    number, rest = np.divmod(changes, wide * (tall + 2))
    x, y = np.divmod(rest, tall + 2)
    places = (left + x) * size[0] + (top + y - 1)
    borders = np.searchsorted(number, np.arange(count + 1))
    return [_joined(places[a:b:2], places[a + 1 : b : 2], size) for a, b in pairwise(borders)]


def _changes(logits: Tensor) -> Numbers:
    """Where, of the pixels in one line, one is set and the next is not, or the other way round.

    A row that is not set lies above and below each column: every run begins and ends within one.
    """
    count, wide, tall = logits.shape
    if logits.device.type == "cpu":  # numpy is five times faster at this
        framed = np.zeros((count, wide, tall + 2), bool)
        np.greater(logits.numpy(), 0, out=framed[:, :, 1:-1])
        line = framed.ravel()
        return np.flatnonzero(line[1:] != line[:-1])
    frame = logits.new_zeros(count, wide, tall + 2, dtype=torch.bool)
    frame[:, :, 1:-1] = logits > 0
    pixels = frame.flatten()
    return (pixels[1:] != pixels[:-1]).nonzero()[:, 0].cpu().numpy()


def _joined(starts: Numbers, ends: Numbers, size: tuple[int, int]) -> RunMask:
    """Runs that go on from the foot of one column at the head of the next are one."""
    breaks = starts[1:] != ends[:-1]
    first, last = np.ones((2, len(starts)), dtype=bool)
    first[1:], last[:-1] = breaks, breaks
    return RunMask(size, starts[first], ends[last])
