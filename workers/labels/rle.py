"""Masks as COCO run lengths: the door to pycocotools, but for its average precision.

Letters: N masks, h rows, w columns. A run-length code walks a mask column by column, so pycocotools
wants Fortran order; a C-ordered array is not refused but encoded wrongly. That trap stays in here.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pixellm.run_lengths import Numbers, RunMask
from workers.errors import ExportError

BoolMask = npt.NDArray[np.bool_]
"""(h, w) bool"""

Polygon = Sequence[float]
"""x0, y0, x1, y1, ... in pixels from the upper left corner of the image"""


@dataclass(frozen=True, slots=True)
class EncodedMask:
    """One mask, small enough to keep in a table, with what can be measured on it."""

    size: tuple[int, int]
    """h, w of the image"""
    counts: str
    """compressed COCO run lengths, ASCII"""
    area: int
    """pixels that are set"""
    bbox: tuple[float, float, float, float]
    """x, y, width, height in pixels; all 0 when the mask is empty"""
    n_components: int
    """connected parts; pixels that touch at a corner are connected"""
    touches_border: bool
    max_iou_other: float
    """largest overlap (intersection over union) with another mask of the same answer, 0 to 1"""


def encode_masks(masks: Sequence[RunMask]) -> tuple[EncodedMask, ...]:
    """Encodes and measures the masks of one answer.

    Args:
        masks: of one size.
    """
    if not masks:
        return ()
    plain = [{"size": list(mask.size), "counts": mask.counts} for mask in masks]
    codes = coco_mask.frPyObjects(plain, *masks[0].size)
    overlaps = coco_mask.iou(codes, codes, [0] * len(codes))
    np.fill_diagonal(overlaps, 0.0)
    rows = zip(codes, coco_mask.toBbox(codes), overlaps, masks, strict=True)
    return tuple(
        EncodedMask(
            size=mask.size,
            counts=code["counts"].decode("ascii"),
            area=mask.area,
            bbox=_four(bbox),
            n_components=_count_components(mask),
            touches_border=_touches_border(mask),
            max_iou_other=float(overlap.max()),
        )
        for code, bbox, overlap, mask in rows
    )


def decode_mask(size: tuple[int, int], counts: str) -> BoolMask:
    """Turns run lengths back into a mask, (h, w) bool.

    Not with pycocotools: its `decode` trusts the lengths, and can write past its buffer's end.

    Raises:
        ExportError: the run lengths do not cover an image of this size.
    """
    return np.ascontiguousarray(decode_runs(size, counts).pixels())


def decode_runs(size: tuple[int, int], counts: str) -> RunMask:
    """Unpacks run lengths, and leaves them runs.

    Raises:
        ExportError: the run lengths do not cover an image of this size.
    """
    return RunMask.from_counts(size, _check_runs(size, counts))


def read_runs(size: tuple[int, int], counts: str | Sequence[int]) -> RunMask:
    """The mask of run lengths as COCO files hold them: compressed, or plain whole numbers.

    Raises:
        ExportError: the run lengths do not cover an image of this size.
    """
    lengths = run_lengths(counts) if isinstance(counts, str) else _plain_lengths(counts)
    runs = RunMask.from_counts(size, _check_cover(size, lengths))
    real = runs.ends > runs.starts  # a run of no pixels says nothing and parts no others
    starts, ends = runs.starts[real], runs.ends[real]
    if len(starts) == 0:
        return RunMask.empty(size)
    first = np.append(True, starts[1:] > ends[:-1])
    return RunMask(size, starts[first], ends[np.roll(first, -1)])


def measure_rle(
    size: tuple[int, int], counts: str
) -> tuple[int, tuple[float, float, float, float]]:
    """Area and bounding box of run lengths, without unfolding them.

    Raises:
        ExportError: the run lengths do not cover an image of this size.
    """
    _check_runs(size, counts)
    code = {"size": list(size), "counts": counts.encode("ascii")}
    return int(coco_mask.area(code)), _four(coco_mask.toBbox(code))


def measure_mask(mask: BoolMask) -> tuple[int, tuple[float, float, float, float]]:
    """Area and bounding box of a mask (h, w)."""
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return int(coco_mask.area(code)), _four(coco_mask.toBbox(code))


def fill_polygons(polygons: Sequence[Polygon], size: tuple[int, int]) -> BoolMask:
    """The mask that pycocotools makes of the polygons of one annotation, (h, w) bool.

    Raises:
        ExportError: a polygon has fewer than three corners or an odd count of numbers.
    """
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ExportError(
                f"a polygon of {len(polygon)} numbers: it needs x and y of three corners or more"
            )
    parts = coco_mask.frPyObjects([list(polygon) for polygon in polygons], size[0], size[1])
    return decode_mask(size, coco_mask.merge(parts)["counts"].decode("ascii"))


def find_load_problem(path: Path) -> str | None:
    """Loads a COCO file the way that evaluation scripts do; says what went wrong, or None."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            dataset = COCO(str(path))
            for annotation in dataset.loadAnns(dataset.getAnnIds()):
                dataset.annToRLE(annotation)
    except Exception as error:  # whatever it raises is the finding; nothing of ours runs inside
        return f"pycocotools can't load it: {type(error).__name__}: {error}"
    return None


