"""Scenes of the drawn world: what lies where (`Scene`), and its picture and masks (`Drawing`).

A scene is a description in relative units, so the same seed can be drawn at 128 pixels for training
and at 384 for people to look at. The same seed gives the same scene and the same bytes everywhere.

The world is narrow on purpose: 8 shapes, 6 colours, 2 sizes, 2 textures, 2 to 6 things. No two
things of a scene share all four attributes, so "the large red striped star" is never two.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pixellm.drawn.backgrounds import Background, paint_background
from pixellm.drawn.chance import Dice, pick_weighted, some, whole
from pixellm.drawn.paint import RGB, lay, stripes_on
from pixellm.drawn.shapes import SHAPES, Pose, reach, solid, stamp

COLOURS: Final[dict[str, RGB]] = {
    "red": (218, 40, 48),
    "green": (48, 160, 68),
    "blue": (48, 92, 224),
    "yellow": (246, 220, 60),
    "purple": (146, 62, 190),
    "orange": (246, 138, 28),
}
SIZES: Final[dict[str, tuple[float, float]]] = {"small": (0.097, 0.113), "large": (0.158, 0.18)}
"""Radius as a part of the shorter side of the canvas; the gap is wide, so nobody has to guess."""
TEXTURES: Final = ("plain", "striped")

TRAIN_SEEDS: Final = range(100_000_000)
TEST_SEEDS: Final = range(200_000_000, 200_100_000)
"""Held-out scenes: scores are measured on these, and nothing is ever trained on them."""
DEMO_SEEDS: Final = range(300_000_000, 300_100_000)
"""Scenes of the demo folder: not trained on either."""

COUNT_WEIGHTS: Final = {2: 0.1, 3: 0.2, 4: 0.28, 5: 0.24, 6: 0.18}
"""How often a scene has that many things."""
GRID: Final = 8
"""Cells per side: the language model sees one token a cell, so two centres never share one."""
ORDER_GAP: Final = 4 / 128
"""Least distance between two centres in x: targets are listed left to right."""
LEAST_VISIBLE: Final = 0.7
"""Every thing shows at least this part of its area."""
CHECKED_VISIBLE: Final = 0.75
"""What placing asks for, above `LEAST_VISIBLE` by more than rounding at another size can eat."""
CHECK_SIDE: Final = 128
"""Pixels per side of the canvas on which placing looks for overlap."""
MARGIN: Final = 0.012
"""Least distance between a thing and the border, as a part of the side."""
MAX_TURN: Final = 0.22
"""Radians (13 degrees) to either side: a square never looks like a diamond."""
COLOUR_JITTER: Final = 12
"""Levels of 255 by which each channel may differ from the named colour."""
PLACING_TRIES: Final = 40
"""Places tried for one thing; then the scene does with one thing less."""
SCENE_TRIES: Final = 20
"""Scenes begun for one seed; a scene of two things nearly always fits at once."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One object: four attributes that language names, and how it is drawn.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        size: one of `SIZES`.
        texture: one of `TEXTURES`.
        x: centre (of the bounding box of the upright shape) as a part of the width.
        y: the same as a part of the height, downwards.
        radius: as a part of the shorter side.
        rotation: radians, clockwise.
        mirrored: whether left and right of the shape are swapped (a fish that swims the other way).
        rgb: the exact colour.
    """

    shape: str
    colour: str
    size: str
    texture: str
    x: float
    y: float
    radius: float
    rotation: float
    mirrored: bool
    rgb: RGB


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows: the things from back to front, and what is behind them."""

    seed: int
    things: tuple[Thing, ...]
    background: Background


@dataclass(frozen=True, slots=True)
class Drawing:
    """A scene as pixels.

    Attributes:
        rgb: (h, w, 3) uint8.
        masks: (n, h, w) bool, what is visible of each thing, in the order of `Scene.things`.
    """

    rgb: NDArray[np.uint8]
    masks: NDArray[np.bool_]


def require_seeds(seeds: Iterable[int], allowed: range) -> None:
    """Stop unless every seed lies in `allowed`: `TRAIN_SEEDS` to train, `TEST_SEEDS` to score.

    Raises:
        ValueError: a seed lies outside, so a held-out scene would be trained on or the reverse.
    """
    for seed in seeds:
        if seed not in allowed:
            raise ValueError(
                f"scene seed {seed!r} is not in {allowed!r}: training and held-out scenes are kept "
                "apart by their seeds, so choose one from that range"
            )


def cell_of(thing: Thing, grid: int = GRID) -> int:
    """The cell of a grid x grid raster, row by row, in which the centre of a thing lies."""
    return min(int(thing.y * grid), grid - 1) * grid + min(int(thing.x * grid), grid - 1)


def mirror(scene: Scene) -> Scene:
    """The scene with left and right swapped: its picture is the flipped picture."""
    return replace(scene, things=tuple(map(_mirror_thing, scene.things)))


