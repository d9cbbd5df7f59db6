import gzip
import inspect
import json
import os
import sys
from dataclasses import replace

import pytest

from tests.records import CONTENTS, DEFAULTS, codes, plan, put, read, read_lines
from workers.errors import StorageError
from workers.records import jsonl
from workers.records.reading import read_records
from workers.records.rejections import Reason
from workers.storage.memory import MemoryStore


def test_lines_that_are_no_records_are_rows_of_their_own():
    records = read_lines('{"image": "a.jpg"}', "{oops", "[1]", "\ufeff", '{"image": "b.jpg"}')
    assert codes(records) == [None, *[Reason.RECORD_BROKEN] * 3, None]
    assert [record.row_index for record in records] == [0, 1, 2, 3, 4]
    assert "record 2" in records[1].rejection.message


def test_blank_lines_are_no_records():
    store = MemoryStore()
    put(store, "a.jsonl", '\n{"image": "a.jpg"}\r\n  \n\n{"image": "b.jpg"}')
    assert [record.image.uri[-5:] for record in read(store)] == ["a.jpg", "b.jpg"]


def test_a_record_of_several_rows_is_counted_once():
    store = MemoryStore()
    put(store, "a.jsonl", json.dumps({"image": "a.jpg", "instructions": ["a", "</s>", "</s>"]}))
    (shard,) = plan(store)
    records = list(read_records(replace(shard, count=2), store))
    assert codes(records)[-1] == Reason.SHARD_TRUNCATED
    assert [record.row_index for record in records] == [0, 0, 0, 1]


def test_a_message_counts_the_records_of_the_file_and_not_of_the_shard():
    store = MemoryStore()
    put(store, "a.jsonl", numbered(1, 2) + "{oops\n")
    *_, broken = read(store, records_per_shard=1)
    assert "a.jsonl', record 3" in broken.rejection.message


def test_shards_of_a_file_hold_each_line_once():
    store = MemoryStore()
    put(store, "a.jsonl", "".join(f'{{"image": "{n:03}.jpg"}}\n' for n in range(200)))
    records = read(store, records_per_shard=7)
    assert [record.image.uri[-7:-4] for record in records] == [f"{n:03}" for n in range(200)]
    assert max(record.row_index for record in records) < 7


def test_a_line_that_is_too_long_is_skipped_and_the_next_is_read(monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 50)
    records = read_lines({"image": "a.jpg"}, {"image": "x" * 500}, {"image": "b.jpg"})
    assert codes(records) == [None, Reason.RECORD_BROKEN, None]


def test_a_line_that_is_too_long_ends_where_its_shard_ends(monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 50)
    store = MemoryStore()
    lines = [{"image": "a.jpg"}, {"image": "x" * 500}, {"image": "b.jpg"}, {"image": "c.jpg"}]
    put(store, "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert codes(read(store, records_per_shard=1)) == [None, Reason.RECORD_BROKEN, None, None]


def test_the_ending_of_a_file_may_be_in_capitals():
    store = MemoryStore()
    put(store, "A.JSONL.GZ", CONTENTS["a.jsonl.gz"])
    assert codes(read(store)) == [None, None]


def test_a_gzip_file_is_read_and_where_it_breaks_off_one_row_says_so():
    lines = "".join(
        json.dumps({"image": f"{n}.jpg", "n": n * 7919 % 4999}) + "\n" for n in range(3000)
    )
    packed = gzip.compress(lines.encode())
    store = MemoryStore()
    put(store, "a.jsonl.gz", packed)
    assert codes(read(store)) == [None] * 3000
    put(store, "a.jsonl.gz", packed[: len(packed) // 2])
    records = read(store)
    assert 0 < len(records) < 3000
    assert codes(records) == [None] * (len(records) - 1) + [Reason.SHARD_TRUNCATED]
    assert records[-1].row_index == len(records) - 1
    put(store, "a.jsonl.gz", b"no gzip at all")
    assert codes(read(store)) == [Reason.SHARD_TRUNCATED]


def numbered(*numbers):
    return "".join(f'{{"id": "{n}", "image": "a.jpg"}}\n' for n in numbers)


def test_a_file_that_changed_since_the_plan_fails_and_a_new_plan_holds_each_line_once():
    store = MemoryStore()
    put(store, "a.jsonl", numbered(*range(120)))
    shards = plan(store, 8)
    put(store, "a.jsonl", numbered("new", *range(120)))
    for shard in shards:
        with pytest.raises(StorageError, match=r"a\.jsonl.*changed since.*start the same command"):
            next(read_records(shard, store, defaults=DEFAULTS))
    found = [record.source_id for record in read(store, 8)]
    assert found == ["new", *map(str, range(120))]


def test_a_file_that_became_shorter_since_the_plan_fails_and_makes_no_row():
    store = MemoryStore()
    put(store, "a.jsonl", numbered(1, 2))
    (shard,) = plan(store)
    put(store, "a.jsonl", numbered(1))
    with pytest.raises(StorageError, match="changed since the run was planned"):
        list(read_records(shard, store, defaults=DEFAULTS))
    put(store, "a.jsonl", numbered(1, 2))
    longer = replace(shard, count=3)  # the same file: then it is the file's fault
    assert codes(read_records(longer, store, defaults=DEFAULTS))[2:] == [Reason.SHARD_TRUNCATED]


def test_a_line_of_exactly_the_limit_is_read(monkeypatch):
    line = '{"image": "a.jpg"}'
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", len(line))
    assert codes(read_lines(line, line + " ")) == [None, Reason.RECORD_BROKEN]


def test_a_line_that_json_can_not_be_read_from_for_its_depth_is_a_row():
    assert codes(read_lines("[" * 100_000, {"image": "a.jpg"})) == [Reason.RECORD_BROKEN, None]


def test_a_gzip_file_with_damage_in_its_middle_makes_a_row():
    store = MemoryStore()
    packed = gzip.compress(os.urandom(3000).hex().encode())
    put(store, "a.jsonl.gz", packed[:20] + b"\xff" * 20 + packed[40:])
    assert Reason.SHARD_TRUNCATED in codes(read(store))


@pytest.mark.parametrize("key", ["other", "meta", "instructions", "id", "classes", "image"])
@pytest.mark.parametrize("piece", ["[", '{"instructions":'])
def test_a_line_that_is_nested_deep_takes_no_other_with_it(key, piece):
    free = sys.getrecursionlimit() - len(inspect.stack(0))
    for depth in range(free - 40, free):  # json can read some of these, and not all of them
        deep = piece * depth + "1" + ("]" if piece == "[" else "}") * depth
        values = {"image": '"a.jpg"', key: deep}
        line = "{" + ",".join(f'"{name}":{value}' for name, value in values.items()) + "}"
        good = {"image": "b.jpg"}
        records = read_lines(line, good)
        assert records[-1].rejection is None
        assert len(records) == 2
