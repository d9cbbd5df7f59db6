"""A watcher that hears from a queue: what it waits for, and for how long."""

from contextlib import contextmanager
from itertools import pairwise

import pytest

from tests.watching.labelling import never
from tests.watching.messages import of_s3
from workers.errors import QueueTrouble, SettingsError, StorageUnavailable
from workers.progress import Progress
from workers.storage.memory import MemoryStore
from workers.watching.cursor import Cursor
from workers.watching.drops import list_drop
from workers.watching.leases import BEATS
from workers.watching.memory_queue import MemoryQueue, Postbox
from workers.watching.messages import VISIBILITY_SECONDS
from workers.watching.watcher import POLL_SECONDS, Watcher


class Troubled(MemoryQueue):
    """A queue that is away or full, and notes how long it was asked to wait."""

    def __init__(self, clock, error=None, *, is_full=False) -> None:
        super().__init__(Postbox(3, clock, clock.pass_by), most_held=0 if is_full else 10)
        self.error, self.asked = error, []

    def receive(self, wait_seconds):
        self.asked.append(wait_seconds)
        if self.error:
            raise self.error
        return super().receive(wait_seconds)


def hearing(place, clock, queue, *flags: str) -> tuple[Watcher, list[float]]:
    watcher, slept = place.watcher(*flags, queue=queue, clock=clock), []

    def sleep(seconds):
        slept.append(seconds)
        clock.pass_by(seconds)

    watcher.patience.sleep = sleep
    return watcher, slept


def look_and_hear(watcher: Watcher) -> None:
    with watcher.patience.about("store"):
        watcher.backlog.look()
    watcher.hear()


def test_a_queue_that_is_away_is_asked_later_and_later_while_sweeps_go_on(place, clock):
    queue = Troubled(clock, QueueTrouble("the queue is away"))
    watcher, _ = hearing(place, clock, queue)
    times = []
    while len(times) < 4:
        before = len(queue.asked)
        look_and_hear(watcher)
        if len(queue.asked) > before:
            times.append(clock())
    assert [after - before for before, after in pairwise(times)] == [20, 20, 20]
    assert [f"tried again in {n} s" in place.told.getvalue() for n in (5, 10, 20, 40)] == [True] * 4


def test_a_store_that_is_away_for_messages_alone_is_waited_for_longer_and_longer(place, clock):
    watcher, slept = hearing(place, clock, Troubled(clock, StorageUnavailable("away")))
    for _ in range(3):
        look_and_hear(watcher)
    assert slept == [5, 10, 20]


def test_once_a_store_that_stays_away_ends_a_watcher_that_hears_from_a_queue(
    place, clock, monkeypatch
):
    watcher, _ = hearing(place, clock, Troubled(clock), "--once")

    def away(*_):
        raise StorageUnavailable("the bucket is away")

    monkeypatch.setattr("workers.watching.backlog.find_drops", away)
    with pytest.raises(StorageUnavailable):
        watcher.watch()


def test_a_queue_that_is_not_there_ends_the_watcher_before_anything_is_done(place, clock):
    queue = Troubled(clock)

    def away():
        raise QueueTrouble("there is no such queue")

    queue.look = away
    place.drop("friday", 0)
    with pytest.raises(SettingsError, match="there is no such queue"):
        place.watch_once(queue=queue)
    assert not place.output.exists()


def test_a_hand_full_of_messages_is_no_reason_to_turn_round_all_the_time(place, clock):
    watcher, slept = hearing(place, clock, Troubled(clock, is_full=True))
    watcher.backlog.look()
    watcher.hear()
    assert slept == [POLL_SECONDS]


def test_messages_in_hand_are_prolonged_in_time_however_long_a_lease_is(place, clock, monkeypatch):
    seconds = []

    @contextmanager
    def beating(each, *_):
        seconds.append(each)
        yield

    monkeypatch.setattr("workers.watching.watcher.beating", beating)
    for queue in (None, Troubled(clock)):
        place.watch_once("--lease-seconds", "3600", queue=queue)
    assert seconds == [3600 / BEATS, VISIBILITY_SECONDS / BEATS]


