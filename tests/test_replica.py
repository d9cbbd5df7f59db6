import asyncio
import pickle
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import Mock

import pytest

from pixellm.checkpoints import save_checkpoint
from pixellm.tiny import tiny_checkpoint
from tests.photos import load_photos
from tests.workbench import (
    IDENTITY,
    INPUT,
    OUTPUT,
    BrokenEngine,
    CountingEngine,
    FlakyStore,
    bench_for,
    label,
    plan,
    put_photos,
    table,
    tiny_engine,
)
from workers import replica
from workers.earlier import index_earlier
from workers.errands import Assignment, Errand
from workers.errors import (
    AccessDenied,
    CommitError,
    ObjectMissing,
    OutputUnwritable,
    StorageError,
    StorageUnavailable,
)
from workers.hardware import settle_hardware
from workers.labels.calibration import Calibration
from workers.labels.commits import Guarantee, Ledger
from workers.logbook import MAX_SETUP_DEATHS, Begun, Book, Logbook, Teller
from workers.meter import Meter
from workers.model_files import identify_model
from workers.model_thread import FAILURES_IN_A_ROW
from workers.settings import LabelSettings
from workers.workbench import lay_out_benches

RUN = "run-1"


@pytest.fixture(scope="module")
def engine():
    return tiny_engine()


@pytest.fixture
def store():
    return FlakyStore()


class OwnLogbook(Logbook):
    """What a run remembers of its shards, in this process."""

    def __init__(self) -> None:
        self.book = Book()

    def setup_begins(self):
        return self.book.setup_begins("the only worker")

    def setup_ends(self, loaded):
        self.book.setup_ends("the only worker", loaded)

    def answered(self, records):
        self.book.answered(records)

    async def begin(self, key):
        return self.book.begin(key)

    async def broke(self, keys, why):
        self.book.broke(keys, why)


@contextmanager
def labeller_for(store, model, logbook=None, **more):
    """A replica without a process of its own."""
    logbook = logbook or OwnLogbook()
    teller = Teller(logbook.answered)
    with bench_for(store, model, tell=teller, **more) as bench:
        labeller = replica.ShardLabeller.__new__(replica.ShardLabeller)  # loads no model
        labeller._benches, labeller._logbook = {RUN: bench}, logbook
        labeller._at_hand, labeller._meter = set(), bench.meter
        labeller._teller, labeller._turns = teller, asyncio.Semaphore(4)
        yield labeller


async def call(labeller, shard):
    """What its actor does."""
    return await labeller(Errand(RUN, shard))


def process(store, engine, shard, monkeypatch, **more):
    monkeypatch.setattr(replica, "WAITS", (0.01, 0.02))
    with labeller_for(store, engine, **more) as labeller:
        return asyncio.run(asyncio.wait_for(call(labeller, shard), 60))


def test_a_store_that_comes_back_costs_an_attempt_and_no_row(store, engine, monkeypatch):
    put_photos(store, 1)
    (shard,) = plan(store)
    store.trouble[".jpg"] = [StorageUnavailable("busy"), StorageUnavailable("busy")]
    summary = process(store, CountingEngine(engine), shard, monkeypatch)
    assert summary.error is None
    assert [row.attempts for row in table(store)] == [3, 3]


class KeepingMeter(Meter):
    """Knows how often it was told of a retry, and whether all was passed on."""

    def __init__(self) -> None:
        self.retries = self.unsaid = 0

    def retried(self):
        self.retries += 1

    def labelled(self, rows):
        self.unsaid += len(rows)

    def flush(self):
        self.unsaid = 0


def test_a_shard_that_is_begun_again_is_counted_and_at_its_end_all_is_passed_on(
    store, engine, monkeypatch
):
    meter = KeepingMeter()
    put_photos(store, 1)
    (shard,) = plan(store)
    store.trouble[".jpg"] = [StorageUnavailable("busy"), StorageUnavailable("busy")]
    process(store, CountingEngine(engine), shard, monkeypatch, meter=meter)
    assert (meter.retries, meter.unsaid) == (2, 0)


def test_the_second_attempt_is_called_the_second(store, engine, monkeypatch):
    put_photos(store, 1)
    (shard,) = plan(store)
    store.trouble[".jpg"] = [StorageUnavailable("busy")]
    process(store, CountingEngine(engine), shard, monkeypatch)
    assert [row.attempts for row in table(store)] == [2, 2]


