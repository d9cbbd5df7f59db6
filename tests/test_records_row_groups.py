"""Shards of one Parquet file, in any order: which rows they are given, and what is fetched."""

import os
import random

import pytest

from tests.records import DEFAULTS, parquet, plan, put
from workers.errors import StorageError
from workers.records import row_groups
from workers.records.reading import read_records
from workers.records.row_groups import MOST_KEPT, read_rows
from workers.storage.memory import MemoryStore

IMAGES = [os.urandom(5_000) for _ in range(120)]


class Counting(MemoryStore):
    """Knows how many bytes were fetched, and which files are open."""

    def __init__(self):
        super().__init__()
        self.fetched, self.opened = 0, []

    def get(self, uri, start=0, length=None):
        data = super().get(uri, start, length)
        self.fetched += len(data)
        return data

    def open(self, uri):
        self.opened.append(super().open(uri))
        return self.opened[-1]


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(row_groups, "READ_BYTES", 10_000)
    monkeypatch.setattr("workers.storage.objects.READ_AHEAD_BYTES", 1_000)
    monkeypatch.setattr(row_groups, "_kept", [])


@pytest.fixture
def store():
    return Counting()


def put_images(store, rows_in_group, name="a.parquet"):
    pages = {"use_dictionary": False, "data_page_size": 1, "write_batch_size": 1}
    put(store, name, parquet({"image": IMAGES}, row_group_size=rows_in_group, **pages))


def read(store, shard):
    return [record.image.data for record in read_records(shard, store, defaults=DEFAULTS)]


def test_shards_of_one_row_group_fetch_it_once_between_them(store):
    put_images(store, 120)
    shards = plan(store, 10)
    store.fetched = 0
    assert [each for shard in shards for each in read(store, shard)] == IMAGES
    size = shards[0].size
    assert size < store.fetched < 1.2 * size  # and not half of it for each of the twelve


def test_shards_that_are_read_side_by_side_go_on_where_others_ended(store):
    put_images(store, 120)
    shards = plan(store, 10)
    store.fetched = 0
    for four in (shards[:4], shards[4:8], shards[8:]):
        together = [read_rows(store, shard) for shard in four]
        begun = [len(next(each)) for each in together]
        left = [sum(map(len, each)) for each in together]
        assert [sum(each) for each in zip(begun, left, strict=True)] == [10] * 4
    assert store.fetched < 5 * shards[0].size  # each alone fetches all before it


def test_a_shard_that_lies_before_a_reader_leaves_it_to_the_next_one(store):
    put_images(store, 120)
    first, second, third = plan(store, 40)
    read(store, second)
    read(store, first)
    store.fetched = 0
    assert read(store, third) == IMAGES[80:]
    assert store.fetched < 0.4 * third.size  # its own rows, and not those of the second again


@pytest.mark.parametrize("rows_in_group", [7, 16, 50, 120])
@pytest.mark.parametrize("records", [1, 10, 33])
def test_in_whatever_order_shards_come_each_has_its_own_rows(store, rows_in_group, records):
    put_images(store, rows_in_group)
    shards = plan(store, records)
    order = random.Random(rows_in_group * records).sample(shards, len(shards))
    found = {shard.first: read(store, shard) for shard in order}
    assert [each for first in sorted(found) for each in found[first]] == IMAGES


def test_row_groups_outside_of_a_shard_are_not_read(store):
    put_images(store, 40)
    *_, last = plan(store, 40)
    store.fetched = 0
    assert read(store, last) == IMAGES[80:]
    assert store.fetched < last.size / 2


def test_few_files_are_kept_open_and_none_that_was_read_to_its_end(store):
    for number in range(MOST_KEPT + 3):
        put_images(store, 120, f"{number}.parquet")
    shards = plan(store, 60)
    store.opened.clear()
    for shard in shards:
        if shard.first == 0:
            read(store, shard)
    assert sum(not file.closed for file in store.opened) == MOST_KEPT
    for shard in shards:
        if shard.first:
            read(store, shard)
    assert [file.closed for file in store.opened].count(False) == 0


def test_who_reads_no_further_leaves_no_file_open(store):
    put_images(store, 120)
    (shard, *_) = plan(store, 60)
    store.opened.clear()
    batches = read_rows(store, shard)
    next(batches)
    batches.close()
    assert [file.closed for file in store.opened] == [True]


def test_a_file_that_was_replaced_is_opened_anew(store):
    put_images(store, 120)
    first, second = plan(store, 60)
    read(store, first)
    reverse = parquet({"image": IMAGES[::-1]}, row_group_size=120)
    put(store, "a.parquet", reverse)
    with pytest.raises(StorageError, match="changed since the run was planned"):
        read(store, second)
    _, second = plan(store, 60)
    assert read(store, second) == IMAGES[:60][::-1]


class Replaced(MemoryStore):
    """Once, a file is replaced between the look at it and its opening."""

    def __init__(self):
        super().__init__()
        self.instead = None

    def open(self, uri):
        if self.instead is not None:
            self.put(uri, self.instead)
            self.instead = None
        return super().open(uri)


def test_of_a_file_that_was_replaced_while_it_was_opened_no_row_is_given():
    store = Replaced()
    put_images(store, 120)
    (shard, _) = plan(store, 60)
    store.instead = parquet({"image": IMAGES[::-1]}, row_group_size=120)
    with pytest.raises(StorageError, match="changed since the run was planned"):
        next(read_rows(store, shard))


def test_a_file_that_was_replaced_for_a_moment_is_read_by_no_later_shard():
    store = Replaced()
    put_images(store, 120)
    (planned,) = [store.get(info.uri) for info in store.list("mem://bucket/in")]
    first, second = plan(store, 60)
    store.instead = parquet({"image": IMAGES[::-1]}, row_group_size=120)
    with pytest.raises(StorageError, match="changed since the run was planned"):
        read(store, first)
    put(store, "a.parquet", planned)  # as it was: a bucket gives it the etag that it had
    assert read(store, second) == IMAGES[60:]


def test_a_file_that_was_replaced_while_it_was_read_is_opened_anew(store):
    put_images(store, 120)
    (planned,) = [store.get(info.uri) for info in store.list("mem://bucket/in")]
    first, second = plan(store, 60)
    records = read_records(first, store, defaults=DEFAULTS)
    for _ in range(first.count):  # all of it; the shard is over only with the next look
        next(records)
    put(store, "a.parquet", parquet({"image": IMAGES[::-1]}, row_group_size=120))
    with pytest.raises(StorageError, match="changed since the run was planned"):
        list(records)
    put(store, "a.parquet", planned)
    store.opened.clear()
    assert read(store, second) == IMAGES[60:]
    assert len(store.opened) == 1
