"""A shard -> its records, in order, one after the other, never all at once.

Whatever is wrong with an entry ends as a record with a `rejection`, and a file that breaks off in
the middle as one more of them: every record must end as a row. Only what is wrong with the store
itself is raised, and a file that is no longer the one that was planned: its rows would be committed
for good under the id of other records.
"""

from collections.abc import Callable, Iterator, Sequence

from workers.errors import (
    AccessDenied,
    ObjectMissing,
    RecordRejected,
    StorageError,
    StorageUnavailable,
)
from workers.records.images import read_images
from workers.records.instructions import Instruction
from workers.records.jsonl import read_jsonl
from workers.records.parquet import read_parquet
from workers.records.planned import check_planned
from workers.records.record import FieldMap, ImageRef, Record, RecordMaker
from workers.records.rejections import Reason
from workers.records.tar import read_tar
from workers.shards.kinds import ShardKind
from workers.shards.plan import Shard
from workers.storage.objects import Store
from workers.storage.uris import scheme_of, shown

_READERS: dict[ShardKind, Callable[[Shard, Store, RecordMaker], Iterator[Record]]] = {
    ShardKind.JSONL: read_jsonl,
    ShardKind.PARQUET: read_parquet,
    ShardKind.TAR: read_tar,
    ShardKind.IMAGES: read_images,
}


def read_records(
    shard: Shard,
    store: Store,
    *,
    defaults: tuple[Instruction, ...] = (),
    fields: FieldMap | None = None,
    roots: Sequence[str] = (),
) -> Iterator[Record]:
    """Reads a shard.

    Args:
        shard: from `plan_shards`.
        store: where it lies.
        defaults: asked of every image that comes without instructions of its own.
        fields: which keys and columns mean what.
        roots: folders and buckets that image addresses may point into, besides the folder of the
            file that names them.

    Raises:
        StorageError: the store failed, or the file has changed since the plan; the records so far
            are to be thrown away.
    """
    _check_planned(shard, store)
    allowed = (*roots, *_folder_of(shard))
    maker = RecordMaker(shard.uri, allowed, defaults, fields or FieldMap(), shard.first)
    row_index = 0
    try:
        for record in _READERS[shard.kind](shard, store, maker):
            row_index = record.row_index + 1
            yield record
        if row_index < shard.count:
            raise RecordRejected(
                Reason.SHARD_TRUNCATED,
                f"{shown(shard.uri)} had {shard.count} records here when it was planned, and now"
                f" only {row_index}",
            )
    except RecordRejected as error:
        yield maker.reject(row_index, error)
    # once more at the end: what was read between two looks at the same file is of that file
    _check_planned(shard, store)


def _check_planned(shard: Shard, store: Store) -> None:
    """A list of images is our own: `read_images` compares its digest."""
    if shard.kind is not ShardKind.IMAGES:
        check_planned(shard, store)


def _folder_of(shard: Shard) -> tuple[str, ...]:
    """The folder of the input file; a list of images is our own, and what it holds was found."""
    return () if shard.kind is ShardKind.IMAGES else (shard.uri.rpartition("/")[0],)


def fetch_image(image: ImageRef, store: Store, max_bytes: int) -> bytes:
    """Reads the file of a record's image.

    Args:
        image: of a record without a rejection.
        store: where its URI lies.
        max_bytes: more are not read.

    Raises:
        RecordRejected: there is no such file, or it is too large.
        StorageError: the store failed. A bucket that denies access is one of these and no
            rejection: when credentials run out in the middle of a run, its images are not bad.
    """
    data = _read_up_to(image.uri, store, max_bytes + 1) if image.data is None else image.data
    if len(data) > max_bytes:
        raise RecordRejected(
            Reason.IMAGE_TOO_LARGE, f"{shown(image.uri)} has more than {max_bytes:,} bytes"
        )
    return data


def _read_up_to(uri: str, store: Store, length: int) -> bytes:
    try:
        return store.get(uri, 0, length)
    except ObjectMissing as error:
        raise RecordRejected(Reason.IMAGE_MISSING, f"{error}") from error
    except AccessDenied as error:
        if scheme_of(uri):
            raise
        raise RecordRejected(Reason.IMAGE_UNREADABLE, f"{error}") from error
    except StorageUnavailable:
        raise
    except StorageError as error:  # a name that no file can have: too long, links in a circle
        raise RecordRejected(Reason.IMAGE_MISSING, f"{error}") from error
