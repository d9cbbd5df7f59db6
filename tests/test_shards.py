import gzip
import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from tempfile import SpooledTemporaryFile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.errors import PlanError, StorageUnavailable
from workers.shards import plan as planning
from workers.shards.borders import Border
from workers.shards.images import ImageLine
from workers.shards.inputs import find_inputs
from workers.shards.kinds import ShardKind
from workers.shards.listings import WaitingListings, write_listings_to
from workers.shards.plan import Shard, plan_shards
from workers.storage.local import LocalStore
from workers.storage.memory import MemoryStore
from workers.storage.objects import ObjectInfo
from workers.storage.s3 import S3Store
from workers.storage.uris import join_uri

ROOT = "mem://bucket/in"


def nowhere(_: bytes) -> str:
    return "mem://bucket/nowhere"


def plan(store, prefix=ROOT, records_per_shard=10, writer=nowhere, exclude=()):
    planned = plan_shards(
        store, prefix, records_per_shard=records_per_shard, listing_writer=writer, exclude=exclude
    )
    return list(planned.shards)


def store_of(*names):
    """A store with small files of these names below ROOT."""
    store = MemoryStore()
    for name in names:
        store.put(join_uri(ROOT, name), name.encode())
    return store


def planned_images(store, prefix=ROOT, records_per_shard=10, **options):
    """The lines of all shards, read as a worker reads them."""
    writer = write_listings_to(store, "mem://bucket/plans")
    found = plan(store, prefix, records_per_shard, writer, **options)
    assert {shard.kind for shard in found} == {ShardKind.IMAGES}
    lines = [json.loads(line) for s in found for line in read(store, s).splitlines()]
    assert len(lines) == sum(shard.count for shard in found)
    return lines


def read(store, shard: Shard) -> bytes:
    return store.get(shard.uri, shard.offset, None if shard.length == -1 else shard.length)


def names(lines):
    return [line["image"].removeprefix(ROOT + "/") for line in lines]


def jsonl(numbers) -> bytes:
    return b"".join(b'{"image": "%05d.jpg", "instruction": "the cat"}\n' % n for n in numbers)


# Files


@pytest.mark.parametrize("name", ["a.tar", "a.parquet"])
def test_a_file_of_equal_size_with_other_content_makes_other_shards(name):
    store, ids = MemoryStore(), []
    for number in (1, 2):
        sink = io.BytesIO()
        pq.write_table(pa.table({"x": [number]}), sink)
        store.put(f"{ROOT}/{name}", sink.getvalue())
        ids.append((store.stat(f"{ROOT}/{name}").size, plan(store)[0].shard_id))
    assert ids[0][0] == ids[1][0]
    assert ids[0][1] != ids[1][1]


def test_no_shard_is_longer_than_the_limit():
    border = Border(1_000_003)  # a prime: its chance before the limit is next to nothing
    assert not border.before(b"x", border.limit - 1)
    assert border.before(b"x", border.limit)


# Outputs of earlier runs


@pytest.mark.parametrize("mark", ["_commits", "_runs"])
def test_an_earlier_output_inside_the_input_is_no_input(mark):
    store = store_of(
        "a.jpg",
        "deep/labels_v1/_plans/x.jsonl",
        f"deep/labels_v1/{mark}/x.json",
        "deep/labels_v1/labels/run/x.parquet",
        "deep/labels_v1/labels/run/x.jpg",
        "labels/mine.jpg",
        "z.jpg",
    )
    assert names(planned_images(store)) == ["a.jpg", "labels/mine.jpg", "z.jpg"]


# JSONL


def test_the_ranges_of_a_jsonl_file_join_to_the_file_and_count_its_records():
    store = MemoryStore()
    text = jsonl(range(57)) + b"\n  \r\n" + jsonl(range(57, 100)) + b'{"image": "last"}'
    store.put(f"{ROOT}/a.jsonl", text)
    found = plan(store)
    assert b"".join(read(store, shard) for shard in found) == text
    assert all(5 <= shard.count <= 10 for shard in found[:-1])
    at = 0
    for shard in found:
        lines = [line for line in read(store, shard).splitlines() if line.strip()]
        assert (shard.first, shard.count) == (at, len(lines))
        assert shard.source == shard.uri == f"{ROOT}/a.jsonl"
        at += shard.count
    assert at == 101


