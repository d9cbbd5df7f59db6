import io
import os
import threading
import time
from contextlib import nullcontext
from typing import Any, cast

import pytest
from ray.exceptions import RayError

from workers.cluster import Machine
from workers.earlier import index_earlier
from workers.errands import Assignment, Errand
from workers.errors import SettingsError
from workers.hardware import settle_hardware
from workers.labels.commits import Guarantee
from workers.logbook import Begun, Book
from workers.pool import (
    SUMMARY,
    PoolSize,
    _check_room,
    _listening,
    fair_share,
    label_on_ray,
    size_pool,
)
from workers.progress import Progress
from workers.settings import LabelSettings
from workers.shards.kinds import ShardKind
from workers.shards.plan import Shard, plan_shards
from workers.stopping import Stop
from workers.storage.memory import MemoryStore
from workers.summaries import Pulse, ShardSummary

LAPTOP = [Machine(cpus=8, gpus=0)]
CLUSTER = [Machine(cpus=4, gpus=0), Machine(cpus=32, gpus=4), Machine(cpus=32, gpus=4)]


@pytest.mark.parametrize(
    ("blocks", "most", "share"), [(1, 2, 1), (6, 2, 3), (7, 2, 4), (100, 8, 13), (3, 16, 1)]
)
def test_of_a_few_blocks_each_replica_is_handed_its_share(blocks, most, share):
    assert fair_share(blocks, PoolSize(1, most, 1, 0.0)) == share


def size(machines, *flags: str) -> PoolSize:
    given = ["--input", "/in", "--output", "/out", *flags]
    if "--num-gpus-per-replica" not in flags:
        given += ["--num-gpus-per-replica", "0"]
    return size_pool(LabelSettings.from_everywhere(given, "label"), machines)


def test_a_laptop_gets_one_replica_with_all_its_processors():
    assert size(LAPTOP) == PoolSize(least=1, most=1, cpus=8, gpus=0)


def test_replicas_of_a_laptop_share_its_processors():
    assert size(LAPTOP, "--max-replicas", "3") == PoolSize(1, 3, 2, 0)
    assert size(LAPTOP, "--max-replicas", "30") == PoolSize(1, 30, 1, 0)


def test_a_cluster_gets_a_replica_for_each_gpu():
    assert size(CLUSTER, "--num-gpus-per-replica", "1") == PoolSize(1, 8, 1, 1)
    assert size(CLUSTER, "--num-gpus-per-replica", "0.5") == PoolSize(1, 16, 1, 0.5)
    assert size(CLUSTER, "--num-gpus-per-replica", "3") == PoolSize(1, 2, 1, 3)


def test_without_gpus_a_cluster_gets_a_replica_for_each_machine():
    assert size(CLUSTER) == PoolSize(1, 3, 4, 0)


def test_what_is_given_is_obeyed():
    flags = ("--min-replicas", "2", "--max-replicas", "5", "--replica.num-cpus", "3")
    assert size(CLUSTER, *flags) == PoolSize(2, 5, 3, 0)
    assert size(LAPTOP, "--min-replicas", "4") == PoolSize(4, 4, 2, 0)


def test_a_replica_that_fits_nowhere_is_refused_or_waited_for():
    needs = size(LAPTOP, "--num-gpus-per-replica", "1")
    told: list[str] = []
    with pytest.raises(SettingsError, match="lower --num-gpus-per-replica"):
        _check_room(needs, LAPTOP, own=True, say=told.append)
    _check_room(needs, LAPTOP, own=False, say=told.append)
    assert "waiting for the cluster to grow" in told[0]
    _check_room(needs, CLUSTER, own=True, say=told.append)
    assert len(told) == 1


def test_nothing_is_begun_where_no_replica_has_room(monkeypatch):
    monkeypatch.setattr("workers.pool.connected", lambda *_, **__: nullcontext(True))
    monkeypatch.setattr("workers.pool.list_machines", lambda: LAPTOP)
    given = ["--input", "/in", "--output", "/out", "--num-gpus-per-replica", "1"]

    def begin() -> list[Assignment]:
        raise AssertionError("it writes to the output")

    settings = LabelSettings.from_everywhere(given, "label")
    with pytest.raises(SettingsError, match="lower --num-gpus-per-replica"):
        next(label_on_ray([], settings, begin, Progress(io.StringIO()), Stop()))


