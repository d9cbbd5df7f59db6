"""The picture of an example: fetched, and found to be the one that was labelled.

Masks fit only the picture that they were made for, so a file that was replaced since is as good as
gone. An image of an archive is read from where it lies in it, once the archive has been read
through to find that out; of one in a Parquet file, some of the rows before it are read, too.
"""

import hashlib
import threading
from collections.abc import Iterable
from contextlib import suppress

from workers.errors import ObjectMissing, RecordRejected
from workers.records.parquet import find_pictures
from workers.records.pictures import Picture, PictureLimits, decode_picture
from workers.records.reading import fetch_image
from workers.records.record import ImageRef
from workers.records.rejections import Reason
from workers.records.tar import Place, find_members
from workers.shards.kinds import ShardKind, kind_of
from workers.storage.objects import Store
from workers.storage.uris import BUCKET_SCHEMES, scheme_of, shown
from workers.training.examples import Example, Skipped, Why

MEMBERS = 500_000
"""Of all archives, whose places are remembered: some 160 MB, with 314 bytes each (measured). Rows
of a window come from few archives, unless these are small. One that is forgotten is read again."""


class Pictures:
    """Fetches the pictures of examples; safe to share between threads.

    Args:
        store: where the images lie.
        limits: what is decoded at all.
    """

    def __init__(self, store: Store, limits: PictureLimits) -> None:
        self._store, self._limits = store, limits
        self._archives: dict[str, dict[str, list[Place]]] = {}
        self._lock = threading.Lock()

    def open(self, example: Example) -> Picture | Skipped:
        """Fetches and decodes one picture.

        Raises:
            StorageError: the store failed. That is no reason to pass an example over: what is
                learned must not depend on how a bucket feels today.
        """
        try:
            picture = decode_picture(self._fetch(example), self._limits)
        except RecordRejected as error:
            return Skipped(str(error.code), example.item_id)
        if picture.sha256 != example.image_sha256:
            return Skipped(Why.IMAGE_REPLACED, example.item_id)
        if (picture.height, picture.width) != example.size:
            return Skipped(Why.IMAGE_RESIZED, example.item_id)
        return picture

    def _fetch(self, example: Example) -> bytes:
        image = example.image
        if not image.uri or scheme_of(image.uri) not in ("", *BUCKET_SCHEMES):
            raise RecordRejected(Reason.IMAGE_REFUSED, f"{shown(image.uri)} is no place for files")
        if image.member is None:
            return fetch_image(image, self._store, self._limits.max_bytes)
        try:
            for data in self._fetch_member(image, image.member):
                if hashlib.sha256(data).hexdigest() == example.image_sha256:
                    return data
        except ObjectMissing as error:
            raise RecordRejected(Reason.IMAGE_MISSING, f"{error}") from error
        message = f"{shown(image.uri)} has no {image.member!r} any more that was labelled"
        raise RecordRejected(Why.IMAGE_REPLACED, message)

    def _fetch_member(self, image: ImageRef, member: str) -> Iterable[bytes]:
        """All that goes by that name."""
        if kind_of(image.uri) is ShardKind.PARQUET:
            return find_pictures(image.uri, [member], self._store)
        return (
            self._store.get(image.uri, place.offset, place.size)
            for place in self._places(image.uri).get(member, ())
            if place.size <= self._limits.max_bytes
        )

    def _places(self, uri: str) -> dict[str, list[Place]]:
        with self._lock:  # the others wait: reading an archive twice at once is no faster
            if uri not in self._archives:
                places: dict[str, list[Place]] = {}
                with suppress(RecordRejected):  # what lies before the damage can be had
                    for name, place in find_members(uri, self._store):
                        places.setdefault(name, []).append(place)
                self._archives[uri] = places
                while len(self._archives) > 1 and sum(map(len, self._archives.values())) > MEMBERS:
                    self._archives.pop(next(iter(self._archives)))
            return self._archives[uri]