def test_the_same_input_gives_the_same_plan_and_ids_are_of_20_hex_digits():
    store = MemoryStore()
    store.put(f"{ROOT}/a.jsonl", jsonl(range(100)))
    assert plan(store) == plan(store)
    assert all(len(s.shard_id) == 20 and int(s.shard_id, 16) >= 0 for s in plan(store))


@pytest.mark.parametrize("change", ["insert", "delete", "replace", "append", "prepend"])
def test_a_change_of_one_line_in_a_thousand_changes_few_shards(change):
    store, numbers = MemoryStore(), list(range(1_000))
    store.put(f"{ROOT}/a.jsonl", jsonl(numbers))
    before = {shard.shard_id for shard in plan(store, records_per_shard=20)}
    if change == "delete":
        del numbers[500]
    elif change == "replace":
        numbers[500] = 99_999
    else:
        numbers.insert({"insert": 500, "append": 1_000, "prepend": 0}[change], 99_999)
    store.put(f"{ROOT}/a.jsonl", jsonl(numbers))
    after = {shard.shard_id for shard in plan(store, records_per_shard=20)}
    assert 1 <= len(after - before) <= 5
    assert len(before) >= 50


def test_the_same_lines_twice_in_a_file_are_two_shards():
    store = MemoryStore()
    store.put(f"{ROOT}/a.jsonl", b'{"image": "same.jpg"}\n' * 100)
    found = plan(store)
    assert len({shard.shard_id for shard in found}) == len(found) >= 10


def test_the_same_lines_in_two_files_are_shards_of_two_sources():
    store = MemoryStore()
    store.put(f"{ROOT}/a.jsonl", jsonl(range(5)))
    store.put(f"{ROOT}/b.ndjson", jsonl(range(5)))
    first, second = plan(store)
    assert first.shard_id != second.shard_id
    assert [first.source, second.source] == [f"{ROOT}/a.jsonl", f"{ROOT}/b.ndjson"]


@pytest.mark.parametrize("other", ["cut", "windows"])
def test_the_ends_of_lines_move_no_border(other):
    """Whoever adds a line behind a last one without an end finds the shards before as they were."""
    store = MemoryStore()
    for count in range(1, 80):
        text = jsonl(range(count))
        ended = text[:-1] if other == "cut" else text.replace(b"\n", b"\r\n")
        store.put(f"{ROOT}/a.jsonl", text)
        expected = [shard.count for shard in plan(store)]
        store.put(f"{ROOT}/a.jsonl", ended)
        assert [shard.count for shard in plan(store)] == expected


def test_a_line_longer_than_a_piece_is_one_record(monkeypatch):
    monkeypatch.setattr(planning, "PIECE_BYTES", 16)
    store = MemoryStore()
    text = b'{"x": "%s"}\n' % (b"y" * 1_000) * 7
    store.put(f"{ROOT}/a.jsonl", text)
    (shard,) = plan(store, records_per_shard=1_000)
    assert (shard.count, shard.offset, shard.length) == (7, 0, len(text))


def test_one_record_a_shard_is_possible_and_none_is_not():
    store = MemoryStore()
    store.put(f"{ROOT}/a.jsonl", jsonl(range(7)))
    assert [shard.count for shard in plan(store, records_per_shard=1)] == [1] * 7
    with pytest.raises(PlanError, match="0"):
        plan(store, records_per_shard=0)


# Whole files and Parquet


