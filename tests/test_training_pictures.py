import hashlib
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.photos import load_photos
from tests.records import parquet, tar
from tests.training_tables import PHOTOS, photo_rows, put_photos
from workers.errors import AccessDenied, StorageUnavailable
from workers.records.pictures import PictureLimits
from workers.records.record import ImageRef
from workers.storage.memory import MemoryStore
from workers.storage.stores import Anywhere
from workers.training.examples import Skipped, read_example
from workers.training.pictures import Pictures

PHOTO = load_photos()[1]
EXAMPLE = read_example(photo_rows(1)[1])


@pytest.fixture
def store():
    store = MemoryStore()
    put_photos(store)
    return store


def open_with(store, example=EXAMPLE, limits=None):
    return Pictures(store, limits or PictureLimits()).open(example)


def at(uri, member=None):
    return replace(EXAMPLE, image=ImageRef(uri, member, None, None))


def reason(store, example=EXAMPLE, limits=None):
    skipped = open_with(store, example, limits)
    assert isinstance(skipped, Skipped)
    assert skipped.item_id == example.item_id
    return skipped.reason


def test_the_picture_is_the_one_that_was_labelled(store):
    picture = open_with(store)
    assert np.array_equal(picture.rgb, PHOTO.rgb)
    assert (picture.height, picture.width) == EXAMPLE.size


def test_a_file_that_is_gone_broken_or_too_large_has_its_reason(store):
    assert reason(store, limits=PictureLimits(max_bytes=1000)) == "image_too_large"
    store.put(EXAMPLE.image.uri, PHOTO.data[:-2000])
    assert reason(store) == "image_broken"
    store.put(EXAMPLE.image.uri, b"nothing")
    assert reason(store) == "image_unknown_format"
    store.delete(EXAMPLE.image.uri)
    assert reason(store) == "image_missing"


@pytest.mark.parametrize("uri", ["", "http://example.org/a.jpg", "ftp://example.org/a.jpg"])
def test_an_address_that_no_store_is_for_is_refused(uri):
    assert reason(Anywhere(), at(uri)) == "image_refused"


def test_a_file_that_was_replaced_is_as_good_as_gone(store):
    store.put(EXAMPLE.image.uri, load_photos()[4].data)  # of the same size
    assert load_photos()[4].rgb.shape == PHOTO.rgb.shape
    assert reason(store) == "image_replaced"


def test_a_picture_of_another_size_than_the_row_says_is_refused(store):
    height, width = EXAMPLE.size
    assert reason(store, replace(EXAMPLE, size=(width, height))) == "image_resized"


def test_the_size_is_that_of_the_upright_picture(store):
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # lies on its side
    Image.fromarray(PHOTO.rgb).save(out, "JPEG", exif=exif)
    store.put(EXAMPLE.image.uri, out.getvalue())
    height, width = EXAMPLE.size
    digest = hashlib.sha256(out.getvalue()).hexdigest()
    assert reason(store, replace(EXAMPLE, image_sha256=digest)) == "image_resized"
    upright = open_with(store, replace(EXAMPLE, image_sha256=digest, size=(width, height)))
    assert upright.rgb.shape[:2] == (width, height)


@pytest.mark.parametrize("trouble", [StorageUnavailable("busy"), AccessDenied("no key")])
def test_trouble_of_the_store_is_no_reason_to_pass_an_example_over(trouble):
    class Troubled(MemoryStore):
        def get(self, *_):
            raise trouble

    store = Troubled()
    store.put("s3://b/a.tar", tar(("a.jpg", PHOTO.data)))
    with pytest.raises(type(trouble)):
        open_with(store)
    with pytest.raises(type(trouble)):
        open_with(store, at("s3://b/a.tar", "a.jpg"))


class CountingStore(MemoryStore):
    def __init__(self):
        super().__init__()
        self.read = 0

    def get(self, uri, start=0, length=None):
        data = super().get(uri, start, length)
        self.read += len(data)
        return data


def test_a_picture_in_an_archive_is_read_from_its_place_once_that_is_known():
    store = CountingStore()
    members = [(f"{photo.name}", photo.data) for photo in load_photos()]
    store.put("s3://b/a.tar", tar(*members, (f"{PHOTO.name}.json", b"{}")))
    pictures = Pictures(store, PictureLimits())
    assert np.array_equal(pictures.open(at("s3://b/a.tar", PHOTO.name)).rgb, PHOTO.rgb)
    store.read = 0
    assert np.array_equal(pictures.open(at("s3://b/a.tar", PHOTO.name)).rgb, PHOTO.rgb)
    assert store.read == len(PHOTO.data)


def test_of_many_archives_those_that_were_read_last_are_remembered(monkeypatch):
    monkeypatch.setattr("workers.training.pictures.MEMBERS", 3)
    store = CountingStore()
    for name in "abc":
        store.put(f"s3://b/{name}.tar", tar(("x.jpg", PHOTO.data), ("y.jpg", PHOTO.data[:9])))
    pictures = Pictures(store, PictureLimits())

    def read(name):
        store.read = 0
        assert np.array_equal(pictures.open(at(f"s3://b/{name}.tar", "x.jpg")).rgb, PHOTO.rgb)
        return store.read == len(PHOTO.data)

    assert [read(name) for name in "aabba"] == [False, True, False, True, False]


def test_of_two_members_with_one_name_the_labelled_one_is_found(store):
    other = load_photos()[0]
    store.put("s3://b/a.tar", tar(("x.jpg", other.data), ("x.jpg", PHOTO.data)))
    assert np.array_equal(open_with(store, at("s3://b/a.tar", "x.jpg")).rgb, PHOTO.rgb)


def test_what_lies_before_the_damage_of_an_archive_is_found(store):
    whole = tar(("x.jpg", PHOTO.data), ("y.jpg", load_photos()[0].data))
    store.put("s3://b/a.tar", whole[: len(PHOTO.data) + 3000])
    assert np.array_equal(open_with(store, at("s3://b/a.tar", "x.jpg")).rgb, PHOTO.rgb)
    assert reason(store, at("s3://b/a.tar", "z.jpg")) == "image_replaced"


def test_an_archive_or_table_that_is_gone_has_its_reason(store):
    for name in ("gone.tar", "gone.parquet"):
        assert reason(store, at(f"s3://b/{name}", "0")) == "image_missing"


def test_a_picture_in_a_parquet_file_is_found_by_its_row(store):
    images = [{"bytes": photo.data, "path": photo.name} for photo in load_photos()]
    store.put("s3://b/a.parquet", parquet({"image": images}, row_group_size=3))
    found = open_with(store, at("s3://b/a.parquet", f"1/{PHOTO.name}"))
    assert np.array_equal(found.rgb, PHOTO.rgb)
    for member in ("2", "8", "-1", "x"):
        assert reason(store, at("s3://b/a.parquet", member)) == "image_replaced"


def test_the_photos_of_the_table_are_where_the_rows_say(store):
    for row, photo in zip(photo_rows(1), load_photos(), strict=True):
        assert row.image_uri == f"{PHOTOS}/{photo.name}"
        assert np.array_equal(open_with(store, read_example(row)).rgb, photo.rgb)
