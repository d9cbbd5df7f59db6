import gzip
import inspect
import io
import json
import os
import sys
import tarfile
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.labels import ATTEMPT
from tests.photos import load_photos
from workers.errors import AccessDenied, RecordRejected, StorageError, StorageUnavailable
from workers.labels.rows import rejected_rows
from workers.labels.table import PartIdentity, read_part, write_part
from workers.records import jsonl
from workers.records import parquet as parquet_reader
from workers.records import tar as tar_reader
from workers.records.addresses import MAX_ADDRESS_CHARS
from workers.records.instructions import MAX_FILE_BYTES, make_instruction
from workers.records.reading import fetch_image, read_records
from workers.records.record import FieldMap, ImageRef
from workers.records.rejections import Reason
from workers.shards.listing import ShardKind, write_listings_to
from workers.shards.plan import plan_shards
from workers.storage.local import LocalStore
from workers.storage.memory import MemoryStore
from workers.storage.objects import ObjectInfo
from workers.storage.s3 import S3Store
from workers.storage.uris import join_uri, under

ROOT = "mem://bucket/in"
DEFAULTS = (make_instruction("everything"),)


def put(store, name, data):
    store.put(join_uri(ROOT, name), data if isinstance(data, bytes) else data.encode())


def plan(store, records_per_shard=100):
    writer = write_listings_to(store, "mem://bucket/plans")
    planned = plan_shards(store, ROOT, records_per_shard=records_per_shard, listing_writer=writer)
    return planned.shards


def read(store, records_per_shard=100, **options):
    options = {"defaults": DEFAULTS, **options}
    shards = plan(store, records_per_shard)
    return [record for shard in shards for record in read_records(shard, store, **options)]


def read_lines(*entries, **options):
    store = MemoryStore()
    lines = [each if isinstance(each, str) else json.dumps(each) for each in entries]
    put(store, "a.jsonl", "\n".join(lines) + "\n")
    return read(store, **options)


def texts(record):
    return [each.text for each in record.instructions]


def codes(records):
    return [record.rejection and record.rejection.code for record in records]


# ---- fields: the same in every form --------------------------------------------------------------


def test_a_line_becomes_a_record():
    (record,) = read_lines(
        {
            "id": 17,
            "image": "photos/a b.jpg",
            "instructions": ["the cat", {"text": "dogs", "id": "d", "kind": "k"}],
            "classes": ["cat"],
            "camera": "x100",
            "meta": {"place": "Köln"},
        }
    )
    assert record.rejection is None
    assert record.source_id == "17"
    assert record.image == ImageRef(f"{ROOT}/photos/a b.jpg", None, None, None)
    assert texts(record) == ["the cat", "dogs"]
    assert [each.classes for each in record.instructions] == [("cat",), ("cat",)]
    assert record.instructions[1].instruction_id == "d"
    assert json.loads(record.meta_json) == {"camera": "x100", "place": "Köln"}


@pytest.mark.parametrize("key", ["image", "image_uri", "url", "path", "file_name"])
def test_the_image_may_stand_under_several_keys(key):
    assert read_lines({key: "a.jpg"})[0].image.uri == f"{ROOT}/a.jpg"


@pytest.mark.parametrize(
    "key", ["instruction", "instructions", "text", "prompt", "question", "caption"]
)
def test_the_text_may_stand_under_several_keys(key):
    assert texts(read_lines({"image": "a.jpg", key: "the cat"})[0]) == ["the cat"]


def test_a_key_that_was_not_needed_is_kept():
    (record,) = read_lines({"image": "a.jpg", "instruction": "the cat", "caption": "a cat sits"})
    assert texts(record) == ["the cat"]
    assert json.loads(record.meta_json) == {"caption": "a cat sits"}


def test_other_keys_can_be_named():
    fields = FieldMap(image=("bild",), instructions=("frage",))
    (record,) = read_lines({"bild": "a.jpg", "frage": "die Katze", "image": "b.jpg"}, fields=fields)
    assert (record.image.uri, texts(record)) == (f"{ROOT}/a.jpg", ["die Katze"])
    assert json.loads(record.meta_json) == {"image": "b.jpg"}


