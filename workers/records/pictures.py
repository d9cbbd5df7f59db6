"""An image file -> a picture: upright RGB pixels that are safe to hand to the model.

Everything that would make a mask lie in another frame than the one that people see is settled here:
the EXIF orientation is applied, and width and height are those of the upright picture.

How other kinds of pixels become RGB with 8 bits:
    grey, palette, 1 bit  their colours
    alpha, transparency   laid over white (what lies under a transparent pixel is arbitrary)
    CMYK, YCbCr           Pillow's plain conversion; colour profiles are not applied
    16 bits of grey       the high byte (v >> 8)
    32-bit, float, Lab    refused: there is no agreed black and white
"""

import contextlib
import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from workers.errors import RecordRejected
from workers.records.rejections import Reason

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""What is tried at all. Pillow knows 40 more formats; each is more code to attack."""

MAX_JPEG_SCANS = 200
"""Progressive files have about 10. Each scan costs a pass over the whole picture, so a small file
with thousands of them would keep a thread busy for minutes."""
MAX_SIDE = 65_535
"""Pixels of one side; no JPEG, GIF or WebP has more. A mask comes into the frame of its image by a
matrix with a line for each pixel of a side: what a strip one pixel wide needs would fill memory."""

_ORIENTATION_TAG = 0x0112
_PILLOW = r"PIL\."
_STRICT = ("error", None, Warning, re.compile(_PILLOW), 0)  # as `warnings.filters` holds it
_NO_WAY_TO_RGB = ("I", "F", "LAB", "HSV")
_FIRST_BYTES = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"RIFF": "WEBP",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
"""How a file of each of FORMATS begins."""


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """Caps that are checked before anything is decoded."""

    max_bytes: int = 64 * 2**20
    """file size in bytes; a 50-megapixel JPEG of best quality has about 30 MiB"""
    max_pixels: int = 64_000_000
    """width times height; 64 megapixels are 192 MB as RGB, and several are in flight at once"""


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """What is kept of an image when its pixels are let go."""

    sha256: str
    """of the file's bytes, 64 hex digits"""
    width: int
    """of the upright picture; 0 when it could not be decoded"""
    height: int
    exif_orientation: int
    """what the file said, 1 to 8 (0 when it could not be decoded)"""


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image."""

    rgb: npt.NDArray[np.uint8]
    """(h, w, 3) uint8, upright"""
    sha256: str
    """of the file's bytes, 64 hex digits"""
    width: int
    """of the upright picture"""
    height: int
    exif_orientation: int
    """what the file said, 1 to 8; it is already applied"""

    def facts(self) -> PictureFacts:
        """All but the pixels."""
        return PictureFacts(self.sha256, self.width, self.height, self.exif_orientation)


def decode_picture(data: bytes, limits: PictureLimits) -> Picture:
    """Decodes one image file.

    Raises:
        RecordRejected: with a `Reason` as its code.
    """
    if len(data) > limits.max_bytes:
        raise RecordRejected(
            Reason.IMAGE_TOO_LARGE, f"{len(data):,} bytes; at most {limits.max_bytes:,} are read"
        )
    _make_pillow_strict()
    with _open(data, limits) as image:
        orientation = _read_orientation(image)
        rgb = _decode(image)
    return Picture(
        rgb=rgb,
        sha256=hashlib.sha256(data).hexdigest(),
        width=rgb.shape[1],
        height=rgb.shape[0],
        exif_orientation=orientation,
    )


def identify_undecoded(data: bytes) -> PictureFacts:
    """What can be said of a file that `decode_picture` refused."""
    return PictureFacts(hashlib.sha256(data).hexdigest(), 0, 0, 0)


def _make_pillow_strict() -> None:
    """Makes Pillow's warnings errors in the whole process.

    `warnings.catch_warnings` would change the filters of all threads, and pictures are decoded in
    several at once. Looked at each time, because others who use it can take our filter out again.
    """
    if _STRICT not in warnings.filters:
        warnings.filterwarnings("error", module=_PILLOW)


@contextlib.contextmanager
def _as_rejections(otherwise: Reason) -> Iterator[None]:
    """Turns what Pillow raises into rejections.

    Its readers raise nearly everything on files that lie about themselves, so everything is caught;
    only Pillow runs inside. Not a `MemoryError`: the caps make it this machine's trouble.
    """
    try:
        yield
    except (MemoryError, RecordRejected):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RecordRejected(Reason.IMAGE_TOO_MANY_PIXELS, f"{error}") from error
    except Warning as error:
        raise RecordRejected(Reason.IMAGE_SUSPICIOUS, f"{error}") from error
    except Exception as error:
        raise RecordRejected(otherwise, f"{type(error).__name__}: {error}") from error


def _open(data: bytes, limits: PictureLimits) -> Image.Image:
    """Reads the header and refuses what must not be decoded."""
    with _as_rejections(Reason.IMAGE_BROKEN):
        image = _read_header(data)
        # A phone's MPO is a JPEG with a preview or a depth map behind it: the photo comes first.
        animated = image.format != "MPO" and getattr(image, "is_animated", False)
    if animated:
        raise RecordRejected(Reason.IMAGE_ANIMATED, "several frames; split it into single pictures")
    if image.width * image.height > limits.max_pixels or max(image.size) > MAX_SIDE:
        raise RecordRejected(
            Reason.IMAGE_TOO_MANY_PIXELS,
            f"{image.width} x {image.height} pixels; at most {limits.max_pixels:,} are decoded, and"
            f" {MAX_SIDE:,} to a side",
        )
    if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise RecordRejected(Reason.IMAGE_BROKEN, f"a JPEG of more than {MAX_JPEG_SCANS} scans")
    return image


def _read_header(data: bytes) -> Image.Image:
    likely = next((name for first, name in _FIRST_BYTES.items() if data.startswith(first)), None)
    if likely is None:
        raise RecordRejected(Reason.IMAGE_UNKNOWN_FORMAT, _say_what_it_is(data))
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:  # all that it says is where in memory the bytes were
        message = f"it begins like a {likely} and can't be read as one"
        raise RecordRejected(Reason.IMAGE_BROKEN, message) from error


def _read_orientation(image: Image.Image) -> int:
    # before the pixels are decoded: Pillow's TIFF reader then turns them itself and drops the tag
    with _as_rejections(Reason.IMAGE_BROKEN):
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    return value if value in range(1, 9) else 1


def _decode(image: Image.Image) -> npt.NDArray[np.uint8]:
    with _as_rejections(Reason.IMAGE_BROKEN):
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode in _NO_WAY_TO_RGB:
        raise RecordRejected(Reason.IMAGE_PIXEL_KIND, f"pixels of Pillow's kind {upright.mode!r}")
    with _as_rejections(Reason.IMAGE_BROKEN):
        return np.asarray(_to_rgb(upright))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        high = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return Image.fromarray(high).convert("RGB")
    if image.has_transparency_data:
        straight = image.convert("RGBA")
        paper = Image.new("RGBA", straight.size, "white")
        return Image.alpha_composite(paper, straight).convert("RGB")
    return image.convert("RGB")


def _say_what_it_is(data: bytes) -> str:
    if not data:
        return "the file is empty"
    return f"begins with {data[:12]!r}, which is none of {', '.join(FORMATS)}"
