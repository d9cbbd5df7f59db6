"""WebDataset archives -> records: members that share a key are one record.

The key is the name up to the first dot of its last part; the rest says what the member is: one of
IMAGE_ENDINGS, `json` (the record's other keys) or `txt` (an instruction a line). Nothing is ever
extracted to a disk, and only regular files are read.
"""

import itertools
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from workers.errors import RecordRejected
from workers.records.instructions import MAX_FILE_BYTES
from workers.records.record import ImageRef, Record, RecordMaker
from workers.records.rejections import Reason, Rejection
from workers.records.sidecars import SIDECAR_ENDINGS, Sidecar, read_sidecar
from workers.shards.kinds import ShardKind
from workers.shards.plan import Shard
from workers.storage.objects import Store
from workers.storage.uris import shown

IMAGE_ENDINGS = frozenset({"jpg", "jpeg", "png", "webp"})
MAX_MEMBERS = 1_000_000
"""Of one archive. WebDataset's own shards have about 10,000; a million headers are 512 MB."""
MAX_IMAGE_BYTES = 256 * 2**20
"""Of an image in the archive; a cap for memory only, `PictureLimits` is the one for labelling."""
MAX_PADDING_BYTES = 2**20
"""Looked at behind the end of an archive; tar pads to 10 KiB unless it is told otherwise."""
MAX_HEADER_BYTES = 2**20
"""Of an extended header (a long name, pax keys), which tarfile reads at once; paths have 4 KiB."""
_EXTENDED = frozenset(
    {
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
    }
)
_NAME = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<ending>[^/]*)", re.DOTALL)