def hearing_of_a_bucket(place, clock, *flags: str) -> tuple[Watcher, MemoryStore, Postbox]:
    """A watcher of a bucket with a drop in it, and of a queue that tells of the bucket."""
    store, box = MemoryStore(), Postbox(3, clock, clock.pass_by)
    store.put("s3://b/in/friday/1.jpg", b"x")
    settings = place.settings("--input", "s3://b/in", "--output", "s3://b/out", *flags)
    progress, queue = Progress(place.told, name="watch"), MemoryQueue(box)
    return Watcher(store, settings, progress, place.stop, queue, never, clock), store, box


def test_a_message_about_a_mark_makes_a_drop_complete_that_is_waited_for(place, clock):
    watcher, store, box = hearing_of_a_bucket(place, clock, "--settle-seconds", "3600")
    watcher.backlog.look()
    store.put("s3://b/in/friday/_READY", b"")
    box.send(of_s3("b", "in/friday/_READY"))
    watcher.hear()
    assert watcher.backlog.waiting["friday"].is_complete
    assert box.counts() == (0, 1)


def test_a_drop_that_a_message_about_a_mark_named_is_looked_at_until_a_look_succeeds(
    place, clock, monkeypatch
):
    watcher, store, box = hearing_of_a_bucket(place, clock, "--settle-seconds", "3600")
    monkeypatch.setattr(watcher.patience, "sleep", clock.pass_by)
    watcher.backlog.look()
    store.put("s3://b/in/friday/_READY", b"")
    box.send(of_s3("b", "in/friday/_READY"))

    def away(*_):
        raise StorageUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr("workers.watching.backlog.look_at", away)
        watcher.hear()
    assert not watcher.backlog.waiting["friday"].is_complete
    began = clock()
    watcher.hear()
    assert watcher.backlog.waiting["friday"].is_complete
    assert clock() - began < 2  # it is not asked for the news of 20 s before
    assert not watcher._named


def test_messages_about_a_drop_that_is_waited_for_cost_no_look(place, clock, monkeypatch):
    watcher, _, box = hearing_of_a_bucket(place, clock, "--settle-seconds", "3600")
    watcher.backlog.look()
    monkeypatch.setattr(watcher.backlog, "look_at", never)
    box.send(*(of_s3("b", f"in/friday/{n}.jpg") for n in range(3)))
    watcher.hear()
    assert box.counts() == (0, 3)


def test_once_messages_about_what_the_sweep_has_found_are_done_with(place, clock):
    watcher, store, box = hearing_of_a_bucket(place, clock, "--once")
    drop, content = list_drop(store, "s3://b/in", "friday")
    Cursor(store, "s3://b/out").put("friday", drop.digest, content.items())
    box.send(of_s3("b", "in/friday/1.jpg", etag=content["1.jpg"]), of_s3("b", "other/1.jpg"))
    watcher.watch()
    assert box.counts() == (0, 1)  # but not the other one's


def test_once_a_drop_that_only_the_queue_tells_of_is_still_seen(place, clock, monkeypatch):
    watcher, store, box = hearing_of_a_bucket(place, clock, "--once")
    drop, content = list_drop(store, "s3://b/in", "friday")
    Cursor(store, "s3://b/out").put("friday", drop.digest, content.items())
    watcher.backlog.look()
    store.put("s3://b/in/monday/1.jpg", b"x")
    box.send(of_s3("b", "in/monday/1.jpg"))
    assert not watcher._is_through()
    assert watcher.backlog.waiting.keys() == {"monday"}


def test_once_a_drop_that_the_queue_told_of_and_no_look_has_seen_is_not_left(
    place, clock, monkeypatch
):
    watcher, store, box = hearing_of_a_bucket(place, clock, "--once")
    monkeypatch.setattr(watcher.patience, "sleep", clock.pass_by)
    drop, content = list_drop(store, "s3://b/in", "friday")
    Cursor(store, "s3://b/out").put("friday", drop.digest, content.items())
    watcher.backlog.look()
    store.put("s3://b/in/monday/1.jpg", b"x")
    store.put("s3://b/in/monday/_READY", b"")
    box.send(of_s3("b", "in/monday/_READY"))
    with monkeypatch.context() as patched:
        patched.setattr("workers.watching.backlog.look_at", broken_store)
        assert not watcher._is_through()
    watcher.hear()
    assert watcher.backlog.waiting["monday"].is_complete


def broken_store(*_):
    raise StorageUnavailable("away")
