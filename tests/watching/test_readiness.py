from tests.clock import Clock
from workers.watching.drops import Drop
from workers.watching.readiness import Readiness


def drop(digest: str = "d", *, marked: bool = False) -> Drop:
    return Drop("a", "mem://b/in/a", digest, 1, 1, marked)


def test_a_drop_is_complete_once_it_has_not_changed_for_the_time():
    clock = Clock()
    readiness = Readiness(60, clock)
    assert readiness.seconds_left(drop()) == 60
    clock.pass_by(59)
    assert readiness.seconds_left(drop()) == 1
    clock.pass_by(1)
    assert readiness.seconds_left(drop()) == 0


def test_every_change_lets_it_wait_anew():
    clock = Clock()
    readiness = Readiness(60, clock)
    readiness.seconds_left(drop("one"))
    clock.pass_by(59)
    assert readiness.seconds_left(drop("two")) == 60
    clock.pass_by(59)
    assert readiness.seconds_left(drop("one")) == 60


def test_a_drop_that_says_it_is_complete_is():
    readiness = Readiness(60, Clock())
    assert readiness.seconds_left(drop(marked=True)) == 0
    assert readiness.seconds_left(drop("grown", marked=True)) == 0


def test_a_drop_that_was_forgotten_waits_from_the_beginning():
    clock = Clock()
    readiness = Readiness(60, clock)
    readiness.seconds_left(drop())
    clock.pass_by(60)
    readiness.forget("a")
    assert readiness.seconds_left(drop()) == 60
    readiness.forget("never seen")


def test_without_a_time_everything_is_complete_at_once():
    assert Readiness(0, Clock()).seconds_left(drop()) == 0
