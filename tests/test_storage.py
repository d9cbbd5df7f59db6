import errno
import io
import os
import pickle
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.trouble import Trouble
from workers.errors import (
    AccessDenied,
    CallerUnknown,
    ConditionUnsupported,
    ObjectMissing,
    SettingsError,
    StorageError,
    StorageUnavailable,
)
from workers.storage import objects
from workers.storage.local import LocalStore
from workers.storage.memory import MemoryStore
from workers.storage.objects import Store
from workers.storage.s3 import S3Store
from workers.storage.stores import open_store
from workers.storage.uris import BUCKET_SCHEMES, join_uri, normalise_uri, redact, shown, under


@pytest.fixture(params=["local", "memory", "s3"])
def place(request, tmp_path) -> tuple[Store, str]:
    """A store of each kind and an empty folder in it."""
    if request.param == "local":
        return LocalStore(), str(tmp_path)
    if request.param == "memory":
        return MemoryStore(), "mem://bucket/folder"
    return S3Store(), f"s3://{request.getfixturevalue('bucket')}/folder"


def uris(store, prefix):
    return [info.uri for info in store.list(prefix)]


# What all stores do alike


def test_what_was_put_is_read_back_whole_and_in_pieces(place):
    store, root = place
    uri = join_uri(root, "a", "b c%20?#é.bin")
    info = store.put(uri, b"0123456789")
    assert store.get(uri) == b"0123456789"
    assert store.get(uri, 3) == b"3456789"
    assert store.get(uri, 3, 4) == b"3456"
    assert store.get(uri, 8, 40) == b"89"
    assert store.get(uri, 10, 5) == store.get(uri, 3, 0) == b""
    assert store.stat(uri) == info == next(store.list(root))
    assert info.size == 10


def test_an_empty_object_is_an_object(place):
    store, root = place
    store.put(join_uri(root, "empty"), b"")
    assert store.get(join_uri(root, "empty")) == b""
    with store.open(join_uri(root, "empty")) as file:
        assert file.read() == b""


def test_a_change_of_content_changes_the_etag(place):
    store, root = place
    before = store.put(join_uri(root, "x"), b"one")
    assert store.put(join_uri(root, "x"), b"two and more").etag != before.etag
    assert store.get(join_uri(root, "x")) == b"two and more"


def test_a_listing_is_sorted_by_bytes_at_any_depth_and_a_prefix_is_a_folder(place):
    store, root = place
    names = ["a/b", "a-b", "a.jpg", "a!x", "z", "é", "Z", "a/c/d", "a/c-d", "😀", "\uffff"]
    for name in names:
        store.put(join_uri(root, "in", name), b"x")
    store.put(join_uri(root, "inside"), b"not in the folder `in`")
    expected = [join_uri(root, "in", name) for name in sorted(names, key=str.encode)]
    assert uris(store, join_uri(root, "in")) == expected
    assert uris(store, join_uri(root, "in") + "/") == expected


def test_a_folder_that_is_not_there_has_no_objects(place):
    store, root = place
    assert uris(store, join_uri(root, "nothing")) == []


def test_a_missing_object_is_named(place):
    store, root = place
    uri = join_uri(root, "missing.jpg")
    for call in (store.get, store.stat, store.open):
        with pytest.raises(ObjectMissing, match=r"missing\.jpg"):
            call(uri)
    store.delete(uri)


def test_a_deleted_object_is_gone(place):
    store, root = place
    store.put(join_uri(root, "x"), b"x")
    store.delete(join_uri(root, "x"))
    assert uris(store, root) == []


def test_a_second_put_with_the_condition_is_refused(place):
    store, root = place
    assert store.put_if_absent(join_uri(root, "f", "x"), b"first") is True
    assert store.put_if_absent(join_uri(root, "f", "x"), b"second") is False
    assert store.put_if_absent(join_uri(root, "f", "x"), b"first") is False
    assert store.get(join_uri(root, "f", "x")) == b"first"
    assert len(uris(store, root)) == 1


def test_of_many_writers_at_once_one_wins_and_its_bytes_are_there(place):
    store, root = place
    texts = [f"writer {i}".encode() for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda text: store.put_if_absent(join_uri(root, "x"), text), texts))
    assert won.count(True) == 1
    assert store.get(join_uri(root, "x")) == texts[won.index(True)]


