"""Masks as polygons through the middles of pixels, for readers that paint the outline too.

Labelme, ReasonSeg and OpenCV paint the line of a polygon together with what it encloses. Here the
corners are pixels and all edges run along rows and columns, so each of them, and Pillow, paints
exactly the pixels of the mask. A part with holes or arms is cut into pieces that have none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pixellm.run_lengths import RunMask

Corner = tuple[int, int]
"""x, y of a pixel"""
LEAST_CORNERS = 3
"""Of a polygon; a line and a single pixel have their last corner several times."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Pixels below each other."""

    column: int
    top: int
    bottom: int
    """the last of them"""

    def touches(self, other: "_Run") -> bool:
        return self.top <= other.bottom and other.top <= self.bottom


def trace_staircases(mask: RunMask) -> list[list[Corner]]:
    """Polygons that, painted with their outlines, give the mask; none overlaps another."""
    pieces: list[list[_Run]] = []
    before: dict[int, list[_Run]] = {}  # the last run's place in the column -> its piece
    left: Sequence[_Run] = ()
    for column in _columns(mask):
        if left and column[0].column != left[0].column + 1:
            left, before = (), {}
        now: dict[int, list[_Run]] = {}
        for place, run in enumerate(column):
            joined = [at for at, other in enumerate(left) if run.touches(other)]
            if len(joined) == 1 and sum(left[joined[0]].touches(each) for each in column) == 1:
                piece = before[joined[0]]
                piece.append(run)
            else:
                piece = [run]
                pieces.append(piece)
            now[place] = piece
        left, before = column, now
    return [_outline(piece) for piece in pieces]


def _columns(mask: RunMask) -> Iterator[list[_Run]]:
    """The runs of each column that has some, from left to right."""
    height, column = mask.size[0], list[_Run]()
    for start, end in zip(mask.starts.tolist(), mask.ends.tolist(), strict=True):
        while start < end:
            x, top = divmod(start, height)
            stop = min(end, (x + 1) * height)
            if column and column[0].column != x:
                yield column
                column = []
            column.append(_Run(x, top, stop - 1 - x * height))
            start = stop
    if column:
        yield column


def _outline(piece: Sequence[_Run]) -> list[Corner]:
    """Along the tops to the right, and along the bottoms back."""
    tops = _steps([(run.column, run.top) for run in piece], down=True)
    bottoms = _steps([(run.column, run.bottom) for run in piece], down=False)
    corners = _without_middles([*tops, *reversed(bottoms)])
    return corners + corners[-1:] * (LEAST_CORNERS - len(corners))


def _steps(edge: Sequence[Corner], down: bool) -> list[Corner]:
    """Goes from column to column along rows, and up or down in the one that reaches further."""
    walk = [edge[0]]
    for (x, y), (next_x, next_y) in pairwise(edge):
        inwards = next_y > y if down else next_y < y
        walk += [(x, next_y) if inwards else (next_x, y), (next_x, next_y)]
    return walk


def _without_middles(walk: Sequence[Corner]) -> list[Corner]:
    """Without repetitions and without corners on a straight way."""
    kept: list[Corner] = []
    for corner in walk:
        if kept and corner == kept[-1]:
            continue
        if len(kept) > 1 and _is_between(kept[-2], kept[-1], corner):
            kept.pop()
        kept.append(corner)
    return kept[:-1] if len(kept) > 1 and kept[0] == kept[-1] else kept


def _is_between(a: Corner, middle: Corner, b: Corner) -> bool:
    return any(
        a[axis] == middle[axis] == b[axis]
        and min(a[other], b[other]) <= middle[other] <= max(a[other], b[other])
        for axis, other in ((0, 1), (1, 0))
    )
