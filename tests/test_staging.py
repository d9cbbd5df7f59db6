"""Folders of buckets on this machine: fetched once, gone on with, checked, removed for room."""

import os
import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.processes import end
from tests.trouble import Trouble
from workers.errors import SettingsError, StorageError
from workers.staging import files as staging_files
from workers.staging import locks, room
from workers.staging.folders import stage_folder
from workers.staging.receipts import Receipt
from workers.staging.room import Cache
from workers.storage import objects
from workers.storage.memory import MemoryStore
from workers.storage.s3 import S3Store
from workers.storage.uris import under

WEIGHTS, CONFIG = secrets.token_bytes(300_000), b"{}"
PIECE = 50_000
PROGRAM = f"""
import os, signal, sys, time
from pathlib import Path
from workers.staging import files
from workers.staging.folders import stage_folder
from workers.staging.room import Cache
from workers.storage import objects
from workers.storage.s3 import S3Store
from workers.storage.uris import under

place, cache, pieces, then = sys.argv[1:]
files.PIECE_BYTES = objects.READ_AHEAD_BYTES = {PIECE}
left = int(pieces)

class Mortal(S3Store):
    def _get(self, *arguments):
        global left
        left -= 1
        if left == -1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._get(*arguments)

listed = {{under(info.uri, place): info for info in S3Store().list(place)}}
print(stage_folder(Mortal(), listed, "models", Cache(Path(cache)), "--model"), flush=True)
if then == "stay":
    time.sleep(600)
"""


class WatchedStore(MemoryStore):
    """Knows what was read of it; the first `damaged` reads of weights come with a wrong byte."""

    def __init__(self, damaged: int = 0) -> None:
        super().__init__()
        self.read: list[tuple[str, int]] = []
        self.damaged = damaged

    def get(self, uri, start=0, length=None):
        data = super().get(uri, start, length)
        self.read.append((uri.rpartition("/")[2], start))
        if uri.endswith("weights") and self.damaged > 0:
            self.damaged -= 1
            return b"\0" * 8 + data[8:]
        return data


