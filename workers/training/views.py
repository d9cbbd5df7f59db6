"""The same picture seen otherwise, so that few teach more: mirrored, turned, in other light.

A view is drawn for each picture and each time that it comes by, from the seed alone: workers see
the same, however many they are, and a run that goes on sees what one without a break would.
Questions and answers that speak of directions keep their picture as it is.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from pixellm.images import PreparedImage
from workers.training.chance import draw
from workers.training.examples import Example

ViewKind = Literal["plain", "mirrored", "turned"]
_DIRECTIONS = re.compile(
    r"\b(left|right|top|bottom|upper|lower|above|below|under|over|beneath|underneath|clockwise"
    r"|north|south|east|west)",
    re.IGNORECASE,
)
"""What words begin with that are true of one view only."""


@dataclass(frozen=True, slots=True)
class View:
    """How a picture is seen."""

    mirrored: bool = False
    quarters: int = 0
    """turns by 90 degrees, against the clock"""
    contrast: float = 1.0
    brightness: float = 0.0
    """is added, in standard deviations of the pixels that CLIP was trained on"""

    def move(self, planes: Tensor) -> Tensor:
        """(..., h, w) as it is seen: (..., h, w), or (..., w, h) after an odd number of turns."""
        if self.mirrored:
            planes = planes.flip(-1)
        return planes.rot90(self.quarters, (-2, -1)) if self.quarters else planes

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) as it is seen."""
        return (size[1], size[0]) if self.quarters % 2 else size

    def of(self, image: PreparedImage) -> PreparedImage:
        """A picture as it is seen; its padding stays below it and to its right."""
        if self == PLAIN:
            return image
        height, width = image.resized
        seen = self.move(image.pixels[:, :height, :width]) * self.contrast + self.brightness
        pixels = image.pixels.new_zeros(image.pixels.shape)
        resized = self.size(image.resized)
        pixels[:, : resized[0], : resized[1]] = seen
        return replace(image, pixels=pixels, resized=resized, original=self.size(image.original))


PLAIN = View()


@dataclass(frozen=True, slots=True)
class Views:
    """Which views there are."""

    kind: ViewKind = "plain"
    """mirrored: half of the pictures, left for right; turned: also by quarter turns, for pictures
    that have no up and down, from above or through a microscope"""
    jitter: float = 0.0
    """largest change of contrast, and of brightness"""
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
        if self.kind == "plain" or _DIRECTIONS.search(f"{example.question} {example.answer}"):
            return light
        quarters = int(4 * draw("quarters", *key)) if self.kind == "turned" else 0
        return replace(light, mirrored=draw("mirrored", *key) < 0.5, quarters=quarters)
