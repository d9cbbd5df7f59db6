"""What a store holds (`ObjectInfo`), and the `Store` that all stores are."""

import io
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from tempfile import TemporaryFile
from typing import BinaryIO, Protocol, cast

from workers.errors import ObjectMissing, StorageError
from workers.storage.checksums import Checksum
from workers.storage.uris import shown

READ_AHEAD_BYTES = 4 * 2**20  # an S3 request costs about 30 ms, in which some 4 MiB would have come
SORTED_IN_MEMORY = 200_000  # objects, some 70 MB; 10 million objects are then 50 temporary files


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as a listing knows it."""

    uri: str
    size: int
    """Bytes."""
    etag: str
    """Changes when the content does; S3's own without quotes, size and mtime of a local file."""


@dataclass(frozen=True, slots=True)
class Unseen:
    """What a walk could not look at."""

    uri: str
    """that of a folder ends in "/" """
    error: StorageError


class Store(Protocol):
    """A place for objects. Every call may raise the `StorageError` tree; all are thread-safe.

    An object is seen whole or not at all: no reader meets half of a write. What stands here about
    a call holds for every store; the stores themselves only say what is special about theirs.
    """

    @abstractmethod
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects under a folder, at any depth, sorted by the UTF-8 bytes of the URI.

        Left out are only directory markers (keys that end in "/") and the temporary files of
        writes that are under way. A folder that isn't there has no objects.
        """

    def walk(self, prefix: str) -> Iterator[ObjectInfo | Unseen]:
        """As `list`, but what this user can't look at is told in its place, and the rest comes.

        A bucket is listed as a whole or not at all.
        """
        return self.list(prefix)

    @abstractmethod
    def stat(self, uri: str) -> ObjectInfo:
        """Look at one object; `ObjectMissing` when there is none."""

    def find(self, uri: str) -> ObjectInfo | None:
        """Look at one object; None when there is none."""
        try:
            return self.stat(uri)
        except ObjectMissing:
            return None

    @abstractmethod
    def get(self, uri: str, start: int = 0, length: int | None = None) -> bytes:
        """Read bytes from `start`; fewer than `length` when the object ends before."""

    @abstractmethod
    def open(self, uri: str) -> BinaryIO:
        """Open for reading in pieces, seekable; never holds the whole object."""

    def checksum(self, info: ObjectInfo) -> Checksum | None:
        """What the store says of the bytes of this version; None when nothing we can check.

        Raises:
            StorageError: another version is there by now.
        """
        return None

    def any_under(self, prefix: str) -> ObjectInfo | None:
        """One of the objects under a folder, whichever is found soonest; None when there is none.

        A listing that is sorted here begins only when the last of ten million names has come.
        """
        return next(self.list(prefix), None)

    def clock(self, place: str) -> float | None:
        """What time it is there, in seconds since 1970; None where the store doesn't tell."""
        return None

    @abstractmethod
    def put(self, uri: str, data: bytes) -> ObjectInfo:
        """Write an object, over an older one if there is one."""

    @abstractmethod
    def put_if_absent(self, uri: str, data: bytes) -> bool:
        """Write an object unless there is one; True when this call created it.

        Of all writers of one URI, on all machines, exactly one gets True.

        Raises:
            ConditionUnsupported: the store knows no such write. A store may also ignore the
                condition without a word: `commits.Ledger.probe` finds out.
        """

    @abstractmethod
    def delete(self, uri: str) -> None:
        """Remove an object; nothing happens when there is none."""


def seen(found: ObjectInfo | Unseen) -> ObjectInfo:
    """What a walk has found.

    Raises:
        StorageError: it could not look at it.
    """
    if isinstance(found, Unseen):
        raise found.error
    return found


class RangedReader(io.RawIOBase):
    """A seekable file over ranged reads; wrap it with `buffered`.

    Args:
        info: the object.
        read: gives `length` bytes from `start` on.
    """

    def __init__(self, info: ObjectInfo, read: Callable[[int, int], bytes]) -> None:
        self._info = info
        self._read = read
        self._at = 0

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def seekable(self) -> bool:
        """It can be read from anywhere."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, as `io.IOBase.seek` does."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._info.size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read up to `len(buffer)` bytes; 0 at the end."""
        length = min(len(buffer), self._info.size - self._at)
        if length <= 0:
            return 0
        data = self._read(self._at, length)
        if len(data) != length:
            raise StorageError(
                f"{shown(self._info.uri)} changed while it was read. Start the run again; "
                "the input is then planned anew."
            )
        buffer[:length] = data
        self._at += length
        return length


def buffered(reader: RangedReader) -> BinaryIO:
    """The reader with a read-ahead of `READ_AHEAD_BYTES`."""
    return cast(BinaryIO, io.BufferedReader(reader, READ_AHEAD_BYTES))


def open_version(store: Store, info: ObjectInfo) -> BinaryIO:
    """Open this version of an object and no other.

    Raises:
        StorageError: another one is there by now.
    """
    file = store.open(info.uri)
    try:
        # S3's reader is bound to what it found when it was opened; that must be what was listed
        if store.stat(info.uri).etag != info.etag:
            raise StorageError(f"{shown(info.uri)} changed while it was fetched; start again")
    except BaseException:
        file.close()
        raise
    return file


def in_key_order(infos: Iterable[ObjectInfo]) -> Iterator[ObjectInfo]:
    """Sort by the UTF-8 bytes of the URI and drop repetitions, in bounded memory.

    Runs of `SORTED_IN_MEMORY` objects are sorted, set aside in temporary files and merged.
    """
    infos = iter(infos)
    last = sorted(islice(infos, SORTED_IN_MEMORY), key=_order)
    with ExitStack() as files:
        runs = []
        while len(last) == SORTED_IN_MEMORY:
            aside = files.enter_context(TemporaryFile("w+"))
            aside.writelines(json.dumps((i.uri, i.size, i.etag)) + "\n" for i in last)
            aside.seek(0)
            runs.append(ObjectInfo(*json.loads(line)) for line in aside)
            last = sorted(islice(infos, SORTED_IN_MEMORY), key=_order)
        before = None
        for info in merge(*runs, last, key=_order):
            if info.uri != before:
                yield info
            before = info.uri


def _order(info: ObjectInfo) -> bytes:
    return info.uri.encode()
