"""The doctor's checks of stores: each is made to fail by a store that does."""

import time
from pathlib import Path

import pytest

from workers.doctor.findings import Outcome
from workers.doctor.storage import CLOCK_SECONDS, check_clock, check_input, check_output
from workers.errors import AccessDenied, ConditionUnsupported
from workers.storage.local import LocalStore
from workers.storage.memory import MemoryStore
from workers.storage.s3 import S3Store

OK, WARNING, FAILURE, SKIPPED = Outcome.OK, Outcome.WARNING, Outcome.FAILURE, Outcome.SKIPPED
INPUT, OUTPUT = "mem://b/in", "mem://b/out"


def outcomes(findings) -> dict[str, Outcome]:
    return {each.check.rpartition(".")[2]: each.outcome for each in findings}


@pytest.fixture(params=["local", "memory", "s3"])
def place(request, tmp_path):
    if request.param == "local":
        return LocalStore(), str(tmp_path)
    if request.param == "memory":
        return MemoryStore(), "mem://b/folder"
    return S3Store(), f"s3://{request.getfixturevalue('bucket')}/folder"


# ---- the input ----


def test_an_input_is_a_prefix_with_objects_or_one_object(place):
    store, root = place
    store.put(f"{root}/in/a/1.jpg", b"x" * 7)
    for given in (f"{root}/in", f"{root}/in/a/1.jpg"):
        (found,) = check_input(store, given)
        assert found.outcome is OK
        assert "1.jpg' (7 bytes) was found and read" in found.seen


def test_an_empty_input_is_no_failure_since_a_watcher_may_begin_with_it(place):
    store, root = place
    if isinstance(store, LocalStore):  # a bucket has no folders that could be missing
        Path(root, "nothing").mkdir(parents=True)
    (found,) = check_input(store, f"{root}/nothing")
    assert (found.outcome, "correct --input" in found.to_do) == (WARNING, True)


def test_a_bucket_that_is_not_there_is_named(s3_server):
    (found,) = check_input(S3Store(), "s3://no-such-bucket/x")
    assert found.outcome is FAILURE
    assert "no bucket 'no-such-bucket'" in found.seen


def test_an_input_that_may_be_listed_and_not_read_is_a_failure():
    class Closed(MemoryStore):
        def get(self, uri, start=0, length=None):
            raise AccessDenied(f"{uri} was refused")

    store = Closed()
    store.put(f"{INPUT}/1.jpg", b"x")
    (found,) = check_input(store, INPUT)
    assert found.outcome is FAILURE
    assert "s3:GetObject" in found.to_do


def test_a_look_for_one_object_reads_one_page_of_a_long_listing(s3_server, bucket, monkeypatch):
    pages = []
    read = S3Store._pages

    def counted(self, prefix):
        for info in read(self, prefix):
            pages.append(info.uri)
            yield info

    monkeypatch.setattr(S3Store, "_pages", counted)
    for name in "abc":
        S3Store().put(f"s3://{bucket}/{name}", b"x")
    assert S3Store().any_under(f"s3://{bucket}") is not None
    assert len(pages) == 1


# ---- the output ----


def test_an_output_that_does_all_is_fine_and_no_probe_stays(place):
    store, root = place
    found = outcomes(check_output(store, f"{root}/out"))
    assert found == {"write": OK, "read": OK, "conditions": OK, "delete": OK}
    assert list(store.list(root)) == []


def test_a_real_server_whose_key_may_only_read_is_told_with_the_right_that_is_missing(
    s3_server, bucket, monkeypatch
):
    S3Store().put(f"s3://{bucket}/in/1.jpg", b"x")
    for name, value in s3_server.reader.items():
        monkeypatch.setenv(name, value)
    assert outcomes(check_input(S3Store(), f"s3://{bucket}/in")) == {"input": OK}
    (found,) = check_output(S3Store(), f"s3://{bucket}/out")
    assert (found.check, found.outcome) == ("storage.output.write", FAILURE)
    assert "AccessDenied" in found.seen
    assert "s3:PutObject" in found.to_do


def test_a_real_server_that_ignores_conditions_is_a_warning(careless):
    careless.client().create_bucket(Bucket="out")
    found = {each.check: each for each in check_output(S3Store(), "s3://out/labels")}
    conditions = found["storage.output.conditions"]
    assert conditions.outcome is WARNING
    assert "If-None-Match" in conditions.seen
    assert "same command twice" in conditions.to_do
    assert found["storage.output.delete"].outcome is OK


def test_a_store_that_knows_no_conditions_is_a_warning_too():
    class Without(MemoryStore):
        def put_if_absent(self, uri, data):
            raise ConditionUnsupported("none")

    assert outcomes(check_output(Without(), OUTPUT))["conditions"] is WARNING


def test_a_store_that_refuses_every_conditional_write_does_not_honour_it():
    class Refusing(MemoryStore):
        def put_if_absent(self, uri, data):
            return False

    assert outcomes(check_output(Refusing(), OUTPUT))["conditions"] is WARNING


