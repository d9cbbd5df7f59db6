import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from tests.clock import Clock
from workers.errors import ConditionUnsupported, ObjectMissing, StorageUnavailable
from workers.storage.local import LocalStore
from workers.storage.memory import MemoryStore
from workers.watching.leases import Leases, beat_all, release_all

OUT = "mem://b/out"
SECONDS = 60.0


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def clock():
    return Clock()


def watcher(store, clock, output=OUT) -> Leases:
    return Leases(store, output, SECONDS, clock)


def test_a_drop_is_in_one_hand_at_a_time(store, clock):
    one, two = watcher(store, clock), watcher(store, clock)
    lease = one.acquire("a")
    assert lease is not None
    assert two.acquire("a") is None
    assert one.acquire("a") is None
    assert two.acquire("b") is not None
    lease.release()
    assert two.acquire("a") is not None


def test_a_holder_that_beats_keeps_its_lease_and_is_known_to_be_alive(store, clock):
    one, two = watcher(store, clock), watcher(store, clock)
    lease = one.acquire("a")
    assert two.acquire("a") is None
    assert not two.is_alive("a")  # nobody knows yet
    for _ in range(20):
        clock.pass_by(SECONDS / 3)
        lease.beat()
        assert two.acquire("a") is None
    assert two.is_alive("a")
    assert not lease.is_lost


def test_a_holder_that_was_doubted_is_alive_when_it_beats_anew_and_is_silent_since_before(
    store, clock
):
    one, two = watcher(store, clock), watcher(store, clock)
    lease = one.acquire("a")
    for _ in range(2):
        assert two.acquire("a") is None
        lease.beat()
    assert two.is_alive("a")
    clock.pass_by(SECONDS / 3)
    two.doubt()
    assert not two.is_alive("a")
    assert two.acquire("a") is None  # another beat, that may be of before
    assert not two.is_alive("a")
    lease.beat()
    assert two.acquire("a") is None
    assert two.is_alive("a")
    clock.pass_by(1.5 * SECONDS)
    two.doubt()
    clock.pass_by(1)
    assert two.acquire("a") is not None


def test_a_silent_holder_loses_its_lease_only_after_it_knows_so_itself(store, clock):
    one, two = watcher(store, clock), watcher(store, clock)
    lease = one.acquire("a")
    assert two.acquire("a") is None
    clock.pass_by(SECONDS + 1)
    assert lease.is_lost
    assert two.acquire("a") is None  # not yet
    clock.pass_by(SECONDS / 2)
    assert two.acquire("a") is not None
    assert not two.is_alive("a")


def test_a_holder_that_wakes_up_late_does_not_disturb_its_successor(store, clock):
    one, two, three = (watcher(store, clock) for _ in range(3))
    old = one.acquire("a")
    two.acquire("a")
    clock.pass_by(2 * SECONDS)
    new = two.acquire("a")
    old.beat()
    old.release()
    assert three.acquire("a") is None
    new.beat()
    assert not new.is_lost
    assert one.acquire("a") is None


def test_clocks_of_watchers_need_not_agree(store):
    late, early = Clock(10.0), Clock(10.0**9)
    one, two = watcher(store, late), watcher(store, early)
    lease = one.acquire("a")
    assert two.acquire("a") is None
    for _ in range(10):
        for clock in (late, early):
            clock.pass_by(SECONDS / 3)
        lease.beat()
        assert two.acquire("a") is None


def test_a_store_that_is_away_for_a_moment_costs_no_lease(store, clock, monkeypatch):
    lease = watcher(store, clock).acquire("a")
    with monkeypatch.context() as patch:
        patch.setattr(store, "put", _away)
        clock.pass_by(SECONDS / 3)
        lease.beat()
    assert not lease.is_lost
    clock.pass_by(SECONDS / 3)
    lease.beat()
    clock.pass_by(SECONDS * 0.9)
    assert not lease.is_lost


def test_a_store_that_is_away_for_long_does(store, clock, monkeypatch):
    lease = watcher(store, clock).acquire("a")
    monkeypatch.setattr(store, "put", _away)
    for _ in range(4):
        clock.pass_by(SECONDS / 3)
        lease.beat()
    assert lease.is_lost


def _away(*_):
    raise StorageUnavailable("away")


def test_whoever_saw_an_old_number_does_not_get_it_once_it_was_removed(store, clock, monkeypatch):
    slow, quick, third = (watcher(store, clock) for _ in range(3))
    quick.acquire("a").release()
    put_if_absent, hurried = store.put_if_absent, []

    def overtaken(uri, data):
        if not hurried:  # between the look of the slow one and its write
            hurried.append(uri)
            quick.acquire("a").release()
            assert third.acquire("a") is not None
        return put_if_absent(uri, data)

    monkeypatch.setattr(store, "put_if_absent", overtaken)
    assert slow.acquire("a") is None
    assert watcher(store, clock).acquire("a") is None  # the third one's is the newest still
    assert len(list(store.list(f"{OUT}/_watch/leases/a"))) == 1  # nothing of the slow one is left


