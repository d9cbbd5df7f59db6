import threading
import time

import pytest

from workers.errors import StorageUnavailable
from workers.logs import Level
from workers.watching.heartbeat import beating


class Told:
    """What is said, and why the watcher should end."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Level]] = []
        self.gave_up: list[str] = []

    def say(self, text, level=Level.INFO):
        self.said.append((text, level))


def test_what_goes_wrong_in_a_beat_is_said_when_it_is_new_and_the_beat_goes_on():
    told, rounds, enough = Told(), [], threading.Event()
    troubles = ["away", "away", "", "away", "still away"]

    def failing():
        rounds.append(1)
        if len(rounds) > len(troubles):
            enough.set()
        elif trouble := troubles[len(rounds) - 1]:
            raise StorageUnavailable(trouble)

    with beating(0.01, [failing], told.say, told.gave_up.append):
        assert enough.wait(10)
    assert told.said == [(text, Level.ERROR) for text in ("away", "away", "still away")]
    assert told.gave_up == []
    beats = len(rounds)
    time.sleep(0.05)
    assert len(rounds) == beats  # it ends with its block


def test_a_beat_that_hangs_keeps_no_other():
    hanging, enough, rounds = threading.Event(), threading.Event(), []

    def counting():
        rounds.append(1)
        if len(rounds) == 3:
            enough.set()

    with beating(0.01, [hanging.wait, counting], Told().say, lambda _: None):
        assert enough.wait(10)
        hanging.set()


def test_a_beat_that_hangs_keeps_the_watcher_from_no_end(monkeypatch):
    monkeypatch.setattr("workers.watching.heartbeat.LAST_BEAT_SECONDS", 0.05)
    begun, hanging = threading.Event(), threading.Event()

    def hang():
        begun.set()
        hanging.wait()

    started = time.monotonic()
    with beating(0.01, [hang], Told().say, lambda _: None):
        assert begun.wait(10)
    assert time.monotonic() - started < 5
    hanging.set()


def test_a_bug_in_a_beat_is_told_at_once_and_raised_at_the_end():
    told, gave_up = Told(), threading.Event()

    def broken():
        raise ZeroDivisionError("a bug")

    def give_up(why):
        told.gave_up.append(why)
        gave_up.set()

    with pytest.raises(ZeroDivisionError), beating(0.01, [broken], told.say, give_up):
        assert gave_up.wait(10)
    ((text, level),) = told.said
    assert "in broken" in text  # its traceback
    assert level is Level.ERROR
    assert told.gave_up == ["a bug in the heartbeat (ZeroDivisionError('a bug'))"]
