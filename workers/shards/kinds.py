"""What a file is by its name: one that lists records, an image, a text for images, or none of ours.

photos/_instructions.yaml      asked of every image below, unless a nearer one is there
photos/cats/1.jpg
photos/cats/1.txt              side-car: belongs to 1.jpg alone
photos/cats/_instructions.txt  nearest to 1.jpg
"""

from collections.abc import Container, Sequence
from enum import StrEnum

IMAGE_SUFFIXES = frozenset({"jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"})
SIDECAR_SUFFIXES = ("json", "txt")  # the first that is there counts
INSTRUCTION_NAMES = ("_instructions.yaml", "_instructions.jsonl", "_instructions.txt")  # likewise


class ShardKind(StrEnum):
    """The form in which a shard's records are written down."""

    JSONL = "jsonl"
    PARQUET = "parquet"
    TAR = "tar"
    IMAGES = "images"


SHARD_SUFFIXES = {
    ".jsonl": ShardKind.JSONL,
    ".jsonl.gz": ShardKind.JSONL,
    ".ndjson": ShardKind.JSONL,
    ".ndjson.gz": ShardKind.JSONL,
    ".parquet": ShardKind.PARQUET,
    ".tar": ShardKind.TAR,
}


def kind_of(name: str) -> ShardKind | None:
    """The kind of a file that lists records; None for other files."""
    lower = name.lower()
    return next((kind for end, kind in SHARD_SUFFIXES.items() if lower.endswith(end)), None)


def suffix_of(name: str) -> str:
    """What stands behind the last dot of a name or URI, in small letters."""
    return name.rpartition("/")[2].rpartition(".")[2].lower()


def is_hidden(names: Sequence[str]) -> bool:
    """Whether one of the names in a path keeps what it holds from being an input."""
    return any(name.startswith((".", "_")) for name in names)


def is_read(name: str, names: Container[str]) -> bool:
    """Whether a file says something to the line: lists records, is an image, or belongs to one.

    Args:
        name: of the file.
        names: of the files around it; a text counts where an image of the same name is there.
    """
    stem, _, suffix = name.rpartition(".")
    if kind_of(name) or suffix.lower() in IMAGE_SUFFIXES:
        return True
    if name.rpartition("/")[2] in INSTRUCTION_NAMES:
        return True
    images = (f"{stem}.{each}" for end in IMAGE_SUFFIXES for each in (end, end.upper()))
    return suffix.lower() in SIDECAR_SUFFIXES and any(each in names for each in images)