def test_of_many_watchers_at_once_one_gets_a_drop(tmp_path):
    got, barrier = [], threading.Barrier(8)

    def work():
        leases = Leases(LocalStore(), str(tmp_path), SECONDS)
        barrier.wait()
        got.append(leases.acquire("a"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sum(each is not None for each in got) == 1
    assert len(got) == 8


def test_a_lease_that_holds_nonsense_is_waited_for_and_taken(store, clock):
    store.put(f"{OUT}/_watch/leases/a/00000003.json", b"nonsense")
    leases = watcher(store, clock)
    assert leases.acquire("a") is None
    clock.pass_by(2 * SECONDS)
    assert leases.acquire("a") is not None


@pytest.mark.parametrize("call", ["put", "put_if_absent"])
def test_a_store_that_answers_late_lets_nobody_hold_a_lease_that_others_have(
    store, clock, monkeypatch, call
):
    one, two = watcher(store, clock), watcher(store, clock)
    honest = getattr(store, call)

    def late(uri, data):
        honest(uri, data)
        assert two.acquire("a") is None  # it sees what was written
        clock.pass_by(SECONDS - 1)
        return True

    lease = one.acquire("a") if call == "put" else None
    monkeypatch.setattr(store, call, late)
    if lease is None:
        lease = one.acquire("a")
    else:
        lease.beat()
    assert not lease.is_lost
    clock.pass_by(2)
    assert lease.is_lost  # counted from when it was written, as the others count
    clock.pass_by(SECONDS / 2)
    monkeypatch.setattr(store, call, honest)
    assert two.acquire("a") is not None


def test_a_late_word_wakes_no_lease_that_is_lost_or_given_back(store, clock):
    one, two = watcher(store, clock), watcher(store, clock)
    lost = one.acquire("a")
    clock.pass_by(SECONDS + 1)
    lost.beat()
    assert lost.is_lost
    given_back = one.acquire("b")
    given_back.release()
    given_back.beat()
    assert two.acquire("b") is not None


def test_a_number_that_another_one_took_is_not_alive_before_it_beats(store, clock):
    one, two, three = (watcher(store, clock) for _ in range(3))
    first = one.acquire("a")
    assert two.acquire("a") is None
    first.release()
    second = three.acquire("a")
    assert two.acquire("a") is None
    assert not two.is_alive("a")
    second.beat()
    assert two.acquire("a") is None
    assert two.is_alive("a")


def test_a_store_that_knows_no_conditions_serves_one_watcher(clock):
    class Unconditional(MemoryStore):
        def put_if_absent(self, uri, data):
            raise ConditionUnsupported("none")

    store = Unconditional()
    lease = watcher(store, clock).acquire("a")
    assert watcher(store, clock).acquire("a") is None
    lease.release()
    assert watcher(store, clock).acquire("a") is not None


def test_a_lease_that_goes_while_it_is_looked_at_is_left_to_whoever_removed_it(
    store, clock, monkeypatch
):
    watcher(store, clock).acquire("a")

    def gone(*_):
        raise ObjectMissing("a newer one is there")

    monkeypatch.setattr(store, "get", gone)
    late = watcher(store, clock)
    assert late.acquire("a") is None
    clock.pass_by(10 * SECONDS)
    assert late.acquire("a") is None


class Slow(MemoryStore):
    """Answers a write after a while."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def put(self, uri, data):
        time.sleep(self.seconds)
        return super().put(uri, data)


def test_many_leases_beat_in_time_also_where_the_store_is_slow():
    store = Slow(0.05)
    leases = Leases(store, OUT, 2.0)
    held = [leases.acquire(f"{number}") for number in range(64)]
    time.sleep(1.5)
    beat_all(held)  # one after the other takes 3.2 s
    assert not any(lease.is_lost for lease in held)


def test_many_leases_are_released_side_by_side():
    store = Slow(0.05)
    held = [Leases(store, OUT, SECONDS).acquire(f"{number}") for number in range(64)]
    began = time.monotonic()
    release_all(held)
    assert time.monotonic() - began < 1.6  # one after the other takes 3.2 s
    successor = Leases(store, OUT, SECONDS)
    assert all(successor.acquire(each.drop) for each in held)


HANGS = """
import threading, time
from workers.storage.memory import MemoryStore
from workers.watching.leases import Leases, beat_all

store = MemoryStore()
lease = Leases(store, "mem://b/out", 60.0).acquire("friday")
hanging = threading.Event()


def hang(*_):
    hanging.set()
    time.sleep(120)


store.put = hang
threading.Thread(target=beat_all, args=([lease],), daemon=True).start()
hanging.wait()
"""


def test_a_beat_that_hangs_keeps_no_process_from_its_end():
    done = subprocess.run([sys.executable, "-c", HANGS], timeout=60, check=False)
    assert done.returncode == 0


def test_of_many_beats_those_behind_one_that_fails_are_made_all_the_same(store):
    leases = Leases(store, OUT, SECONDS)
    held = [leases.acquire(f"{number}") for number in range(40)]
    before = beats(store)
    held[0]._store = SimpleNamespace(put=fail)
    with pytest.raises(RuntimeError, match="once"):
        beat_all(held)
    assert len(beats(store) & before) == 1


def beats(store):
    return {store.get(info.uri) for info in store.list(f"{OUT}/_watch/leases")}


def fail(*_):
    raise RuntimeError("once")  # what a store may raise is forgiven, a bug isn't
