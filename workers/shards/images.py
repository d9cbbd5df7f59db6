"""Images of a plain prefix, each with the texts that belong to it: the lines of a listing."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Self

from workers.shards.kinds import IMAGE_SUFFIXES, SIDECAR_SUFFIXES, suffix_of
from workers.storage.objects import ObjectInfo

SPOOL_BYTES = 16 * 2**20  # a list of images longer than this (some 100,000) waits on the disk


@dataclass(frozen=True, slots=True)
class ImageLine:
    """One image of a plain prefix and where it stands what is asked of it: a line of a listing.

    The etags are there so that a changed text makes another shard.
    """

    image: str
    etag: str
    size: int
    """Bytes."""
    sidecar: str | None
    sidecar_etag: str | None
    instructions: str | None
    """The nearest `_instructions` file."""
    instructions_etag: str | None

    @classmethod
    def of(
        cls, image: ObjectInfo, sidecar: ObjectInfo | None, instructions: ObjectInfo | None
    ) -> Self:
        """The line of an image and the texts that belong to it."""
        return cls(
            image=image.uri,
            etag=image.etag,
            size=image.size,
            sidecar=sidecar.uri if sidecar else None,
            sidecar_etag=sidecar.etag if sidecar else None,
            instructions=instructions.uri if instructions else None,
            instructions_etag=instructions.etag if instructions else None,
        )

    def to_json(self) -> bytes:
        """As it stands in a listing, ended by a line break."""
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """Reads what `to_json` wrote."""
        return cls(**json.loads(line))


def pair(infos: Iterable[ObjectInfo]) -> Iterator[tuple[ObjectInfo, ObjectInfo | None]]:
    """Each image with its side-car, from a sorted listing, without holding the listing.

    All names that begin with "1." are neighbours: once another name comes, "1" is complete.
    "1.b.jpg" lies between "1.a.txt" and "1.jpg", so a stem may wait for the end of a longer one.
    """
    waiting: list[_Stem] = []
    for info in infos:
        while waiting and not info.uri.startswith(waiting[-1].stem + "."):
            yield from waiting.pop().pairs()
        stem = info.uri.rpartition(".")[0]
        if not waiting or waiting[-1].stem != stem:
            waiting.append(_Stem(stem))
        waiting[-1].add(info)
    while waiting:
        yield from waiting.pop().pairs()


@dataclass(slots=True)
class _Stem:
    """Neighbours in a sorted listing that differ in the suffix only."""

    stem: str
    images: list[ObjectInfo] = field(default_factory=list)
    sidecars: dict[str, ObjectInfo] = field(default_factory=dict)

    def add(self, info: ObjectInfo) -> None:
        suffix = suffix_of(info.uri)
        if suffix in IMAGE_SUFFIXES:
            self.images.append(info)
        else:
            self.sidecars[suffix] = info

    def pairs(self) -> Iterator[tuple[ObjectInfo, ObjectInfo | None]]:
        found = (self.sidecars[end] for end in SIDECAR_SUFFIXES if end in self.sidecars)
        sidecar = next(found, None)
        return ((image, sidecar) for image in self.images)