def test_a_store_that_stays_away_fails_the_shard_and_not_the_run(store, engine, monkeypatch):
    put_photos(store, 1)
    (shard,) = plan(store)
    store.trouble[".jpg"] = [StorageUnavailable("busy")] * 3
    summary = process(store, CountingEngine(engine), shard, monkeypatch)
    assert (summary.error, summary.ends_run) == ("busy", False)
    store.trouble["_plans"] = [ObjectMissing("gone")]
    summary = process(store, CountingEngine(engine), shard, monkeypatch)
    assert (summary.error, summary.ends_run) == ("gone", False)
    assert not list(store.list(f"{OUTPUT}/_commits"))


def test_a_store_that_lets_nobody_in_ends_the_run(store, engine, monkeypatch):
    put_photos(store, 1)
    (shard,) = plan(store)
    store.trouble[".jpg"] = [AccessDenied("expired")]
    summary = process(store, CountingEngine(engine), shard, monkeypatch)
    assert (summary.error, summary.ends_run) == ("expired", True)


@pytest.mark.parametrize(
    "error", [StorageError("'/out/x': No space left on device"), AccessDenied("no right to write")]
)
def test_an_output_that_takes_nothing_ends_the_run_with_the_way_out(
    store, engine, monkeypatch, error
):
    put_photos(store, 1)
    (shard,) = plan(store)
    store.full = error
    summary = process(store, CountingEngine(engine), shard, monkeypatch)
    assert summary.ends_run
    assert summary.error.startswith(f"the output can't be written: {error}. What is committed")
    assert "the same command does the rest" in summary.error
    with pytest.raises(OutputUnwritable):
        label(store, CountingEngine(engine), [shard])


def test_an_output_that_is_away_for_a_while_is_waited_for(store, engine, monkeypatch):
    put_photos(store, 1)
    (shard,) = plan(store)
    store.full = StorageUnavailable("busy")
    summary = process(store, CountingEngine(engine), shard, monkeypatch)
    assert (summary.error, summary.ends_run) == ("busy", False)


def test_a_bug_ends_the_run_with_its_traceback(store, engine, monkeypatch):
    put_photos(store, 1)
    (shard,) = plan(store)
    store.trouble[".jpg"] = [ZeroDivisionError("a bug of ours")]
    summary = process(store, CountingEngine(engine), shard, monkeypatch)
    assert "Traceback" in summary.error
    assert "ZeroDivisionError: a bug of ours" in summary.error
    assert summary.ends_run


def test_a_bug_in_the_model_ends_the_run_with_its_traceback_and_makes_no_rows(
    store, engine, monkeypatch
):
    class CrashingEngine(CountingEngine):
        def step(self):
            return len(self.under_way) + "a bug of ours"

    put_photos(store, 4)
    (shard,) = plan(store, 100)
    summary = process(store, CrashingEngine(engine), shard, monkeypatch)
    assert "TypeError: unsupported operand" in summary.error
    assert 'return len(self.under_way) + "a bug of ours"' in summary.error
    assert summary.error.count("TypeError") == 1  # and not once for each picture of the batch
    assert summary.ends_run
    assert not list(store.list(f"{OUTPUT}/labels"))


