"""The decoder's small masks -> runs of pixels in the frames of their images.

The same as `postprocess_masks` in single precision and a threshold, but only where a mask can be: a
pixel lies between a few values of the small mask, and is set only if one of those is above 0. Both
resizings (to the model's square, and from its valid part to the image) become one step along each
axis.

Letters: n masks; m = side of the small masks; h0, w0 = the original size; Y, X = pixels of the
window that is looked at.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pixellm.run_lengths import Numbers, RunMask

BLOCK = 16
"""Rows or columns of an image that are made together: neighbours are made of the same few places,
and of a matrix of all pixels and places most would be 0."""
PIXELS_AT_ONCE = 2**26
"""Of masks that a GPU cuts out together: 256 MB of float32 logits."""


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """How the pixels along one side of an image are made from a small mask.

    Letters: b blocks of BLOCK pixels, the last one filled up; k places that a block is made of.
    """

    pixels: int
    """of the side"""
    matrix: Tensor
    """(b, BLOCK, k) float32: the share of each place in each pixel"""
    places: Tensor
    """(b, k) long"""
    first: Numbers
    """(pixels,) ascending: the first place that has a share in a pixel"""
    last: Numbers
    """(pixels,) ascending: the last one"""

    def window(self, places: Numbers) -> slice:
        """Pixels that some places have a share in, and all between; places ascend."""
        if not len(places):
            return slice(0, 0)
        begin = self.last.searchsorted(places[0])
        return slice(int(begin), int(self.first.searchsorted(places[-1], side="right")))

    def stretch(self, values: Tensor, window: slice) -> Tensor:
        """(m, z), what lies at the places -> (pixels of the window, z)."""
        blocks = slice(window.start // BLOCK, -(-window.stop // BLOCK))
        places = self.places[blocks]
        near = values.index_select(0, places.flatten()).unflatten(0, places.shape)
        made = torch.bmm(self.matrix[blocks], near).flatten(0, 1)  # (b * BLOCK, z)
        return made[window.start - blocks.start * BLOCK :][: window.stop - window.start]


@dataclass(frozen=True, slots=True, eq=False)
class CutMask:
    """One mask in the frame of its image."""

    runs: RunMask
    score: float
    """Mean probability of its pixels, 0 for an empty mask"""


def cut_masks(
    low: Tensor, resized: tuple[int, int], original: tuple[int, int], side: int
) -> list[CutMask]:
    """Brings the masks of images of one shape into their frames.

    Args:
        low: (n, m, m) logits over the model's square, padding included.
        resized: (h, w) of the square's valid part.
        original: (h0, w0).
        side: of the model's square, in pixels.
    """
    rows = axis(low.shape[1], side, resized[0], original[0], low.device)
    columns = axis(low.shape[2], side, resized[1], original[1], low.device)
    if _on_host(low):  # the smaller the window, the better; elsewhere calls cost more
        return [cut for mask in low for cut in _cut(mask[None], rows, columns)]
    at_once = max(1, PIXELS_AT_ONCE // (original[0] * original[1]))
    return [cut for part in low.split(at_once) for cut in _cut(part, rows, columns)]


@lru_cache(maxsize=32)  # photos of a data set are often alike; 2 MB for the longest side
def axis(small: int, side: int, valid: int, original: int, device: torch.device) -> Axis:
    """Both resizings along one axis (bilinear, half-pixel centres).

    Args:
        small: m.
        side: of the square, in pixels.
        valid: pixels of the square that hold the image.
        original: pixels of the image.
        device: of the matrix; what is asked one by one stays at hand.
    """
    square = _resized(torch.eye(small), side)
    shares = _resized(square[:valid], original)  # (pixels, m)
    has = (shares > 0).int()
    first, last = has.argmax(1), small - 1 - has.flip(1).argmax(1)
    blocks = -(-original // BLOCK)
    starts = first[::BLOCK]
    ends = last[torch.arange(BLOCK, BLOCK * (blocks + 1), BLOCK).clamp(max=original) - 1]
    width = int((ends - starts).max()) + 1
    places = starts.clamp(max=small - width)[:, None] + torch.arange(width)  # (b, k)
    filled = F.pad(shares, (0, 0, 0, blocks * BLOCK - original)).reshape(blocks, BLOCK, small)
    matrix = filled.gather(2, places[:, None].expand(-1, BLOCK, -1))
    return Axis(original, matrix.to(device), places.to(device), first.numpy(), last.numpy())


def _resized(values: Tensor, size: int) -> Tensor:
    """(pixels, z) -> (size, z): bilinear along one axis."""
    return F.interpolate(values.T[None], size, mode="linear", align_corners=False)[0].T


def _cut(low: Tensor, rows: Axis, columns: Axis) -> list[CutMask]:
    """Masks that are looked at through one window."""
    size = (rows.pixels, columns.pixels)
    inside = np.logical_or.reduce((low > 0).cpu().numpy())
    y, x = (
        along.window(np.flatnonzero(inside.any(other)))
        for along, other in ((rows, 1), (columns, 0))
    )
    if y.start >= y.stop or x.start >= x.stop:  # there is nothing, or it lies in the padding
        nothing = RunMask.empty(size)
        return [CutMask(nothing, 0.0) for _ in low]
    tall = rows.stretch(low.float().transpose(0, 1).flatten(1), y)  # (Y, n * m)
    beside = tall.unflatten(1, low.shape[::2]).permute(2, 1, 0)  # (m, n, Y)
    wide = columns.stretch(beside.contiguous().flatten(1), x)  # (X, n * Y)
    logits = wide.unflatten(1, beside.shape[1:]).transpose(0, 1)  # (n, X, Y)
    runs = _runs(logits, size, y.start, x.start)
    above = _sum_above_half(logits)
    areas = [each.area for each in runs]
    return [
        CutMask(each, (total + area / 2) / (area + 1e-6))
        for each, area, total in zip(runs, areas, above, strict=True)
    ]


def _sum_above_half(logits: Tensor) -> list[float]:
    """What the probabilities of a mask's pixels have above 1/2, added up for each mask.

    Of pixels outside the mask relu leaves 0, and the sigmoid of that is 1/2 to the last bit: they
    add nothing, however many they are.

    Args:
        logits: (n, X, Y); overwritten.
    """
    above: list[float] = logits.relu_().sigmoid_().sub_(0.5).flatten(1).sum(1).tolist()
    return above


def _runs(logits: Tensor, size: tuple[int, int], top: int, left: int) -> list[RunMask]:
    """(n, X, Y) logits, columns first, whose corner lies at (top, left) -> runs."""
    runs, column = list[RunMask](), logits.shape[2] + 2
    for changes in _changes(logits):
        behind = changes + 1
        places = behind + behind // column * (size[0] - column) + (left * size[0] + top - 1)
        runs.append(_joined(places[::2], places[1::2], size))
    return runs


def _changes(logits: Tensor) -> list[Numbers]:
    """Where, of a mask's pixels in one line, one is set and the next is not, or the reverse.

    A row that is not set lies above and below each column: every run begins and ends within one.
    """
    count, wide, tall = logits.shape
    if _on_host(logits):  # numpy is five times faster at this
        framed = np.empty((count, wide, tall + 2), bool)
        framed[:, :, 0] = framed[:, :, -1] = False
        np.greater(logits.numpy(), 0, out=framed[:, :, 1:-1])
        return [np.flatnonzero(line[1:] != line[:-1]) for line in framed.reshape(count, -1)]
    frame = F.pad(logits > 0, (1, 1)).flatten(1)
    number, changes = (frame[:, 1:] != frame[:, :-1]).nonzero().cpu().numpy().T
    return np.split(changes, np.searchsorted(number, np.arange(1, count)))


def _on_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _joined(starts: Numbers, ends: Numbers, size: tuple[int, int]) -> RunMask:
    """Runs that go on from the foot of one column at the head of the next are one."""
    breaks = starts[1:] != ends[:-1]
    first, last = np.ones((2, len(starts)), dtype=bool)
    first[1:], last[:-1] = breaks, breaks
    return RunMask(size, starts[first], ends[last])