def test_a_probe_that_may_not_be_removed_is_named():
    class Keeping(MemoryStore):
        def delete(self, uri):
            raise AccessDenied("no right to delete")

    store = Keeping()
    *_, found = check_output(store, OUTPUT)
    probe, _ = store.list(OUTPUT)
    assert (found.check, found.outcome) == ("storage.output.delete", WARNING)
    assert probe.uri in found.seen
    assert "s3:DeleteObject" in found.to_do


def test_behind_a_probe_that_can_not_be_removed_the_others_are():
    class Once(MemoryStore):
        refused = ""

        def delete(self, uri):
            if not self.refused:
                self.refused = uri
                raise AccessDenied("not now")
            super().delete(uri)

    store = Once()
    *_, found = check_output(store, OUTPUT)
    assert found.outcome is WARNING
    assert [each.uri for each in store.list(OUTPUT)] == [store.refused]


def test_a_probe_that_is_still_there_is_told():
    class Deaf(MemoryStore):
        def delete(self, uri):
            pass

    *_, found = check_output(Deaf(), OUTPUT)
    assert (found.check, found.outcome) == ("storage.output.delete", WARNING)


def test_an_output_that_may_be_written_and_not_read_is_a_failure_and_no_probe_stays():
    class Slot(MemoryStore):
        def get(self, uri, start=0, length=None):
            raise AccessDenied("no right to read")

    store = Slot()
    found = outcomes(check_output(store, OUTPUT))
    assert (found["write"], found["read"], found["delete"]) == (OK, FAILURE, OK)
    assert list(store.list(OUTPUT)) == []


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_whom_a_real_server_does_not_know_is_told_of_keys_and_not_of_rights(
    name, bucket, monkeypatch
):
    monkeypatch.setenv(name, "1234-of-another-store")
    place = f"s3://{bucket}/x"
    checks = (check_input, check_output, check_clock)
    for finding in (each for check in checks for each in check(S3Store(), place)):
        assert finding.outcome is FAILURE
        assert "Give the AWS_ACCESS_KEY_ID and the AWS_SECRET_ACCESS_KEY" in finding.seen
        assert finding.to_do.startswith("correct the credentials, or AWS_ENDPOINT_URL")
        assert "of-another-store" not in finding.seen


def test_what_is_tried_on_a_disk_leaves_no_folder_that_was_not_there(tmp_path):
    (tmp_path / "there").mkdir()
    for place in (tmp_path / "there", tmp_path / "a" / "b"):
        assert set(outcomes(check_output(LocalStore(), f"{place}")).values()) == {OK}
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_a_disk_is_not_told_of_the_rights_of_a_bucket():
    class Closed(MemoryStore):
        def list(self, prefix):
            raise AccessDenied("no")

    (finding,) = check_input(Closed(), "/in")
    assert finding.to_do == "give this user the rights to it (chown, chmod), or correct --input"


def test_a_place_that_can_not_hold_an_output_is_a_failure(tmp_path):
    (tmp_path / "file").write_text("")
    (found,) = check_output(LocalStore(), str(tmp_path / "file" / "out"))
    assert (found.outcome, "--output" in found.to_do) == (FAILURE, True)


# ---- the clock ----


def test_a_real_server_tells_the_time(bucket):
    (found,) = check_clock(S3Store(), f"s3://{bucket}/out")
    assert found.outcome is OK


@pytest.mark.parametrize(("off", "said"), [(-500.0, "behind"), (500.0, "ahead of")])
def test_a_clock_that_is_off_is_a_warning_with_the_difference(monkeypatch, off, said):
    now = time.time
    monkeypatch.setattr("workers.doctor.storage.time.time", lambda: now() + off)
    store = Fixed(now())
    (found,) = check_clock(store, OUTPUT)
    assert found.outcome is WARNING
    assert f"this machine is 500 s {said} the store" in found.seen
    assert abs(off) > CLOCK_SECONDS


class Fixed(MemoryStore):
    """A store with a clock."""

    def __init__(self, time: float) -> None:
        super().__init__()
        self.time = time

    def clock(self, place):
        return self.time


def test_a_disk_tells_no_time(tmp_path):
    (found,) = check_clock(LocalStore(), str(tmp_path))
    assert found.outcome is SKIPPED


def test_a_folder_that_is_not_there_is_a_failure(tmp_path):
    (finding,) = check_input(LocalStore(), str(tmp_path / "nowhere"))
    assert finding.outcome is Outcome.FAILURE
    assert finding.to_do == "create it, or correct --input"


def test_an_output_whose_listing_lacks_what_was_written_is_a_failure():
    class Forgetful(MemoryStore):
        def list(self, prefix):
            return iter(())

    found = outcomes(check_output(Forgetful(), OUTPUT))
    assert (found["write"], found["read"]) == (OK, FAILURE)
