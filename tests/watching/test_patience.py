import pytest

from workers.errors import QueueTrouble, StorageUnavailable
from workers.logs import Level
from workers.stopping import Stop
from workers.watching.drops import find_drops
from workers.watching.patience import LONGEST_WAIT, Patience, back_off


def test_a_store_that_is_away_is_waited_for(place, monkeypatch):
    place.drop("friday", 0)
    monkeypatch.setattr("workers.watching.patience.FIRST_WAIT", 0.01)
    find, times = find_drops, []

    def away(*arguments):
        times.append(1)
        if len(times) < 3:
            raise StorageUnavailable("the bucket is away")
        return find(*arguments)

    monkeypatch.setattr("workers.watching.backlog.find_drops", away)
    place.watch_once()
    assert place.status("friday")["state"] == "done"
    assert place.told.getvalue().count("the bucket is away; tried again") == 2


def test_once_a_store_that_stays_away_ends_the_watcher(place, monkeypatch):
    monkeypatch.setattr("workers.watching.patience.FIRST_WAIT", 0.01)

    def away(*_):
        raise StorageUnavailable("the bucket is away")

    monkeypatch.setattr("workers.watching.backlog.find_drops", away)
    with pytest.raises(StorageUnavailable):
        place.watch_once()


def test_waits_grow_to_an_hour_at_most():
    assert [back_off(tries) for tries in (1, 2, 3)] == [5, 10, 20]
    assert back_off(10_000) == LONGEST_WAIT <= 3_600


def test_what_is_waited_for_is_told_as_an_error(clock):
    said = []
    patience = Patience(False, Stop(), lambda *line: said.append(line), clock)
    patience.sleep = clock.pass_by
    for what, error in (("store", StorageUnavailable("away")), ("queue", QueueTrouble("away"))):
        with patience.about(what):
            raise error
    assert said == [("away; tried again in 5 s", Level.ERROR)] * 2
