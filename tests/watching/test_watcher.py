from itertools import pairwise

import pytest

from tests.here import replicas_here
from tests.photos import load_photos
from tests.watching.labelling import broken, half, never, snapshot
from workers.driver import label_runs
from workers.errors import (
    StorageUnavailable,
)
from workers.storage.local import LocalStore
from workers.storage.stores import Anywhere
from workers.watching.drops import LOOSE
from workers.watching.leases import Leases
from workers.watching.watcher import MOST_NAMED


def test_what_is_dropped_is_labelled_and_its_owner_is_told(place):
    place.drop("friday", 0, 1, 2)
    place.drop(".", 3)
    assert place.watch_once().unfinished == []
    assert place.images("friday") == ["0.jpg", "1.jpg", "2.jpg"]
    assert place.images(LOOSE) == ["3.jpg"]
    status = place.status("friday")
    assert (status["state"], status["files"], status["rows"]) == ("done", 3, 3)
    assert status["labels"] == str(place.output / "friday")
    assert status["changes"] == {"new": 3, "replaced": 0, "deleted": 0}
    assert "labelled: 3 answers with" in status["message"]


def test_what_is_labelled_is_not_touched_again(place):
    place.drop("friday", 0)
    place.watch_once()
    before = snapshot(place.output)
    place.watch_once(label=never)
    assert snapshot(place.output) == before


def test_a_drop_that_fails_is_tried_again_later_and_later(place, clock, monkeypatch):
    place.drop("friday", 0)
    attempts = []

    def failing(runs, progress, stop):
        attempts.append(clock())
        yield from broken(runs, progress, stop)

    watcher = place.watcher(clock=clock, label=failing)
    for _ in range(40):
        watcher.backlog.look()
        watcher.label()
        clock.pass_by(1)
    waits = [after - before for before, after in pairwise(attempts)]
    assert waits == [5, 10, 20]
    assert watcher.unfinished == ["friday"]
    status = place.status("friday")
    assert status["state"] == "unfinished"
    assert "the bucket burns" in status["message"]


def test_once_a_drop_that_fails_ends_the_watcher_with_it_named(place):
    place.drop("friday", 0)
    watcher = place.watch_once(label=broken)
    assert watcher.unfinished == ["friday"]


def test_a_watcher_that_is_asked_to_end_keeps_what_is_done_and_the_next_does_the_rest(
    place, monkeypatch
):
    place.drop("friday", *range(6))

    place.watcher(label=half).watch()
    assert "friday: left for another time, since the watcher ends" in place.told.getvalue()
    status = place.status("friday")
    assert status["state"] == "unfinished"
    assert "asked to end" in status["message"]
    place.stop = type(place.stop)()
    monkeypatch.setattr("workers.watching.waves.count_older", never)  # there is no older row
    place.watch_once()
    assert place.status("friday")["state"] == "done"
    assert place.images("friday") == [f"{number}.jpg" for number in range(6)]
    assert (place.status("friday")["rows"], place.status("friday")["kept"]) == (6, 0)
    assert len(list((place.output / "friday" / "_commits").rglob("*.json"))) == len(
        {row.shard_id for row in place.rows("friday")}
    )


def test_a_watcher_that_is_asked_to_end_takes_no_more_drops_in_hand(place, monkeypatch):
    for number in range(5):
        place.drop(f"drop {number}", 0)
    watcher = place.watcher(label=never)
    watcher.backlog.look()
    acquire, taken = Leases.acquire, []

    def stopping(leases, name):
        taken.append(name)
        place.stop.ask("asked to end (SIGTERM)")
        return acquire(leases, name)

    with monkeypatch.context() as patched:
        patched.setattr(Leases, "acquire", stopping)
        watcher.label()
    assert len(taken) == 1
    assert Leases(Anywhere(), str(place.output), 60.0).acquire(taken[0]) is not None


def test_leases_are_given_back(place, clock):
    place.drop("friday", 0)
    place.watch_once()
    assert Leases(Anywhere(), str(place.output), 60.0, clock).acquire("friday") is not None