def test_an_image_without_instructions_is_asked_the_defaults():
    assert texts(read_lines({"image": "a.jpg"})[0]) == ["everything"]
    assert codes(read_lines({"image": "a.jpg"}, defaults=())) == [Reason.INSTRUCTION_MISSING]


def test_a_bad_instruction_does_not_take_the_good_ones_with_it():
    good, bad = read_lines({"image": "a.jpg", "instructions": ["the cat", "</s>", "the dog"]})
    assert (texts(good), good.rejection) == (["the cat", "the dog"], None)
    assert (texts(bad), bad.rejection.code) == (["</s>"], Reason.INSTRUCTION_INVALID)
    assert good.row_index == bad.row_index == 0


def test_a_record_with_only_bad_instructions_is_not_asked_the_defaults():
    records = read_lines({"image": "a.jpg", "instructions": ["</s>", 5]})
    assert codes(records) == [Reason.INSTRUCTION_INVALID] * 2


def test_a_record_without_an_image_keeps_its_instructions():
    (record,) = read_lines({"instruction": "the cat", "id": "x"})
    assert (record.rejection.code, texts(record)) == (Reason.IMAGE_NOT_NAMED, ["the cat"])


def test_a_key_with_an_empty_value_is_passed_over():
    entry = {"image": "", "path": "a.jpg", "instructions": [], "caption": "the cat", "x": None}
    (record,) = read_lines(entry)
    assert (record.image.uri, texts(record)) == (f"{ROOT}/a.jpg", ["the cat"])
    assert record.meta_json is None


def test_a_key_of_the_record_comes_before_that_of_its_meta_and_other_meta_is_kept_whole():
    both, text = read_lines(
        {"image": "a.jpg", "camera": "own", "meta": {"camera": "meta", "lens": "meta"}},
        {"image": "a.jpg", "meta": "of no form"},
    )
    assert json.loads(both.meta_json) == {"camera": "own", "lens": "meta"}
    assert json.loads(text.meta_json) == {"meta": "of no form"}


def test_classes_of_a_record_are_those_of_the_defaults_too():
    (record,) = read_lines({"image": "a.jpg", "classes": ["cat"]})
    assert [each.classes for each in record.instructions] == [("cat",)]


def test_of_what_is_refused_as_much_is_kept_as_tells_what_it_was():
    image, asked = read_lines(
        {"image": f"s3://{'x' * 900}", "instruction": "the cat"},
        {"image": "a.jpg", "instruction": "x" * 5000},
    )
    assert image.image.uri == f"s3://{'x' * 495}"
    assert texts(asked) == ["x" * 200]


def test_what_is_wrong_with_the_image_is_told_before_what_is_wrong_with_the_question():
    for entry in ({"instruction": "</s>"}, {}):
        assert codes(read_lines(entry, defaults=())) == [Reason.IMAGE_NOT_NAMED]


def test_meta_that_is_no_json_or_too_long_does_no_harm():
    (record, long) = read_lines(
        '{"image": "a.jpg", "x": NaN}', {"image": "b.jpg", "x": "y" * 100_000}
    )
    assert json.loads(record.meta_json) == {"x": "NaN"}
    assert "dropped" in json.loads(long.meta_json)


# ---- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "roots", "uri"),
    [
        ("./sub/../a.jpg", (), f"{ROOT}/a.jpg"),
        (f"{ROOT}/x/a.jpg", (), f"{ROOT}/x/a.jpg"),
        ("../photos/a.jpg", ("mem://bucket",), "mem://bucket/photos/a.jpg"),
        ("s3://other/a.jpg", ("s3://other",), "s3://other/a.jpg"),
        ("s3://other/a.jpg", (ROOT, "s3://other"), "s3://other/a.jpg"),
        ("/data/a.jpg", ("/data",), "/data/a.jpg"),
        ("file:///data/a%20b.jpg", ("/data",), "/data/a b.jpg"),
        ("x" * MAX_ADDRESS_CHARS, (), f"{ROOT}/{'x' * MAX_ADDRESS_CHARS}"),
    ],
)
def test_an_address_under_a_root_is_read(path, roots, uri):
    (record,) = read_lines({"image": path}, roots=roots)
    assert (record.rejection, record.image.uri) == (None, uri)


