"""The shapes in which files hold masks -> the runs of their pixels.

polygons        one list x0, y0, x1, y1, ... or of [x, y] pairs for each part, as COCO fills them
run lengths     {"size": [h, w], "counts": ...}, plain or compressed
several of one  their union: parts that overlap are not counted twice
a picture       every pixel that is not black
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from pixellm.run_lengths import RunMask
from workers.errors import ExportError, RecordRejected
from workers.imports.gold import Shape, Size
from workers.labels.rle import Polygon, fill_polygons, read_runs
from workers.records.pictures import PictureLimits, decode_picture
from workers.records.reading import fetch_image
from workers.records.record import ImageRef
from workers.records.rejections import Reason, quote
from workers.storage.stores import Anywhere

FAR_PIXELS = 100_000.0
"""No corner of a polygon lies further out. pycocotools walks along each edge in fifths of a pixel,
and one to 1e12 takes all memory."""
MAX_PARTS = 10_000
"""Of one mask."""
_NUMBERS = frozenset((int, float))  # and not bool, which is an int, too


@dataclass(frozen=True, slots=True)
class RunLengths:
    """One mask as run lengths."""

    size: Size
    counts: str | Sequence[int]

    def cut(self, size: Size) -> RunMask:
        """See `Shape`."""
        if self.size != size:
            raise RecordRejected(
                Reason.MASK_WRONG_SIZE,
                f"run lengths of size {list(self.size)} (height, width), and the upright picture"
                f" has {list(size)}",
            )
        try:
            return read_runs(size, self.counts)
        except ExportError as error:
            raise _broken(f"{error}") from error


@dataclass(frozen=True, slots=True)
class Polygons:
    """One mask as the polygons of its parts."""

    parts: tuple[Polygon, ...]

    def cut(self, size: Size) -> RunMask:
        """See `Shape`."""
        return RunMask.from_pixels(fill_polygons(self.parts, size))


@dataclass(frozen=True, slots=True)
class Union:
    """One mask that is made of several."""

    parts: tuple[Shape, ...]

    def cut(self, size: Size) -> RunMask:
        """See `Shape`."""
        together = np.zeros(size, dtype=np.bool_)
        for part in self.parts:  # one by one: there may be thousands, of a picture of any size
            together |= part.cut(size).pixels()
        return RunMask.from_pixels(together)


@dataclass(frozen=True, slots=True)
class MaskPicture:
    """One mask as a picture file of the same size."""

    image: ImageRef

    def cut(self, size: Size) -> RunMask:
        """See `Shape`."""
        limits = PictureLimits()
        try:
            picture = decode_picture(fetch_image(self.image, Anywhere(), limits.max_bytes), limits)
        except RecordRejected as error:
            raise _broken(f"the picture of the mask: {error.message}") from error
        if picture.rgb.shape[:2] != size:
            raise RecordRejected(
                Reason.MASK_WRONG_SIZE,
                f"the picture of the mask is {picture.width} x {picture.height} pixels, and the"
                f" image {size[1]} x {size[0]}",
            )
        return RunMask.from_pixels(np.logical_or.reduce(picture.rgb, axis=2))


def read_segmentation(value: object) -> Shape:
    """Reads what COCO calls a segmentation; also parts of it in a list, and pairs for numbers.

    Raises:
        RecordRejected: it is none.
    """
    if isinstance(value, Mapping):
        return _read_runs(value)
    if not isinstance(value, list) or not value or len(value) > MAX_PARTS:
        raise _broken(f"neither polygons nor run lengths: {quote(value)}")
    if all(isinstance(part, Mapping) for part in value):
        return Union(tuple(_read_runs(part) for part in value))
    if _are_numbers(value):
        return Polygons((read_polygon(value),))
    return Polygons(tuple(read_polygon(part) for part in value))


def read_polygon(value: object) -> Polygon:
    """Reads one polygon: x0, y0, x1, y1, ... or [x, y] pairs.

    Raises:
        RecordRejected: it is none, or has less than three corners.
    """
    numbers = value
    if isinstance(value, list) and value and all(_is_pair(corner) for corner in value):
        numbers = list(chain.from_iterable(value))
    if not isinstance(numbers, list) or not _are_numbers(numbers):
        raise _broken(f"a polygon must be a list of numbers, not {quote(value)}")
    if len(numbers) < 6 or len(numbers) % 2:
        raise _broken(
            f"a polygon of {len(numbers)} numbers: it needs x and y of three corners or more"
        )
    # so put, it is also true of what is no number
    if far := next((number for number in numbers if not abs(number) <= FAR_PIXELS), None):
        raise _broken(f"a corner of a polygon lies at {quote(far)}; at most {FAR_PIXELS:g} is read")
    return [float(number) for number in numbers]


def _read_runs(value: Mapping[object, object]) -> RunLengths:
    size, counts = value.get("size"), value.get("counts")
    is_size = isinstance(size, list) and len(size) == 2 and all(type(n) is int for n in size)
    if not is_size or not isinstance(counts, str | list):
        raise _broken(f'run lengths are {{"size": [h, w], "counts": ...}}, not {quote(value)}')
    assert isinstance(size, list)
    return RunLengths((size[0], size[1]), counts)


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and _are_numbers(value)


def _are_numbers(values: list[object]) -> bool:
    # by their types at once: one by one takes longer than all the rest of reading a file
    return _NUMBERS.issuperset(map(type, values))


def _broken(message: str) -> RecordRejected:
    return RecordRejected(Reason.MASK_BROKEN, message)