def test_once_a_drop_that_keeps_changing_is_left_for_another_time(place, clock):
    folder = place.drop("growing", 0)
    place.drop("friday", 1)
    watcher = place.watcher("--once", "--settle-seconds", "60", clock=clock)
    for number in (2, 3, 4):
        watcher.backlog.look()
        watcher.label()
        clock.pass_by(60)
        (folder / f"{number}.jpg").write_bytes(load_photos()[number].data)
    assert place.status("friday")["state"] == "done"
    assert not watcher.is_anything_left()
    watcher._say_how_it_ends()
    assert "growing: left for another time, since it still changes" in place.told.getvalue()
    watcher.backlog.look()
    clock.pass_by(60)
    watcher.backlog.look()
    watcher.label()  # it has come to rest after all
    assert place.status("growing")["state"] == "done"


def test_ctrl_c_while_drops_are_labelled_ends_the_watcher(place):
    place.drop("friday", 0, 1, 2)
    place.drop("monday", 3)

    def interrupted(runs, progress, stop):
        def replicas(errands, settings, begin, progress, stop):
            one_by_one = replicas_here(errands, settings, begin, progress, stop)
            yield next(one_by_one)
            one_by_one.close()
            raise KeyboardInterrupt

        return label_runs(runs, progress, stop, replicas)

    with pytest.raises(KeyboardInterrupt):
        place.watch_once("--drops-at-once", "1", label=interrupted)
    assert place.status("friday")["state"] == "unfinished"
    assert not (place.output / "monday").exists()
    place.watch_once()
    assert place.images("friday") == ["0.jpg", "1.jpg", "2.jpg"]
    assert place.status("monday")["state"] == "done"


def test_a_store_that_fails_while_drops_are_taken_in_hand_leaves_no_lease(place, monkeypatch):
    place.drop("friday", 0)
    place.drop("monday", 1)
    listing = LocalStore.list

    def failing(store, prefix):
        if prefix.endswith("labelled/monday"):
            raise StorageUnavailable("away")
        return listing(store, prefix)

    watcher = place.watcher()
    watcher.backlog.look()
    monkeypatch.setattr(LocalStore, "list", failing)
    with pytest.raises(StorageUnavailable):
        watcher.label()
    monkeypatch.setattr(LocalStore, "list", listing)
    assert watcher._in_hand == {}
    for name in ("friday", "monday"):
        assert Leases(Anywhere(), str(place.output), 60.0).acquire(name) is not None


def test_a_bug_in_the_heartbeat_ends_the_watcher_with_its_traceback(place, monkeypatch):
    def broken(_):
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr("workers.watching.watcher.beat_all", broken)
    place.drop("friday", 0)
    with pytest.raises(ZeroDivisionError, match="a bug of ours"):
        place.watcher("--lease-seconds", "1").watch()
    assert "a bug in the heartbeat" in place.stop.reason
    assert "Traceback" in place.told.getvalue()


def test_a_watcher_that_ends_says_what_it_leaves(place, clock):
    for number in range(MOST_NAMED + 2):
        place.drop(f"drop {number:02}", 0)
    watcher = place.watcher("--settle-seconds", "60", clock=clock, label=never)
    watcher.backlog.look()
    place.stop.ask("asked to end (SIGTERM)")
    watcher.watch()
    told = place.told.getvalue()
    assert "asked to end (SIGTERM): the watcher ends; what is done is kept" in told
    assert "drop 00: left for another time, since the watcher ends" in told
    assert told.count("left for another time") == MOST_NAMED
    assert "and 2 drops more, likewise" in told


def test_a_drop_that_grew_since_it_was_complete_waits_anew(place, clock):
    place.drop("friday", 0)
    watcher = place.watcher("--settle-seconds", "60", clock=clock, label=never)
    watcher.backlog.look()
    clock.pass_by(60)
    watcher.backlog.look()
    place.drop("friday", 1)  # a wave before this one took long
    watcher.label()
    assert not watcher.backlog.waiting["friday"].is_complete
    assert Leases(Anywhere(), str(place.output), 60.0).acquire("friday") is not None
