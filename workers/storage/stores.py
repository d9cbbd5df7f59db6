"""The store of a URI: S3, a local folder or memory, behind one small interface (`Store`).

    store = open_store("s3://bucket/prefix")  # or a path, or mem://
    for info in store.list("s3://bucket/prefix"):
        data = store.get(info.uri)

Everything else takes a `Store` and URIs, and does not know which store it is.
"""

import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, partial
from hashlib import sha256
from typing import BinaryIO

from workers.errors import ObjectMissing, SettingsError
from workers.storage.local import LocalStore
from workers.storage.objects import (
    KNOWN_PLACES,
    ObjectInfo,
    RangedReader,
    Store,
    buffered,
    join_uri,
    normalise_uri,
    redact,
    scheme_of,
    shown,
    under,
)
from workers.storage.s3 import S3Store

__all__ = [
    "LocalStore",
    "MemoryStore",
    "ObjectInfo",
    "S3Store",
    "Store",
    "join_uri",
    "normalise_uri",
    "open_store",
    "redact",
    "shown",
    "under",
]


def open_store(uri: str) -> Store:
    """The store that holds a URI. Cheap: a process has one store of each kind.

    Raises:
        SettingsError: no store is for that scheme.
    """
    scheme = scheme_of(uri)
    if scheme not in ("", "s3", "mem"):
        raise SettingsError(f"{shown(uri)} is no place for files. {KNOWN_PLACES}")
    return _store_of(scheme)


@cache
def _store_of(scheme: str) -> Store:
    stores: dict[str, type[LocalStore | S3Store | MemoryStore]] = {
        "": LocalStore,
        "s3": S3Store,
        "mem": MemoryStore,
    }
    return stores[scheme]()


class MemoryStore:
    """Objects in a dictionary, for tests and for trying things out. Lives as long as the process.

    Args:
        honours_conditions: False makes a store that overwrites where it should refuse, as some
            S3 servers do.
    """

    def __init__(self, *, honours_conditions: bool = True) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._honours_conditions = honours_conditions

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects under a folder; see `Store.list`."""
        with self._lock:
            uris = [uri for uri in self._objects if under(uri, prefix) and not uri.endswith("/")]
        for uri in sorted(uris, key=str.encode):
            with suppress(ObjectMissing):
                yield self.stat(uri)

    def stat(self, uri: str) -> ObjectInfo:
        """Look at one object."""
        data = self._read(uri)
        return ObjectInfo(uri, len(data), sha256(data).hexdigest()[:32])

    def get(self, uri: str, start: int = 0, length: int | None = None) -> bytes:
        """Read bytes from `start`."""
        return self._read(uri)[start : None if length is None else start + length]

    def _read(self, uri: str) -> bytes:
        with self._lock:
            if uri not in self._objects:
                raise ObjectMissing(f"there is no object {shown(uri)}")
            return self._objects[uri]

    def open(self, uri: str) -> BinaryIO:
        """Open an object for reading."""
        return buffered(RangedReader(self.stat(uri), partial(self.get, uri)))

    def put(self, uri: str, data: bytes) -> ObjectInfo:
        """Write an object, over an older one if there is one."""
        with self._lock:
            self._objects[uri] = bytes(data)
        return self.stat(uri)

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        """Write an object unless there is one."""
        with self._lock:
            if self._honours_conditions and uri in self._objects:
                return False
            self._objects[uri] = bytes(data)
        return True

    def delete(self, uri: str) -> None:
        """Remove an object; nothing happens when there is none."""
        with self._lock:
            self._objects.pop(uri, None)
