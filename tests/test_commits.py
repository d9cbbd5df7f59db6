import json
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from hashlib import sha256

import pytest

from tests.conftest import S3Server
from tests.trouble import Trouble
from workers.errors import AccessDenied, CommitError, ConditionUnsupported, StorageUnavailable
from workers.labels.commits import LONGEST_ID, Commit, Guarantee, Ledger, marker_uri, part_name
from workers.labels.rows import blank_row
from workers.labels.table import PartIdentity, describe_part, read_part, write_part
from workers.storage.local import LocalStore
from workers.storage.memory import MemoryStore
from workers.storage.s3 import S3Store
from workers.storage.uris import join_uri

SHARD = "0123456789abcdef0123"
ABOUT = {"fingerprint": "f1", "source": "s3://in/photos", "source_etag": "e1"}


@cache
def part(writer: str, rows: int = 3) -> bytes:
    """Rows that are blank but for what a marker repeats; the first is `empty`."""
    row = replace(blank_row(), status="ok", n_targets=2)
    made = [replace(row, status="empty", error_code="no_room"), *[row] * (rows - 1)]
    return write_part(made, PartIdentity(writer, SHARD, "f1"))


def ledger_of(store, output="mem://bucket/out", run="run-1", **options) -> Ledger:
    return Ledger(store, output, run, **options)


def in_store(store, output="mem://bucket/out"):
    """Paths below the output -> bytes."""
    return {info.uri.removeprefix(output + "/"): store.get(info.uri) for info in store.list(output)}


def check_agrees(store, output, commit):
    """The marker in the store is this commit, and it describes the part in the store."""
    stored = store.get(join_uri(output, commit.part))
    assert (
        Commit.from_json(store.get(marker_uri(output, commit.run_id, commit.shard_id)), "")
        == commit
    )
    facts = describe_part(stored)
    assert (len(stored), facts.rows, facts.counts) == (commit.bytes, commit.rows, commit.counts)
    assert sha256(stored).hexdigest() == commit.sha256


class Killed(BaseException):
    """Stands for the end of the process: nobody catches it."""


class Dying(MemoryStore):
    """A store whose user is killed after (or just before) its n-th write."""

    def __init__(self, writes: int, *, before: bool) -> None:
        super().__init__()
        self.writes = writes
        self.before = before

    def put_if_absent(self, uri, data):
        return self._die(lambda: MemoryStore.put_if_absent(self, uri, data))

    def put(self, uri, data):
        return self._die(lambda: MemoryStore.put(self, uri, data))

    def _die(self, write):
        self.writes -= 1
        if self.writes == 0 and self.before:
            raise Killed
        result = write()
        if self.writes == 0:
            raise Killed
        return result


@pytest.fixture(params=["local", "memory", "s3"])
def place(request, tmp_path):
    if request.param == "local":
        return LocalStore(), str(tmp_path)
    if request.param == "memory":
        return MemoryStore(), "mem://bucket/out"
    return S3Store(), f"s3://{request.getfixturevalue('bucket')}/out"


def test_what_has_too_long_a_name_beside_the_markers_is_no_shard(place):
    store, output = place
    ledger = ledger_of(store, output)
    ledger.commit(SHARD, part("a"), **ABOUT)
    for letters in (LONGEST_ID, LONGEST_ID + 1):
        store.put(marker_uri(output, "run-1", "f" * letters), b"{}")
    assert ledger.committed_ids() == {SHARD, "f" * LONGEST_ID}


def test_a_commit_is_a_part_and_a_marker_that_describes_it(place):
    store, output = place
    ledger = ledger_of(store, output)
    commit, won = ledger.commit(SHARD, part("a"), **ABOUT)
    assert won
    check_agrees(store, output, commit)
    assert commit.part == f"labels/run-1/{SHARD}.parquet"
    assert (commit.rows, commit.targets, commit.counts) == (3, 6, {"ok": 2, "empty": 1})
    assert (commit.source, commit.source_etag, commit.fingerprint) == ("s3://in/photos", "e1", "f1")
    assert sorted(in_store(store, output)) == [f"_commits/run-1/{SHARD}.json", commit.part]
    assert ledger.committed_ids() == {SHARD}
    assert ledger.get(SHARD) == commit
    assert ledger.get("f" * 20) is None


def test_a_second_attempt_is_told_of_the_first_and_changes_nothing(place):
    store, output = place
    first, _ = ledger_of(store, output).commit(SHARD, part("a", 3), **ABOUT)
    before = in_store(store, output)
    second, won = ledger_of(store, output).commit(SHARD, part("b", 5), **ABOUT)
    assert (second, won) == (first, False)
    assert in_store(store, output) == before