def test_an_empty_instruction_is_none_and_no_other_thing_to_keep():
    (record,) = read_lines({"image": "a.jpg", "instruction": "", "note": ""})
    assert (record.instructions, record.meta_json) == (DEFAULTS, '{"note": ""}')


def test_a_root_that_is_named_twice_is_told_once():
    (record,) = read_lines({"image": "/elsewhere/a.jpg"}, roots=(ROOT, ROOT))
    assert record.rejection.message.count(ROOT) == 1


def test_the_folder_of_the_file_may_be_read_beside_the_roots_but_nothing_around_it():
    beside, root, outside = read_lines(
        {"image": "x/a.jpg"},
        {"image": "s3://other/a.jpg"},
        {"image": "../a.jpg"},
        roots=("s3://other",),
    )
    assert (beside.image.uri, root.image.uri) == (f"{ROOT}/x/a.jpg", "s3://other/a.jpg")
    assert codes([beside, root, outside]) == [None, None, Reason.IMAGE_REFUSED]


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jpg",
        "x/../../secret.jpg",
        "../../../../../etc/passwd",
        "/etc/passwd",
        "file:///etc/passwd",
        "mem://bucket/inside.jpg",
        f"{ROOT}/../secret.jpg",
        "s3://other/a.jpg",
        "http://169.254.169.254/latest/meta-data",
        "s3://",
        "s3:///x.jpg",
        "file://~nosuchuser/x.jpg",
        "file:///in/a%00.jpg",
        "https://example.org/a.jpg?X-Amz-Signature=SECRET",
        "ftp://example.org/a.jpg",
        "data:image/png;base64,AAAA/../../../x",
        "a\0.jpg",
        "\ud800.jpg",
        "x" * (MAX_ADDRESS_CHARS + 1),
        5,
        ["a.jpg"],
        {"path": "../a.jpg"},
    ],
)
def test_an_address_outside_the_roots_is_refused_with_a_reason(path):
    (record,) = read_lines({"image": path, "instruction": "the cat"})
    assert record.rejection.code == Reason.IMAGE_REFUSED
    assert "SECRET" not in f"{record}"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_of_an_address_of_the_web_the_way_out_is_told(scheme):
    (record,) = read_lines({"image": f"{scheme}://host/a.jpg"})
    assert "is on the web; copy the image into the bucket" in record.rejection.message


def test_the_image_of_a_refused_address_still_names_it():
    (record,) = read_lines({"image": "http://host/a.jpg"})
    assert record.image.uri == "http://host/a.jpg"


# ---- JSON lines ----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("after", ["first record", "last record"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.tar"])
def test_a_file_that_changes_while_it_is_read_fails(name, after):
    store = MemoryStore()
    put(store, name, CONTENTS[name])
    (shard,) = plan(store)
    records = read_records(shard, store, defaults=DEFAULTS)
    assert next(records).rejection is None
    if after == "last record":
        assert next(records).rejection is None
    put(store, name, CONTENTS[name] + b"\n")
    with pytest.raises(StorageError, match="changed since the run was planned"):
        list(records)


def test_a_list_of_images_that_was_cut_off_fails_and_makes_no_row():
    store = MemoryStore()
    for name in ("1.jpg", "2.jpg"):
        put(store, name, b"image")
    (shard,) = plan(store)
    whole = store.get(shard.uri)
    for cut in (whole[: whole.index(b"\n") + 1], whole[:-9]):
        store.put(shard.uri, cut)
        with pytest.raises(StorageError, match=r"cut off or changed\. Delete it"):
            list(read_records(shard, store, defaults=DEFAULTS))


def test_a_line_of_exactly_the_limit_is_read(monkeypatch):
    line = '{"image": "a.jpg"}'
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", len(line))
    assert codes(read_lines(line, line + " ")) == [None, Reason.RECORD_BROKEN]


def test_a_line_that_json_can_not_be_read_from_for_its_depth_is_a_row():
    assert codes(read_lines("[" * 100_000, {"image": "a.jpg"})) == [Reason.RECORD_BROKEN, None]


