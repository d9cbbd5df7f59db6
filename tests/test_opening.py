"""Pictures are opened some in a row: fewer ways to a thread, and no record waits for a slow one."""

import asyncio
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from pixellm.engine.engine import Engine
from pixellm.tiny import Script, tiny_checkpoint
from tests.photos import load_photos
from tests.workbench import (
    INPUT,
    QUESTIONS,
    CountingEngine,
    FlakyStore,
    bench_for,
    label,
    plan,
    put_lines,
    put_photos,
    table,
    tiny_engine,
)
from workers import labeller, opening
from workers.errors import StorageUnavailable
from workers.labels.rows import Attempt
from workers.opening import Labelled, Opened, open_records
from workers.records.record import ImageRef, Record
from workers.records.rejections import Reason, Rejection
from workers.workbench import MOST_IN_A_ROW, choose_row

NAMES = [photo.name for photo in load_photos()[:4]]


class Ways(ThreadPoolExecutor):
    """Counts what is given to its threads."""

    count = 0

    def submit(self, *work):
        self.count += 1
        return super().submit(*work)


@pytest.fixture(scope="module")
def engine():
    return tiny_engine()


@pytest.fixture
def store():
    store = FlakyStore()
    put_photos(store)
    return store


def record(at, name, bench, rejection=None):
    image = None if rejection else ImageRef(f"{INPUT}/{name}", None, None, None)
    return Record(at, None, image, bench.questions, None, rejection)


def open_all(store, engine, make=record):
    """What becomes of a record for each name, and how many ways to a thread that took."""

    async def run():
        with bench_for(store, CountingEngine(engine)) as bench, Ways(2) as threads:
            bench = replace(bench, threads=threads)
            futures = [asyncio.get_running_loop().create_future() for _ in NAMES]
            records = [make(at, name, bench) for at, name in enumerate(NAMES)]
            attempt = Attempt(bench.provenance, "s", 1, datetime.now(UTC))
            await open_records(deque(zip(records, futures, strict=True)), bench, attempt)
            return await asyncio.gather(*futures, return_exceptions=True), threads.count

    return asyncio.run(run())


@pytest.mark.parametrize(("seconds", "ways"), [(60.0, 1), (0.0, 4)])
def test_quick_ones_take_one_way_to_a_thread_and_slow_ones_one_each(
    store, engine, monkeypatch, seconds, ways
):
    monkeypatch.setattr(opening, "IN_A_ROW_SECONDS", seconds)
    opened, found = open_all(store, engine)
    assert found == ways
    assert [each.record.row_index for each in opened] == [0, 1, 2, 3]
    assert all(isinstance(each, Opened) for each in opened)


def test_a_store_that_fails_over_one_is_told_of_it_alone(store, engine):
    store.trouble[NAMES[1]] = [StorageUnavailable("away")]
    opened, _ = open_all(store, engine)
    assert [type(each) for each in opened] == [Opened, StorageUnavailable, Opened, Opened]


def test_what_was_refused_before_has_its_rows_at_once(store, engine):
    why = Rejection(Reason.IMAGE_NOT_NAMED, "no image")
    opened, _ = open_all(
        store, engine, lambda at, name, bench: record(at, name, bench, why if at == 2 else None)
    )
    assert [type(each) for each in opened] == [Opened, Opened, Labelled, Opened]
    assert {row.error_code for row in opened[2].rows} == {"image_not_named"}


def test_shards_that_open_in_rows_with_few_places_for_pictures_all_get_on(store, engine):
    put_lines(store, *({"image": name} for name in NAMES * 6))
    shards = [each for each in plan(store, records=8) if each.source.endswith("jsonl")]
    assert len(shards) == 6
    label(store, CountingEngine(engine), shards=shards, pictures=13, in_a_row=3)
    assert len(table(store)) == 2 * 6 * len(NAMES)


@pytest.mark.parametrize(
    ("pictures", "shards", "row"), [(64, 4, 4), (256, 4, MOST_IN_A_ROW), (1, 4, 1), (64, 64, 1)]
)
def test_rows_hold_few_of_the_places_for_pictures(pictures, shards, row):
    assert choose_row(pictures, shards) == row
    assert row == 1 or row * shards <= pictures / 4


def test_rows_with_masks_are_made_in_a_thread_and_others_sooner_than_one_is_woken(
    store, engine, monkeypatch
):
    make_rows, made = labeller._make_rows, set()

    def note(record, facts, replies, *rest):
        here = threading.current_thread() is threading.main_thread()
        made.add((any(reply.targets for reply in replies), here))
        return make_rows(record, facts, replies, *rest)

    monkeypatch.setattr(labeller, "_make_rows", note)
    label(store, CountingEngine(engine), questions=QUESTIONS[:1])
    silent = Engine(tiny_checkpoint(0), predict=Script([[2]], tiny_checkpoint(0).tokenizer))
    label(store, CountingEngine(silent), questions=QUESTIONS[1:], run_id="run-2")
    assert made == {(True, False), (False, True)}