def test_an_open_object_can_be_read_from_anywhere(place):
    store, root = place
    data = bytes(range(256)) * 20
    store.put(join_uri(root, "x"), data)
    with store.open(join_uri(root, "x")) as file:
        assert file.read(10) == data[:10]
        assert file.seek(-5, io.SEEK_END) == len(data) - 5
        assert file.read(100) == data[-5:]
        assert file.read() == b""
        file.seek(7)
        assert file.tell() == 7
        assert file.read() == data[7:]


def test_an_open_object_is_fetched_in_pieces_of_the_read_ahead(monkeypatch):
    monkeypatch.setattr(objects, "READ_AHEAD_BYTES", 1_000)
    asked = []
    info = objects.ObjectInfo("mem://b/x", 2_500, "e")

    def read(start, length):
        asked.append((start, length))
        return b"x" * length

    with objects.buffered(objects.RangedReader(info, read)) as file:
        pieces = list(iter(lambda: file.read(100), b""))
    assert len(b"".join(pieces)) == 2_500
    assert asked == [(0, 1_000), (1_000, 1_000), (2_000, 500)]


def test_an_open_object_that_became_shorter_is_an_error_and_not_a_shorter_file():
    info = objects.ObjectInfo("mem://b/x", 2_500, "e")
    file = objects.buffered(objects.RangedReader(info, lambda start, length: b"x"))
    with file, pytest.raises(StorageError, match="changed while it was read"):
        file.read()


def test_a_long_listing_is_sorted_through_the_disk_and_repetitions_are_dropped(monkeypatch):
    monkeypatch.setattr(objects, "SORTED_IN_MEMORY", 7)
    infos = [objects.ObjectInfo(f"s3://b/{i * 37 % 100}\n", i, str(i)) for i in range(100)]
    found = list(objects.in_key_order([*infos, *infos[:9]]))
    assert found == sorted(infos, key=lambda info: info.uri)


# Local files