@dataclass(slots=True)
class _Sample:
    """Members of one key, as far as they have come by."""

    key: str
    endings: set[str] = field(default_factory=set)
    image: ImageRef | None = None
    values: dict[str, object] = field(default_factory=dict)
    texts: list[object] = field(default_factory=list)
    rejection: Rejection | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a member are."""

    offset: int
    """in the archive"""
    size: int
    """bytes"""


def read_tar(shard: Shard, store: Store, maker: RecordMaker) -> Iterator[Record]:
    """Reads a whole archive as a stream.

    Raises:
        RecordRejected: it is cut off or damaged, or has too many members.
    """
    with _opened(shard, store) as archive:
        for row_index, sample in enumerate(_samples(archive, shard)):
            yield from _make_records(sample, row_index, maker)
    _check_end(store, shard, archive.offset)


def find_members(uri: str, store: Store) -> Iterator[tuple[str, Place]]:
    """Where the files of an archive lie in it, by name; the whole archive is read for it.

    Raises:
        RecordRejected: it is cut off or damaged, or has too many members.
        StorageError: the store failed.
    """
    info = store.stat(uri)
    whole = Shard("", ShardKind.TAR, uri, uri, info.etag, info.size)
    with _opened(whole, store) as archive:
        for member in _members(archive, whole):
            if member.isreg() and not member.issparse():
                yield member.name, Place(member.offset_data, member.size)


@contextmanager
def _opened(shard: Shard, store: Store) -> Iterator[tarfile.TarFile]:
    with store.open(shard.uri) as file:
        try:
            with _open_archive(file) as archive:
                yield archive
        except (tarfile.TarError, EOFError, OverflowError) as error:
            raise RecordRejected(
                Reason.SHARD_TRUNCATED, f"{shown(shard.uri)} is no whole tar archive: {error}"
            ) from error


def _check_end(store: Store, shard: Shard, end: int) -> None:
    """Looks at where `tarfile` stopped: at a damaged header it stops as if all were well.

    So it does at the end of a file that was cut off between members, or where archives were
    joined with `cat`. Behind a true end there are only zeros, a block of them or more.
    """
    rest = store.get(shard.uri, end, MAX_PADDING_BYTES)
    if len(rest) < tarfile.BLOCKSIZE or any(rest):
        raise RecordRejected(
            Reason.SHARD_TRUNCATED,
            f"{shown(shard.uri)} can't be read on from byte {end:,}: no end of the archive, and no"
            " header of a member",
        )


def _make_records(sample: _Sample, row_index: int, maker: RecordMaker) -> Iterator[Record]:
    if sample.image is None and sample.rejection is None:
        message = f"{sample.key!r} has no member that ends in {', '.join(sorted(IMAGE_ENDINGS))}"
        sample.rejection = Rejection(Reason.IMAGE_NOT_NAMED, message)
    yield from maker.make(
        row_index,
        sample.values,
        image=sample.image,
        texts=sample.texts,
        source_id=sample.key,
        rejection=sample.rejection,
    )


def _members(archive: tarfile.TarFile, shard: Shard) -> Iterator[tarfile.TarInfo]:
    """The members one by one, in bounded memory and time."""
    headers = iter(archive)
    for number in itertools.count():
        with _headers_told():
            member = next(headers, None)
        if member is None:
            return
        # tarfile remembers every header, 1 KB a member, for a seek that a stream can't do
        archive.members.clear()  # type: ignore[attr-defined]
        if number >= MAX_MEMBERS:
            raise RecordRejected(
                Reason.SHARD_TOO_LONG, f"{shown(shard.uri)} has more than {MAX_MEMBERS:,} members"
            )
        yield member
        if archive.offset > shard.size:
            # tarfile would walk on behind the end of the file, 5 GB a second: where a header says
            # 2**60 bytes, for years
            raise _cut_off(member)


def _open_archive(file: BinaryIO) -> tarfile.TarFile:
    with _headers_told():  # reads the first one
        return tarfile.open(fileobj=file, mode="r|", tarinfo=_Header)


class _Header(tarfile.TarInfo):
    """A header whose extension fits into memory: its size is what the file says of itself."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        # the way in that tarfile leaves to subclasses
        if self.type in _EXTENDED and self.size > MAX_HEADER_BYTES:
            raise _BadHeader(f"an extended header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


class _BadHeader(tarfile.ReadError):
    """What follows it can't be found."""


@contextmanager
def _headers_told() -> Iterator[None]:
    """What tarfile raises on extended headers that are no numbers or no text isn't a `TarError`."""
    try:
        yield
    except (ValueError, RecursionError) as error:  # the latter: long names of long names of ...
        raise _BadHeader(f"a header that can't be read: {error}") from error


def _cut_off(member: tarfile.TarInfo) -> tarfile.TarError:
    return tarfile.ReadError(f"member {member.name!r} is cut off")


def _samples(archive: tarfile.TarFile, shard: Shard) -> Iterator[_Sample]:
    """Groups neighbouring members by key; a sample is given out before the next one is read."""
    sample: _Sample | None = None
    try:
        for member in _members(archive, shard):
            found = _NAME.fullmatch(member.name)
            if member.isdir() or not found:
                continue
            key, ending = found["key"].removeprefix("./"), found["ending"].lower()
            if sample and (key != sample.key or ending in sample.endings):
                yield sample
                sample = None
            sample = sample or _Sample(key)
            sample.endings.add(ending)
            _add_member(sample, archive, member, ending, shard.uri)
    except _BadHeader:
        if sample:  # it stands before the damage
            yield sample
        raise
    if sample:
        yield sample


def _add_member(
    sample: _Sample, archive: tarfile.TarFile, member: tarfile.TarInfo, ending: str, uri: str
) -> None:
    try:
        if ending in IMAGE_ENDINGS and sample.image is None:
            sample.image = ImageRef(uri, member.name, None, None)
            data = _read_member(archive, member, MAX_IMAGE_BYTES, Reason.IMAGE_TOO_LARGE)
            sample.image = ImageRef(uri, member.name, None, data)
        elif ending in SIDECAR_ENDINGS:
            data = _read_member(archive, member, MAX_FILE_BYTES, Reason.RECORD_BROKEN)
            _add_sidecar(sample, read_sidecar(data, member.name))
    except RecordRejected as error:
        sample.rejection = sample.rejection or Rejection.of(error)


def _add_sidecar(sample: _Sample, sidecar: Sidecar) -> None:
    sample.values.update(sidecar.values)
    sample.texts.extend(sidecar.texts)


def _read_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, limit: int, too_large: Reason
) -> bytes:
    if not member.isreg() or member.issparse():
        raise RecordRejected(
            Reason.MEMBER_NOT_A_FILE, f"member {member.name!r} is a link, a device or sparse"
        )
    if member.size > limit:
        raise RecordRejected(too_large, f"member {member.name!r} has {member.size:,} bytes")
    file = archive.extractfile(member)
    assert file is not None, "a regular file has bytes"
    try:
        return file.read()
    except tarfile.ReadError as error:
        raise _cut_off(member) from error
