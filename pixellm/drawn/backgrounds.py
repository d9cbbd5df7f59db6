"""What lies behind the things of a drawn scene: pale or dull, soft, and never like a thing."""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixellm.drawn.chance import Dice, pick, whole

BACKGROUNDS: Final = ("plain", "gradient", "noise", "blobs", "checks")

GREY_RANGE: Final = (70, 236)
"""Lightness of a background, levels of 255."""
TINT: Final = 12
"""How far a channel may be from grey: things are far more colourful than this."""
CONTRAST: Final = 28
"""How far the second colour may be from the first."""


@dataclass(frozen=True, slots=True)
class Background:
    """One background in relative units.

    Attributes:
        kind: one of `BACKGROUNDS`.
        first: RGB.
        second: RGB of the other end, the other checks, or the highest blob.
        seed: of the noise, the blobs, and the direction and number of the rest.
    """

    kind: str
    first: tuple[int, int, int]
    second: tuple[int, int, int]
    seed: int

    @classmethod
    def muted(cls, rng: Dice) -> Self:
        """Any kind of background, with colours close to grey and to each other."""
        kind = pick(rng, BACKGROUNDS)
        first = _near(whole(rng, *GREY_RANGE), TINT, rng)
        second = _near(sum(first) // 3 + whole(rng, -CONTRAST, CONTRAST), TINT, rng)
        return cls(kind, first, second, whole(rng, 0, (1 << 31) - 1))


def _near(grey: int, reach: int, rng: Dice) -> tuple[int, int, int]:
    red, green, blue = (min(max(grey + whole(rng, -reach, reach), 0), 255) for _ in "rgb")
    return red, green, blue


def paint_background(background: Background, height: int, width: int) -> NDArray[np.uint8]:
    """Paint a background, (height, width, 3) uint8."""
    first = np.array(background.first, dtype=np.int32)
    second = np.array(background.second, dtype=np.int32)
    weight = np.arange(256, dtype=np.int32)[:, None]
    shades = ((first * (255 - weight) + second * weight) // 255).astype(np.uint8)
    return np.take(shades, _weights(background, height, width), axis=0)


def _weights(background: Background, height: int, width: int) -> NDArray[np.uint8]:
    """How much of the second colour each pixel has, (height, width) uint8, 255 = all."""
    rng = np.random.Generator(np.random.PCG64(background.seed))
    match background.kind:
        case "gradient":
            return _stretch(np.rint(rng.random((2, 2))) * 255, height, width)
        case "noise":
            return _stretch(rng.random((40, 40)) * 255, height, width)
        case "blobs":
            return _stretch(rng.random((5, 5)) * 255, height, width)
        case "checks":
            return _checks(whole(rng, 6, 12), height, width)
        case _:
            return np.zeros((height, width), dtype=np.uint8)


def _stretch(levels: NDArray[np.float64], height: int, width: int) -> NDArray[np.uint8]:
    small = Image.fromarray(levels.astype(np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def _checks(across: int, height: int, width: int) -> NDArray[np.uint8]:
    side = min(height, width)
    rows = np.arange(height)[:, None] * across // side
    columns = np.arange(width)[None, :] * across // side
    return ((rows + columns) % 2 * 255).astype(np.uint8)
