"""The images of a COCO file: which ones, and what they are called."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from workers.labels.rows import LabelRow
from workers.storage.uris import redact


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One picture; of several places where it lies, the first by name."""

    uri: str
    member: str
    width: int
    height: int


def add_image(images: dict[str, CocoImage], row: LabelRow) -> None:
    """Takes in the picture of a row, by its SHA-256."""
    image = CocoImage(row.image_uri, row.image_member or "", row.width, row.height)
    first = images.setdefault(row.image_sha256, image)
    if (image.uri, image.member) < (first.uri, first.member):
        images[row.image_sha256] = image


def image_entries(images: Mapping[str, CocoImage]) -> Iterator[Mapping[str, object]]:
    """Yields the file's entries, numbered from 1 in the order given."""
    names = _file_names(images.values())
    for number, (sha256, image) in enumerate(images.items(), start=1):
        yield {
            "id": number,
            "file_name": names[number - 1],
            "width": image.width,
            "height": image.height,
            "coco_url": redact(image.uri) + (f"#{image.member}" if image.member else ""),
            "sha256": sha256,
        }


def _file_names(images: Iterable[CocoImage]) -> list[str]:
    """Paths below the innermost folder that all images share, so that none collide."""
    paths = [image.uri.split("/") for image in images]
    shared = 0
    while paths and all(len(p) > shared + 1 and p[shared] == paths[0][shared] for p in paths):
        shared += 1
    members = (image.member for image in images)
    return [
        "/".join([*path[shared:], *([member] if member else [])])
        for path, member in zip(paths, members, strict=True)
    ]
