import json

import pytest

from tests.test_commits import Dying, Killed, in_store, ledger_of, part
from workers.errors import CommitError
from workers.labels.commits import Ledger
from workers.labels.manifests import (
    Manifest,
    current_commits,
    finish_run,
    manifests,
    read_manifest,
    stale_commits,
)
from workers.storage.memory import MemoryStore
from workers.storage.s3 import S3Store

OUTPUT = "mem://bucket/out"
PLAN = ["a" * 20, "b" * 20, "c" * 20]


def label(store, plan=PLAN, run="run-1", fingerprint="f1", source="s3://in", output=OUTPUT):
    """What a job does: commit what is not committed."""
    ledger = ledger_of(store, output, run)
    for shard_id in set(plan) - ledger.committed_ids():
        ledger.commit(shard_id, part(run), fingerprint=fingerprint, source=source, source_etag="e")
    return ledger


def finish(
    ledger: Ledger, plan=PLAN, fingerprint="f1", settings="s1", planned_at="2026-01-02"
) -> Manifest:
    return finish_run(
        ledger,
        plan,
        planned_at=planned_at,
        source="s3://in",
        settings_digest=settings,
        fingerprint=fingerprint,
    )


def ids(commits):
    return [commit.shard_id for commit in commits]


def test_a_manifest_sums_up_its_run_and_holds_all_its_markers():
    store = MemoryStore()
    ledger = label(store)
    manifest = finish(ledger)
    assert read_manifest(store, OUTPUT, "run-1") == manifest
    assert (manifest.shards, manifest.rows, manifest.targets) == (3, 9, 18)
    assert manifest.counts == {"ok": 6, "empty": 3}
    assert manifest.errors == {"no_room": 3}
    commits = list(current_commits(store, OUTPUT))
    assert commits == [ledger.get(shard_id) for shard_id in PLAN]


def test_a_manifest_names_the_model_and_its_adapter_and_an_older_one_names_none():
    store = MemoryStore()
    plain = finish(label(store))
    assert (plain.model_sha256, plain.adapter_sha256) == ("", "")
    made_by = {"model_sha256": "ab" * 32, "adapter_sha256": "cd" * 32}
    more = {"planned_at": "2026-01-02", "source": "in", "settings_digest": "s", "fingerprint": "f"}
    named = finish_run(label(store, run="run-2"), PLAN, **more, **made_by)
    assert read_manifest(store, OUTPUT, "run-2") == named
    assert (named.model_sha256, named.adapter_sha256) == ("ab" * 32, "cd" * 32)
    older = json.loads(plain.to_json())
    for name in made_by:
        del older[name]
    assert Manifest.from_json(json.dumps(older), "") == plain
    with pytest.raises(CommitError, match="'adapter_sha256' is missing or of a wrong type"):
        Manifest.from_json(json.dumps({**older, "adapter_sha256": None}), "")
    del older["shards"]
    with pytest.raises(CommitError, match="'shards' is missing"):
        Manifest.from_json(json.dumps(older), "")


def test_readers_of_a_finished_run_do_not_read_its_markers():
    store = MemoryStore()
    finish(label(store))
    for info in list(store.list(f"{OUTPUT}/_commits")):
        store.delete(info.uri)
    assert ids(current_commits(store, OUTPUT)) == PLAN


def test_a_run_with_an_open_shard_can_not_be_finished():
    store = MemoryStore()
    ledger = label(store, PLAN[:1])
    with pytest.raises(CommitError, match=r"2 of 3 shards of the run 'run-1' .* 'bbbb"):
        finish(ledger)
    assert manifests(store, OUTPUT) == []


def test_finishing_again_writes_nothing():
    store = MemoryStore()
    finish(label(store))
    before = in_store(store)
    assert finish(label(store)) == finish(label(store), PLAN[::-1])
    assert in_store(store) == before


def test_the_newest_plan_is_the_table_also_where_an_older_one_ends_last():
    store = MemoryStore()
    ledger = label(store)
    newest = finish(ledger, PLAN, planned_at="2026-01-02")
    assert finish(ledger, PLAN[:2], planned_at="2026-01-01") == newest
    assert ids(current_commits(store, OUTPUT)) == PLAN
    finish(ledger, PLAN[:2], planned_at="2026-01-03")
    assert ids(current_commits(store, OUTPUT)) == PLAN[:2]


def test_a_plan_from_a_future_that_a_wrong_clock_made_up_is_replaced():
    store = MemoryStore()
    ledger = label(store)
    finish(ledger, PLAN[:2], planned_at="9999-01-01")
    finish(ledger, PLAN, planned_at="2026-01-01")
    assert ids(current_commits(store, OUTPUT)) == PLAN


def test_a_run_that_ends_after_one_of_a_wrong_clock_is_the_newest_all_the_same(monkeypatch):
    store = MemoryStore()
    with monkeypatch.context() as wrong:
        wrong.setattr("workers.labels.manifests.now", lambda: "2999-01-01T00:00:00.000000+00:00")
        early = finish(label(store))
    later = finish(label(store, run="run-2"))
    assert later.finished_at > early.finished_at
    assert [each.run_id for each in manifests(store, OUTPUT)] == ["run-2", "run-1"]
    third = finish(label(store, run="run-3"))
    assert third.finished_at > later.finished_at


