import asyncio
import gc
import io
import json
import tarfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, replace

import pytest
from PIL import Image

from pixellm.answers import DecodeSettings
from pixellm.engine import Engine
from pixellm.errors import ImageError
from pixellm.tiny import tiny_checkpoint
from tests.photos import load_photos
from workers import replica
from workers.batcher import Batcher
from workers.earlier import EarlierRows, index_earlier
from workers.errors import (
    AccessDenied,
    ObjectMissing,
    OutputUnwritable,
    ReplicaBroken,
    StorageError,
    StorageUnavailable,
)
from workers.hardware import settle_hardware
from workers.labeller import label_shard
from workers.labels.commits import Guarantee, Ledger
from workers.labels.manifests import current_commits, stale_commits
from workers.labels.parts import read_rows
from workers.labels.schema import LabelRow
from workers.logbook import TELL_SECONDS, Begun, Book, Logbook, Teller
from workers.model_files import ModelIdentity
from workers.records.instructions import make_instruction
from workers.records.pictures import PictureLimits
from workers.records.record import FieldMap, ImageRef
from workers.settings import LabelSettings
from workers.shards.listing import write_listings_to
from workers.shards.plan import plan_shards
from workers.storage.memory import MemoryStore
from workers.summaries import ShardSummary
from workers.workbench import Workbench

INPUT, OUTPUT = "mem://b/in", "mem://b/out"
TOKENS = 20
IDENTITY = ModelIdentity("tiny", "ab" * 32, None, "fp32", DecodeSettings(TOKENS), "0")
QUESTIONS = tuple(map(make_instruction, ("the dog", "the red box")))
PASSING = ("run_id", "shard_id", "created_at", "latency_ms", "attempts")
"""Columns that say which try a row comes from, not what it says."""


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_checkpoint(0), DecodeSettings(TOKENS))


class CountingEngine:
    """The tiny model, with a count of what it was asked, and texts that it fails on."""

    def __init__(self, engine: Engine, poison: str | None = None) -> None:
        self.engine, self.poison = engine, poison
        self.asked: list[str] = []
        self.images: list[int] = []

    def answer(self, samples):
        self.asked += [text for sample in samples for text in sample.questions]
        self.images.append(len(samples))
        if any(self.poison in sample.questions for sample in samples):
            raise RuntimeError("poisoned")
        return self.engine.answer(samples)


