"""The store of a URI: S3, a local folder or memory, behind one small interface (`Store`).

    store = open_store("s3://bucket/prefix")  # or a path, or mem://
    for info in store.list("s3://bucket/prefix"):
        data = store.get(info.uri)

Everything else takes a `Store` and URIs, and does not know which store it is.
"""

from collections.abc import Iterator
from functools import cache
from typing import BinaryIO, assert_never

from workers.errors import SettingsError
from workers.storage.checksums import Checksum
from workers.storage.local import LocalStore
from workers.storage.memory import MemoryStore
from workers.storage.objects import ObjectInfo, Store, Unseen
from workers.storage.uris import BUCKET_SCHEMES, KNOWN_PLACES, Scheme, scheme_of, shown

_LOCAL, _MEMORY = LocalStore(), MemoryStore()


def open_store(uri: str) -> Store:
    """The store of a URI. Cheap: a process has one store of each kind.

    Raises:
        SettingsError: no store is for that scheme.
    """
    scheme = scheme_of(uri)
    if not scheme:
        return _LOCAL
    if scheme not in BUCKET_SCHEMES:
        raise SettingsError(f"{shown(uri)} is no place for files. {KNOWN_PLACES}")
    return _store_of(scheme)


@cache
def _store_of(scheme: Scheme) -> Store:
    match scheme:
        case "s3":
            from workers.storage.s3 import S3Store  # boto3 takes long to import

            return S3Store()
        case "mem":
            return _MEMORY
        case _:
            assert_never(scheme)


class Anywhere(Store):
    """All stores as one: each URI goes to the store it names. Can be pickled.

    An input in a bucket, a list of images that points to another bucket, and an output on the disk
    can then be one run.
    """

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return open_store(prefix).list(prefix)

    def walk(self, prefix: str) -> Iterator[ObjectInfo | Unseen]:
        return open_store(prefix).walk(prefix)

    def stat(self, uri: str) -> ObjectInfo:
        return open_store(uri).stat(uri)

    def get(self, uri: str, start: int = 0, length: int | None = None) -> bytes:
        return open_store(uri).get(uri, start, length)

    def open(self, uri: str) -> BinaryIO:
        return open_store(uri).open(uri)

    def checksum(self, info: ObjectInfo) -> Checksum | None:
        return open_store(info.uri).checksum(info)

    def any_under(self, prefix: str) -> ObjectInfo | None:
        return open_store(prefix).any_under(prefix)

    def clock(self, place: str) -> float | None:
        return open_store(place).clock(place)

    def put(self, uri: str, data: bytes) -> ObjectInfo:
        return open_store(uri).put(uri, data)

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        return open_store(uri).put_if_absent(uri, data)

    def delete(self, uri: str) -> None:
        open_store(uri).delete(uri)