def test_finishing_with_other_settings_writes_them_down():
    store = MemoryStore()
    finish(label(store))
    assert finish(label(store), settings="s2").settings_digest == "s2"
    assert read_manifest(store, OUTPUT, "run-1").settings_digest == "s2"


@pytest.mark.parametrize("writes", range(1, 9))
@pytest.mark.parametrize("before", [True, False])
def test_killed_at_any_write_the_same_command_ends_with_the_same_table(writes, before):
    undisturbed = MemoryStore()
    finish(label(undisturbed))
    store = Dying(writes, before=before)
    with pytest.raises(Killed):
        finish(label(store))
    finish(label(store))
    assert sorted(map(_form, in_store(store))) == sorted(map(_form, in_store(undisturbed)))
    expected = [(c.shard_id, c.rows, c.sha256) for c in current_commits(undisturbed, OUTPUT)]
    assert [(c.shard_id, c.rows, c.sha256) for c in current_commits(store, OUTPUT)] == expected


def _form(name: str) -> str:
    """The table of markers is named by its content, and that has times in it."""
    return "table" if name.endswith(".gz") else name


def test_an_unfinished_run_is_read_by_its_markers():
    store = MemoryStore()
    label(store, PLAN[:2])
    assert ids(current_commits(store, OUTPUT)) == PLAN[:2]
    assert ids(current_commits(store, OUTPUT, "run-1")) == PLAN[:2]


def test_the_newest_finished_run_is_read_when_none_is_named():
    store = MemoryStore()
    finish(label(store, PLAN[:2], "z-older"), PLAN[:2])
    finish(label(store, PLAN, "a-newer"))
    label(store, PLAN[:1], "m-not-finished")
    assert [c.run_id for c in current_commits(store, OUTPUT)] == ["a-newer"] * 3
    assert [c.run_id for c in current_commits(store, OUTPUT, "z-older")] == ["z-older"] * 2
    assert [m.run_id for m in manifests(store, OUTPUT)] == ["a-newer", "z-older"]


def test_of_two_unfinished_runs_one_must_be_named():
    store = MemoryStore()
    label(store, PLAN[:1], "run-1")
    label(store, PLAN[1:], "run-2")
    with pytest.raises(CommitError, match="run-1, run-2"):
        list(current_commits(store, OUTPUT))
    assert ids(current_commits(store, OUTPUT, "run-2")) == PLAN[1:]


def test_where_nothing_is_committed_the_message_says_so():
    store = MemoryStore()
    with pytest.raises(CommitError, match=r"nothing has been committed under 'mem://bucket/out'"):
        list(current_commits(store, OUTPUT))
    label(store)
    with pytest.raises(CommitError, match="by the run 'other'"):
        list(current_commits(store, OUTPUT, "other"))


def test_shards_that_the_newest_plan_no_longer_has_are_not_read():
    store = MemoryStore()
    finish(label(store))
    changed = [*PLAN[:2], "d" * 20]
    ledger = label(store, changed)
    assert ids(current_commits(store, OUTPUT)) == PLAN, "the old table, until the new one is whole"
    finish(ledger, changed)
    assert ids(current_commits(store, OUTPUT)) == sorted(changed)


def test_the_manifest_of_a_real_bucket_is_read_back(bucket):
    output = f"s3://{bucket}/out"
    plan = [f"{i:020x}" for i in range(40)]
    manifest = finish(label(S3Store(), plan, output=output), plan)
    assert ids(current_commits(S3Store(), output)) == plan
    assert manifests(S3Store(), output) == [manifest]


# Earlier work


def stale(store, run="run-1", plan=(), fingerprint="f1", sources=("s3://in",)):
    found = stale_commits(
        store, OUTPUT, fingerprint=fingerprint, sources=sources, run_id=run, plan=plan
    )
    return [(commit.run_id, commit.shard_id[0]) for commit in found]


def test_earlier_shards_of_the_same_run_are_stale_when_the_plan_has_them_no_more():
    store = MemoryStore()
    finish(label(store))
    label(store, ["d" * 20])
    assert stale(store, plan=PLAN) == [("run-1", "d")]
    assert stale(store, plan=[*PLAN[:2], "d" * 20]) == [("run-1", "c")]
    assert stale(store, plan=[*PLAN, "d" * 20]) == []


def test_shards_of_other_runs_are_given_when_fingerprint_and_source_are_the_same():
    store = MemoryStore()
    finish(label(store, run="other"))
    label(store, PLAN[:1], "unfinished")
    finish(label(store, run="weights", fingerprint="f2"), fingerprint="f2")
    label(store, PLAN[:1], "weights-unfinished", fingerprint="f2")
    label(store, PLAN[:1], "elsewhere", source="s3://elsewhere")
    assert stale(store, plan=PLAN) == [
        ("other", "a"),
        ("other", "b"),
        ("other", "c"),
        ("unfinished", "a"),
    ]


def test_earlier_work_is_found_with_few_requests():
    class Counting(MemoryStore):
        gets = 0

        def get(self, uri, start=0, length=None):
            self.gets += 1
            return super().get(uri, start, length)

    store = Counting()
    plan = [f"{i:020x}" for i in range(100)]
    finish(label(store, plan), plan)
    label(store, plan, "weights", fingerprint="f2")
    label(store, ["d" * 20])
    store.gets = 0
    assert len(stale(store, "run-2", plan)) == 101
    assert store.gets == 2 + 2 + 1, "manifest and table; the one other marker twice; one of f2"
