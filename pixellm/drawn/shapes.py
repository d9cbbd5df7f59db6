"""The eight silhouettes of the drawn world, and how one of them becomes pixels.

A silhouette is a closed outline in units of its own radius, with y pointing down. All of them cover
the same area at the same radius, so that "large" means the same for a star and for a circle. None
has a thin part: at 64 x 64 pixels a mask that is off by a fraction of a pixel still overlaps well.

Everything that decides a pixel is integer arithmetic on rounded corners, so that a scene has the
same bytes on every machine.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Point = tuple[float, float]
Ring = tuple[Point, ...]

SHAPES = ("circle", "square", "triangle", "star", "heart", "mug", "fish", "house")

AREA = 2.2
"""Area of every silhouette in squared radii (a disc of that radius would have 3.14)."""

SUPERSAMPLING = 4
"""Sub-pixels per pixel and axis: enough that no steps are seen at an edge."""

INK_WIDTH = 0.09
"""Width of the dark line along the edge, in radii: it parts things of one colour that overlap."""


@dataclass(frozen=True, slots=True)
class Silhouette:
    """One shape in units of its radius, centred on its bounding box.

    Attributes:
        edge: the outer outline, closed by its first corner.
        holes: outlines inside `edge` that are not part of the shape (the grip of a mug).
        details: outlines painted dark on the shape (an eye, a door); they belong to its mask.
    """

    edge: Ring
    holes: tuple[Ring, ...] = ()
    details: tuple[Ring, ...] = ()


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a silhouette lies on a canvas; pixels, and radians clockwise.

    `mirrored` swaps the shape's left and right before it is turned.
    """

    x: float
    y: float
    radius: float
    rotation: float
    mirrored: bool