@pytest.mark.parametrize("writes", [1, 2])
@pytest.mark.parametrize("before", [True, False])
def test_killed_at_any_write_the_next_attempt_ends_in_the_same_state(writes, before):
    store = Dying(writes, before=before)
    with pytest.raises(Killed):
        ledger_of(store).commit(SHARD, part("killed", 3), **ABOUT)
    # Until the marker is there, the shard is not done.
    done = (writes, before) == (2, False)
    assert ledger_of(store).committed_ids() == ({SHARD} if done else set())
    commit, won = ledger_of(store).commit(SHARD, part("next", 5), **ABOUT)
    assert won is not done
    check_agrees(store, "mem://bucket/out", commit)
    # A part that was there is adopted with its own numbers, not with those of the second attempt.
    assert commit.rows == (5 if (writes, before) == (1, True) else 3)
    assert len(in_store(store)) == 2


def _bad_page(whole: bytes) -> bytes:
    """Its footer is as it was, its first page isn't."""
    return whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]


BROKEN = {
    "empty": b"",
    "zeros": bytes(len(part("dead"))),
    "cut": part("dead")[:-100],
    "a page": _bad_page(part("dead")),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_part_without_a_marker_that_can_not_be_read_is_replaced(place, broken):
    store, output = place
    store.put(join_uri(output, part_name("run-1", SHARD)), BROKEN[broken])
    commit, won = ledger_of(store, output).commit(SHARD, part("next", 5), **ABOUT)
    assert (won, commit.rows) == (True, 5)
    check_agrees(store, output, commit)
    assert in_store(store, output)[commit.part] == part("next", 5)


def test_of_two_attempts_that_replace_a_broken_part_one_counts_and_the_part_can_be_read():
    """The second attempt has just read the broken part when the first replaces it and is done."""

    class Late(MemoryStore):
        first = None

        def get(self, uri, start=0, length=None):
            data = super().get(uri, start, length)
            if uri.endswith(".parquet") and not self.first:
                self.first = True  # of the reading below
                self.first = ledger_of(self).commit(SHARD, part("first", 5), **ABOUT)
            return data

    store = Late()
    store.put(join_uri("mem://bucket/out", part_name("run-1", SHARD)), b"")
    second = ledger_of(store).commit(SHARD, part("second", 5), **ABOUT)
    assert (second, store.first[1]) == ((store.first[0], False), True)
    assert len(in_store(store)) == 2
    assert len(read_part(in_store(store)[second[0].part])) == second[0].rows == 5


def test_a_part_that_counts_is_never_replaced():
    store = MemoryStore()
    made, _ = ledger_of(store).commit(SHARD, part("a", 3), **ABOUT)
    store.put(join_uri("mem://bucket/out", made.part), b"")
    before = in_store(store)
    assert ledger_of(store).commit(SHARD, part("b", 5), **ABOUT) == (made, False)
    assert in_store(store) == before


def test_attempts_at_the_same_time_all_return_the_one_commit_that_counts(place):
    store, output = place
    barrier = threading.Barrier(4)

    def attempt(i):
        barrier.wait()
        return ledger_of(store, output).commit(SHARD, part(f"attempt {i}", 3 + i), **ABOUT)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(attempt, range(4)))
    assert sum(won for _, won in results) == 1
    assert len({commit.to_json() for commit, _ in results}) == 1
    check_agrees(store, output, results[0][0])
    assert len(in_store(store, output)) == 2


def test_a_lost_answer_neither_loses_nor_doubles_a_commit(s3_server, bucket, monkeypatch):
    output = f"s3://{bucket}/out"
    with Trouble(s3_server, "PUT", "drop", 1) as proxy:  # the answer to the part
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        commit, won = ledger_of(S3Store(), output).commit(SHARD, part("a"), **ABOUT)
        assert won
        proxy.left = 2  # the answers to the first two tries of part and marker
        other, won = ledger_of(S3Store(), output).commit("f" * 20, part("b"), **ABOUT)
        assert won
    check_agrees(S3Store(), output, commit)
    check_agrees(S3Store(), output, other)


def test_a_store_that_fails_in_the_middle_leaves_a_shard_that_can_be_committed(
    s3_server, bucket, monkeypatch
):
    monkeypatch.setattr("workers.storage.s3.ATTEMPTS", 1)
    output = f"s3://{bucket}/out"
    with Trouble(s3_server, "PUT", "drop", 1) as proxy, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with pytest.raises(StorageUnavailable):
            ledger_of(S3Store(), output).commit(SHARD, part("a", 3), **ABOUT)
    commit, won = ledger_of(S3Store(), output).commit(SHARD, part("b", 5), **ABOUT)
    assert won
    assert commit.rows == 3
    check_agrees(S3Store(), output, commit)