def test_a_compressed_jsonl_file_and_a_tar_are_whole_shards_that_change_with_their_etag():
    store = MemoryStore()
    store.put(f"{ROOT}/a.jsonl.gz", gzip.compress(jsonl(range(100))))
    with tarfile.open(fileobj=(raw := io.BytesIO()), mode="w"):
        pass
    store.put(f"{ROOT}/b.TAR", raw.getvalue())
    gz, tar = plan(store)
    assert (gz.kind, tar.kind) == (ShardKind.JSONL, ShardKind.TAR)
    assert [(s.first, s.count, s.offset, s.length) for s in (gz, tar)] == [(0, -1, 0, -1)] * 2
    store.put(f"{ROOT}/a.jsonl.gz", gzip.compress(jsonl(range(101))))
    assert plan(store)[0].shard_id != gz.shard_id
    assert plan(store)[1] == tar


def parquet(rows: int, group: int) -> bytes:
    table = pa.table({"id": list(range(rows)), "image": [os.urandom(1_000) for _ in range(rows)]})
    pq.write_table(table, raw := io.BytesIO(), row_group_size=group, use_dictionary=False)
    return raw.getvalue()


@pytest.mark.parametrize(
    ("rows", "group", "expected"),
    [
        (95, 10, [30, 30, 30, 5]),
        (95, 20, [20, 20, 20, 20, 15]),
        (95, 1_000, [30, 30, 30, 5]),
        (70, 35, [30, 5, 30, 5]),
        (30, 30, [30]),
        (90, 15, [30, 30, 30]),
    ],
)
def test_row_groups_are_joined_up_to_the_limit_and_a_larger_one_is_divided(rows, group, expected):
    store = MemoryStore()
    store.put(f"{ROOT}/a.parquet", parquet(rows, group))
    found = plan(store, records_per_shard=30)
    assert [shard.count for shard in found] == expected
    assert [shard.first for shard in found] == [sum(expected[:i]) for i in range(len(expected))]
    assert len({shard.shard_id for shard in found}) == len(found)


def test_of_a_parquet_file_only_the_footer_is_read(monkeypatch):
    monkeypatch.setattr("workers.storage.objects.READ_AHEAD_BYTES", 1_000)

    class Counting(MemoryStore):
        read = 0

        def get(self, uri, start=0, length=None):
            data = super().get(uri, start, length)
            if length is not None:
                self.read += len(data)
            return data

    store = Counting()
    size = store.put(f"{ROOT}/a.parquet", parquet(2_000, 500)).size
    assert sum(shard.count for shard in plan(store)) == 2_000
    assert store.read < 80_000 < 2_000_000 < size


@pytest.mark.parametrize("content", [b"", b"PAR1 and nonsense" * 10, parquet(50, 10)[:-9]])
def test_a_damaged_parquet_file_is_one_shard_and_stops_no_plan(content):
    store = MemoryStore()
    store.put(f"{ROOT}/a.parquet", parquet(30, 30))
    store.put(f"{ROOT}/b.parquet", content)
    assert [shard.count for shard in plan(store, records_per_shard=30)] == [30, -1]


# Images


def test_images_are_listed_in_order_and_other_things_are_not():
    inputs = ["b/2.PNG", "b/10.webp", "a.jpg", "a b%20é.jpeg", "x.tiff"]
    others = [
        ".hidden.jpg",
        "_skip.jpg",
        "_dir/1.jpg",
        ".git/1.jpg",
        "b/_x/y.jpg",
        "a.pdf",
        "notes",
    ]
    lines = planned_images(store_of(*inputs, *others))
    assert names(lines) == sorted(inputs)
    assert all(line["sidecar"] is line["instructions"] is None for line in lines)


def test_a_line_has_what_identifies_the_image_and_what_is_asked_of_it():
    store = store_of("a/1.jpg", "a/1.txt", "_instructions.yaml")
    (line,) = planned_images(store)
    image, text, asked = (
        store.stat(f"{ROOT}/{name}") for name in ("a/1.jpg", "a/1.txt", "_instructions.yaml")
    )
    assert line == {
        "image": image.uri,
        "etag": image.etag,
        "size": image.size,
        "sidecar": text.uri,
        "sidecar_etag": text.etag,
        "instructions": asked.uri,
        "instructions_etag": asked.etag,
    }