class Ended(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def mortal(monkeypatch):
    def ends(code):
        raise Ended(code)

    monkeypatch.setattr("os._exit", ends)


def test_a_replica_whose_model_is_broken_ends_itself(store, engine, monkeypatch, capsys, mortal):
    put_photos(store, 8)
    (shard,) = plan(store, 100)
    with pytest.raises(Ended) as ended:
        process(store, BrokenEngine(engine), shard, monkeypatch)
    assert ended.value.args == (replica.BROKEN_CODE,)
    assert "this replica is broken" in capsys.readouterr().err


def test_a_replica_that_nobody_hears_ends_itself_too(store, engine, monkeypatch, mortal):
    class Deaf(OwnLogbook):
        async def broke(self, keys, why):
            await asyncio.sleep(60)

    class Gone(OwnLogbook):
        async def broke(self, keys, why):
            raise ConnectionError("Ray is gone")

    monkeypatch.setattr(replica, "LAST_WORDS_SECONDS", 0.05)
    put_photos(store, 8)
    (shard,) = plan(store, 100)
    for logbook in (Deaf(), Gone()):
        with (
            labeller_for(store, BrokenEngine(engine), logbook) as labeller,
            pytest.raises(Ended),
        ):
            asyncio.run(asyncio.wait_for(call(labeller, shard), 20))


def test_the_logbook_knows_the_records_of_every_shard_that_was_called(store, engine):
    put_photos(store, 8)
    logbook = OwnLogbook()

    async def call_all(labeller):
        await asyncio.gather(*(call(labeller, shard) for shard in plan(store, 3)))

    with labeller_for(store, CountingEngine(engine), logbook) as labeller:
        asyncio.run(asyncio.wait_for(call_all(labeller), 20))
    assert logbook.book.pulse().records == 8


def test_shards_that_were_done_before_their_replica_broke_are_not_blamed(store, engine, mortal):
    put_photos(store, 8)
    (done, *_), logbook = plan(store, 1), OwnLogbook()
    (broken,) = plan(store, 100)
    with labeller_for(store, CountingEngine(engine), logbook) as labeller:

        async def call_both():
            await call(labeller, done)
            labeller._benches[RUN].model._engine = BrokenEngine(engine)
            await call(labeller, broken)

        with pytest.raises(Ended):
            asyncio.run(asyncio.wait_for(call_both(), 20))
    assert logbook.book.begin((RUN, done.shard_id)) == Begun(times=2)
    assert "always" in (logbook.book.begin((RUN, broken.shard_id)).last_words or "")


def test_no_more_shards_are_under_way_than_allowed_however_many_ray_hands_over(store, engine):
    put_photos(store, 8)
    shards, under_way = plan(store, 1), []
    with labeller_for(store, CountingEngine(engine)) as labeller:
        labeller._turns = asyncio.Semaphore(2)
        process_one = labeller.process

        async def watched(shard):
            under_way.append(len(labeller._at_hand))
            return await process_one(shard)

        labeller.process = watched

        async def call_all():
            await asyncio.gather(*(call(labeller, shard) for shard in shards))

        asyncio.run(asyncio.wait_for(call_all(), 60))
    assert len(shards) > 2
    assert max(under_way) == 2


def test_a_shard_that_was_committed_before_its_worker_died_is_not_labelled_again(store, engine):
    put_photos(store, 4)
    (shard,), model = plan(store, 100), CountingEngine(engine)
    with labeller_for(store, model) as labeller:

        async def call_twice():
            return [await call(labeller, shard) for _ in range(2)]

        first, again = asyncio.run(call_twice())
    assert len(model.asked) == 8
    assert (again.rows, again.counts, again.targets) == (first.rows, first.counts, first.targets)
    assert again.error is None


@pytest.mark.parametrize("trouble", [StorageUnavailable("busy"), CommitError("no JSON")])
def test_where_the_marker_cannot_be_read_a_shard_that_is_begun_again_is_labelled(
    store, engine, trouble
):
    put_photos(store, 1)
    (shard,), logbook = plan(store), OwnLogbook()
    logbook.book.begin((RUN, shard.shard_id))
    store.trouble["_commits"] = [trouble]
    with labeller_for(store, CountingEngine(engine), logbook) as labeller:
        summary = asyncio.run(call(labeller, shard))
    assert (summary.error, summary.rows) == (None, 2)


def test_a_shard_that_kills_its_workers_is_not_begun_for_ever(store, engine):
    put_photos(store, 1)
    (shard,), ends = plan(store), []
    for deaths in (replica.MAX_DEATHS + 1, replica.MAX_DEATHS):
        logbook = OwnLogbook()
        for _ in range(deaths):
            logbook.book.begin((RUN, shard.shard_id))
        with labeller_for(store, CountingEngine(engine), logbook) as labeller:
            ends.append(asyncio.run(call(labeller, shard)).error)
    assert ends == ["4 workers that had it died (out of memory?); see Ray's logs", None]


def test_a_shard_that_is_given_up_says_why_its_workers_broke(store, engine, mortal):
    for name in "abcd":
        put_photos(store, folder=f"{INPUT}/{name}")
    shards, logbook = plan(store, 16), OwnLogbook()
    assert len(shards) > 1
    assert min(shard.count for shard in shards) >= FAILURES_IN_A_ROW  # none is committed

    async def call_all(labeller):
        return await asyncio.gather(*(call(labeller, shard) for shard in shards))

    for _ in range(1 + replica.MAX_DEATHS):
        with (
            labeller_for(store, BrokenEngine(engine), logbook) as labeller,
            pytest.raises(Ended),
        ):
            asyncio.run(asyncio.wait_for(call_all(labeller), 20))
    with labeller_for(store, BrokenEngine(engine), logbook) as labeller:
        summaries = asyncio.run(asyncio.wait_for(call_all(labeller), 20))
    said = "questions of 8 samples in a row failed, the last with RuntimeError: always"
    assert {summary.error for summary in summaries} == {
        f"4 workers that had it died; the last that could say why: {said}"
    }


def test_patience_ends_with_the_shard_that_it_was_for(store, mortal, monkeypatch):
    for name in "abcd":
        put_photos(store, folder=f"{INPUT}/{name}")
    (first, other, *_), logbook = plan(store, 16), OwnLogbook()
    assert other.count >= FAILURES_IN_A_ROW
    for _ in range(replica.MAX_DEATHS):  # over something else: preempted, say
        logbook.book.begin((RUN, first.shard_id))
    engine = tiny_engine()

    async def call_both(labeller):
        assert (await call(labeller, first)).error is None
        monkeypatch.setattr(engine.model.language, "step", Mock(side_effect=MemoryError))
        await call(labeller, other)

    with labeller_for(store, CountingEngine(engine), logbook) as labeller, pytest.raises(Ended):
        asyncio.run(asyncio.wait_for(call_both(labeller), 60))
    assert "failed" not in {row.status for row in table(store)}


def test_pictures_that_are_too_large_one_after_the_other_end_as_rows(store, mortal, monkeypatch):
    """Not the first three times: it may be the replica that has lost its memory."""

    def refuse(*_):
        raise MemoryError("so large")

    put_photos(store, 8)
    (shard,), logbook = plan(store, 100), OwnLogbook()
    for _ in range(replica.MAX_DEATHS):
        engine = tiny_engine()
        monkeypatch.setattr(engine.model.language, "step", refuse)
        counting = CountingEngine(engine)
        with labeller_for(store, counting, logbook) as labeller, pytest.raises(Ended):
            asyncio.run(asyncio.wait_for(call(labeller, shard), 20))
    engine = tiny_engine()
    monkeypatch.setattr(engine.model.language, "step", refuse)
    with labeller_for(store, CountingEngine(engine), logbook) as labeller:
        summary = asyncio.run(asyncio.wait_for(call(labeller, shard), 20))
    assert summary.error is None
    rows = table(store)
    assert {row.status for row in rows} == {"failed"}
    assert {row.image_uri for row in rows} == {f"{INPUT}/{p.name}" for p in load_photos()[:8]}
    assert all("not even alone: so large" in row.error_message for row in rows)


def test_a_model_that_can_not_be_loaded_ends_the_run_with_its_message(store, tmp_path):
    put_photos(store, 1)
    (shard,) = plan(store)
    places = ["--input", INPUT, "--output", OUTPUT, "--model", str(tmp_path / "none")]
    settings = settle_hardware(LabelSettings.from_everywhere(places, "label"))
    logbook = OwnLogbook()
    for _ in range(2 + MAX_SETUP_DEATHS):  # those that can say why have not died
        labeller = replica.ShardLabeller([assign(store, settings)], 1, logbook)
        summary = asyncio.run(labeller.process(Errand(RUN, shard)))
        assert summary.ends_run
        assert "the model can't be used: --model" in summary.error


def assign(store, settings) -> Assignment:
    nothing = index_earlier(store, OUTPUT, [])
    return Assignment(settings, IDENTITY, RUN, Guarantee.EXACTLY_ONCE, nothing)


def test_a_model_whose_store_is_away_for_a_moment_is_loaded_all_the_same(
    store, engine, monkeypatch
):
    monkeypatch.setattr(replica, "WAITS", (0.01, 0.02))
    answers = [StorageUnavailable("busy"), StorageUnavailable("busy"), engine]

    def load(*_):
        if isinstance(answer := answers.pop(0), Exception):
            raise answer
        return answer

    monkeypatch.setattr(replica, "load_engine", load)
    settings = settle_hardware(LabelSettings(input=INPUT, output=OUTPUT))
    labeller = replica.ShardLabeller([assign(store, settings)], 1, OwnLogbook())
    assert labeller._benches[RUN].model._engine is engine


def test_what_the_driver_has_read_of_a_calibration_reaches_the_rows_of_a_replica(
    store, engine, tmp_path
):
    checkpoint = tiny_checkpoint(0)
    save_checkpoint(checkpoint.model, checkpoint.tokenizer, tmp_path / "tiny")
    file = tmp_path / "c.json"
    file.write_bytes(Calibration("score_iou", ((0.1, 0.2),)).to_json())
    places = ["--input", INPUT, "--output", OUTPUT, "--model", str(tmp_path / "tiny")]
    given = [*places, "--model-cache", str(tmp_path / "cache"), "--calibration", str(file)]
    settings = settle_hardware(LabelSettings.from_everywhere(given, "label"))
    assignment = replace(assign(store, settings), identity=identify_model(settings))
    file.unlink()  # a worker may be on another machine
    travelled = pickle.loads(pickle.dumps(assignment))
    (bench,) = lay_out_benches([travelled], engine).values()
    bench.threads.shutdown()
    assert bench.provenance == assignment.identity.provenance("run-1")
    assert bench.provenance.calibration.points == ((0.1, 0.2),)


def test_replicas_that_are_killed_while_they_load_the_model_end_the_run(store, monkeypatch):
    def killed(self, assignment):
        raise Ended

    monkeypatch.setattr(replica.ShardLabeller, "setup", killed)
    monkeypatch.setattr(replica.ShardLabeller, "__del__", lambda self: None)
    put_photos(store, 1)
    (shard,) = plan(store)
    settings = LabelSettings(input=INPUT, output=OUTPUT, model="s3://models/large")
    logbook = OwnLogbook()
    for _ in range(1 + MAX_SETUP_DEATHS):
        with pytest.raises(Ended):
            replica.ShardLabeller([assign(store, settings)], 1, logbook)
    labeller = replica.ShardLabeller([assign(store, settings)], 1, logbook)
    summary = asyncio.run(call(labeller, shard))
    assert summary.ends_run
    assert summary.error.startswith("3 workers died while they loaded the model 's3://models/large")
    assert "--max-replicas" in summary.error


def test_a_shard_whose_turn_comes_after_the_end_is_not_begun(store, engine):
    put_photos(store, 1)
    (shard,), logbook = plan(store), OwnLogbook()
    logbook.book.close()
    with labeller_for(store, CountingEngine(engine), logbook) as labeller:
        summary = asyncio.run(call(labeller, shard))
    assert summary.not_begun
    assert labeller._benches[RUN].ledger.get(shard.shard_id) is None


def test_a_shard_that_two_runs_have_is_begun_and_counted_for_each(store, engine):
    put_photos(store, 3)
    (shard,), logbook = plan(store, 100), OwnLogbook()
    errands = [Errand(RUN, shard), Errand("run-2", shard)]
    with labeller_for(store, CountingEngine(engine), logbook) as labeller:
        bench = labeller._benches[RUN]
        other = replace(bench, ledger=Ledger(store, OUTPUT, "run-2"))
        labeller._benches = {RUN: bench, "run-2": other}

        async def take_both():
            return [await labeller.take(each) for each in errands]

        summaries = asyncio.run(asyncio.wait_for(take_both(), 20))
    assert [each.run_id for each in summaries] == [RUN, "run-2"]
    assert logbook.book.pulse().records == 6
    assert [logbook.book.begin(each.key).times for each in errands] == [2, 2]


def test_each_run_of_a_replica_has_its_own_places_and_they_share_a_model(store, engine):
    nothing, exactly = index_earlier(store, OUTPUT, []), Guarantee.EXACTLY_ONCE

    def assign_to(name: str) -> Assignment:
        places = ["--input", f"{INPUT}/{name}", "--output", f"{OUTPUT}/{name}"]
        given = [*places, "--instruction", f"the {name}"]
        settings = settle_hardware(LabelSettings.from_everywhere(given, "label"))
        return Assignment(settings, IDENTITY, f"run-{name}", exactly, nothing)

    benches = lay_out_benches([assign_to("a"), assign_to("b")], engine)
    one, two = benches["run-a"], benches["run-b"]
    assert one.model is two.model
    assert one.pictures is two.pictures
    assert (one.ledger.output, two.ledger.output) == (f"{OUTPUT}/a", f"{OUTPUT}/b")
    assert [bench.questions[0].text for bench in (one, two)] == ["the a", "the b"]
    assert (one.roots, two.roots) == ((f"{INPUT}/a",), (f"{INPUT}/b",))
    assert (one.provenance.run_id, two.provenance.run_id) == ("run-a", "run-b")
    one.model.close(20)
    one.threads.shutdown()
