import errno
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.records.reading import read_records
from workers.records.rejections import Reason
from workers.shards.kinds import ShardKind
from workers.shards.parquet import row_groups
from workers.shards.plan import Shard
from workers.storage.memory import MemoryStore

URI = "mem://bucket/in/a.parquet"


class DyingDisk(MemoryStore):
    """A store whose disk fails under an open file."""

    def open(self, uri):
        class Broken(io.BytesIO):
            def read(self, *_):
                raise OSError(errno.EIO, "Input/output error")

        return Broken(self.get(uri))


def filled(store, data=None):
    sink = io.BytesIO()
    pq.write_table(pa.table({"path": ["a.jpg"] * 5}), sink, row_group_size=3)
    store.put(URI, data or sink.getvalue())
    return store


def read(store):
    shard = Shard("1" * 20, ShardKind.PARQUET, URI, URI, store.stat(URI).etag, 1)
    return list(read_records(shard, store))


def test_the_footer_says_how_many_rows_each_group_has():
    assert row_groups(filled(MemoryStore()), URI) == [3, 2]


def test_a_shard_that_is_the_whole_file_is_read_to_its_end():
    assert len(read(filled(MemoryStore()))) == 5


def test_a_damaged_file_is_told_from_a_disk_that_fails():
    damaged = filled(MemoryStore(), b"PAR1 no footer PAR1")
    assert row_groups(damaged, URI) is None
    assert [record.rejection.code for record in read(damaged)] == [Reason.SHARD_TRUNCATED]
    failing = filled(DyingDisk())
    with pytest.raises(OSError, match="Input/output"):
        row_groups(failing, URI)
    with pytest.raises(OSError, match="Input/output"):
        read(failing)