def test_a_sidecar_belongs_to_its_stem_and_json_goes_before_txt():
    store = store_of(
        *("1.jpg", "1.json", "1.txt", "1.k.jpg", "1.k.txt", "1.png", "10.jpg", "2.jpg", "2.l.txt"),
        *("a/1.jpg", "a.txt", "3.jpg", "3.TXT", "0.txt"),
    )
    found = {
        line["image"].removeprefix(ROOT + "/"): (line["sidecar"] or "").removeprefix(ROOT + "/")
        for line in planned_images(store)
    }
    assert found == {
        "1.jpg": "1.json",
        "1.png": "1.json",
        "1.k.jpg": "1.k.txt",
        "10.jpg": "",
        "2.jpg": "",
        "3.jpg": "3.TXT",
        "a/1.jpg": "",
    }
    order = ["1.k.jpg", "1.jpg", "1.png", "10.jpg", "2.jpg", "3.jpg", "a/1.jpg"]
    assert list(found) == order, "a stem is done when the last name that begins with it is past"


def test_the_nearest_instructions_count_up_to_the_root_and_yaml_goes_before_jsonl():
    store = store_of(
        *("a/b/c/1.jpg", "a/b/_instructions.txt", "a/2.jpg", "a/_instructions.jsonl", "z/3.jpg"),
        *("a/_instructions.yaml", "y/4.jpg", "y/_instructions.txt", "ab/5.jpg"),
    )
    store.put("mem://bucket/_instructions.txt", b"above the root")
    found = {line["image"][-5:-4]: line["instructions"] for line in planned_images(store)}
    assert found == {
        "1": f"{ROOT}/a/b/_instructions.txt",
        "2": f"{ROOT}/a/_instructions.yaml",
        "3": None,
        "4": f"{ROOT}/y/_instructions.txt",
        "5": None,
    }


def test_images_beside_a_file_that_lists_records_are_not_planned_by_themselves():
    store = store_of("a/1.jpg", "z/2.jpg")
    store.put(f"{ROOT}/metadata.jsonl", jsonl(range(3)))
    found = plan_shards(store, ROOT, records_per_shard=5, listing_writer=str)
    assert [shard.kind for shard in found.shards] == [ShardKind.JSONL]
    assert (found.images, found.beside, found.first_beside) == (0, 2, f"{ROOT}/a/1.jpg")


def test_one_image_in_a_thousand_more_changes_few_shards():
    store = store_of(*(f"{i % 7}/{i:04d}.jpg" for i in range(1_000)))
    before = {shard.shard_id for shard in plan(store, records_per_shard=20)}
    store.put(f"{ROOT}/3/0500b.jpg", b"new")
    after = {shard.shard_id for shard in plan(store, records_per_shard=20)}
    assert 1 <= len(after - before) <= 5
    store.delete(f"{ROOT}/3/0500b.jpg")
    assert {shard.shard_id for shard in plan(store, records_per_shard=20)} == before


def test_a_changed_image_sidecar_or_instruction_changes_only_the_shards_that_use_it():
    images = [f"{folder}/{i:03d}.jpg" for folder in "ab" for i in range(100)]
    store = store_of(*images, "a/050.txt", "b/_instructions.txt")

    def changed(name, content):
        before = {shard.shard_id: shard for shard in plan(store)}
        store.put(f"{ROOT}/{name}", content)
        after = plan(store)
        assert len(after) == len(before), "a change of content moves no border"
        return sum(shard.shard_id not in before for shard in after)

    shards_of_a = len(plan(store, f"{ROOT}/a"))
    assert changed("a/007.jpg", b"other") == 1
    assert changed("a/050.txt", b"other") == 1
    assert shards_of_a - 1 <= changed("b/_instructions.txt", b"other") <= shards_of_a + 5


