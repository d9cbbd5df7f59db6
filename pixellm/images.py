"""An image as the model sees it: longest side resized, normalised, padded to a square.

Letters: h0, w0 = the original size; h, w = the resized size; side = the model's square.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pixellm.errors import ImageError

# The statistics of SAM (ImageNet's on the 0..255 scale), not CLIP's: the published weights were
# trained with these although they go into a CLIP tower.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True, slots=True, eq=False)
class PreparedImage:
    """What the model needs of one image.

    Attributes:
        pixels: (3, side, side) float32, normalised; zero right of and below the valid part.
        resized: (h, w) of the valid part, in pixels; the longer one equals side.
        original: (h0, w0) of the image as it came, in pixels: the size of its masks.
    """

    pixels: Tensor
    resized: tuple[int, int]
    original: tuple[int, int]


def resize_longest_side(rgb: np.ndarray, side: int) -> np.ndarray:
    """Resize so that the longer side has `side` pixels (antialiased when it shrinks).

    Args:
        rgb: (h0, w0, 3) uint8.
        side: Pixels.

    Returns:
        (h, w, 3) uint8. No side is shorter than 1 pixel, however narrow the image.

    Raises:
        ImageError: The array is no RGB image, or has no pixels.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise ImageError(
            f"an image must be (height, width, 3) uint8 with at least one pixel, "
            f"not {rgb.shape!r} {rgb.dtype!s}; convert it to RGB first"
        )
    scale = side / max(rgb.shape[:2])
    height, width = (max(1, int(length * scale + 0.5)) for length in rgb.shape[:2])
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    return np.array(picture.resize((width, height), Image.Resampling.BILINEAR))


def prepare_image(rgb: np.ndarray, side: int) -> PreparedImage:
    """Make the model's input from an RGB image.

    Args:
        rgb: (h0, w0, 3) uint8, already turned as its EXIF data says.
        side: The side of the model's square, in pixels.

    Raises:
        ImageError: The array is no RGB image, or has no pixels.
    """
    small = torch.from_numpy(resize_longest_side(rgb, side))
    height, width = small.shape[:2]
    pixels = torch.zeros(3, side, side)
    # Only the valid part is normalised: the border is the mean colour, not black.
    valid = pixels[:, :height, :width].copy_(small.permute(2, 0, 1))
    valid.sub_(_column(PIXEL_MEAN)).div_(_column(PIXEL_STD))
    return PreparedImage(pixels, (height, width), (rgb.shape[0], rgb.shape[1]))


def _column(values: tuple[float, float, float]) -> Tensor:
    """(3, 1, 1), one for each colour."""
    return torch.tensor(values)[:, None, None]
