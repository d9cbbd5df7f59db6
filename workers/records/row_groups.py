"""Rows of a Parquet file, batch by batch; a shard goes on where one before it has ended.

A row group can only be read from its beginning. Where one holds many shards, as with a thousand
images in it, each of them would fetch and decode all rows before its own. So a reader that is done
with a shard is kept for a while, for one that begins behind it. It goes on reading what it opened,
whatever lies there by then: so it is kept only when that was the planned file, before and after.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from workers.records.planned import check_planned
from workers.shards.plan import Shard
from workers.storage.objects import Store

BATCH_ROWS = 16
"""Rows in memory at once; with images of 2 MiB in them, 32 MiB."""
READ_BYTES = 8 * 2**20
"""Of a column, in one request."""
MOST_KEPT = 4
"""Readers of a process, for as many shards as are under way at once by default. Each holds a file
open, READ_BYTES for each column and less than a batch."""


def open_table(file: BinaryIO) -> pq.ParquetFile:
    """The table in a file, read piece by piece."""
    # With only one of the two, a column of a row group is read at once: the images of 1000 rows.
    return pq.ParquetFile(file, buffer_size=READ_BYTES, pre_buffer=False)


def read_rows(store: Store, shard: Shard) -> Iterator[pa.RecordBatch]:
    """The rows of a shard; row groups outside of it are not read.

    Raises:
        PARQUET_ERRORS: the file is damaged, or its disk fails.
        StorageError: the store failed, or another file was opened than the planned one.
    """
    reader = _take(store, shard) or _open_planned(store, shard)
    try:
        yield from reader.rows(shard.first, shard.count if shard.count >= 0 else reader.count)
        check_planned(shard, store)
    except BaseException:  # whoever reads no further is one of these, too
        reader.close()
        raise
    _keep(_Kept(store, shard.uri, shard.etag, reader))


def _open_planned(store: Store, shard: Shard) -> "RowReader":
    file = store.open(shard.uri)
    try:
        check_planned(shard, store)  # what was open before this look is what it saw
    except BaseException:
        file.close()
        raise
    return RowReader(file)


class RowReader:
    """Reads rows of one file.

    Args:
        file: closed with the reader.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        try:
            self._table = open_table(file)
        except BaseException:
            file.close()
            raise
        self.count: int = self._table.metadata.num_rows
        self.at = self._stop = 0
        """the next row, and the first one behind its row group"""
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.RecordBatch | None = None
        """of a batch, from the next row on"""

    def rows(self, first: int, count: int) -> Iterator[pa.RecordBatch]:
        """Some rows; fewer where the file ends before."""
        end = first + count
        if not self.at <= first < self._stop:
            self._enter_group_of(first)
        while self.at < min(end, self.count):
            batch = self._rest if self._rest is not None else next(self._batches, None)
            self._rest = None
            if batch is None:
                self._enter_group_of(self._stop)
                continue
            skip = min(max(0, first - self.at), len(batch))
            part = batch.slice(skip, max(0, end - self.at - skip))
            self.at += skip + len(part)
            self._rest = batch.slice(skip + len(part)) if skip + len(part) < len(batch) else None
            if len(part):
                yield part

    def close(self) -> None:
        """Lets go of the file."""
        self._table.close()
        self._file.close()

    def _enter_group_of(self, row: int) -> None:
        """To the beginning of its row group; behind the last row where there is no such row."""
        self._batches, self._rest, self._stop = iter(()), None, 0
        footer = self._table.metadata
        for number in range(footer.num_row_groups):
            self.at, self._stop = self._stop, self._stop + footer.row_group(number).num_rows
            if row < self._stop:
                self._batches = self._table.iter_batches(BATCH_ROWS, row_groups=[number])
                return
        self.at = self._stop


@dataclass(frozen=True, slots=True)
class _Kept:
    """A reader that waits for a shard."""

    store: Store
    uri: str
    etag: str
    reader: RowReader


_kept: list[_Kept] = []
"""Of this process; the one that waits longest comes first."""
_lock = threading.Lock()


def _take(store: Store, shard: Shard) -> RowReader | None:
    """The reader that has come nearest to a shard and not into it."""
    file = store, shard.uri, shard.etag
    with _lock:
        fitting = [
            each
            for each in _kept
            if (each.store, each.uri, each.etag) == file and each.reader.at <= shard.first
        ]
        if not fitting:
            return None
        nearest = max(fitting, key=lambda each: each.reader.at)
        _kept.remove(nearest)
    return nearest.reader


def _keep(one: _Kept) -> None:
    """Until others that are used more lately need the room."""
    over = one
    with _lock:
        if one.reader.at < one.reader.count:
            _kept.append(one)
            if len(_kept) <= MOST_KEPT:
                return
            over = _kept.pop(0)
    over.reader.close()