def test_where_no_run_could_be_begun_no_replica_is_started(monkeypatch):
    monkeypatch.setattr("workers.pool.connected", lambda *_, **__: nullcontext(True))
    monkeypatch.setattr("workers.pool.list_machines", lambda: LAPTOP)
    settings = LabelSettings.from_everywhere(["--input", "/in", "--output", "/out"], "label")
    shard = Shard("shard", ShardKind.JSONL, "/in/a.jsonl", "a.jsonl", "etag", 9)
    given = [Errand("run", shard)], settings, list, Progress(told := io.StringIO()), Stop()
    assert list(label_on_ray(*given)) == []
    assert "starting" not in told.getvalue()


def test_what_is_asked_to_end_while_ray_starts_begins_nothing(monkeypatch):
    monkeypatch.setattr("workers.pool.connected", lambda *_, **__: nullcontext(True))
    monkeypatch.setattr("workers.pool.list_machines", lambda: LAPTOP)
    settings = LabelSettings.from_everywhere(["--input", "/in", "--output", "/out"], "label")
    stop = Stop()
    stop.ask("told to")

    def begin() -> list[Assignment]:
        raise AssertionError("it writes to the output")

    assert list(label_on_ray([], settings, begin, Progress(io.StringIO()), stop)) == []


@pytest.mark.parametrize("ready", [0, 1])
def test_only_replicas_that_have_loaded_the_model_are_waited_for_at_the_end(monkeypatch, ready):
    """What they have under way is; before that there is nothing."""
    settings = LabelSettings.from_everywhere(["--input", "/in", "--output", "/out"], "label")
    summary, stop, waited_for = ShardSummary("run", "shard"), Stop(grace_seconds=60), []
    asked = threading.Event()

    class Book:
        def pulse(self):
            asked.set()
            return Pulse(ready, kept=1)

        def close(self):
            pass

    class Flow:
        def iter_rows(self):
            asked.wait(10)
            time.sleep(1)  # the pulse is heard, and the driver waits for a row
            stop.ask("told to")
            time.sleep(3)
            waited_for.append(True)
            yield {SUMMARY: summary.to_json()}

    monkeypatch.setattr("workers.pool.LISTEN_SECONDS", 0.01)
    monkeypatch.setattr("workers.pool.connected", lambda *_, **__: nullcontext(False))
    monkeypatch.setattr("workers.pool.list_machines", lambda: LAPTOP)
    monkeypatch.setattr("workers.pool.assigned", lambda errands, _: errands)
    monkeypatch.setattr("workers.pool._SharedLogbook", Book)
    monkeypatch.setattr("workers.pool._flow", lambda *_: Flow())
    shard = Shard("shard", ShardKind.JSONL, "/in/a.jsonl", "a.jsonl", "etag", 9)
    given = [Errand("run", shard)], settings, list, Progress(io.StringIO()), stop
    assert list(label_on_ray(*given)) == [summary] * ready
    assert len(waited_for) == ready


def test_the_book_counts_starts_and_keeps_last_words_by_shard():
    book = Book()
    assert book.begin(("run", "a")) == Begun(times=1)
    book.broke({("run", "a"), ("run", "b")}, "the device failed")
    book.broke({("run", "a")}, "nothing was answered")
    assert book.begin(("run", "a")) == Begun(2, "nothing was answered")
    assert book.begin(("run", "b")) == Begun(1, "the device failed")
    assert book.begin(("run", "c")) == Begun(1)


def test_the_book_counts_workers_that_begin_to_load_again_without_having_ended():
    book = Book()
    assert [book.setup_begins("a") for _ in range(3)] == [0, 1, 2]
    assert book.setup_begins("b") == 2  # new, and nothing has become better
    assert book.setup_begins("b") == 3


def test_the_book_takes_workers_that_load_at_the_same_time_for_no_deaths():
    book = Book()
    assert [book.setup_begins(f"{n}") for n in range(9)] == [0] * 9


