"""Why something in the input is not labelled: the closed list of reasons, with their meaning.

A reason is the `error_code` of a row of status `rejected_input`; the `error_message` beside it says
which file, line or value it was.
"""

import reprlib
from dataclasses import dataclass
from enum import StrEnum

from workers.errors import RecordRejected

_SHOWN_BITS = 1000
"""Of a number in a message; a longer one is only said to be long."""


class Reason(StrEnum):
    """Stable codes: people count and filter by them."""

    RECORD_BROKEN = "record_broken"
    """the line or entry can't be read as a record"""
    SHARD_TRUNCATED = "shard_truncated"
    """the input file is cut off or damaged in the middle; what follows can't be read"""
    MEMBER_NOT_A_FILE = "member_not_a_file"
    """the archive's member is a link, a device or sparse"""
    SHARD_TOO_LONG = "shard_too_long"
    """the archive has more members than are read from one"""

    INSTRUCTION_MISSING = "instruction_missing"
    """nothing is asked of the image"""
    INSTRUCTION_INVALID = "instruction_invalid"
    """the instruction is empty, too long, or no text"""

    IMAGE_NOT_NAMED = "image_not_named"
    """the record names no image"""
    IMAGE_REFUSED = "image_refused"
    """the image's address is not one that may be read"""
    IMAGE_MISSING = "image_missing"
    """there is no file at the image's address"""
    IMAGE_UNREADABLE = "image_unreadable"
    """the user that runs the job may not read the file"""
    IMAGE_TOO_LARGE = "image_too_large"
    """the file has more bytes than are read"""
    IMAGE_TOO_MANY_PIXELS = "image_too_many_pixels"
    """its header claims more pixels than allowed"""
    IMAGE_UNKNOWN_FORMAT = "image_unknown_format"
    """it does not begin like a JPEG, PNG, WebP, BMP, GIF or TIFF file"""
    IMAGE_ANIMATED = "image_animated"
    """several frames: no single picture a mask could belong to"""
    IMAGE_BROKEN = "image_broken"
    """cut off or damaged: it can't be decoded to the last row"""
    IMAGE_SUSPICIOUS = "image_suspicious"
    """the reader warned that it is not right (its EXIF data, for example)"""
    IMAGE_PIXEL_KIND = "image_pixel_kind"
    """pixels without an agreed way to RGB: 32-bit integers, floats, Lab"""

    ANSWER_MISMATCH = "answer_mismatch"
    """a label that is imported: its text marks more or fewer targets than it has masks"""
    ANNOTATION_MISSING = "annotation_missing"
    """it refers to an annotation, a category or an image that its file does not have"""
    MASK_BROKEN = "mask_broken"
    """its polygons or run lengths can't be read"""
    MASK_WRONG_SIZE = "mask_wrong_size"
    """it was drawn on a picture of another size, or not on the upright one"""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a record is not labelled."""

    code: str
    """one of `Reason`"""
    message: str
    """one sentence that names the file, line or value"""

    @classmethod
    def of(cls, error: RecordRejected) -> "Rejection":
        """What the exception says, as data."""
        return cls(str(error.code), error.message)


def quote(value: object) -> str:
    """A value of the input for a message, at most 80 characters of it."""
    text = _Short().repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Short(reprlib.Repr):
    """Never makes a long text: what is quoted may be nested, aliased or long without bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxstring = self.maxother = 200

    def repr_int(self, x: int, level: int) -> str:
        """Python refuses to write down a number of more than 4300 digits."""
        if x.bit_length() > _SHOWN_BITS:
            return f"<a number of {x.bit_length():,} bits>"
        return super().repr_int(x, level)
