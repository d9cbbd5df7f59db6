"""Objects in memory, as a `Store`: for tests and for trying things out."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from hashlib import sha256
from typing import BinaryIO

from workers.errors import ObjectMissing
from workers.storage.checksums import Checksum
from workers.storage.objects import ObjectInfo, RangedReader, Store, buffered
from workers.storage.uris import shown, under


class MemoryStore(Store):
    """Objects in a dictionary, which lives as long as the process.

    Args:
        honours_conditions: False makes a store that overwrites where it should refuse, as some
            S3 servers do.
    """

    def __init__(self, *, honours_conditions: bool = True) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._honours_conditions = honours_conditions

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._lock:
            uris = [uri for uri in self._objects if under(uri, prefix) and not uri.endswith("/")]
        for uri in sorted(uris, key=str.encode):
            with suppress(ObjectMissing):
                yield self.stat(uri)

    def stat(self, uri: str) -> ObjectInfo:
        data = self._read(uri)
        return ObjectInfo(uri, len(data), sha256(data).hexdigest()[:32])

    def get(self, uri: str, start: int = 0, length: int | None = None) -> bytes:
        return self._read(uri)[start : None if length is None else start + length]

    def _read(self, uri: str) -> bytes:
        with self._lock:
            if uri not in self._objects:
                raise ObjectMissing(f"there is no object {shown(uri)}")
            return self._objects[uri]

    def open(self, uri: str) -> BinaryIO:
        return buffered(RangedReader(self.stat(uri), partial(self.get, uri)))

    def checksum(self, info: ObjectInfo) -> Checksum | None:
        return Checksum("sha256", sha256(self._read(info.uri)).hexdigest())

    def put(self, uri: str, data: bytes) -> ObjectInfo:
        with self._lock:
            self._objects[uri] = bytes(data)
        return self.stat(uri)

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        with self._lock:
            if self._honours_conditions and uri in self._objects:
                return False
            self._objects[uri] = bytes(data)
        return True

    def delete(self, uri: str) -> None:
        with self._lock:
            self._objects.pop(uri, None)
