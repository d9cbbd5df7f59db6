import json
import os

import pyarrow as pa
import pytest

from tests.photos import load_photos
from tests.records import ROOT, codes, parquet, put, read, texts
from workers.records import parquet as parquet_reader
from workers.records.rejections import Reason
from workers.storage.memory import MemoryStore


def test_images_in_a_table_come_with_the_record():
    photos = load_photos()
    store = MemoryStore()
    table = {
        "image": [{"bytes": photo.data, "path": photo.name} for photo in photos],
        "question": ["the cat"] * len(photos),
        "uid": list(range(len(photos))),
        "width": [photo.rgb.shape[1] for photo in photos],
    }
    put(store, "a.parquet", parquet(table))
    records = read(store)
    assert [record.image.data for record in records] == [photo.data for photo in photos]
    assert records[3].image.member == f"3/{photos[3].name}"
    assert records[3].source_id == "3"
    assert json.loads(records[3].meta_json) == {"width": photos[3].rgb.shape[1]}


def test_an_image_in_a_table_is_named_by_its_row_in_the_file():
    store = MemoryStore()
    structs = [{"bytes": b"1", "path": "x.jpg"}, {"bytes": b"2", "path": "x.jpg"}]
    put(store, "a.parquet", parquet({"image": structs}))
    put(store, "b.parquet", parquet({"image": [{"bytes": b"3", "path": 7}]}))
    records = read(store, records_per_shard=1)
    assert [record.image.member for record in records] == ["0/x.jpg", "1/x.jpg", "0"]


def test_a_row_of_a_refused_instruction_holds_no_image():
    store = MemoryStore()
    put(store, "a.parquet", parquet({"image": [b"1"], "instructions": [["the cat", "</s>"]]}))
    assert [record.image.data for record in read(store)] == [b"1", None]


def test_bare_bytes_and_addresses_are_images_too():
    store = MemoryStore()
    put(store, "sub/a.parquet", parquet({"image": [b"123", None], "caption": ["x", "y"]}))
    put(store, "sub/b.parquet", parquet({"file_name": ["a.jpg"], "instructions": [["x", "y"]]}))
    put(store, "sub/c.parquet", parquet({"image": [{"bytes": None, "path": "b.jpg"}]}))
    inside, missing, beside, struct = read(store)
    assert (inside.image.data, inside.image.uri) == (b"123", f"{ROOT}/sub/a.parquet")
    assert missing.rejection.code == Reason.IMAGE_NOT_NAMED
    assert (beside.image.uri, texts(beside)) == (f"{ROOT}/sub/a.jpg", ["x", "y"])
    assert struct.image.uri == f"{ROOT}/sub/b.jpg"


def test_instructions_may_be_structs():
    store = MemoryStore()
    structs = [
        [{"text": "the cat", "id": "c", "kind": None}, {"text": "dogs", "id": None, "kind": "k"}]
    ]
    put(store, "a.parquet", parquet({"url": ["a.jpg"], "instructions": structs}))
    (record,) = read(store)
    assert texts(record) == ["the cat", "dogs"]
    assert record.instructions[0].instruction_id == "c"


@pytest.mark.parametrize("records_per_shard", [3, 10, 37, 100])
def test_shards_of_a_table_hold_each_row_once(records_per_shard):
    store = MemoryStore()
    names = [f"{n:03}.jpg" for n in range(100)]
    put(store, "a.parquet", parquet({"path": names}, row_group_size=30))
    records = read(store, records_per_shard)
    assert [record.image.uri[-7:] for record in records] == names


def test_a_column_of_large_images_is_read_piece_by_piece(monkeypatch):
    """Else the images of a whole row group would lie in memory at once."""
    monkeypatch.setattr("workers.records.row_groups.READ_BYTES", 10_000)
    monkeypatch.setattr("workers.storage.objects.READ_AHEAD_BYTES", 1_000)

    class Counting(MemoryStore):
        largest = 0

        def get(self, uri, start=0, length=None):
            self.largest = max(self.largest, length or 0)
            return super().get(uri, start, length)

    store = Counting()
    images = [os.urandom(5_000) for _ in range(40)]
    table = parquet({"image": images}, use_dictionary=False, data_page_size=1, write_batch_size=1)
    put(store, "a.parquet", table)
    assert [record.image.data for record in read(store)] == images
    assert store.largest < 80_000 < 200_000 < len(table)


def test_values_that_json_does_not_know_are_kept_as_text():
    store = MemoryStore()
    times = pa.array([1_700_000_000_123_456_789], pa.timestamp("ns"))
    put(store, "a.parquet", parquet({"path": ["a.jpg"], "taken": times, "thumb": [b"1234"]}))
    meta = json.loads(read(store)[0].meta_json)
    assert meta["taken"].startswith("2023-11-14 22:13:20")
    assert meta["thumb"] == "4 bytes"


def test_a_damaged_table_ends_in_one_row():
    store = MemoryStore()
    put(store, "a.parquet", b"PAR1" + b"x" * 100 + b"PAR1")
    assert codes(read(store)) == [Reason.SHARD_TRUNCATED]


BAD_COLUMNS = {
    "no UTF-8": pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xffb")]
    ),
    "a time in a list": pa.array([[2**62], [0]], pa.list_(pa.timestamp("us"))),
    "a date in a struct": pa.StructArray.from_arrays(
        [pa.array([2**30, 0], pa.int32()).cast(pa.date32())], ["day"]
    ),
    "a time zone": pa.array([0, None], pa.timestamp("us", "Nowhere/City")),
}


@pytest.mark.parametrize("name", BAD_COLUMNS)
def test_a_value_that_python_can_not_hold_rejects_its_row_only(name):
    store = MemoryStore()
    put(store, "a.parquet", parquet({"path": ["a.jpg", "b.jpg"], "x": BAD_COLUMNS[name]}))
    bad, good = read(store)
    assert bad.rejection.code == Reason.RECORD_BROKEN
    assert "a.parquet', record 1: column 'x'" in bad.rejection.message
    assert (good.rejection, good.image.uri) == (None, f"{ROOT}/b.jpg")


def test_a_want_of_memory_is_no_fault_of_a_value():
    class Full:
        def to_pylist(self, *_):
            raise MemoryError

        as_py = cast = to_pylist

        def __iter__(self):
            return iter([])

    for read_value in (parquet_reader._to_values, parquet_reader._to_value):
        with pytest.raises(MemoryError):
            read_value(Full())


def test_a_column_whose_name_is_no_text_makes_a_row():
    store = MemoryStore()
    data = parquet({"path": ["a.jpg"], "namename": [1]}, store_schema=False)
    put(store, "a.parquet", data.replace(b"namename", b"\xff" * 8))
    assert [code is not None for code in codes(read(store))] == [True]
