"""The masks of ReasonSeg: polygons painted one over the other, the largest first.

The official loader paints with OpenCV. Here it is Pillow, which fills the same pixels where edges
run along rows and columns; on a slanted edge the two may choose another pixel.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pixellm.run_lengths import RunMask
from workers.errors import RecordRejected
from workers.imports.gold import Size
from workers.imports.shapes import read_polygon
from workers.labels.rle import Polygon
from workers.records.rejections import Reason, quote

TARGET, IGNORED = 1, 255
"""What a pixel of the official label picture says."""
_NO_SHAPE = "flag"  # a mark of the whole picture, long out of use


@dataclass(frozen=True, slots=True)
class Painting:
    """The labelled polygons of one picture."""

    strokes: tuple[tuple[Polygon, int], ...]
    """polygons, and what they are painted with"""

    def paint(self, size: Size) -> npt.NDArray[np.uint8]:
        """The label picture, (h, w)."""
        by_area = sorted(self.strokes, key=lambda stroke: -_area(stroke[0], size))
        picture = Image.new("L", (size[1], size[0]))
        for polygon, value in by_area:
            _stroke(picture, polygon, value)
        return np.asarray(picture)

    def has(self, value: int) -> bool:
        """Whether any polygon is painted with a value."""
        return any(each == value for _, each in self.strokes)


@dataclass(frozen=True, slots=True)
class Painted:
    """What has one value in a painting."""

    painting: Painting
    value: int

    def cut(self, size: Size) -> RunMask:
        """See `Shape`."""
        return RunMask.from_pixels(self.painting.paint(size) == self.value)


def read_painting(shapes: object) -> Painting:
    """Reads the list `shapes` of a ReasonSeg file.

    Raises:
        RecordRejected: it is none, or holds a polygon that can't be read.
    """
    if not isinstance(shapes, list):
        raise RecordRejected(Reason.MASK_BROKEN, f"`shapes` must be a list, not {quote(shapes)}")
    strokes = []
    for shape in shapes:
        label = shape.get("label") if isinstance(shape, Mapping) else None
        if not isinstance(label, str):
            raise RecordRejected(Reason.MASK_BROKEN, f"a shape without a label: {quote(shape)}")
        if label.lower() != _NO_SHAPE:
            value = IGNORED if "ignore" in label.lower() else TARGET
            strokes.append((read_polygon(shape.get("points")), value))
    return Painting(tuple(strokes))


def _area(polygon: Polygon, size: Size) -> int:
    """Pixels that it covers when nothing lies over it."""
    picture = Image.new("L", (size[1], size[0]))
    _stroke(picture, polygon, 1)
    return int(np.count_nonzero(np.asarray(picture)))


def _stroke(picture: Image.Image, polygon: Polygon, value: int) -> None:
    corners = [int(number) for number in polygon]  # towards 0, as a cast to integers does
    pairs = list(zip(corners[::2], corners[1::2], strict=True))
    ImageDraw.Draw(picture).polygon(pairs, fill=value, outline=value)