def test_another_file_among_the_markers_is_no_shard():
    store = MemoryStore()
    store.put("mem://bucket/out/_commits/run-1/notes.txt", b"")
    assert ledger_of(store).committed_ids() == set()


# What the store can promise


def test_the_probe_finds_a_store_that_honours_conditions_and_leaves_nothing(place):
    store, output = place
    assert ledger_of(store, output).probe() is Guarantee.EXACTLY_ONCE
    assert in_store(store, output) == {}


def test_the_probe_needs_no_right_to_delete():
    class Keeping(MemoryStore):
        def delete(self, uri):
            raise AccessDenied("403")

    assert ledger_of(Keeping()).probe() is Guarantee.EXACTLY_ONCE


def test_the_probe_finds_a_store_that_ignores_conditions():
    ledger = ledger_of(MemoryStore(honours_conditions=False))
    assert ledger.probe() is ledger.guarantee is Guarantee.AT_LEAST_ONCE


def test_the_probe_finds_a_store_that_refuses_conditions():
    class Refusing(MemoryStore):
        def put_if_absent(self, uri, data):
            raise ConditionUnsupported("501")

    store = Refusing()
    ledger = ledger_of(store)
    assert ledger.probe() is Guarantee.AT_LEAST_ONCE
    commit, won = ledger.commit(SHARD, part("a"), **ABOUT)
    assert won
    check_agrees(store, "mem://bucket/out", commit)


def test_on_a_real_server_that_ignores_conditions_retries_still_give_one_part(careless: S3Server):
    bucket = f"test-{secrets.token_hex(4)}"
    careless.client().create_bucket(Bucket=bucket)
    store, output = S3Store(), f"s3://{bucket}/out"
    assert (
        store.put_if_absent(f"{output}/x", b"1") is store.put_if_absent(f"{output}/x", b"2") is True
    )
    store.delete(f"{output}/x")

    ledger = ledger_of(store, output)
    assert ledger.probe() is Guarantee.AT_LEAST_ONCE
    store.put(join_uri(output, part_name("run-1", SHARD)), part("died before its marker", 3))
    adopted, won = ledger.commit(SHARD, part("next", 5), **ABOUT)
    assert (won, adopted.rows) == (True, 3)
    again, won = ledger.commit(SHARD, part("late", 7), **ABOUT)
    assert (again, won) == (adopted, False)
    check_agrees(store, output, adopted)
    assert len(in_store(store, output)) == 2


# Markers as files


def test_a_marker_of_another_version_or_form_is_refused_by_name():
    store = MemoryStore()
    commit, _ = ledger_of(store).commit(SHARD, part("a"), **ABOUT)
    values = json.loads(commit.to_json())

    def read(**changes):
        return Commit.from_json(json.dumps({**values, **changes}), "mem://b/marker.json")

    assert read() == commit
    with pytest.raises(CommitError, match=r"marker\.json.*schema 2.*knows 1"):
        read(schema=2)
    with pytest.raises(CommitError, match="'rows'"):
        read(rows="3")
    del values["sha256"]
    with pytest.raises(CommitError, match="'sha256'"):
        read()
    with pytest.raises(CommitError, match="not a JSON object"):
        Commit.from_json(b'{"half', "mem://b/marker.json")


def test_a_marker_of_an_older_program_with_more_in_it_is_read():
    commit, _ = ledger_of(MemoryStore()).commit(SHARD, part("a"), **ABOUT)
    older = {**json.loads(commit.to_json()), "first_key": "0", "last_key": "f"}
    assert Commit.from_json(json.dumps(older), "") == commit


def test_a_commit_survives_the_way_through_json():
    store = MemoryStore()
    commit, _ = ledger_of(store).commit(SHARD, part("a"), **ABOUT)
    commit = replace(commit, source='s3://in/ä "quoted"\n\U0001f600')
    assert Commit.from_json(commit.to_json(), "") == commit
    assert commit.to_json().count(b"\n") == 1


@pytest.mark.parametrize("run", ["", "_probe", "a/b", "..", "x" * 200])
def test_a_run_id_that_would_leave_its_folder_is_refused(run):
    with pytest.raises(CommitError, match="run id"):
        ledger_of(MemoryStore(), run=run)
