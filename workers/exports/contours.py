"""Masks as polygons, for readers that can't read run lengths.

The polygons run along the edges of pixels, so pycocotools turns them back into exactly the same
mask. There is one polygon for each part of the mask (pixels that touch only at a corner are two
parts). COCO polygons have no holes: the outline of a hole is joined to the outer one by a cut of
width 0, there and back. Even-odd filling (pycocotools, PIL, OpenCV) leaves the hole open; OpenCV,
which also paints the line itself, shows the cut one pixel wide.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from workers.labels.rle import BoolMask

Point = tuple[int, int]
"""x, y of a corner between pixels"""


def trace_polygons(mask: BoolMask) -> list[list[float]]:
    """Polygons of a mask (h, w): one list x0, y0, x1, y1, ... for each part."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return []
    top, left = int(rows[0]), int(columns[0])
    crop = mask[top : rows[-1] + 1, left : columns[-1] + 1]  # most masks are small: twice as fast
    labels, _ = ndimage.label(crop)
    polygons = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        rings = _trace_rings(labels[box] == number)
        polygons.append(_join_rings(rings, dx=left + box[1].start, dy=top + box[0].start))
    return polygons


def _trace_rings(part: BoolMask) -> list[list[Point]]:
    """Closed walks round one part with the part on the right hand; the outer ring comes first."""
    steps = _border_steps(part)
    rings = []
    while steps:
        # dicts keep their order and the first step lies in the top row: the outer ring
        start = next(iter(steps))
        rings.append(_walk(steps, start))
    return rings


def _border_steps(part: BoolMask) -> dict[Point, list[Point]]:
    """Unit steps (corner -> next corners) along every edge between the part and the outside."""
    padded = np.pad(part, 1)
    inside, above, left = padded[1:, 1:], padded[:-1, 1:], padded[1:, :-1]
    steps: dict[Point, list[Point]] = {}
    for edges, start, step in (
        (inside & ~above, (0, 0), (1, 0)),  # top edge of a pixel: rightwards
        (above & ~inside, (1, 0), (-1, 0)),  # bottom edge: leftwards
        (inside & ~left, (0, 1), (0, -1)),  # left edge: upwards
        (left & ~inside, (0, 0), (0, 1)),  # right edge: downwards
    ):
        for y, x in _corners(edges):
            corner = (x + start[0], y + start[1])
            steps.setdefault(corner, []).append((corner[0] + step[0], corner[1] + step[1]))
    return steps


def _corners(edges: npt.NDArray[np.bool_]) -> list[list[int]]:
    corners: list[list[int]] = np.argwhere(edges).tolist()
    return corners


def _walk(steps: dict[Point, list[Point]], start: Point) -> list[Point]:
    """Follows and uses up the steps from `start` until they are back; keeps the turns only.

    Where two steps leave a corner (two pixels of the part touch only there), either may be taken:
    the ring, or two rings, then touch themselves there and fill to the same pixels.
    """
    ring: list[Point] = []
    here, heading = start, (0, 0)
    while here in steps:
        onward = steps[here].pop()
        if not steps[here]:
            del steps[here]
        turned = (onward[0] - here[0], onward[1] - here[1])
        if turned != heading:
            ring.append(here)
        here, heading = onward, turned
    return ring


def _join_rings(rings: list[list[Point]], dx: int, dy: int) -> list[float]:
    """One closed walk through all rings: out to each hole, round it, and back the same way."""
    walk = list(rings[0])
    for hole in rings[1:]:
        walk += [rings[0][0], *hole, hole[0]]
    return [float(value) for x, y in walk for value in (x + dx, y + dy)]
