"""The same picture seen otherwise, so that few teach more: mirrored, turned, near, in other light.

A view is drawn for each picture and each step that it comes by in, from the seed alone: workers see
the same, however many they are, and a run that goes on sees what one without a break would.
Questions and answers that speak of directions keep their picture as it is.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pixellm.images import PreparedImage
from pixellm.run_lengths import RunMask
from workers.training.chance import draw
from workers.training.examples import Example

ViewKind = Literal["plain", "mirrored", "turned"]
_LETTERS = re.compile(r"[^\W\d_]+")
"""Two of them are in `arm_left2`."""
_DIRECTION = re.compile(
    r"(?!cleft|leftovers?$|(al?|b|birth|copy|down|f|forth|out|up|(cart|mill|play|ship|wheel)?w)right|right(eous|ful|ly))"
    r".*(left|right).*"
    r"|(top|bottom|upper|lower)(most|side)?|above|below|under(side|neath)?|over(head)?|beneath"
    r"|(anti|counter)?clockwise|(north|south|east|west)(?!ers?$).*"
)
"""A word that is true of one view only. Better a mirrored view too few: whatever holds `left` or
`right` is one, but for what is known to be none."""
_OF_THE_WHOLE = re.compile(
    r"(?<![^\W_])(mid(dle|st|way)?|cent(er|re)(s|d|ed)?|central(ly)?|corner(s|ed)?|edges?|border(s|ed|ing)?"
    r"|front(al)?|foreground|midground|back(ground|drop|wards?)?|rear|behind|besides?|beneath"
    r"|between|next|around"
    r"|near(by|er)?|among(st)?|adjacent|opposite|distan(t|ces?)|further|farther|far|closer?|sides?"
    r"|outer|inner|most|least|more|less|fewer|only|(an)?others?|odd|same|than|last|final|better"
    r"|worse|worst|\w+est|\w+most|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth"
    r"|eleventh|twelfth|\d+(st|nd|rd|th)"
    r"|(small|bigg|larg|tall|short|long|old|young|thinn|thick|wid|narrow|dark|bright|light|heavi"
    r"|high|low|fatt|fast|slow)er)\d*(?![^\W_])",
    re.IGNORECASE,
)
"""Words that may be untrue of a part of the picture: places in it, and comparisons with what would
lie outside; `front_wheel2` holds one, too. Better a window too few: a `forest` has none either, but
a `backpack` has."""
KEPT = 0.5
"""Of each mask's pixels, what a window must show: a thing that hardly looks in is not what was
labelled."""
TRIES = 8
"""Windows of which the first that shows enough is seen; where none does, the whole picture is."""


class Window(NamedTuple):
    """A part of a picture, in shares of its height and width."""

    top: float = 0.0
    left: float = 0.0
    side: float = 1.0
    """of both; so a window has the picture's proportions"""

    def slices(self, size: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of a picture of (h, w), at least one of each."""
        return _span(self.top, self.side, size[0]), _span(self.left, self.side, size[1])


def _span(start: float, share: float, length: int) -> slice:
    count = max(1, round(share * length))
    first = min(round(start * length), length - count)
    return slice(first, first + count)


WHOLE = Window()


@dataclass(frozen=True, slots=True)
class View:
    """How a picture is seen."""

    mirrored: bool = False
    quarters: int = 0
    """turns by 90 degrees, against the clock"""
    contrast: float = 1.0
    brightness: float = 0.0
    """is added, in standard deviations of the pixels that CLIP was trained on"""
    window: Window = WHOLE
    """what is seen of the picture"""

    def cut(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(h0, w0, 3) -> the window of it, before it is made small: so what is near is sharp."""
        return rgb[self.window.slices((rgb.shape[0], rgb.shape[1]))]

    def move(self, masks: Tensor) -> Tensor:
        """(n, h0, w0) -> their windows as they are seen; h and w change places with odd turns."""
        rows, columns = self.window.slices((masks.shape[-2], masks.shape[-1]))
        return self._lay(masks[..., rows, columns])

    def of(self, image: PreparedImage) -> PreparedImage:
        """A picture that was cut, as it is seen; its padding stays below it and to its right."""
        if replace(self, window=WHOLE) == PLAIN:
            return image
        height, width = image.resized
        seen = self._lay(image.pixels[:, :height, :width]) * self.contrast + self.brightness
        pixels = image.pixels.new_zeros(image.pixels.shape)
        resized = self._size(image.resized)
        pixels[:, : resized[0], : resized[1]] = seen
        return replace(image, pixels=pixels, resized=resized, original=self._size(image.original))

    def _lay(self, planes: Tensor) -> Tensor:
        if self.mirrored:
            planes = planes.flip(-1)
        return planes.rot90(self.quarters, (-2, -1)) if self.quarters else planes

    def _size(self, size: tuple[int, int]) -> tuple[int, int]:
        return (size[1], size[0]) if self.quarters % 2 else size


PLAIN = View()


@dataclass(frozen=True, slots=True)
class Views:
    """Which views there are."""

    kind: ViewKind = "plain"
    """mirrored: half of the pictures, left for right; turned: also by quarter turns, for pictures
    that have no up and down, from above or through a microscope"""
    jitter: float = 0.0
    """largest change of contrast, and of brightness"""
    zoom: float = 1.0
    """how much larger things are seen at most, at least 1"""
    seed: int = 0

    def draw(self, example: Example, when: int) -> View:
        """The view of an example's picture.

        Args:
            example: whose words may forbid another view than that of the picture itself.
            when: another number for each time that the picture comes by.
        """
        key = self.seed, when, example.image_sha256
        light = View(
            contrast=1 + self.jitter * (2 * draw("contrast", *key) - 1),
            brightness=self.jitter * (2 * draw("brightness", *key) - 1),
        )
        words = f"{example.question} {example.answer}"
        if any(map(_DIRECTION.fullmatch, _LETTERS.findall(words.lower()))):
            return light
        may_zoom = self.zoom > 1 and not _OF_THE_WHOLE.search(words)
        return replace(
            light,
            mirrored=self.kind != "plain" and draw("mirrored", *key) < 0.5,
            quarters=int(4 * draw("quarters", *key)) if self.kind == "turned" else 0,
            window=self._find_window(example.masks, key) if may_zoom else WHOLE,
        )

    def _find_window(self, masks: Sequence[RunMask], key: tuple[int | str, ...]) -> Window:
        """The first that shows enough of all masks.

        All questions about a picture try the same ones, so that many share what they see.
        """
        due = [(mask.pixels(), KEPT * mask.area) for mask in masks]
        for number in range(TRIES):
            window = self._draw_window(number, *key)
            if all(pixels[window.slices(pixels.shape)].sum() >= least for pixels, least in due):
                return window
        return WHOLE

    def _draw_window(self, *key: int | str) -> Window:
        side = 1 - (1 - 1 / self.zoom) * draw("side", *key)
        top, left = ((1 - side) * draw(edge, *key) for edge in ("top", "left"))
        return Window(top, left, side)