def test_a_worker_that_has_loaded_ends_the_row_of_deaths():
    book = Book()
    assert [book.setup_begins(each) for each in "aab"] == [0, 1, 1]
    book.setup_ends("b", loaded=True)
    assert [book.setup_begins(each) for each in "bca"] == [0, 0, 1]


def test_a_book_that_can_not_be_read_for_once_does_not_end_the_listening(monkeypatch):
    monkeypatch.setattr("workers.pool.LISTEN_SECONDS", 0.01)
    heard = threading.Event()

    class Listener(Progress):
        def hear(self, pulse):
            assert pulse == Pulse(1, 5)
            heard.set()

    class Book:
        tries = 0

        def pulse(self):
            self.tries += 1
            if self.tries == 1:
                raise RayError("the book is being made anew")
            return Pulse(1, 5)

    with _listening(cast(Any, Book()), Listener(io.StringIO()), Stop(), gpus=0):
        assert heard.wait(10)


def test_the_book_tells_how_many_replicas_are_ready_and_records_answered():
    book = Book()
    assert book.pulse() == Pulse(replicas=0, records=0, kept=0)
    for worker, loaded in (("a", True), ("b", False), ("c", True)):
        book.setup_begins(worker)
        book.setup_ends(worker, loaded)
    book.answered({("run", "a"): 3, ("run", "b"): 4})
    book.answered({("run", "a"): 5})
    assert book.pulse() == Pulse(replicas=2, records=9, kept=2)
    book.setup_begins("d")
    assert book.pulse().kept == 3
    book.setup_begins("a")  # it was killed, and comes again in the same place
    assert book.pulse().kept == 3


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")  # Ray warns of its own settings
def test_replicas_that_are_killed_while_they_load_the_model_do_not_go_round_for_ever():
    class Deadly:  # local, so that it travels whole
        """Ends the process that asks it which model it has loaded, as the kernel does."""

        def __getattr__(self, name: str) -> object:
            if not name.startswith("__"):
                os._exit(137)
            raise AttributeError(name)

    store = MemoryStore()
    store.put("mem://b/in/a.jsonl", b'{"image": "a.jpg"}')
    shards = plan_shards(store, "mem://b/in", records_per_shard=1, listing_writer=str).shards
    flags = ["--input", "mem://b/in", "--output", "mem://b/out", "--replica.num-cpus", "1"]
    flags += ["--num-gpus-per-replica", "0"]
    settings = settle_hardware(LabelSettings.from_everywhere(flags, "label"))
    nothing, exactly = index_earlier(store, "mem://b/out", []), Guarantee.EXACTLY_ONCE
    assignment = Assignment(settings, cast(Any, Deadly()), "run-1", exactly, nothing)
    errands = [Errand("run-1", shard) for shard in shards]
    (summary,) = label_on_ray(
        errands, settings, lambda: [assignment], Progress(io.StringIO()), Stop()
    )
    assert summary.ends_run
    assert (summary.error or "").startswith("3 workers died while they loaded the model")


def test_a_closed_book_lets_no_shard_be_begun():
    book = Book()
    assert book.begin(("run", "a")) == Begun(times=1)
    book.close()
    assert book.begin(("run", "b")) == Begun(times=0, closed=True)
    assert book.begin(("run", "a")) == Begun(times=1, closed=True)


def test_listening_closes_the_book_and_counts_gpu_time(monkeypatch):
    monkeypatch.setattr("workers.pool.LISTEN_SECONDS", 0.01)
    closed = threading.Event()

    class OpenBook:
        def pulse(self):
            return Pulse(0, 0, kept=2)  # they still load: their GPUs cost as much

        def close(self):
            closed.set()

    stop = Stop(max_gpu_hours=4 * 0.1 / 3600)  # two replicas with two GPUs for 0.1 s
    with _listening(cast(Any, OpenBook()), Progress(io.StringIO()), stop, gpus=2):
        assert not closed.is_set()
        assert closed.wait(10)
    assert "GPU hours are used up" in stop.reason
