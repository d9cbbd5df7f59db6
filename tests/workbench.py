"""A workbench around the tiny model, and what may go wrong with its model and its store."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

from pixellm.answers import DecodeSettings
from pixellm.engine.engine import Engine
from pixellm.tiny import tiny_checkpoint
from tests.photos import load_photos
from workers.earlier import EarlierRows, index_earlier
from workers.labeller import label_shard
from workers.labels.commits import Ledger
from workers.labels.manifests import current_commits
from workers.labels.parts import read_rows
from workers.labels.schema import LabelRow
from workers.model_files import ModelIdentity
from workers.model_thread import ModelThread
from workers.records.instructions import make_instruction
from workers.shards.listings import write_listings_to
from workers.shards.plan import plan_shards
from workers.storage.memory import MemoryStore
from workers.workbench import Workbench

INPUT, OUTPUT = "mem://b/in", "mem://b/out"
TOKENS = 20
IDENTITY = ModelIdentity("tiny", "ab" * 32, None, "fp32", DecodeSettings(TOKENS), "0")
QUESTIONS = tuple(map(make_instruction, ("the dog", "the red box")))


@cache
def tiny_engine() -> Engine:
    return Engine(tiny_checkpoint(0), DecodeSettings(TOKENS))


class CountingEngine:
    """The tiny model, with a count of what it was asked, and texts that it fails on."""

    def __init__(self, engine: Engine, poison: str | None = None) -> None:
        self.engine, self.poison = engine, poison
        self.asked: list[str] = []
        self.under_way: dict[int, tuple[str, ...]] = {}
        """questions by the id() of their job"""

    @property
    def busy(self):
        return self.engine.busy

    @property
    def in_step(self):
        return self.engine.in_step

    def add(self, sample):
        self.asked += sample.questions
        job = self.engine.add(sample)
        self.under_way[id(job)] = sample.questions
        return job

    def step(self):
        if any(self.poison in questions for questions in self.under_way.values()):
            raise RuntimeError("poisoned")
        done = self.engine.step()
        for job in done:
            del self.under_way[id(job)]
        return done

    def withdraw(self, job):
        del self.under_way[id(job)]
        self.engine.withdraw(job)

    def abandon(self):
        self.under_way.clear()
        self.engine.abandon()


class BrokenEngine(CountingEngine):
    """A model that answers nothing."""

    def step(self):
        raise RuntimeError("always")


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


@contextmanager
def closing(thread):
    """The engine may be another test's next."""
    try:
        yield
    finally:
        thread.close(20)


@contextmanager
def bench_for(store, model, run_id="run-1", pictures=8, **more):
    """What a replica has at hand, around any model."""
    earlier = index_earlier(store, OUTPUT, more.pop("stale", []))
    thread = ModelThread(model, more.get("meter"))
    with ThreadPoolExecutor(4) as threads, closing(thread):
        yield Workbench(
            model=thread,
            image_side=56,
            room=lambda text: model.engine.room(model.engine.prompt_ids(text)),
            ledger=Ledger(store, OUTPUT, run_id),
            provenance=more.pop("identity", IDENTITY).provenance(run_id),
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


def put_photos(store, count=8, folder=INPUT):
    for photo in load_photos()[:count]:
        store.put(f"{folder}/{photo.name}", photo.data)


def put_lines(store, *records):
    store.put(f"{INPUT}/list.jsonl", "\n".join(map(json.dumps, records)).encode())