def test_a_reader_never_meets_half_a_file_and_no_trace_of_writing_stays(tmp_path):
    store, uri = LocalStore(), str(tmp_path / "x")
    contents = [bytes([i]) * 300_000 for i in range(2)]
    store.put(uri, contents[0])
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for content in contents:
                store.put(uri, content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(store.get(uri) in contents for _ in range(100))
    finally:
        stop.set()
        writer.join()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_the_temporary_file_of_a_killed_writer_is_not_listed(tmp_path):
    (tmp_path / ".tmp-0123").write_bytes(b"half")
    (tmp_path / ".hidden").write_bytes(b"a hidden file is a file")
    assert uris(LocalStore(), str(tmp_path)) == [str(tmp_path / ".hidden")]


def test_links_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    assert uris(LocalStore(), str(tmp_path)) == [
        str(tmp_path / "link" / "x"),
        str(tmp_path / "real" / "x"),
    ]


@pytest.mark.parametrize(("code", "passes"), [(errno.EIO, True), (errno.ENOSPC, False)])
def test_a_disk_that_fails_for_now_is_unavailable_and_a_full_one_is_not(
    tmp_path, monkeypatch, code, passes
):
    def fail(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=os.strerror(code)) as caught:
        LocalStore().put(str(tmp_path / "x"), b"x")
    assert isinstance(caught.value, StorageUnavailable) == passes
    assert list(tmp_path.iterdir()) == []


def test_a_conditional_write_leaves_one_name_only_whether_it_won_or_not(tmp_path):
    for won in (True, False):
        assert LocalStore().put_if_absent(str(tmp_path / "x"), b"x") is won
        assert [path.name for path in tmp_path.iterdir()] == ["x"]
        assert (tmp_path / "x").stat().st_nlink == 1


def test_names_that_are_no_text_are_sorted_by_their_bytes_too(tmp_path):
    for name in ("\u00e9", "\udc80"):  # bytes c3 a9, and 80
        (tmp_path / name).write_bytes(b"x")
    assert uris(LocalStore(), str(tmp_path)) == [f"{tmp_path}/\udc80", f"{tmp_path}/\u00e9"]


def test_a_file_that_is_deleted_while_its_folder_is_listed_is_left_out(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(b"x")
    listed = LocalStore().list(str(tmp_path))
    assert next(listed).uri == str(tmp_path / "a")
    (tmp_path / "b").unlink()
    assert [info.uri for info in listed] == [str(tmp_path / "c")]


def test_a_written_file_has_the_usual_mode(tmp_path):
    LocalStore().put(str(tmp_path / "x"), b"x")
    (tmp_path / "y").write_bytes(b"y")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "y").stat().st_mode


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_hard_links_says_that_it_knows_no_condition(
    tmp_path, monkeypatch, code
):
    def no_links(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    with pytest.raises(ConditionUnsupported, match="no hard links"):
        LocalStore().put_if_absent(str(tmp_path / "x"), b"x")


def test_a_folder_is_no_file_and_a_file_is_no_folder(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(ObjectMissing, match="not a file"):
        LocalStore().stat(str(tmp_path))
    with pytest.raises(ObjectMissing):
        LocalStore().get(str(tmp_path))
    assert uris(LocalStore(), str(tmp_path / "x")) == []
    with pytest.raises(StorageError):
        LocalStore().put(str(tmp_path / "x" / "y"), b"y")


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("file", "'.*file' is a file"),
        ("file/below", "'.*file' is a file"),
        ("/proc/x", "in '/proc'"),
    ],
)
def test_a_place_that_can_not_hold_an_output_is_told_as_one(tmp_path, place, why):
    (tmp_path / "file").write_bytes(b"x")
    for write in (LocalStore().put, LocalStore().put_if_absent):
        with pytest.raises(StorageError, match=f"nothing can be written to .*{why}") as caught:
            write(str(tmp_path / place / "_plans" / "x"), b"y")
        assert not isinstance(caught.value, ObjectMissing)


@pytest.mark.parametrize("write", ["put", "put_if_absent"])
def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_answer(
    tmp_path, monkeypatch, write
):
    sync, synced = os.fsync, []

    def watch(handle):
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        synced.append(("the folder" if folder else "the bytes", (tmp_path / "x").exists()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", watch)
    getattr(LocalStore(), write)(str(tmp_path / "x"), b"x")
    assert synced == [("the bytes", False), ("the folder", True)]


def test_a_link_that_was_made_by_a_repeated_request_counts_as_won(tmp_path, monkeypatch):
    link = Path.hardlink_to

    def link_twice(path, target):
        link(path, target)
        link(path, target)

    monkeypatch.setattr(Path, "hardlink_to", link_twice)
    assert LocalStore().put_if_absent(str(tmp_path / "x"), b"x") is True


@pytest.mark.skipif(os.getuid() == 0, reason="root may do everything")
def test_a_file_that_may_not_be_read_is_access_denied(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    (tmp_path / "x").chmod(0)
    with pytest.raises(AccessDenied, match="may not be used"):
        LocalStore().get(str(tmp_path / "x"))


# S3


def test_directory_markers_are_not_listed(s3_server, bucket):
    s3_server.client().put_object(Bucket=bucket, Key="folder/", Body=b"")
    s3_server.client().put_object(Bucket=bucket, Key="folder/x", Body=b"x")
    assert uris(S3Store(), f"s3://{bucket}") == [f"s3://{bucket}/folder/x"]


def test_a_listing_of_several_pages_is_whole_and_sorted(s3_server, bucket):
    names = sorted(f"{i % 7}/{i:04d}" for i in range(1_050))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: S3Store().put(f"s3://{bucket}/{name}", b""), names))
    assert uris(S3Store(), f"s3://{bucket}") == [f"s3://{bucket}/{name}" for name in names]


def test_a_missing_bucket_is_named(s3_server):
    with pytest.raises(ObjectMissing, match="no bucket 'no-such-bucket'"):
        list(S3Store().list("s3://no-such-bucket/x"))
    with pytest.raises(ObjectMissing, match="no bucket 'no-such-bucket'"):
        S3Store().get("s3://no-such-bucket/x")


def test_a_bucket_is_no_object(bucket):
    with pytest.raises(ObjectMissing, match="is a bucket"):
        S3Store().stat(f"s3://{bucket}/")
    with pytest.raises(StorageError, match="names no bucket"):
        S3Store().get("s3:///x")


def test_a_wrong_key_is_access_denied_with_the_way_out_and_without_the_key(bucket, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-secret")
    with pytest.raises(CallerUnknown, match="the secret is not the one of that key") as caught:
        S3Store().get(f"s3://{bucket}/x")
    assert "wrong-and-secret" not in str(caught.value)
    with pytest.raises(AccessDenied):
        list(S3Store().list(f"s3://{bucket}"))


def test_no_credentials_at_all_is_access_denied(bucket, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(AccessDenied, match="AWS_PROFILE"):
        S3Store().get(f"s3://{bucket}/x")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(AccessDenied, match="nobody"):
        S3Store().get(f"s3://{bucket}/x")


def test_a_server_that_is_not_there_is_unavailable(bucket, monkeypatch):
    monkeypatch.setattr("workers.storage.s3.ATTEMPTS", 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageUnavailable, match=r"127\.0\.0\.1:9.*AWS_ENDPOINT_URL"):
        S3Store().get(f"s3://{bucket}/x")


@pytest.mark.parametrize("value", ["notaurl", "localhost:8333"])
def test_an_address_of_a_server_that_is_none_is_a_wrong_setting(monkeypatch, value):
    monkeypatch.setenv("AWS_ENDPOINT_URL", value)
    with pytest.raises(SettingsError, match=f"AWS_ENDPOINT_URL is '{value}'.*http://"):
        S3Store().get("s3://bucket/x")


def test_a_change_under_an_open_reader_is_an_error_and_not_a_mixture(bucket, monkeypatch):
    monkeypatch.setattr(objects, "READ_AHEAD_BYTES", 1_000)
    uri = f"s3://{bucket}/x"
    S3Store().put(uri, b"a" * 3_000)
    with S3Store().open(uri) as file:
        assert file.read(10) == b"a" * 10
        S3Store().put(uri, b"b" * 3_000)
        with pytest.raises(StorageError, match="changed while it was read"):
            file.read()


def test_the_store_can_be_sent_to_another_process(bucket):
    uri = f"s3://{bucket}/x"
    S3Store().put(uri, b"x")
    assert pickle.loads(pickle.dumps(S3Store())).get(uri) == b"x"


def test_an_answer_that_got_lost_still_counts_as_won(s3_server, bucket, monkeypatch):
    uri = f"s3://{bucket}/x"
    with Trouble(s3_server, "PUT", "drop", 1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert S3Store().put_if_absent(uri, b"mine") is True
        assert proxy.requests == 2
        assert S3Store().put_if_absent(uri, b"mine") is False, (
            "the same bytes, but not by this call"
        )


def test_a_rival_that_came_first_wins_also_after_a_lost_answer(s3_server, bucket, monkeypatch):
    uri = f"s3://{bucket}/x"
    S3Store().put(uri, b"rival")
    with Trouble(s3_server, "PUT", "drop", 1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert S3Store().put_if_absent(uri, b"minee") is False
        assert proxy.requests == 2


def test_a_server_that_is_busy_for_a_while_is_asked_again(s3_server, bucket, monkeypatch):
    with Trouble(s3_server, "PUT", "refuse", 2) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert S3Store().put_if_absent(f"s3://{bucket}/x", b"x") is True
        assert proxy.requests == 3


@pytest.mark.parametrize("write", ["put", "put_if_absent"])
def test_a_key_that_others_write_just_now_is_tried_again(s3_server, bucket, monkeypatch, write):
    with Trouble(s3_server, "PUT", "409", 2) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert getattr(S3Store(), write)(f"s3://{bucket}/x", b"x")
        assert proxy.requests == 3
    assert S3Store().get(f"s3://{bucket}/x") == b"x"


def test_a_server_with_an_error_of_its_own_is_unavailable(s3_server, bucket, monkeypatch):
    monkeypatch.setattr("workers.storage.s3.ATTEMPTS", 2)
    with Trouble(s3_server, "GET", "500", 100) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with pytest.raises(StorageUnavailable):
            S3Store().get(f"s3://{bucket}/x")


def test_a_server_that_stays_busy_is_unavailable(s3_server, bucket, monkeypatch):
    monkeypatch.setattr("workers.storage.s3.ATTEMPTS", 2)
    with Trouble(s3_server, "GET", "refuse", 100) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with pytest.raises(StorageUnavailable, match="SlowDown"):
            S3Store().get(f"s3://{bucket}/x")
        assert proxy.requests == 2


def test_a_body_that_breaks_off_is_asked_for_again(s3_server, bucket, monkeypatch):
    data = os.urandom(100_000)
    S3Store().put(f"s3://{bucket}/x", data)
    with Trouble(s3_server, "GET", "cut", 1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert S3Store().get(f"s3://{bucket}/x") == data
        assert proxy.requests == 2
    with Trouble(s3_server, "GET", "cut", 100) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with pytest.raises(StorageUnavailable, match="no whole answer"):
            S3Store().get(f"s3://{bucket}/x")


# Names


def test_one_place_has_one_spelling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert normalise_uri("photos/") == str(tmp_path / "photos")
    assert normalise_uri("./a/../photos") == str(tmp_path / "photos")
    assert normalise_uri("file:///a/b%20c") == "/a/b c"
    assert normalise_uri(" s3://Bucket/a%20b/ ") == "s3://Bucket/a%20b"
    assert normalise_uri("s3://bucket") == "s3://bucket"
    assert normalise_uri("S3://bucket/x") == "s3://bucket/x"
    assert normalise_uri("~") == str(Path.home())


@pytest.mark.parametrize("text", ["", "https://host/x", "gs://bucket/x"])
def test_a_place_that_no_store_is_for_is_refused(text):
    with pytest.raises(SettingsError, match="no place for files"):
        normalise_uri(text)


@pytest.mark.parametrize("text", ["~nosuchuser/x", "file://~nosuchuser", "file:///a%00"])
def test_a_place_that_can_not_be_is_refused_with_its_name(text):
    with pytest.raises(SettingsError, match=r"nosuchuser|x00"):
        normalise_uri(text)


def test_the_scheme_chooses_the_store():
    assert isinstance(open_store("s3://b/x"), S3Store)
    assert isinstance(open_store("/x"), LocalStore)
    assert open_store("mem://b/x") is open_store("mem://c")
    with pytest.raises(SettingsError, match="no place for files"):
        open_store("https://b/x")


@pytest.mark.parametrize("scheme", BUCKET_SCHEMES)
def test_every_scheme_of_a_place_has_a_store(scheme):
    place = f"{scheme}://bucket/x"
    assert normalise_uri(place) == place
    assert Store in type(open_store(place)).mro()


def test_a_store_that_lacks_a_call_can_not_be_made():
    class Half(Store):
        def delete(self, uri: str) -> None:
            pass

    with pytest.raises(TypeError, match="abstract"):
        Half()


def test_a_place_whose_name_is_no_text_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(SettingsError, match=r"caf\\udce9.*rename it"):
        normalise_uri("photos")


def test_a_name_below_a_folder_is_found_by_whole_names():
    assert under("s3://b/cats/1", "s3://b/cats") == under("s3://b/cats/1", "s3://b/cats/") == "1"
    assert under("s3://b/cats-old/1", "s3://b/cats") is None
    assert join_uri("s3://b/", "a", "b/c") == "s3://b/a/b/c"


def test_signatures_and_passwords_are_not_shown():
    signed = "https://me:pw@host/x.jpg?X-Amz-Credential=AK&X-Amz-Signature=abc"
    assert shown(signed) == "'https://host/x.jpg?...'"
    assert shown("https://me:pw@host/x.jpg#part") == "'https://host/x.jpg#part'"
    assert shown("s3://KEY:SECRET@bucket/x?v=1") == "'s3://bucket/x?v=1'"
    assert redact(f"can't read {signed}") == (
        "can't read https://me:pw@host/x.jpg?X-Amz-Credential=...&X-Amz-Signature=..."
    )
    assert shown("https://[me:pw@host/x") == "'https://...'"
    with pytest.raises(SettingsError) as caught:
        normalise_uri(signed)
    assert "abc" not in str(caught.value)
    assert "pw" not in str(caught.value)


def test_a_pipe_is_no_file_and_nobody_waits_for_its_other_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (LocalStore().get, LocalStore().open):
        with pytest.raises(ObjectMissing, match="is not a file"):
            read(str(tmp_path / "pipe"))
