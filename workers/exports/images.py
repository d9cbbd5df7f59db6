"""The images of an export: where each lies, and what it is called."""

from collections.abc import Mapping
from dataclasses import dataclass

from workers.labels.schema import LabelRow
from workers.storage.uris import redact


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
    """Paths below the innermost folder that all images share, so that none collide; in order."""
    paths = [image.uri.split("/") for image in images.values()]
    shared = 0
    while paths and all(len(p) > shared + 1 and p[shared] == paths[0][shared] for p in paths):
        shared += 1
    members = (image.member for image in images.values())
    return [
        "/".join([*path[shared:], *([member] if member else [])])
        for path, member in zip(paths, members, strict=True)
    ]
