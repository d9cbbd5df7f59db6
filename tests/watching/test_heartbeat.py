import threading

from workers.errors import StorageUnavailable
from workers.watching.heartbeat import beating


def test_what_goes_wrong_in_one_beat_is_said_when_it_is_new_and_keeps_no_other():
    said, rounds, enough = [], [], threading.Event()
    troubles = ["away", "away", "", "away", "still away"]

    def failing():
        trouble = troubles[len(rounds)] if len(rounds) < len(troubles) else ""
        if trouble:
            raise StorageUnavailable(trouble)

    def counting():
        rounds.append(1)
        if len(rounds) > len(troubles):
            enough.set()

    with beating(0.01, [failing, counting], said.append):
        assert enough.wait(10)
    assert said == ["away", "away", "still away"]
    beats = len(rounds)
    threading.Event().wait(0.05)
    assert len(rounds) == beats  # it ends with its block