@pytest.fixture
def store():
    return filled(WatchedStore())


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(staging_files, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(objects, "READ_AHEAD_BYTES", PIECE)


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(tmp_path / "cache")


def filled(store, place="mem://b/model", weights=WEIGHTS):
    store.put(f"{place}/weights", weights)
    store.put(f"{place}/light/config", CONFIG)
    return store


def listed(store, place="mem://b/model"):
    return {under(info.uri, place): info for info in store.list(place)}


def stage(store, cache, place="mem://b/model") -> Path:
    return stage_folder(store, listed(store, place), "models", cache, f"--model {place!r}")


def program(place, cache, env, pieces=1_000, then="end") -> subprocess.Popen[str]:
    """Stages a folder in a process of its own, which kills itself when it asks for one piece more
    than it may have."""
    command = [sys.executable, "-c", PROGRAM, place, f"{cache.folder}", f"{pieces}", then]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


# ---- fetched once ----


def test_a_folder_is_staged_whole_and_then_no_byte_is_read_again(store, cache):
    folder = stage(store, cache)
    assert (folder / "weights").read_bytes() == WEIGHTS
    assert (folder / "light" / "config").read_bytes() == CONFIG
    store.read.clear()
    assert stage(store, cache) == folder
    assert store.read == []


def test_processes_that_start_at_once_fetch_every_byte_once(
    s3_server, s3_env, bucket, cache, small_pieces, monkeypatch
):
    place = f"s3://{bucket}/model"
    filled(S3Store(), place)
    with Trouble(s3_server, "GET", "refuse", 0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        stage(S3Store(), Cache(cache.folder / "alone"), place)
        alone, proxy.requests = proxy.requests, 0
        env = {**s3_env, "AWS_ENDPOINT_URL": proxy.url}
        started = [program(place, cache, env) for _ in range(3)]
        folders = {process.communicate()[0].strip() for process in started}
        together = proxy.requests
    assert {process.returncode for process in started} == {0}
    assert len(folders) == 1
    assert alone > len(WEIGHTS) / PIECE
    assert together == alone + 2  # the other two only list


# ---- gone on with ----


def test_a_process_that_is_killed_leaves_a_half_that_the_next_one_goes_on_with(
    s3_env, bucket, cache, monkeypatch
):
    place, asked = f"s3://{bucket}/model", []
    filled(S3Store(), place)
    before = 0
    for _ in range(2):
        process = program(place, cache, s3_env, pieces=3)
        process.communicate()
        assert process.returncode == -9
        (part,) = cache.folder.rglob("*.part")
        assert before < part.stat().st_size < len(WEIGHTS)
        assert part.read_bytes() == WEIGHTS[: part.stat().st_size]
        before = part.stat().st_size

    class Asked(S3Store):
        def _get(self, uri, start, length, only):
            asked.append((uri.rpartition("/")[2], start))
            return super()._get(uri, start, length, only)

    folder = stage(Asked(), cache, place)
    assert (folder / "weights").read_bytes() == WEIGHTS
    assert min(start for name, start in asked if name == "weights") == before
    kept = {path.name for path in folder.parent.iterdir()}
    assert kept == {folder.name, *(f"{folder.name}.{end}" for end in ("json", "lock", "use"))}


def test_a_download_that_breaks_off_is_gone_on_with(
    s3_server, bucket, cache, small_pieces, monkeypatch
):
    monkeypatch.setattr("workers.storage.s3.BODY_ATTEMPTS", 1)
    monkeypatch.setattr("workers.storage.s3.ATTEMPTS", 1)
    place = f"s3://{bucket}/model"
    S3Store().put(f"{place}/weights", WEIGHTS)
    files = listed(S3Store(), place)
    with Trouble(s3_server, "GET", "refuse", 0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        proxy.harm, proxy.left = "cut", 1
        with pytest.raises(StorageError, match="no whole answer"):
            stage_folder(S3Store(), files, "models", cache, "--model")
        folder = stage_folder(S3Store(), files, "models", cache, "--model")
    assert (folder / "weights").read_bytes() == WEIGHTS


def test_a_half_is_never_gone_on_with_in_another_version(store, cache):
    old = listed(store)
    half = cache.folder / "models" / f".{Receipt.of(old).key}.half"
    half.mkdir(parents=True)
    (half / "weights.part").write_bytes(WEIGHTS[:1_000])
    store.put("mem://b/model/weights", WEIGHTS[::-1])
    with pytest.raises(StorageError, match=r"'mem://b/model/weights' changed while it was fetched"):
        stage_folder(store, old, "models", cache, "--model")
    assert (stage(store, cache) / "weights").read_bytes() == WEIGHTS[::-1]
    assert (half / "weights.part").read_bytes() == WEIGHTS[:1_000]


def test_a_half_whose_beginning_is_wrong_is_fetched_anew(store, cache):
    half = cache.folder / "models" / f".{Receipt.of(listed(store)).key}.half"
    half.mkdir(parents=True)
    (half / "weights.part").write_bytes(bytes(1_000))
    assert (stage(store, cache) / "weights").read_bytes() == WEIGHTS
    (start, again) = (start for name, start in store.read if name == "weights")
    assert (start, again) == (1_000, 0)


# ---- checked ----


def test_a_file_that_arrives_damaged_is_fetched_again_once(cache):
    store = filled(WatchedStore(damaged=1))
    assert (stage(store, cache) / "weights").read_bytes() == WEIGHTS
    assert [name for name, _ in store.read].count("weights") == 2


def test_a_file_that_arrives_damaged_twice_is_named_and_nothing_is_there(cache):
    store = filled(WatchedStore(damaged=2))
    with pytest.raises(StorageError, match=r"'mem://b/model/weights' arrived damaged 2 times.*sha"):
        stage(store, cache)
    (key,) = {path.stem for path in (cache.folder / "models").glob("*.json")}
    assert not (cache.folder / "models" / key).exists()
    assert (stage(store, cache) / "weights").read_bytes() == WEIGHTS


class Silent(MemoryStore):
    """Tells no checksums."""

    def checksum(self, info):
        return None


def test_what_was_found_right_once_is_what_a_file_is_held_against_later(cache):
    store = filled(Silent())
    weights = stage(store, cache) / "weights"
    weights.write_bytes(WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1]))
    assert stage(store, cache) / "weights" == weights
    assert weights.read_bytes() == WEIGHTS


def test_where_a_store_tells_no_checksum_the_size_decides(tmp_path):
    store = Silent()
    info = store.put("s3://models/tiny/weights", WEIGHTS)
    file = Receipt.of({"weights": info}).files["weights"]
    path = tmp_path / "weights"
    path.write_bytes(WEIGHTS[:-1])
    staging_files.bring_file(store, file, path)
    assert path.read_bytes() == WEIGHTS


def test_a_file_that_is_damaged_on_the_disk_is_mended_and_no_other_is_read(store, cache):
    folder = stage(store, cache)
    (folder / "weights").write_bytes(WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1]))
    store.read.clear()
    assert stage(store, cache) == folder
    assert (folder / "weights").read_bytes() == WEIGHTS
    assert {name for name, _ in store.read} == {"weights"}
    (folder / "weights").unlink()
    stage(store, cache)
    assert (folder / "weights").read_bytes() == WEIGHTS


def test_a_file_that_was_only_touched_is_not_fetched(store, cache):
    folder = stage(store, cache)
    os.utime(folder / "weights", ns=(1, 1))
    store.read.clear()
    stage(store, cache)
    assert store.read == []


@pytest.mark.parametrize("text", ["", "[]", '{"weights": {}}', '{"weights": 3}'])
def test_a_receipt_that_says_nothing_is_written_anew(store, cache, text):
    folder = stage(store, cache)
    receipt = folder.with_suffix(".json")
    before = receipt.read_text()
    receipt.write_text(text)
    assert stage(store, cache) == folder
    assert receipt.read_text() == before


# ---- room ----