def test_a_listing_object_has_a_bounded_size_and_the_shards_in_it_their_ranges(monkeypatch):
    monkeypatch.setattr(planning, "LISTING_BYTES", 10_000)
    monkeypatch.setattr("workers.shards.inputs.SPOOL_BYTES", 1_000)
    store = store_of(*(f"{i:04d}.jpg" for i in range(500)))
    sizes = []

    def write(text):
        sizes.append(len(text))
        return write_listings_to(store, "mem://bucket/plans")(text)

    found = plan(store, writer=write)
    assert max(sizes) <= 10_000
    assert len(sizes) < len(found) / 2
    lines = [line for shard in found for line in read(store, shard).splitlines()]
    assert names(map(json.loads, lines)) == [f"{i:04d}.jpg" for i in range(500)]
    assert [shard.first for shard in found] == [
        sum(shard.count for shard in found[:i]) for i in range(len(found))
    ]
    assert sum(shard.size for shard in found) == sum(i.size for i in store.list(ROOT))


def test_planning_again_writes_the_same_listings_and_a_dry_run_gives_the_same_ids():
    store = store_of(*(f"{i:04d}.jpg" for i in range(50)))
    first = plan(store, writer=write_listings_to(store, "mem://bucket/plans"))
    objects = list(store.list("mem://bucket/plans"))
    assert plan(store, writer=write_listings_to(store, "mem://bucket/plans")) == first
    assert list(store.list("mem://bucket/plans")) == objects
    assert [shard.shard_id for shard in plan(store)] == [shard.shard_id for shard in first]


def test_a_listing_that_is_there_already_is_left_alone():
    class Counting(MemoryStore):
        puts = 0

        def put(self, uri, data):
            self.puts += 1
            return super().put(uri, data)

    store = Counting()
    write = write_listings_to(store, "mem://bucket/plans")
    assert write(b"a") == write(b"a") != write(b"b")
    assert store.puts == 2


def test_what_a_plan_lists_waits_until_it_is_stored(monkeypatch):
    monkeypatch.setattr(planning, "LISTING_BYTES", 1_000)
    monkeypatch.setattr("workers.shards.listings.SPOOL_BYTES", 2_000)
    store = store_of(*(f"{i:04d}.jpg" for i in range(50)))
    lists = WaitingListings("mem://bucket/later")
    found = plan(store, writer=lists.keep)
    assert list(store.list("mem://bucket/later")) == []
    lists.store_in(store)
    stored = {info.uri for info in store.list("mem://bucket/later")}
    assert stored == {shard.uri for shard in found}
    assert len(stored) > 1
    lines = [line for shard in found for line in read(store, shard).splitlines()]
    assert names(map(json.loads, lines)) == [f"{i:04d}.jpg" for i in range(50)]
    assert found == plan(store, writer=write_listings_to(store, "mem://bucket/later"))


def test_a_line_of_a_listing_is_read_back_and_its_form_never_changes():
    image = ObjectInfo("/in/caf\udce9.jpg", 7, "e")
    texts = ObjectInfo("/in/_instructions.txt", 3, "t")
    line = ImageLine.of(image, None, texts)
    assert ImageLine.from_json(line.to_json()) == line
    # the digests of these bytes are the names of shards that are committed already
    assert line.to_json() == (
        b'{"image":"/in/caf\\udce9.jpg","etag":"e","size":7,"sidecar":null,"sidecar_etag":null,'
        b'"instructions":"/in/_instructions.txt","instructions_etag":"t"}\n'
    )


# The input as a whole


def test_a_listing_that_fails_leaves_no_file_open(monkeypatch):
    spools = []

    class Spool(SpooledTemporaryFile):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            spools.append(self)

    class Breaking(MemoryStore):
        def list(self, prefix):
            yield ObjectInfo(f"{ROOT}/1.jpg", 1, "e")
            raise StorageUnavailable("503")

    monkeypatch.setattr("workers.shards.inputs.SpooledTemporaryFile", Spool)
    with pytest.raises(StorageUnavailable):
        find_inputs(Breaking(), ROOT)
    assert [file.closed for file in spools] == [True]