@dataclass(frozen=True, slots=True)
class Stamp:
    """A silhouette as pixels, cut to the part of the canvas that it touches.

    Attributes:
        top: first row on the canvas.
        left: first column on the canvas.
        cover: (h, w) uint8, how much of each pixel the shape covers, 255 = all.
        ink: (h, w) uint8, how much of each pixel is edge line or detail, never more than `cover`.
    """

    top: int
    left: int
    cover: NDArray[np.uint8]
    ink: NDArray[np.uint8]

    @property
    def region(self) -> tuple[slice, slice]:
        """The rows and columns of the canvas under this stamp."""
        h, w = self.cover.shape
        return slice(self.top, self.top + h), slice(self.left, self.left + w)


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, steps: int) -> Ring:
    """Points of an ellipse from angle `start` to `stop` in degrees, both included."""
    angles = [math.radians(start + (stop - start) * i / steps) for i in range(steps + 1)]
    return tuple((x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles)


def _circle() -> Silhouette:
    return Silhouette(_arc(0, 0, 1, 1, 0, 360, 48)[:-1])


def _square() -> Silhouette:
    return Silhouette(((-1, -1), (1, -1), (1, 1), (-1, 1)))


def _triangle() -> Silhouette:
    return Silhouette(((0, -0.9), (1, 0.9), (-1, 0.9)))


def _star() -> Silhouette:
    # Arms half as deep as in a flag's star: thinner ones are lost at 64 x 64.
    tips = [(1.0 if i % 2 == 0 else 0.53, math.radians(36 * i - 90)) for i in range(10)]
    return Silhouette(tuple((r * math.cos(a), r * math.sin(a)) for r, a in tips))


def _heart() -> Silhouette:
    lobes = (
        *_arc(-0.48, -0.35, 0.52, 0.52, 140, 345, 16),
        *_arc(0.48, -0.35, 0.52, 0.52, 195, 400, 16),
    )
    return Silhouette((*lobes, (0.0, 0.95)))


def _mug() -> Silhouette:
    handle = _arc(0.4, 0.0, 0.86, 0.74, -90, 90, 16)
    edge = ((-0.85, -0.95), (0.4, -0.95), *handle, (0.4, 0.95), (-0.85, 0.95))
    return Silhouette(edge, holes=(_arc(0.44, 0.0, 0.37, 0.32, -90, 90, 10),))


def _fish() -> Silhouette:
    body = _arc(-0.25, 0.0, 0.95, 0.74, 26, 334, 32)
    tail = ((1.12, -0.72), (1.0, 0.0), (1.12, 0.72))
    return Silhouette((*body, *tail), details=(_arc(-0.72, -0.16, 0.13, 0.13, 0, 360, 12),))


def _house() -> Silhouette:
    edge = (
        (0, -1),
        (1.05, -0.1),
        (0.8, -0.1),
        (0.8, 0.9),
        (-0.8, 0.9),
        (-0.8, -0.1),
        (-1.05, -0.1),
    )
    return Silhouette(edge, details=(((-0.22, 0.3), (0.22, 0.3), (0.22, 0.9), (-0.22, 0.9)),))


_BUILDERS: dict[str, Callable[[], Silhouette]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "mug": _mug,
    "fish": _fish,
    "house": _house,
}


def _area(ring: Ring) -> float:
    following = (*ring[1:], ring[0])
    return abs(sum(a * d - b * c for (a, b), (c, d) in zip(ring, following, strict=True))) / 2


@cache
def silhouette(shape: str) -> Silhouette:
    """The outline of one of `SHAPES`, centred and scaled to `AREA`."""
    raw = _BUILDERS[shape]()
    xs, ys = zip(*raw.edge, strict=True)
    cx, cy = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    scale = math.sqrt(AREA / (_area(raw.edge) - sum(map(_area, raw.holes))))

    def move(ring: Ring) -> Ring:
        return tuple(((x - cx) * scale, (y - cy) * scale) for x, y in ring)

    return Silhouette(move(raw.edge), tuple(map(move, raw.holes)), tuple(map(move, raw.details)))


def corners(ring: Ring, pose: Pose) -> list[Point]:
    """The corners of an outline on the canvas, in pixels."""
    cos, sin = math.cos(pose.rotation) * pose.radius, math.sin(pose.rotation) * pose.radius
    sign = -1.0 if pose.mirrored else 1.0
    return [(pose.x + sign * x * cos - y * sin, pose.y + sign * x * sin + y * cos) for x, y in ring]


@cache
def reach(shape: str, turn: float) -> float:
    """How far a shape extends to any side, in radii, when turned by up to `turn` radians."""
    poses = [Pose(0.0, 0.0, 1.0, turn * step / 8, False) for step in range(-8, 9)]
    points = [point for pose in poses for point in corners(silhouette(shape).edge, pose)]
    return max(max(abs(x), abs(y)) for x, y in points)


def solid(shape: str, pose: Pose, side: int) -> NDArray[np.bool_]:
    """The shape on a square canvas, (side, side) bool: without antialiasing, so it is quick."""
    form = silhouette(shape)
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    draw.polygon(_whole(corners(form.edge, pose)), fill=1)
    for hole in form.holes:
        draw.polygon(_whole(corners(hole, pose)), fill=0)
    return np.asarray(image, dtype=np.bool_)


def stamp(shape: str, pose: Pose, height: int, width: int) -> Stamp:
    """Draw one shape with antialiased edges, cut to what lies on a (height, width) canvas."""
    form = silhouette(shape)
    edge = corners(form.edge, pose)
    left = max(math.floor(min(x for x, _ in edge)) - 1, 0)
    top = max(math.floor(min(y for _, y in edge)) - 1, 0)
    right = min(math.ceil(max(x for x, _ in edge)) + 2, width)
    bottom = min(math.ceil(max(y for _, y in edge)) + 2, height)
    fine = (max(right - left, 1) * SUPERSAMPLING, max(bottom - top, 1) * SUPERSAMPLING)

    def place(ring: Ring) -> list[tuple[int, int]]:
        return _whole(
            [
                ((x - left) * SUPERSAMPLING, (y - top) * SUPERSAMPLING)
                for x, y in corners(ring, pose)
            ]
        )

    cover, ink = Image.new("L", fine), Image.new("L", fine)
    _paint(cover, ink, form, place, max(round(INK_WIDTH * pose.radius * SUPERSAMPLING) * 2, 1))
    covered = np.asarray(cover.reduce(SUPERSAMPLING))
    return Stamp(top, left, covered, np.minimum(np.asarray(ink.reduce(SUPERSAMPLING)), covered))


def _paint(
    cover: Image.Image,
    ink: Image.Image,
    form: Silhouette,
    place: Callable[[Ring], list[tuple[int, int]]],
    line: int,
) -> None:
    fill, pen = ImageDraw.Draw(cover), ImageDraw.Draw(ink)
    fill.polygon(place(form.edge), fill=255)
    for hole in form.holes:
        fill.polygon(place(hole), fill=0)
    for ring in (form.edge, *form.holes):
        points = place(ring)
        pen.line([*points, *points[:2]], fill=255, width=line)
    for detail in form.details:
        pen.polygon(place(detail), fill=255)


def _whole(points: list[Point]) -> list[tuple[int, int]]:
    return [(round(x), round(y)) for x, y in points]
