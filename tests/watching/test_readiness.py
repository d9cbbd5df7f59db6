from tests.clock import Clock
from workers.watching.drops import Drop
from workers.watching.readiness import Readiness


def drop(digest: str = "d", *, marked: bool = False) -> Drop:
    return Drop("a", "mem://b/in/a", digest, 1, 1, marked)


def test_a_drop_is_complete_once_it_has_not_changed_for_the_time():
    clock = Clock()
    readiness = Readiness(60, clock)
    assert readiness.wait_for(drop()) == 60
    clock.pass_by(59)
    assert readiness.wait_for(drop()) == 1
    clock.pass_by(1)
    assert readiness.wait_for(drop()) == 0


def test_every_change_lets_it_wait_anew():
    clock = Clock()
    readiness = Readiness(60, clock)
    readiness.wait_for(drop("one"))
    clock.pass_by(59)
    assert readiness.wait_for(drop("two")) == 60
    clock.pass_by(59)
    assert readiness.wait_for(drop("one")) == 60


def test_a_drop_that_says_it_is_complete_is():
    readiness = Readiness(60, Clock())
    assert readiness.wait_for(drop(marked=True)) == 0
    assert readiness.wait_for(drop("grown", marked=True)) == 0


def test_a_drop_that_was_forgotten_waits_from_the_beginning():
    clock = Clock()
    readiness = Readiness(60, clock)
    readiness.wait_for(drop())
    clock.pass_by(60)
    readiness.forget("a")
    assert readiness.wait_for(drop()) == 60
    readiness.forget("never seen")


def test_without_a_time_everything_is_complete_at_once():
    assert Readiness(0, Clock()).wait_for(drop()) == 0