@pytest.mark.parametrize("name", ["caf\udce9.jsonl", "caf\udce9/a.parquet", "caf\udce9.tar"])
def test_a_file_of_records_whose_name_is_no_text_is_named_before_anything_begins(tmp_path, name):
    LocalStore().put(str(tmp_path / name), jsonl(range(3)))
    with pytest.raises(PlanError, match=r"caf\\udce9.*rename it") as caught:
        plan(LocalStore(), str(tmp_path))
    assert str(caught.value).isascii()


def test_a_single_file_is_an_input():
    store = store_of("a/1.jpg", "a/1.txt", "a/_instructions.txt", "a/2.jpg", "_instructions.txt")
    (line,) = planned_images(store, f"{ROOT}/a/1.jpg")
    assert (line["sidecar"], line["instructions"]) == (
        f"{ROOT}/a/1.txt",
        f"{ROOT}/a/_instructions.txt",
    )
    store.put(f"{ROOT}/b.jsonl", jsonl(range(3)))
    (shard,) = plan(store, f"{ROOT}/b.jsonl")
    assert (shard.kind, shard.count) == (ShardKind.JSONL, 3)


def test_a_folder_may_be_named_like_a_file():
    lines = planned_images(store_of("photos.jpg/1.jpg"), f"{ROOT}/photos.jpg")
    assert names(lines) == ["photos.jpg/1.jpg"]


def test_an_output_inside_the_input_is_no_input():
    store = store_of("1.jpg", "_plans/run/x.jsonl", "_commits/run/x.json")
    store.put(f"{ROOT}/labels/run/x.parquet", parquet(5, 5))
    assert names(planned_images(store, exclude=[f"{ROOT}/labels"])) == ["1.jpg"]
    assert names(planned_images(store)) == ["1.jpg"], "its `_commits` tell what it is"


@pytest.mark.parametrize(
    ("names_there", "message"),
    [
        ((), r"Nothing else is there either"),
        (("a.pdf", "b.docx"), r"Other things are there: 'mem://bucket/in/a\.pdf'"),
        (("a.txt", "_x.jpg"), r"no image \(bmp, gif"),
    ],
)
def test_where_there_is_nothing_to_label_the_message_says_what_was_looked_for(names_there, message):
    with pytest.raises(PlanError, match=message):
        plan(store_of(*names_there))


def test_a_folder_that_is_not_there_is_told_from_an_empty_one(tmp_path):
    with pytest.raises(PlanError, match=r"there is no file or folder .*photo_s'"):
        plan(LocalStore(), f"{tmp_path}/photo_s")
    with pytest.raises(PlanError, match="nothing to label under"):
        plan(LocalStore(), str(tmp_path))


def test_an_input_that_is_a_file_of_no_known_form_is_not_said_to_be_missing():
    with pytest.raises(PlanError, match=r"Other things are there: 'mem://bucket/in/a\.heic'"):
        plan(store_of("a.heic"), f"{ROOT}/a.heic")


def test_files_without_records_are_nothing_to_label():
    store = MemoryStore()
    store.put(f"{ROOT}/a.jsonl", b" \n\n")
    with pytest.raises(PlanError, match=r"hold no records.*a\.jsonl"):
        plan(store)


def test_a_local_folder_is_planned_like_a_bucket(tmp_path: Path, bucket):
    inputs = ["b/2.png", "b/2.txt", "b-c/1.jpg", "_instructions.txt", "a.jpg", "b.k.jpg"]
    found = []
    for store, root in ((LocalStore(), str(tmp_path)), (S3Store(), f"s3://{bucket}/in")):
        for name in inputs:
            store.put(join_uri(root, name), name.encode())
        pieces = []
        plan(store, root, writer=lambda text, pieces=pieces: pieces.append(text) or "")
        lines = [json.loads(line) for line in b"".join(pieces).splitlines()]
        found.append(
            [
                [(line[key] or "").removeprefix(root) for key in ("image", "sidecar")]
                for line in lines
            ]
        )
        assert Counter(line["instructions"] for line in lines) == {f"{root}/_instructions.txt": 4}
    assert found[0] == found[1]
    assert [image for image, _ in found[0]] == ["/a.jpg", "/b-c/1.jpg", "/b.k.jpg", "/b/2.png"]