class FlakyStore(MemoryStore):
    """Fails in the calls it is told to, and knows how much is read at once."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: dict[str, list[Exception]] = {}
        self.full: Exception | None = None

    def get(self, uri, start=0, length=None):
        for part, errors in self.trouble.items():
            if part in uri and errors:
                raise errors.pop(0)
        return super().get(uri, start, length)

    def put_if_absent(self, uri, data):
        if self.full:
            raise self.full
        return super().put_if_absent(uri, data)


@pytest.fixture
def store() -> FlakyStore:
    return FlakyStore()


@contextmanager
def bench_for(store, model, run_id="run-1", batch=1, pictures=8, **more):
    """One question a batch makes numbers independent of who shares a batch."""
    earlier = index_earlier(store, OUTPUT, more.pop("stale", []))
    with ThreadPoolExecutor(4) as threads:
        yield Workbench(
            batcher=Batcher(model.answer, batch),
            image_side=56,
            room=lambda text: model.engine.room(model.engine.prompt_ids(text)),
            ledger=Ledger(store, OUTPUT, run_id),
            provenance=IDENTITY.provenance(run_id),
            earlier=EarlierRows(earlier, store, OUTPUT),
            store=store,
            threads=threads,
            pictures=asyncio.Semaphore(pictures),
            questions=more.pop("questions", QUESTIONS),
            **more,
        )


def plan(store, records=2):
    listings = write_listings_to(store, f"{OUTPUT}/_plans")
    return plan_shards(store, INPUT, records_per_shard=records, listing_writer=listings).shards


def label(store, model, shards=None, **more):
    """Labels shards, all at once as a replica does; returns their summaries."""

    async def label_all(bench):
        todo = plan(store) if shards is None else shards
        return await asyncio.gather(*(label_shard(shard, bench) for shard in todo))

    with bench_for(store, model, **more) as bench:
        return asyncio.run(asyncio.wait_for(label_all(bench), 60))


def table(store, run_id="run-1") -> list[LabelRow]:
    rows = read_rows(store, OUTPUT, current_commits(store, OUTPUT, run_id))
    return sorted(rows, key=lambda row: (row.item_id, row.image_uri, row.row_index))


def lasting(rows) -> list[tuple]:
    """Rows without the columns that differ from try to try."""
    names = [field.name for field in fields(LabelRow) if field.name not in PASSING]
    return [tuple(getattr(row, name) for name in names) for row in rows]


def put_photos(store, count=8, folder=INPUT):
    for photo in load_photos()[:count]:
        store.put(f"{folder}/{photo.name}", photo.data)


def put_lines(store, *records):
    store.put(f"{INPUT}/list.jsonl", "\n".join(map(json.dumps, records)).encode())


def png(side=20, colour="red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


def test_every_photo_and_instruction_becomes_a_row_with_its_answer(store, engine):
    put_photos(store)
    model = CountingEngine(engine)
    summaries = label(store, model)
    rows = table(store)
    photos = {f"{INPUT}/{photo.name}": photo for photo in load_photos()}
    assert Counter(row.image_uri for row in rows) == Counter(dict.fromkeys(photos, 2))
    assert sorted(model.asked) == sorted(row.instruction for row in rows)
    assert {row.status for row in rows} <= {"ok", "empty", "partial"}
    assert sum(row.n_targets for row in rows) == sum(each.targets for each in summaries) > 0
    for row in rows:
        height, width, _ = photos[row.image_uri].rgb.shape
        assert (row.width, row.height) == (width, height)
        assert all(target.rle_size == (height, width) for target in row.targets)
    assert sum(each.records for each in summaries) == 8
    assert sum((Counter(each.counts) for each in summaries), Counter()).total() == len(rows)


def test_a_bad_image_is_a_row_with_its_reason_and_the_run_goes_on(store, engine):
    put_photos(store, 2)
    store.put(f"{INPUT}/broken.jpg", load_photos()[0].data[:5000])
    store.put(f"{INPUT}/notes.jpg", b"not an image")
    put_lines(
        store,
        {"image": "broken.jpg"},
        {"image": "notes.jpg"},
        {"image": "gone.jpg"},
        {"image": "/etc/passwd"},
        {"image": load_photos()[0].name, "instruction": "[SEG]"},
        {"no": "image"},
        {"image": load_photos()[1].name, "id": 7},
    )
    label(store, CountingEngine(engine), shards=plan(store, records=100), questions=QUESTIONS[:1])
    codes = {row.row_index: (row.status, row.error_code) for row in table(store)}
    assert codes.pop(6)[0] in ("ok", "empty", "partial")
    assert codes == {
        0: ("rejected_input", "image_broken"),
        1: ("rejected_input", "image_unknown_format"),
        2: ("rejected_input", "image_missing"),
        3: ("rejected_input", "image_refused"),
        4: ("rejected_input", "instruction_invalid"),
        5: ("rejected_input", "image_not_named"),
    }
    read = [row for row in table(store) if row.error_code == "image_broken"]
    assert all(row.image_sha256 and not row.width for row in read)


def put_tar(store, *members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    store.put(f"{INPUT}/x.tar", file.getvalue())


def test_a_tar_with_images_and_texts_is_labelled(store, engine):
    put_tar(store, ("a.png", png()), ("a.txt", b"the dog\nthe cat\n"), ("b.png", png(9)))
    label(store, CountingEngine(engine), questions=())
    asked = {(row.image_member, row.instruction): row.error_code for row in table(store)}
    assert asked == {
        ("a.png", "the dog"): None,
        ("a.png", "the cat"): None,
        ("b.png", ""): "instruction_missing",
    }


def test_a_picture_that_the_model_can_not_take_is_a_row(store, engine, monkeypatch):
    def refuse(rgb, side):
        raise ImageError("no pixels")

    monkeypatch.setattr("workers.labeller.prepare_image", refuse)
    put_photos(store, 1)
    label(store, CountingEngine(engine))
    rows = table(store)
    assert {(row.error_code, row.error_message) for row in rows} == {("image_broken", "no pixels")}
    assert all(row.image_sha256 for row in rows)


def test_rows_tell_how_long_their_answers_took_in_milliseconds(store, engine):
    class SlowEngine(CountingEngine):
        def answer(self, samples):
            time.sleep(0.05)
            return super().answer(samples)

    put_photos(store, 1)
    started = time.monotonic()
    label(store, SlowEngine(engine), batch=2)
    most = 1000 * (time.monotonic() - started)
    assert [50 <= row.latency_ms <= most for row in table(store)] == [True, True]


def test_files_out_of_an_archive_are_let_go_once_they_are_pictures(store, engine):
    pictures = 6
    held = []

    class WatchingEngine(CountingEngine):
        def answer(self, samples):
            if not held:
                deadline = time.monotonic() + 20
                while len(bench.batcher._line) < pictures - 1 and time.monotonic() < deadline:
                    time.sleep(0.01)
                refs = [each for each in gc.get_objects() if type(each) is ImageRef]
                held.append(sum(each.data is not None for each in refs))
            return super().answer(samples)

    put_tar(store, *((f"{n}.png", png(20 + n)) for n in range(pictures)))
    with bench_for(store, WatchingEngine(engine), batch=2) as bench:
        (shard,) = plan(store)
        asyncio.run(asyncio.wait_for(label_shard(shard, bench), 60))
    assert held[0] <= 2  # the one that is being read, and the one before


def test_a_poisoned_question_costs_its_own_row_only(store, engine):
    put_photos(store, 3)
    poison = QUESTIONS[0].text
    label(store, CountingEngine(engine, poison), batch=8)
    for row in table(store):
        if row.instruction == poison:
            assert (row.status, row.error_code) == ("failed", "model_failed")
            assert row.error_message == "RuntimeError: poisoned"
            assert row.image_sha256
            assert row.width
        else:
            assert row.status in ("ok", "empty", "partial")


def test_an_instruction_that_the_model_has_no_room_for_is_rejected(store, engine):
    put_photos(store, 1)
    long = make_instruction("q9 x7 " * 150)
    label(store, CountingEngine(engine), batch=8, questions=(QUESTIONS[0], long))
    statuses = {row.instruction: row.error_code for row in table(store)}
    assert statuses == {QUESTIONS[0].text: None, long.text: "instruction_invalid"}


def test_an_instruction_without_room_costs_the_others_nothing(store, engine):
    put_photos(store, 5)
    long = make_instruction("q9 x7 " * 150)
    lone, beside = CountingEngine(engine), CountingEngine(engine)
    # one picture at a time, so that the batches don't depend on which is decoded first
    label(store, lone, plan(store, 100), run_id="lone", batch=8, pictures=1)
    asked = (QUESTIONS[0], long, QUESTIONS[1])
    label(store, beside, plan(store, 100), run_id="beside", batch=8, pictures=1, questions=asked)
    assert beside.images == lone.images == [1] * 5
    assert long.text not in beside.asked
    rows = table(store, "beside")
    refused = [row for row in rows if row.instruction == long.text]
    assert {(row.status, row.error_code) for row in refused} == {
        ("rejected_input", "instruction_invalid")
    }
    assert all("leaves no room" in row.error_message and row.width for row in refused)
    assert len(refused) == 5
    answered = [row for row in rows if row.instruction != long.text]
    assert lasting(answered) == lasting(table(store, "lone"))


def test_the_rows_do_not_depend_on_order_or_on_how_shards_are_cut(store, engine):
    put_photos(store)
    put_lines(
        store,
        *({"image": photo.name, "instructions": ["the dog", "the cat"]} for photo in load_photos()),
    )
    model = CountingEngine(engine)
    label(store, model, plan(store, 2)[::-1], run_id="one", pictures=1)
    label(store, model, plan(store, 100), run_id="two", pictures=16)
    one, two = (
        lasting(replace(row, row_index=0) for row in table(store, run)) for run in ("one", "two")
    )
    assert len(one) == 16
    assert one == two


def test_rows_that_an_earlier_plan_has_made_are_not_asked_again(store, engine):
    put_photos(store, 6)
    label(store, CountingEngine(engine))
    before = table(store)
    put_photos(store, 8)
    shards = plan(store)
    left = [s for s in shards if s.shard_id not in {row.shard_id for row in before}]
    stale = list(
        stale_commits(
            store,
            OUTPUT,
            fingerprint=IDENTITY.label_fingerprint,
            sources={INPUT},
            run_id="run-2",
            plan={shard.shard_id for shard in shards},
        )
    )
    model = CountingEngine(engine)
    summaries = label(store, model, shards, run_id="run-2", stale=stale)
    assert len(model.asked) == 4
    assert sum(each.reused for each in summaries) == 12
    assert left
    whole = FlakyStore()
    put_photos(whole, 8)
    label(whole, CountingEngine(engine))
    assert lasting(table(store, "run-2")) == lasting(table(whole))
    assert {row.run_id for row in table(store, "run-2")} == {"run-2"}


def test_a_carried_over_row_stands_at_its_new_place(store, engine):
    photo = load_photos()[0]
    store.put(f"{INPUT}/a.jpg", photo.data)
    put_lines(store, {"image": "a.jpg", "id": "old", "instruction": "the dog"})
    label(store, CountingEngine(engine))
    (old,) = table(store)
    stale = list(current_commits(store, OUTPUT, "run-1"))
    store.put(f"{INPUT}/moved/b.jpg", photo.data)
    same = {"text": "the dog", "id": "mine", "kind": "one"}
    sorted_now = {"text": "the dog", "classes": ["dog", "cat"]}
    put_lines(
        store,
        {"image": "a.jpg", "instruction": "something else"},
        {"image": "moved/b.jpg", "id": "new", "n": 1, "instructions": [same, same, sorted_now]},
    )
    model = CountingEngine(engine)
    (summary,) = label(store, model, plan(store, 100), run_id="run-2", stale=stale)
    assert sorted(model.asked) == ["something else", "the dog"]
    assert (summary.reused, summary.rows, summary.records) == (2, 4, 2)
    rows = [row for row in table(store, "run-2") if row.instruction_id == "mine"]
    assert len(rows) == 2
    for row in rows:
        assert (row.result_id, row.targets, row.created_at) == (
            old.result_id,
            old.targets,
            old.created_at,
        )
        assert (row.image_uri, row.row_index) == (f"{INPUT}/moved/b.jpg", 1)
        assert (row.source_id, row.meta_json) == ("new", '{"n": 1}')
        assert (row.run_id, row.instruction_kind) == ("run-2", "one")


def test_failed_and_rejected_rows_are_tried_again(store, engine):
    put_photos(store, 2)
    label(store, CountingEngine(engine, QUESTIONS[0].text))
    stale = list(current_commits(store, OUTPUT, "run-1"))
    model = CountingEngine(engine)
    label(store, model, run_id="run-2", stale=stale)
    assert model.asked == [QUESTIONS[0].text] * 2


def test_earlier_parts_that_somebody_removed_are_done_without(store, engine):
    put_photos(store, 1)
    label(store, CountingEngine(engine))
    stale = list(current_commits(store, OUTPUT, "run-1"))
    store.delete(f"{OUTPUT}/{stale[0].part}")
    model = CountingEngine(engine)
    label(store, model, run_id="run-2", stale=stale)
    assert len(model.asked) == 2


def test_two_attempts_at_a_shard_end_as_one(store, engine):
    put_photos(store, 2)
    (shard, *_) = plan(store)
    first, second = label(store, CountingEngine(engine), [shard, shard])
    assert (first.rows, first.counts) == (second.rows, second.counts)
    assert len(table(store)) == first.rows


def test_no_more_pictures_are_alive_than_allowed(store, engine):
    put_photos(store)
    model = CountingEngine(engine)
    with bench_for(store, model, pictures=3, batch=64) as bench:

        async def watch():
            work = asyncio.gather(*(label_shard(shard, bench) for shard in plan(store, 4)))
            most = 0
            while not work.done():
                most = max(most, bench.batcher.waiting // 2)
                await asyncio.sleep(0.001)
            return most, await work

        most, _ = asyncio.run(asyncio.wait_for(watch(), 60))
    assert max(model.images) <= 3
    assert most <= 3


# ---- what the replica makes of failures ----


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

    async def begin(self, shard_id):
        return self.book.begin(shard_id)

    async def broke(self, shard_ids, why):
        self.book.broke(shard_ids, why)


@contextmanager
def labeller_for(store, model, logbook=None, **more):
    """A replica without a process of its own."""
    logbook = logbook or OwnLogbook()
    teller = Teller(logbook.answered)
    with bench_for(store, model, tell=teller, **more) as bench:
        labeller = replica.ShardLabeller.__new__(replica.ShardLabeller)  # loads no model
        labeller._bench, labeller._logbook, labeller._at_hand = bench, logbook, set()
        labeller._teller = teller
        yield labeller


async def call(labeller, shard):
    """What Ray Data does."""
    replies = labeller({replica.SHARD: [replica.shard_to_json(shard)]})
    (reply,) = [reply async for reply in replies]
    (text,) = reply[replica.SUMMARY]
    return ShardSummary.from_json(text)


def process(store, engine, shard, monkeypatch, **more):
    monkeypatch.setattr(replica, "WAITS", (0.01, 0.02))
    with labeller_for(store, engine, **more) as labeller:
        return asyncio.run(asyncio.wait_for(call(labeller, shard), 60))


def test_a_store_that_comes_back_costs_an_attempt_and_no_row(store, engine, monkeypatch):
    put_photos(store, 1)
    (shard,) = plan(store)
    store.trouble[".jpg"] = [StorageUnavailable("busy"), StorageUnavailable("busy")]
    summary = process(store, CountingEngine(engine), shard, monkeypatch)
    assert (summary.error, summary.attempts) == (None, 3)
    assert [row.attempts for row in table(store)] == [3, 3]


def test_the_second_attempt_is_called_the_second(store, engine, monkeypatch):
    put_photos(store, 1)
    (shard,) = plan(store)
    store.trouble[".jpg"] = [StorageUnavailable("busy")]
    assert process(store, CountingEngine(engine), shard, monkeypatch).attempts == 2
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
        def answer(self, samples):
            return len(samples) + "a bug of ours"

    put_photos(store, 4)
    (shard,) = plan(store, 100)
    summary = process(store, CrashingEngine(engine), shard, monkeypatch, batch=8)
    assert "TypeError: unsupported operand" in summary.error
    assert 'return len(samples) + "a bug of ours"' in summary.error
    assert summary.error.count("TypeError") == 1  # and not once for each picture of the batch
    assert summary.ends_run
    assert not list(store.list(f"{OUTPUT}/labels"))


class BrokenEngine(CountingEngine):
    """A model that answers nothing."""

    def answer(self, samples):
        raise RuntimeError("always")


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
        async def broke(self, shard_ids, why):
            await asyncio.sleep(60)

    class Gone(OwnLogbook):
        async def broke(self, shard_ids, why):
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


def test_each_record_that_is_done_is_told_also_one_that_was_refused(store, engine):
    put_photos(store, 3)
    store.put(f"{INPUT}/broken.jpg", b"no image")
    (shard,) = plan(store, 100)
    told = []
    label(store, CountingEngine(engine), [shard], tell=lambda *words: told.append(words))
    assert told == [(shard.shard_id, done) for done in (1, 2, 3, 4)]


def test_a_teller_sends_the_newest_counts_once_in_a_while(monkeypatch):
    now, sent = 100.0, []
    monkeypatch.setattr("workers.logbook.time.monotonic", lambda: now)
    tell = Teller(lambda counts: sent.append(dict(counts)))
    tell("a", 1)
    for count in (2, 3):
        tell("a", count)
    tell("b", 1)
    assert sent == [{"a": 1}]
    now += TELL_SECONDS
    tell("b", 2)
    assert sent == [{"a": 1}, {"a": 3, "b": 2}]
    tell("b", 3)
    tell.flush()
    tell.flush()
    assert sent[2:] == [{"b": 3}]


def test_shards_that_were_done_before_their_replica_broke_are_not_blamed(store, engine, mortal):
    put_photos(store, 8)
    (done, *_), logbook = plan(store, 1), OwnLogbook()
    (broken,) = plan(store, 100)
    with labeller_for(store, CountingEngine(engine), logbook) as labeller:

        async def call_both():
            await call(labeller, done)
            labeller._bench.batcher._answer = BrokenEngine(engine).answer
            await call(labeller, broken)

        with pytest.raises(Ended):
            asyncio.run(asyncio.wait_for(call_both(), 20))
    assert logbook.book.begin(done.shard_id) == Begun(times=2)
    assert "always" in (logbook.book.begin(broken.shard_id).last_words or "")


def test_a_shard_that_kills_its_workers_is_not_begun_for_ever(store, engine):
    put_photos(store, 1)
    (shard,) = plan(store)
    with labeller_for(store, CountingEngine(engine)) as labeller:

        async def call_often():
            return [await call(labeller, shard) for _ in range(2 + replica.MAX_DEATHS)]

        *begun, last = [summary.error for summary in asyncio.run(call_often())]
    assert begun == [None] * (1 + replica.MAX_DEATHS)
    assert last == "4 workers that had it died (out of memory?); see Ray's logs"


def test_a_shard_that_is_given_up_says_why_its_workers_broke(store, engine, mortal):
    put_photos(store, 8)
    shards, logbook = plan(store, 4), OwnLogbook()
    assert len(shards) > 1

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
    said = "8 questions failed in a row, the last with RuntimeError: always"
    assert {summary.error for summary in summaries} == {
        f"4 workers that had it died; the last that could say why: {said}"
    }


def test_a_model_that_can_not_be_loaded_ends_the_run_with_its_message(store, tmp_path):
    put_photos(store, 1)
    (shard,) = plan(store)
    places = ["--input", INPUT, "--output", OUTPUT, "--model", str(tmp_path / "none")]
    settings = settle_hardware(LabelSettings.from_everywhere(places, "label"))
    logbook = OwnLogbook()
    for _ in range(2 + replica.MAX_SETUP_DEATHS):  # those that can say why have not died
        labeller = replica.ShardLabeller(assign(store, settings), 1, logbook)
        summary = asyncio.run(labeller.process(shard))
        assert summary.ends_run
        assert "the model can't be used: --model" in summary.error


def assign(store, settings) -> replica.Assignment:
    nothing = index_earlier(store, OUTPUT, [])
    return replica.Assignment(settings, IDENTITY, "run-1", Guarantee.EXACTLY_ONCE, nothing)


def test_replicas_that_are_killed_while_they_load_the_model_end_the_run(store, monkeypatch):
    def killed(self, assignment):
        raise Ended

    monkeypatch.setattr(replica.ShardLabeller, "setup", killed)
    monkeypatch.setattr(replica.ShardLabeller, "__del__", lambda self: None)
    put_photos(store, 1)
    (shard,) = plan(store)
    settings = LabelSettings(input=INPUT, output=OUTPUT, model="s3://models/large")
    logbook = OwnLogbook()
    for _ in range(1 + replica.MAX_SETUP_DEATHS):
        with pytest.raises(Ended):
            replica.ShardLabeller(assign(store, settings), 1, logbook)
    labeller = replica.ShardLabeller(assign(store, settings), 1, logbook)
    summary = asyncio.run(call(labeller, shard))
    assert summary.ends_run
    assert summary.error.startswith("3 workers died while they loaded the model 's3://models/large")
    assert "--max-replicas" in summary.error


def test_a_broken_model_passes_through_the_labeller(store, engine):
    put_photos(store, 8)

    with pytest.raises(ReplicaBroken):
        label(store, BrokenEngine(engine), plan(store, 100))
    assert not list(store.list(f"{OUTPUT}/labels"))


def test_a_shard_travels_as_json(store):
    put_photos(store, 2)
    (shard, *_) = plan(store)
    assert replica.shard_from_json(replica.shard_to_json(shard)) == shard


def test_limits_and_field_names_of_the_settings_are_obeyed(store, engine):
    store.put(f"{INPUT}/a.png", png(50))
    put_lines(store, {"photo": "a.png", "ask": "the dog"}, {"photo": "a.png"})
    names = FieldMap(image=("photo",), instructions=("ask",))
    label(store, CountingEngine(engine), fields=names, limits=PictureLimits(max_pixels=99))
    rows = table(store)
    assert {row.error_code for row in rows} == {"image_too_many_pixels"}
    assert Counter(row.instruction for row in rows) == {"the dog": 2, "the red box": 1}
