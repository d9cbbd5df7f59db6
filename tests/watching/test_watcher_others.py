"""Watchers that share a prefix: who leaves what to whom, and for how long."""

import threading

import pytest

from tests.here import label_runs_here
from tests.watching.labelling import never, snapshot
from workers.errors import SettingsError, StorageUnavailable
from workers.storage.stores import Anywhere
from workers.watching.leases import Leases


def test_what_another_watcher_has_in_hand_is_left_to_it(place, clock):
    place.drop("friday", 0)
    place.drop("monday", 1)
    other = Leases(Anywhere(), str(place.output), 60.0, clock)
    lease = other.acquire("friday")
    watcher = place.watcher(clock=clock)
    watcher.backlog.look()
    watcher.label()
    assert not (place.output / "friday").exists()
    assert place.status("monday")["state"] == "done"
    lease.release()
    clock.pass_by(60)
    watcher.backlog.look()
    watcher.label()
    assert place.status("friday")["state"] == "done"


def test_what_another_watcher_has_labelled_meanwhile_is_not_done_again(place, clock):
    place.drop("friday", 0)
    watcher = place.watcher(clock=clock, label=never)
    watcher.backlog.look()
    place.watch_once()
    watcher.label()
    assert watcher.unfinished == []


def test_two_watchers_at_once_do_each_drop_once(place):
    for name in "abcdef":
        place.drop(name, 0)
    labelled: list[str] = []

    def counting(runs, progress, stop):
        labelled.extend(run.ledger.output for run in runs)
        return label_runs_here(runs, progress, stop)

    flags = "--once", "--drops-at-once", "1", "--lease-seconds", "15"
    watchers = [place.watcher(*flags, label=counting) for _ in range(2)]
    threads = [threading.Thread(target=each.watch) for each in watchers]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert sorted(labelled) == [str(place.output / name) for name in "abcdef"]
    assert {place.status(name)["state"] for name in "abcdef"} == {"done"}


def test_what_is_in_hand_is_kept_alive(place, clock):
    place.drop("friday", 0)
    watcher, other = place.watcher(clock=clock), Leases(Anywhere(), str(place.output), 60.0, clock)
    watcher.backlog.look()
    watcher._lease_drops()
    for _ in range(9):
        assert other.acquire("friday") is None
        clock.pass_by(20)
        watcher._beat()
    assert other.is_alive("friday")


def test_once_a_drop_is_left_to_another_watcher_that_is_seen_to_be_alive(place, clock):
    place.drop("friday", 0)
    lease = Leases(Anywhere(), str(place.output), 60.0, clock).acquire("friday")
    watcher = place.watcher("--once", clock=clock, label=never)
    for is_left in (True, False):
        watcher.backlog.look()
        watcher.label()
        assert watcher.is_anything_left() is is_left
        clock.pass_by(20)
        lease.beat()


def test_once_a_drop_is_not_left_to_another_watcher_that_has_died_during_the_wave(place, clock):
    place.drop("friday", 0)
    lease = Leases(Anywhere(), str(place.output), 60.0, clock).acquire("friday")

    def long(runs, progress, stop):
        lease.beat()  # the last one
        clock.pass_by(3_000)  # and no beat of the other one comes any more
        return label_runs_here(runs, progress, stop)

    watcher = place.watcher("--once", "--lease-seconds", "3600", clock=clock, label=long)
    watcher.patience.sleep = clock.pass_by
    for _ in range(2):
        watcher.backlog.look()
        watcher.label()
        for _ in range(60):
            clock.pass_by(20)
            lease.beat()
    assert not watcher.is_anything_left()  # it was alive until now
    place.drop("monday", 1)
    watcher.backlog.next_sweep = clock()
    watcher.watch()
    assert [place.status(name)["state"] for name in ("monday", "friday")] == ["done", "done"]


def test_after_a_wave_that_breaks_off_nobody_is_believed_to_be_alive_that_was_so_before(
    place, clock
):
    place.drop("friday", 0)
    lease = Leases(Anywhere(), str(place.output), 60.0, clock).acquire("friday")

    def breaking(runs, progress, stop):
        lease.beat()
        clock.pass_by(3_000)
        raise StorageUnavailable("the store is away")

    watcher = place.watcher("--lease-seconds", "3600", clock=clock, label=breaking)
    for _ in range(2):
        watcher.backlog.look()
        watcher.label()
        for _ in range(60):
            clock.pass_by(20)
            lease.beat()
    friday = watcher.backlog.waiting["friday"]
    assert (friday.is_elsewhere, watcher._leases.is_alive("friday")) == (True, True)
    place.drop("monday", 1)
    watcher.backlog.sweep()
    with pytest.raises(StorageUnavailable):
        watcher.label()
    assert (friday.is_elsewhere, watcher._leases.is_alive("friday")) == (False, False)


def test_a_drop_that_another_watcher_has_given_back_is_in_its_hand_no_more(place, clock):
    place.drop("friday", 0)
    lease = Leases(Anywhere(), str(place.output), 60.0, clock).acquire("friday")
    watcher = place.watcher("--settle-seconds", "15", clock=clock, label=never)
    watcher.backlog.look()
    for _ in range(2):
        clock.pass_by(20)
        watcher.backlog.look()
        watcher.label()
        lease.beat()
    each = watcher.backlog.waiting["friday"]
    assert each.why_later == "another watcher has it in hand"
    lease.release()
    clock.pass_by(20)
    watcher.backlog.look()
    place.drop("friday", 1)  # it has grown, and is given back unlabelled
    watcher.label()
    assert each.why_later == "it still changes"


def test_once_after_a_wave_a_drop_is_left_to_another_watcher_that_beats_since(place, clock):
    place.drop("friday", 0)
    place.drop("monday", 1)
    lease = Leases(Anywhere(), str(place.output), 60.0, clock).acquire("friday")
    watcher = place.watcher("--once", clock=clock)

    def wait(seconds):
        clock.pass_by(seconds)
        lease.beat()

    watcher.patience.sleep = wait
    watcher.watch()
    assert place.status("monday")["state"] == "done"
    assert not (place.output / "friday").exists()
    assert "friday: left for another time, since another watcher has" in place.told.getvalue()


def test_a_watcher_of_another_input_ends_before_it_touches_the_output(place, clock, tmp_path):
    other = tmp_path / "other"
    (other / "monday").mkdir(parents=True)
    first = place.watcher(clock=clock)
    second = place.watcher("--input", str(other), clock=clock, label=never)
    for each in (first, second):
        each.backlog.look()  # and finds nothing that another one has noted
    place.drop("friday", 0)
    first.backlog.sweep()
    first.label()
    (other / "monday" / "1.jpg").touch()
    before = snapshot(place.output)
    assert second.backlog.look_at("monday").is_complete
    with pytest.raises(SettingsError, match="holds the labels of what is dropped under"):
        second.label()
    with pytest.raises(SettingsError, match="holds the labels of what is dropped under"):
        second.backlog.look_at("friday")  # a drop of the first one, that is not there
    assert snapshot(place.output) == before
