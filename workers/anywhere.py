"""All stores as one: each URI goes to the store it names.

An input in a bucket, a list of images that points to another bucket, and an output on the disk can
then be one run.
"""

from collections.abc import Iterator
from typing import BinaryIO

from workers.storage.objects import ObjectInfo
from workers.storage.stores import open_store


class Anywhere:
    """A `Store` that has nothing of its own. Can be pickled."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects under a folder; see `Store.list`."""
        return open_store(prefix).list(prefix)

    def stat(self, uri: str) -> ObjectInfo:
        """Look at one object."""
        return open_store(uri).stat(uri)

    def get(self, uri: str, start: int = 0, length: int | None = None) -> bytes:
        """Read bytes from `start`."""
        return open_store(uri).get(uri, start, length)

    def open(self, uri: str) -> BinaryIO:
        """Open an object for reading."""
        return open_store(uri).open(uri)

    def put(self, uri: str, data: bytes) -> ObjectInfo:
        """Write an object, over an older one if there is one."""
        return open_store(uri).put(uri, data)

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        """Write an object unless there is one."""
        return open_store(uri).put_if_absent(uri, data)

    def delete(self, uri: str) -> None:
        """Remove an object."""
        open_store(uri).delete(uri)
