import json

import pytest

from tests.labels import ATTEMPT
from tests.photos import load_photos
from tests.records import DEFAULTS, ROOT, codes, plan, put, read, texts
from workers.errors import StorageError
from workers.labels.rows import rejected_rows
from workers.labels.table import PartIdentity, read_part, write_part
from workers.records.instructions import MAX_FILE_BYTES
from workers.records.reading import fetch_image, read_records
from workers.records.record import ImageRef
from workers.records.rejections import Reason
from workers.shards.kinds import ShardKind
from workers.shards.listings import write_listings_to
from workers.shards.plan import plan_shards
from workers.storage.local import LocalStore
from workers.storage.memory import MemoryStore
from workers.storage.uris import under


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