def test_row_groups_outside_of_the_shard_are_not_read():
    footer = pq.ParquetFile(io.BytesIO(parquet({"x": [*range(9)]}, row_group_size=3))).metadata
    assert parquet_reader._covering_groups(footer, 3, 6) == ([1], 3)


def test_a_source_id_is_cut_and_classes_of_an_instruction_come_before_those_of_the_record():
    asked = [{"text": "the cat", "classes": ["own"]}, "the dog"]
    (record,) = read_lines(
        {"id": "i" * 600, "image": "a.jpg", "instructions": asked, "classes": ["common"]}
    )
    assert record.source_id == "i" * 500
    assert [each.classes for each in record.instructions] == [("own",), ("common",)]


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


# ---- Parquet -------------------------------------------------------------------------------------


def parquet(table, **options):
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer, **options)
    return buffer.getvalue()


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
    monkeypatch.setattr(parquet_reader, "READ_BYTES", 10_000)
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


# ---- tar -----------------------------------------------------------------------------------------


def tar(*members, form=tarfile.PAX_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            else:
                member.type, member.linkname = data
                archive.addfile(member)
    return buffer.getvalue()


def read_archive(data, **options):
    store = MemoryStore()
    put(store, "a.tar", data)
    return read(store, **options)


def test_members_of_one_key_are_a_record():
    photos = load_photos()[:2]
    records = read_archive(
        tar(
            ("sub.jpg", (tarfile.DIRTYPE, "")),
            ("./sub/001.jpg", photos[0].data),
            ("./sub/001.txt", b"the cat\n\nthe dog\n"),
            ("./sub/001.json", b'{"caption": "a cat", "url": "http://x/y.jpg", "key": "1"}'),
            ("./sub/001.npy", b"ignored"),
            ("002.JPEG", photos[1].data),
            ("003.png", b"3"),
            ("003.json", b'["the bird"]'),
        )
    )
    first, second, third = records
    assert codes(records) == [None] * 3
    assert (first.source_id, first.image.member) == ("sub/001", "./sub/001.jpg")
    assert first.image.data == photos[0].data
    assert texts(first) == ["the cat", "the dog", "a cat"]
    assert json.loads(first.meta_json) == {"url": "http://x/y.jpg", "key": "1"}
    assert (second.source_id, texts(second)) == ("002", ["everything"])
    assert texts(third) == ["the bird"]


def test_a_key_that_comes_again_is_another_record():
    records = read_archive(tar(("a.jpg", b"1"), ("a.jpg", b"2"), ("b.jpg", b"3"), ("a.jpg", b"4")))
    assert [record.image.data for record in records] == [b"1", b"2", b"3", b"4"]


def test_a_member_with_a_line_break_in_its_name_is_read():
    store = MemoryStore()
    put(store, "a.tar", tar(("a\nb/c\nd.jpg", b"1")))
    assert [record.source_id for record in read(store)] == ["a\nb/c\nd"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_is_a_row_and_never_followed(kind):
    records = read_archive(
        tar(("a.jpg", (kind, "/etc/passwd")), ("a.txt", b"cat"), ("b.jpg", b"2"))
    )
    assert codes(records) == [Reason.MEMBER_NOT_A_FILE, None]
    assert records[0].image.data is None


SPARSE = {
    "old GNU": {"type": tarfile.GNUTYPE_SPARSE},
    "PAX": {"pax_headers": {"GNU.sparse.map": "0,0", "GNU.sparse.size": f"{10**7}"}},
}


@pytest.mark.parametrize("form", SPARSE)
def test_a_sparse_member_is_a_row_and_its_holes_are_never_filled(form):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a.jpg")
        for name, value in SPARSE[form].items():
            setattr(member, name, value)
        archive.addfile(member)
        archive.addfile(tarfile.TarInfo("b.jpg"))
    records = read_archive(buffer.getvalue())
    assert codes(records) == [Reason.MEMBER_NOT_A_FILE, None]
    assert "'a.jpg' is a link, a device or sparse" in records[0].rejection.message


def test_names_that_would_leave_the_folder_are_only_names():
    (record,) = read_archive(tar(("../../etc/cron.jpg", b"1")))
    assert (record.source_id, record.image.data) == ("../../etc/cron", b"1")


def test_a_sample_without_an_image_is_a_row():
    records = read_archive(tar(("a.txt", b"the cat"), ("b.jpg", b"2"), ("b.json", b"{oops")))
    assert codes(records) == [Reason.IMAGE_NOT_NAMED, Reason.RECORD_BROKEN]


def test_of_several_images_or_faults_of_a_sample_the_first_counts():
    link = (tarfile.SYMTYPE, "x")
    two, fault, faults = read_archive(
        tar(
            *(("a.jpg", b"1"), ("a.png", b"2")),
            ("b.json", b"{oops"),
            *(("c.jpg", link), ("c.json", b"{oops")),
        )
    )
    assert (two.image.member, two.image.data) == ("a.jpg", b"1")
    assert codes([fault, faults]) == [Reason.RECORD_BROKEN, Reason.MEMBER_NOT_A_FILE]


def test_more_instructions_than_go_are_counted_over_all_that_asks_them():
    lines, listed = b"the cat\n" * 600, json.dumps(["the dog"] * 600).encode()
    (record,) = read_archive(tar(("a.jpg", b"1"), ("a.txt", lines), ("a.json", listed)))
    assert "1,200 instructions for one image" in record.rejection.message


def test_members_that_are_too_large_are_rows(monkeypatch):
    monkeypatch.setattr(tar_reader, "MAX_IMAGE_BYTES", 10)
    records = read_archive(tar(("a.jpg", b"1" * 11), ("b.jpg", b"2" * 10)))
    assert codes(records) == [Reason.IMAGE_TOO_LARGE, None]


def test_an_archive_with_too_many_members_is_read_up_to_there(monkeypatch):
    monkeypatch.setattr(tar_reader, "MAX_MEMBERS", 3)
    records = read_archive(tar(*((f"{n}.jpg", b"1") for n in range(5))))
    assert codes(records)[-1] == Reason.SHARD_TOO_LONG
    assert 2 <= len(records) - 1 <= 3


def test_an_archive_that_is_cut_off_keeps_what_came_before():
    photos = load_photos()
    data = tar(*((f"{n}.jpg", photo.data) for n, photo in enumerate(photos)))
    whole = read_archive(data)
    assert codes(whole) == [None] * len(photos)
    for share in (0.05, 0.3, 0.6, 0.95):
        records = read_archive(data[: int(len(data) * share)])
        assert codes(records) == [None] * (len(records) - 1) + [Reason.SHARD_TRUNCATED]
        assert records[:-1] == whole[: len(records) - 1]


def test_a_member_that_is_cut_off_is_named():
    data = tar(("a.jpg", b"1" * 600), ("b.jpg", b"2" * 600))
    records = read_archive(data[: 512 + 1024 + 512 + 100])
    assert codes(records) == [None, Reason.SHARD_TRUNCATED]
    assert "no whole tar archive: member 'b.jpg' is cut off" in records[1].rejection.message


@pytest.mark.parametrize("good", [0, 1], ids=["first", "later"])
def test_an_extended_header_that_makes_no_sense_ends_the_archive_and_not_the_run(good):
    member = tarfile.TarInfo("b.jpg")
    member.pax_headers = {"GNU.sparse.map": "a,b"}
    data = tar(("a.jpg", b"1"))[: 1024 * good] + member.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
    records = read_archive(data)
    assert codes(records) == [*[None] * good, Reason.SHARD_TRUNCATED]
    assert "no whole tar archive: a header that can't be read" in records[-1].rejection.message


@pytest.mark.parametrize("name", ["b.jpg", "b"])
def test_a_header_that_claims_more_bytes_than_there_are_is_not_waited_for(name):
    """To step over 2**60 bytes piece by piece would take for ever."""
    member = tarfile.TarInfo(name)
    member.size = 2**60
    data = tar(("a.jpg", b"1"))[:1024] + member.tobuf(tarfile.GNU_FORMAT) + b"2" * 1024
    assert f"member '{name}' is cut off" in read_archive(data)[-1].rejection.message


def test_of_a_long_archive_only_the_header_at_hand_is_kept():
    data = tar(*((f"{n}.jpg", b"1") for n in range(20)))
    store = MemoryStore()
    put(store, "a.tar", data)
    (shard,) = plan(store)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as archive:
        kept = [len(archive.members) for _ in tar_reader._samples(archive, shard)]
    assert len(kept) == 20
    assert max(kept) <= 1


def test_an_archive_that_is_cut_off_between_members_is_told_from_a_whole_one():
    data = tar(("a.jpg", b"1" * 512), ("b.jpg", b"2" * 512))
    records = read_archive(data[: 2 * 512])
    assert codes(records) == [None, Reason.SHARD_TRUNCATED]


def test_archives_that_were_joined_are_told_from_a_whole_one():
    joined = tar(("a.jpg", b"1")) + tar(("b.jpg", b"2"))
    assert codes(read_archive(joined)) == [None, Reason.SHARD_TRUNCATED]


def test_a_damaged_header_ends_in_one_row():
    data = bytearray(tar(("a.jpg", b"1"), ("b.jpg", b"2")))
    data[1024:1100] = b"x" * 76
    assert codes(read_archive(bytes(data))) == [None, Reason.SHARD_TRUNCATED]
    assert codes(read_archive(b"no tar" * 1000)) == [Reason.SHARD_TRUNCATED]


# ---- plain folders of images ---------------------------------------------------------------------


def test_a_side_car_comes_before_the_folder_s_file_and_that_before_the_defaults():
    store = MemoryStore()
    for name in ("1.jpg", "cats/2.jpg", "cats/3.jpg", "cats/4.jpg", "dogs/5.jpg", "dogs/6.jpg"):
        put(store, name, b"image")
    put(store, "cats/_instructions.yaml", "- the cat\n- {text: its tail, id: tail}\n")
    put(store, "cats/2.txt", "the mouse\nthe cheese\n")
    put(store, "cats/3.json", '{"id": "three", "instruction": "the bird", "season": "spring"}')
    put(store, "cats/4.json", '{"season": "winter"}')
    put(store, "dogs/5.json", '["the bone"]')
    records = read(store)
    assert [texts(record) for record in records] == [
        ["everything"],
        ["the mouse", "the cheese"],
        ["the bird"],
        ["the cat", "its tail"],
        ["the bone"],
        ["everything"],
    ]
    assert [record.source_id for record in records] == [None, None, "three", None, None, None]
    assert json.loads(records[3].meta_json) == {"season": "winter"}
    assert records[1].image == ImageRef(
        f"{ROOT}/cats/2.jpg", None, store.stat(f"{ROOT}/cats/2.jpg").etag, None
    )


@pytest.mark.parametrize("text", ["[" * 100_000, "{oops", "\xff"])
def test_a_side_car_that_can_not_be_read_is_a_row(text):
    store = MemoryStore()
    put(store, "1.jpg", b"image")
    put(store, "1.json", text.encode("latin-1"))
    assert codes(read(store)) == [Reason.RECORD_BROKEN]


def test_a_side_car_may_be_written_on_windows():
    store = MemoryStore()
    put(store, "1.jpg", b"image")
    put(store, "1.TXT", "the cat\r\nthe dog\r\n".encode("utf-8-sig"))
    put(store, "2.jpg", b"image")
    put(store, "2.json", '["the bird"]\r\n'.encode("utf-8-sig"))
    assert [texts(record) for record in read(store)] == [["the cat", "the dog"], ["the bird"]]


def test_a_broken_folder_file_rejects_only_images_that_need_it():
    store = MemoryStore()
    for name in ("1.jpg", "2.jpg"):
        put(store, name, b"image")
    put(store, "_instructions.jsonl", '"the cat"\n{oops\n')
    put(store, "1.txt", "the mouse")
    first, second = read(store)
    assert (first.rejection, texts(first)) == (None, ["the mouse"])
    assert second.rejection.code == Reason.INSTRUCTION_INVALID
    assert "_instructions.jsonl, line 2" in second.rejection.message


@pytest.mark.parametrize("text", ["the cat", "</s>"])
def test_a_folder_file_is_read_once_for_a_shard_also_when_it_is_broken(text):
    class Counting(MemoryStore):
        got = ()

        def get(self, uri, start=0, length=None):
            self.got = (*self.got, uri)
            return super().get(uri, start, length)

    store = Counting()
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        put(store, name, b"image")
    put(store, "_instructions.txt", text)
    records = read(store)
    assert codes(records) == [None if text == "the cat" else Reason.INSTRUCTION_INVALID] * 3
    assert store.got.count(f"{ROOT}/_instructions.txt") == 1


def test_a_side_car_with_instructions_of_its_own_needs_no_folder_file():
    store = MemoryStore()
    put(store, "1.jpg", b"image")
    put(store, "1.json", '{"instructions": ["the mouse"]}')
    put(store, "_instructions.jsonl", "{oops")
    (record,) = read(store)
    assert (record.rejection, texts(record)) == (None, ["the mouse"])


def test_a_side_car_that_went_away_is_told():
    store = MemoryStore()
    put(store, "1.jpg", b"image")
    put(store, "1.txt", "the mouse")
    (shard,) = plan(store)
    store.delete(f"{ROOT}/1.txt")
    (record,) = read_records(shard, store, defaults=DEFAULTS)
    assert record.rejection.code == Reason.INSTRUCTION_INVALID
    assert record.image.uri == f"{ROOT}/1.jpg"


def test_a_folder_of_this_machine_is_read_in_order(tmp_path):
    for photo in load_photos():
        (tmp_path / "my photos").mkdir(exist_ok=True)
        (tmp_path / "my photos" / photo.name).write_bytes(photo.data)
    store = LocalStore()
    writer = write_listings_to(store, str(tmp_path / "_plans"))
    (shard,) = plan_shards(store, str(tmp_path), records_per_shard=50, listing_writer=writer).shards
    assert shard.kind is ShardKind.IMAGES
    records = list(read_records(shard, store, defaults=DEFAULTS))
    names = [under(record.image.uri, f"{tmp_path}/my photos") for record in records]
    assert names == sorted(photo.name for photo in load_photos())
    data = {photo.name: photo.data for photo in load_photos()}
    assert [fetch_image(r.image, store, 2**20) for r in records] == [data[name] for name in names]


def test_an_image_whose_name_is_no_text_becomes_a_row_that_names_it(tmp_path):
    store = LocalStore()
    photo = load_photos()[0].data
    for name in ("1.jpg", "caf\udce8.jpg", "caf\udce9.jpg"):  # Latin-1: bytes e8 and e9
        store.put(str(tmp_path / "in" / name), photo)
    store.put(str(tmp_path / "in" / "caf\udce9.txt"), b"\xff: neither is this UTF-8")
    writer = write_listings_to(store, str(tmp_path / "plans"))
    place = f"{tmp_path}/in"
    (shard,) = plan_shards(store, place, records_per_shard=9, listing_writer=writer).shards
    records = list(read_records(shard, store, defaults=DEFAULTS))
    assert codes(records) == [None, Reason.IMAGE_REFUSED, Reason.IMAGE_REFUSED]
    assert [under(record.image.uri, f"{tmp_path}/in") for record in records] == [
        "1.jpg",
        r"caf\xe8.jpg",
        r"caf\xe9.jpg",
    ]
    assert "rename it" in records[2].rejection.message
    rows = [row for each in records[1:] for row in rejected_rows(each, each.rejection, ATTEMPT)]
    part = write_part(rows, PartIdentity("run", shard.shard_id, "fingerprint"))
    assert {row.image_uri for row in read_part(part)} == {row.image_uri for row in rows}


@pytest.mark.parametrize("name", ["1.txt", "1.json", "_instructions.txt"])
def test_a_text_beside_images_is_refused_and_not_cut_when_it_is_too_long(name):
    store = MemoryStore()
    put(store, "1.jpg", b"image")
    put(store, name, b'"a"' + b" " * MAX_FILE_BYTES)  # cut to the limit, it would be valid
    (record,) = read(store)
    assert record.rejection.code in (Reason.RECORD_BROKEN, Reason.INSTRUCTION_INVALID)
    assert "1,048,57" in record.rejection.message


def test_every_form_is_read_from_a_real_s3_server(bucket):
    photos = load_photos()
    store, root = S3Store(), f"s3://{bucket}/my input"
    lines = "".join(json.dumps({"image": f"photos/{p.name}", "text": "x"}) + "\n" for p in photos)
    table = {"image": [{"bytes": p.data, "path": p.name} for p in photos], "text": ["x"] * 8}
    store.put(f"{root}/a.jsonl", lines.encode())
    store.put(f"{root}/b.jsonl.gz", gzip.compress(lines.encode()))
    store.put(f"{root}/c.parquet", parquet(table, row_group_size=3))
    store.put(f"{root}/d.tar", tar(*((f"{p.name}", p.data) for p in photos)))
    for photo in photos:
        store.put(f"{root}/photos/{photo.name}", photo.data)
    writer = write_listings_to(store, f"s3://{bucket}/plans")
    shards = plan_shards(store, root, records_per_shard=3, listing_writer=writer).shards
    found = [
        fetch_image(record.image, store, 2**20)
        for shard in shards
        for record in read_records(shard, store, defaults=DEFAULTS)
    ]
    assert found == [photo.data for photo in photos] * 4
    assert fetch_refusal(ImageRef(f"{root}/no.jpg", None, None, None), store) == (
        Reason.IMAGE_MISSING
    )


CONTENTS = {  # two records in each form
    "a.jsonl": b'{"image": "a.jpg"}\n{"image": "b.jpg"}\n',
    "a.jsonl.gz": gzip.compress(b'{"image": "a.jpg"}\n{"image": "b.jpg"}\n'),
    "a.parquet": parquet({"path": ["a.jpg", "b.jpg"]}),
    "a.tar": tar(("a.jpg", b"1"), ("b.jpg", b"1")),
}


# ---- fetching ------------------------------------------------------------------------------------


def fetch_refusal(image, store, limit=100):
    with pytest.raises(RecordRejected) as caught:
        fetch_image(image, store, limit)
    return caught.value.code


def test_an_image_that_is_not_there_is_a_rejection():
    assert fetch_refusal(ImageRef(f"{ROOT}/a.jpg", None, None, None), MemoryStore()) == (
        Reason.IMAGE_MISSING
    )


@pytest.mark.parametrize("inside", [True, False])
def test_an_image_that_is_too_large_is_a_rejection(inside):
    store = MemoryStore()
    put(store, "a.jpg", b"1" * 101)
    image = ImageRef(f"{ROOT}/a.jpg", None, None, b"1" * 101 if inside else None)
    assert fetch_refusal(image, store) == Reason.IMAGE_TOO_LARGE
    assert len(fetch_image(image, store, 101)) == 101


def test_a_folder_a_link_to_itself_and_an_endless_name_are_rejections(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    for name in ("folder.jpg", "loop.jpg", "x" * 300 + ".jpg"):
        image = ImageRef(str(tmp_path / name), None, None, None)
        assert fetch_refusal(image, LocalStore()) == Reason.IMAGE_MISSING


class FailingStore(MemoryStore):
    """A store whose reads fail in a given way."""

    def __init__(self, error: StorageError) -> None:
        super().__init__()
        self.error = error

    def get(self, uri: str, start: int = 0, length: int | None = None) -> bytes:
        raise self.error

    def stat(self, uri: str) -> ObjectInfo:
        return ObjectInfo(uri, 1000, "e")


@pytest.mark.parametrize("error", [StorageUnavailable("503"), AccessDenied("403")])
def test_trouble_of_the_store_is_no_fault_of_the_image(error):
    with pytest.raises(type(error)):
        fetch_image(ImageRef("s3://b/a.jpg", None, None, None), FailingStore(error), 100)


def test_a_file_of_this_machine_that_may_not_be_read_is_a_rejection():
    image = ImageRef("/data/a.jpg", None, None, None)
    assert fetch_refusal(image, FailingStore(AccessDenied("mode 000"))) == Reason.IMAGE_UNREADABLE


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.tar"])
def test_trouble_of_the_store_is_no_fault_of_the_shard(name):
    good = MemoryStore()
    put(good, name, CONTENTS[name])
    shard = replace(*plan(good), etag="e")
    with pytest.raises(StorageUnavailable):
        list(read_records(shard, FailingStore(StorageUnavailable("503")), defaults=DEFAULTS))