def _mirror_thing(thing: Thing) -> Thing:
    return replace(thing, x=1.0 - thing.x, rotation=-thing.rotation, mirrored=not thing.mirrored)


# Describing ----------------------------------------------------------------------------


def draw_scene(seed: int) -> Scene:
    """Make up the scene of a seed: the same seed gives the same scene on every machine."""
    rng = np.random.Generator(np.random.PCG64(seed))
    background = Background.muted(rng)
    for _ in range(SCENE_TRIES):
        things = _arrange(rng, _choose_looks(rng))
        if len(things) >= min(COUNT_WEIGHTS):
            return Scene(seed, things, background)
    raise AssertionError(f"no scene for seed {seed!r} after {SCENE_TRIES} tries")


def _choose_looks(rng: Dice) -> list[tuple[str, str, str, str]]:
    """Pick (shape, colour, size, texture) for every thing, no two alike.

    A scene draws from few shapes and colours: otherwise "all red ones" would nearly always be one
    thing, and what is asked for in vain would nearly always be far from everything there is.
    """
    shapes = some(rng, SHAPES, whole(rng, 2, 5))
    colours = some(rng, list(COLOURS), whole(rng, 2, 4))
    every = [(s, c, z, t) for s in shapes for c in colours for z in SIZES for t in TEXTURES]
    return some(rng, every, pick_weighted(rng, COUNT_WEIGHTS))


def _arrange(rng: Dice, looks: list[tuple[str, str, str, str]]) -> tuple[Thing, ...]:
    """Find a place for each look, later ones in front; one that fits nowhere is left out."""
    things: list[Thing] = []
    shown: list[NDArray[np.bool_]] = []
    areas: list[int] = []
    for look in looks:
        for _ in range(PLACING_TRIES):
            thing = _place(rng, look)
            if not _keeps_apart(thing, things):
                continue
            mask = solid(thing.shape, pose_of(thing, CHECK_SIDE, CHECK_SIDE), CHECK_SIDE)
            left = [old & ~mask for old in shown]
            if _all_visible(things, left, areas):
                things, shown = [*things, thing], [*left, mask]
                areas.append(int(np.count_nonzero(mask)))
                break
    return tuple(things)


def _place(rng: Dice, look: tuple[str, str, str, str]) -> Thing:
    shape, colour, size, texture = look
    low, high = SIZES[size]
    radius = round(low + (high - low) * rng.random(), 4)
    edge = radius * reach(shape, MAX_TURN) + MARGIN
    red, green, blue = (
        min(max(channel + whole(rng, -COLOUR_JITTER, COLOUR_JITTER), 0), 255)
        for channel in COLOURS[colour]
    )
    x, y = (round(edge + (1 - 2 * edge) * rng.random(), 4) for _ in "xy")
    turn = round((2 * rng.random() - 1) * MAX_TURN, 4)
    mirrored = rng.random() < 0.5
    return Thing(shape, colour, size, texture, x, y, radius, turn, mirrored, (red, green, blue))


def _keeps_apart(new: Thing, others: list[Thing]) -> bool:
    """Whether no other centre is in the same cell, about as far left, or all too near."""
    return all(
        cell_of(new) != cell_of(old)
        and abs(new.x - old.x) >= ORDER_GAP
        and math.hypot(new.x - old.x, new.y - old.y) >= 0.6 * (new.radius + old.radius)
        for old in others
    )


def _all_visible(things: list[Thing], shown: list[NDArray[np.bool_]], areas: list[int]) -> bool:
    """Whether every thing still shows its centre and enough of its area."""
    return all(
        bool(mask[int(thing.y * CHECK_SIDE), int(thing.x * CHECK_SIDE)])
        and np.count_nonzero(mask) >= CHECKED_VISIBLE * area
        for thing, mask, area in zip(things, shown, areas, strict=True)
    )


# Drawing -------------------------------------------------------------------------------


def pose_of(thing: Thing, height: int, width: int) -> Pose:
    """Where a thing lies on a canvas of that many pixels."""
    radius = thing.radius * min(height, width)
    return Pose(thing.x * width, thing.y * height, radius, thing.rotation, thing.mirrored)


def render(scene: Scene, height: int, width: int) -> Drawing:
    """Draw a scene on a canvas of any size; on a long canvas things lie further apart."""
    canvas = paint_background(scene.background, height, width)
    masks = np.zeros((len(scene.things), height, width), dtype=np.bool_)
    for index, thing in enumerate(scene.things):
        mark = stamp(thing.shape, pose_of(thing, height, width), height, width)
        striped = thing.texture == "striped"
        stripes = stripes_on(mark, thing.rotation, min(height, width)) if striped else None
        lay(canvas, mark, thing.rgb, stripes)
        rows, columns = mark.region
        full = mark.cover >= 128
        masks[:index, rows, columns] &= ~full
        masks[index, rows, columns] = full
    return Drawing(canvas, masks)
