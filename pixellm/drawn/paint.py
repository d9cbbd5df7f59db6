"""Paint for the things of a drawn scene: one colour or stripes, and a dark line along the edge."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pixellm.drawn.shapes import Stamp

RGB = tuple[int, int, int]

STRIPE_PERIOD: Final = 0.058
"""Distance from stripe to stripe as a part of the side: 7.4 pixels at 128, about one patch of 8."""
LUMINANCE: Final = (3, 6, 1)
"""Parts of ten that red, green and blue give to how bright a colour looks."""
BRIGHT: Final = 175
"""Luminance (of 255) over which light stripes could not be seen: among our colours, yellow's."""


def lay(
    canvas: NDArray[np.uint8], mark: Stamp, rgb: RGB, stripes: NDArray[np.int32] | None
) -> None:
    """Lay a stamp over the canvas, (H, W, 3) uint8, in place; `stripes` come from `stripes_on`."""
    colour = _fill(mark, np.array(rgb, dtype=np.int32), stripes)
    under = canvas[mark.region].astype(np.int32)
    cover = mark.cover[..., None].astype(np.int32)
    canvas[mark.region] = (under * (255 - cover) + colour * cover + 127) // 255


def stripes_on(mark: Stamp, rotation: float, side: int) -> NDArray[np.int32]:
    """How much of each pixel is stripe, (h, w) of 0 to 256: diagonal, and turned with the thing.

    Args:
        mark: where the thing lies.
        rotation: of the thing, radians.
        side: the shorter side of the canvas in pixels, to which the stripes are in proportion.
    """
    period = max(round(STRIPE_PERIOD * side * 256), 512)  # in 1/256 pixel, not under 2 pixels
    angle = rotation + math.pi / 4
    step_x, step_y = round(math.cos(angle) * 256), round(math.sin(angle) * 256)
    rows = np.arange(mark.cover.shape[0], dtype=np.int32)[:, None] + mark.top
    columns = np.arange(mark.cover.shape[1], dtype=np.int32)[None, :] + mark.left
    along = (rows * step_y + columns * step_x) % period
    weight: NDArray[np.int32] = np.clip(period // 4 - abs(along - period // 2) + 128, 0, 256)
    return weight


def _fill(
    mark: Stamp, base: NDArray[np.int32], stripes: NDArray[np.int32] | None
) -> NDArray[np.int32]:
    """The colour at every pixel of the stamp, (h, w, 3)."""
    colour: NDArray[np.int32] = np.broadcast_to(base, (*mark.cover.shape, 3))
    if stripes is not None:
        weight = stripes[..., None]
        colour = (colour * (256 - weight) + _stripe_colour(base) * weight) >> 8
    ink = mark.ink[..., None].astype(np.int32)
    return (colour * (255 - ink) + (base * 2 // 5) * ink) // 255


def _stripe_colour(base: NDArray[np.int32]) -> NDArray[np.int32]:
    """Near white on most colours, near black on a bright one."""
    bright = int(base @ np.array(LUMINANCE, dtype=np.int32)) > BRIGHT * 10
    return base // 5 if bright else 255 - (255 - base) // 6