def run_lengths(counts: str) -> npt.NDArray[np.int64]:
    """Unpacks compressed counts: pixels off, on, off, ... down the columns.

    A number is a chain of characters with five bits each, lowest first (bit 6 says that more
    follow, the last bit 5 is the sign); from the fourth number on, it is the difference to the
    number two before.

    Raises:
        ExportError: the text holds something that can't be a count.
    """
    codes = np.frombuffer(counts.encode("ascii", "replace"), dtype=np.uint8).astype(np.int64) - 48
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        raise ExportError(f"{counts[:40]!r} is not a compressed COCO run-length code")
    ends = np.flatnonzero((codes & 0x20) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, ends - starts + 1))
    if shifts.max() > 55:
        raise ExportError(f"{counts[:40]!r} holds a run of more than 2**55 pixels")
    numbers = np.add.reduceat((codes & 0x1F) << shifts, starts)
    numbers -= np.where(codes[ends] & 0x10, np.left_shift(1, shifts[ends] + 5), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _plain_lengths(counts: Sequence[int]) -> npt.NDArray[np.int64]:
    # bool is an int
    if not all(type(count) is int and 0 <= count < 2**40 for count in counts):
        raise ExportError("run lengths must be whole numbers from 0")
    return np.asarray(counts, dtype=np.int64)


def _check_runs(size: tuple[int, int], counts: str) -> npt.NDArray[np.int64]:
    return _check_cover(size, run_lengths(counts))


def _check_cover(size: tuple[int, int], runs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    pixels = size[0] * size[1] if min(size) >= 0 else -1
    # each by itself, too: the sum of very long ones wraps round
    if len(runs) == 0 or runs.min() < 0 or runs.max() > pixels or runs.sum() != pixels:
        raise ExportError(
            f"run lengths cover {runs.sum()} pixels, but an image of size {size!r} has"
            f" {size[0] * size[1]}"
        )
    return runs


def _four(bbox: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    x, y, width, height = (float(value) for value in bbox)
    return x, y, width, height


def _count_components(mask: RunMask) -> int:
    """Runs that touch those of the next column, be it at a corner, are one component."""
    starts, ends = _within_columns(mask)
    column = mask.size[0] + 2
    first, last = _reach(starts, ends, -column)
    beginning = int((first == last).sum())
    if beginning < 2:  # each run but one hangs on one before it: no need of a graph
        return beginning
    first, last = _reach(starts, ends, column)
    touching = last - first
    left = np.repeat(np.arange(len(starts)), touching)
    right = np.arange(len(left)) - np.repeat(np.cumsum(touching) - touching - first, touching)
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(starts), len(starts)))
    return int(connected_components(graph, directed=False)[0])


def _reach(starts: Numbers, ends: Numbers, offset: int) -> tuple[Numbers, Numbers]:
    """Of each run, the first run that it touches when it is moved, and the one behind the last."""
    return np.searchsorted(ends, starts + offset), np.searchsorted(starts, ends + offset, "right")


def _within_columns(mask: RunMask) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where the runs start and end when each column ends them; with two pixels between columns."""
    height, starts, ends = mask.size[0], mask.starts, mask.ends
    if len(starts):
        heads = np.arange(starts[0] // height + 1, (ends[-1] - 1) // height + 1) * height
        heads = heads[heads < ends[np.searchsorted(starts, heads) - 1]]  # a run comes from before
        starts = np.sort(np.concatenate([starts, heads]))
        ends = np.sort(np.concatenate([ends, heads]))
    return starts + 2 * (starts // height), ends + 2 * ((ends - 1) // height)


def _touches_border(mask: RunMask) -> bool:
    height, width = mask.size
    if not mask.area:
        return False
    sides = mask.starts[0] < height or mask.ends[-1] > height * (width - 1)
    # a run that reaches the foot of a column may go on at the head of the next
    ends = mask.starts % height == 0, mask.starts // height != mask.ends // height
    return bool(sides or np.any(ends))
