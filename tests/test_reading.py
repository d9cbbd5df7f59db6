import gzip
import json
from dataclasses import replace

import pytest

from tests.photos import load_photos
from tests.records import CONTENTS, DEFAULTS, ROOT, parquet, plan, put, tar
from workers.errors import AccessDenied, RecordRejected, StorageError, StorageUnavailable
from workers.records.reading import fetch_image, read_records
from workers.records.record import ImageRef
from workers.records.rejections import Reason
from workers.shards.listings import write_listings_to
from workers.shards.plan import plan_shards
from workers.storage.local import LocalStore
from workers.storage.memory import MemoryStore
from workers.storage.objects import ObjectInfo
from workers.storage.s3 import S3Store


def fetch_refusal(image, store, limit=100):
    with pytest.raises(RecordRejected) as caught:
        fetch_image(image, store, limit)
    return caught.value.code


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


@pytest.mark.parametrize("after", ["first record", "last record"])
@pytest.mark.parametrize("name", CONTENTS)
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


@pytest.mark.parametrize("name", CONTENTS)
def test_trouble_of_the_store_is_no_fault_of_the_shard(name):
    good = MemoryStore()
    put(good, name, CONTENTS[name])
    shard = replace(*plan(good), etag="e")
    with pytest.raises(StorageUnavailable):
        list(read_records(shard, FailingStore(StorageUnavailable("503")), defaults=DEFAULTS))
