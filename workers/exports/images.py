"""The images of an export: where each lies, and what it is called."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from posixpath import splitext

from workers.labels.schema import LabelRow
from workers.storage.uris import redact

DIGITS = (8, 64)
"""Of the SHA-256, to tell pictures of one name apart; all 64 where 8 make a name that is taken."""


@dataclass(frozen=True, slots=True)
class ExportImage:
    """One picture; of several places where it lies, the first by name."""

    uri: str
    member: str
    width: int
    height: int

    @property
    def address(self) -> str:
        """Where it lies, for people and other tools; without what lets one in."""
        return redact(self.uri) + (f"#{self.member}" if self.member else "")


def add_image(images: dict[str, ExportImage], row: LabelRow) -> None:
    """Takes in the picture of a row, by its SHA-256."""
    image = ExportImage(row.image_uri, row.image_member or "", row.width, row.height)
    first = images.setdefault(row.image_sha256, image)
    if (image.uri, image.member) < (first.uri, first.member):
        images[row.image_sha256] = image


def name_images(images: Mapping[str, ExportImage]) -> list[str]:
    """Paths below the innermost folder that all images share, so that none collide; in order.

    Two pictures can have one address: a tar with two members of a name, a file that was replaced
    while it was labelled. Each of these has digits of its SHA-256 before the suffix.
    """
    paths = [redact(image.uri).split("/") for image in images.values()]
    shared = 0
    while paths and all(len(p) > shared + 1 and p[shared] == paths[0][shared] for p in paths):
        shared += 1
    members = (image.member for image in images.values())
    names = [
        "/".join([*path[shared:], *([member] if member else [])])
        for path, member in zip(paths, members, strict=True)
    ]
    for digits in DIGITS:
        names = _tell_apart(names, images, digits)
    return names


def _tell_apart(names: Sequence[str], digests: Iterable[str], digits: int) -> list[str]:
    """Marks all that share a name, also the first: so the order of the images decides nothing."""
    times = Counter(names)
    return [
        _mark(name, digest[:digits]) if times[name] > 1 else name
        for name, digest in zip(names, digests, strict=True)
    ]


def _mark(name: str, digits: str) -> str:
    """`x/a.jpg` -> `x/a.01234567.jpg`; the suffix stays, since tools go by it."""
    stem, suffix = splitext(name)
    return f"{stem}.{digits}{suffix}"
