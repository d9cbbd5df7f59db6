import io
import json
import tarfile

import pytest

from tests.photos import load_photos
from tests.records import codes, plan, put, read, tar, texts
from workers.errors import RecordRejected
from workers.records import tar as tar_reader
from workers.records.rejections import Reason
from workers.storage.memory import MemoryStore


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


def test_a_long_name_of_megabytes_is_not_read():
    member = tarfile.TarInfo("b" * 2**21 + ".jpg")
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        data = tar(("a.jpg", b"1"))[:1024] + member.tobuf(form) + bytes(1024)
        records = read_archive(data)
        assert codes(records) == [None, Reason.SHARD_TRUNCATED]
        assert "an extended header of 2,097," in records[-1].rejection.message


def test_long_names_of_long_names_end_the_archive_and_not_the_run():
    long = tarfile.TarInfo("b" * 200 + ".jpg").tobuf(tarfile.GNU_FORMAT)
    data = tar(("a.jpg", b"1"))[:1024] + long[:1024] * 2000 + bytes(1024)
    records = read_archive(data)
    assert codes(records) == [None, Reason.SHARD_TRUNCATED]


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


def test_the_files_of_an_archive_are_found_where_they_lie():
    photos = load_photos()[:3]
    long = "a" * 150 + ".jpg"  # has a header of its own
    data = tar(
        *((photo.name, photo.data) for photo in photos),
        ("link.jpg", (tarfile.SYMTYPE, photos[0].name)),
        (long, photos[0].data),
    )
    store = MemoryStore()
    store.put("mem://b/a.tar", data)
    found = dict(tar_reader.find_members("mem://b/a.tar", store))
    assert list(found) == [*(photo.name for photo in photos), long]
    for name, photo in [*((photo.name, photo) for photo in photos), (long, photos[0])]:
        place = found[name]
        assert data[place.offset : place.offset + place.size] == photo.data


def test_what_is_found_in_an_archive_that_is_cut_off_comes_before_the_error():
    photos = load_photos()[:2]
    store = MemoryStore()
    whole = tar(*((photo.name, photo.data) for photo in photos))
    store.put("mem://b/a.tar", whole[: len(photos[0].data) + 2000])
    members = tar_reader.find_members("mem://b/a.tar", store)
    assert next(members)[0] == photos[0].name
    with pytest.raises(RecordRejected, match=r"shard_truncated: 'mem://b/a.tar' is no whole tar"):
        list(members)