def three_models(store) -> list[str]:
    places = [f"mem://b/{name}" for name in ("first", "second", "third")]
    for number, place in enumerate(places):
        filled(store, place, WEIGHTS[number:] + WEIGHTS[:number])
    return places


def forget() -> None:
    """As if another process had staged all that was staged until now, and had ended."""
    for file in locks._kept.values():
        file.close()
    locks._kept.clear()


def test_for_a_new_folder_the_one_that_was_used_longest_ago_goes(store, tmp_path):
    cache = Cache(tmp_path / "cache", most_bytes=2 * len(WEIGHTS) + 1_000)
    first, second, third = three_models(store)
    folders = {place: stage(store, cache, place) for place in (first, second)}
    for seconds, place in enumerate((second, first)):
        os.utime(folders[place].with_suffix(".lock"), (seconds, seconds))
    forget()
    folders[third] = stage(store, cache, third)
    there = [folders[place].is_dir() for place in (first, second, third)]
    assert there == [True, False, True]
    assert not folders[second].with_suffix(".json").exists()


def test_a_folder_that_is_staged_already_is_used_again_whenever_it_is_asked_for(store, tmp_path):
    cache = Cache(tmp_path / "cache", most_bytes=2 * len(WEIGHTS) + 1_000)
    first, second, third = three_models(store)
    folders = {place: stage(store, cache, place) for place in (first, second)}
    for seconds, place in enumerate((first, second)):
        os.utime(folders[place].with_suffix(".lock"), (seconds, seconds))
    stage(store, cache, first)
    forget()
    stage(store, cache, third)
    assert [folders[place].is_dir() for place in (first, second)] == [True, False]


def test_a_folder_that_another_process_uses_stays(s3_env, bucket, tmp_path, store):
    cache = Cache(tmp_path / "cache", most_bytes=2 * len(WEIGHTS) + 1_000)
    place = f"s3://{bucket}/model"
    filled(S3Store(), place)
    user = program(place, cache, s3_env, then="stay")
    try:
        used = Path(user.stdout.readline().strip())
        first, second, third = three_models(store)
        idle = stage(store, cache, first)
        os.utime(used.with_suffix(".lock"), (1, 1))  # the older one
        forget()
        stage(store, cache, second)
        assert (used.is_dir(), idle.is_dir()) == (True, False)
        with pytest.raises(SettingsError, match=r"--model 'mem://b/third' takes .* in use by oth"):
            stage(store, cache, third)
    finally:
        end([user.pid])
        user.communicate()
    forget()
    assert stage(store, cache, third).is_dir()
    assert not used.exists()


def test_a_half_that_nobody_fetches_any_more_goes_too_and_one_that_is_fetched_counts(
    s3_env, bucket, tmp_path, store
):
    cache = Cache(tmp_path / "cache", most_bytes=len(WEIGHTS) + 1_000)
    place = f"s3://{bucket}/model"
    filled(S3Store(), place)
    program(place, cache, s3_env, pieces=3).communicate()
    (part,) = cache.folder.rglob("*.part")
    folder = stage(store, cache)
    assert folder.is_dir()
    assert not part.parent.exists()


def test_a_folder_that_is_larger_than_the_limit_removes_nothing(store, tmp_path):
    first, second, _ = three_models(store)
    store.put(f"{second}/more", WEIGHTS)
    cache = Cache(tmp_path / "cache", most_bytes=len(WEIGHTS) + 1_000)
    folder = stage(store, cache, first)
    forget()
    with pytest.raises(
        SettingsError, match=r"--model 'mem://b/second' takes .*model-cache-gib all"
    ):
        stage(store, cache, second)
    assert folder.is_dir()


def test_a_disk_without_room_is_found_out_before_anything_is_fetched(store, cache, monkeypatch):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: SimpleNamespace(free=7))
    with pytest.raises(StorageError, match=r"needs .* MiB more in .*--model-cache"):
        stage(store, cache)
    assert store.read == []


def test_room_that_another_one_is_about_to_fill_is_not_free(store, cache, monkeypatch):
    first, second, _ = three_models(store)
    coming = Receipt.of(listed(store, first))
    (cache.folder / "models").mkdir(parents=True)
    coming.write(cache.folder / "models" / f"{coming.key}.json")
    free = SimpleNamespace(free=len(WEIGHTS) + 1_000)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: free)
    lock = cache.folder / "models" / f"{coming.key}.lock"
    with locks.alone(lock), pytest.raises(StorageError, match="spoken for"):
        stage(store, cache, second)
    assert stage(store, cache, second).is_dir()  # that one has ended without a word


def test_a_cache_that_can_not_be_written_is_told(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"can't take what is fetched: .*--model-cache"):
        stage(store, Cache(tmp_path / "file" / "cache"))


def test_threads_that_stage_different_folders_at_once_keep_to_the_limit(store, tmp_path):
    cache = Cache(tmp_path / "cache", most_bytes=2 * len(WEIGHTS) + 1_000)

    def try_to_stage(place: str) -> bool:
        try:
            return stage(store, cache, place).is_dir()
        except SettingsError:
            return False

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(try_to_stage, three_models(store))) == [False, True, True]
