"""What messages mean for a watcher, with a queue in memory."""

import threading
import time

import pytest

from tests.clock import Clock
from tests.watching.messages import TEST_EVENT, of_eventbridge, of_s3
from workers.errors import QueueTrouble, SettingsError, StorageUnavailable
from workers.logs import Level
from workers.stopping import Stop
from workers.storage.memory import MemoryStore
from workers.watching.cursor import Cursor
from workers.watching.memory_queue import MemoryQueue, Postbox
from workers.watching.news import News

IN, OUT = "s3://b/in", "mem://b/out"


class Heard:
    """News of a queue, and all that is told of it."""

    def __init__(self, *bodies: str, most_times: int = 3, output: str = OUT, store=None) -> None:
        self.clock, self.stop = Clock(), Stop()
        self.box = Postbox(most_times, self.clock, self.clock.pass_by)
        self.box.send(*bodies)
        self.queue = MemoryQueue(self.box)
        self.cursor = Cursor(store or MemoryStore(), output)
        self.said: list[tuple[str, Level]] = []
        self.told: list[str] = []
        self.news = self.listen()

    def listen(self, tell=None) -> News:
        return News(self.queue, IN, self.cursor, self.say, tell or self.told.append, self.stop)

    def say(self, text, level=Level.INFO):
        self.said.append((text, level))


def test_messages_name_the_drops_to_look_at():
    heard = Heard(of_s3("b", "in/friday/1.jpg", "in/friday/2.jpg"), of_s3("b", "in/loose.jpg"))
    assert heard.news.receive(0) == {"friday", "_loose"}


def test_a_message_is_kept_until_its_drop_is_labelled():
    heard = Heard(of_s3("b", "in/friday/1.jpg"), of_s3("b", "in/monday/1.jpg"))
    heard.news.receive(0)
    heard.news.acknowledge({"friday"}, set())
    assert heard.box.counts() == (0, 1)
    heard.news.acknowledge({"friday"}, {"friday"})  # it failed: others may try
    assert heard.queue.held == ()
    assert heard.box.counts() == (0, 1)
    heard.clock.pass_by(heard.queue.visibility_seconds)
    assert heard.news.receive(0) == {"friday"}


def test_a_message_about_a_drop_that_fails_and_fails_ends_as_a_dead_letter():
    heard = Heard(of_s3("b", "in/friday/1.jpg"), most_times=2)
    for _ in range(2):
        assert heard.news.receive(0) == {"friday"}
        heard.news.acknowledge({"friday"}, {"friday"})
        heard.clock.pass_by(heard.queue.visibility_seconds)
    assert heard.news.receive(0) == set()
    assert len(heard.box.dead) == 1


def test_a_message_in_hand_is_kept_from_others_for_as_long_as_it_takes():
    heard = Heard(of_s3("b", "in/friday/1.jpg"))
    heard.news.receive(0)
    for _ in range(5):
        heard.clock.pass_by(heard.queue.visibility_seconds - 1)
        heard.news.prolong()
        assert heard.box.counts() == (0, 1)


def test_what_is_labelled_already_costs_no_look():
    heard = Heard(
        of_s3("b", "in/friday/1.jpg"),
        of_s3("b", "in/friday/1.jpg"),
        of_s3("b", "in/friday/.DS_Store"),
        TEST_EVENT,
    )
    heard.cursor.put("friday", "d", [("1.jpg", "e1")])
    assert heard.news.receive(0) == set()
    assert heard.box.counts() == (0, 0)


@pytest.mark.parametrize(
    "body",
    [
        of_s3("b", "in/friday/1.jpg", etag="e2"),
        of_s3("b", "in/friday/2.jpg"),
        of_s3("b", "in/friday/1.jpg", name="ObjectRemoved:Delete"),
        of_s3("b", "in/friday/_READY"),
    ],
    ids=["replaced", "new", "removed", "marked"],
)
def test_what_may_have_changed_is_looked_at(body):
    heard = Heard(body)
    heard.cursor.put("friday", "d", [("1.jpg", "e1")])
    assert heard.news.receive(0) == {"friday"}
    heard.news.acknowledge((), ())
    assert heard.box.counts() == (0, 0)


def test_messages_for_others_and_nonsense_are_left_to_the_queue_and_told_once():
    heard = Heard("nonsense", of_s3("b", "elsewhere/1.jpg"))
    for _ in range(2):
        assert heard.news.receive(0) == set()
        heard.clock.pass_by(heard.queue.visibility_seconds)
    assert len(heard.told) == 2
    assert any("not under 's3://b/in'" in line for line in heard.told)
    assert any("no JSON" in line for line in heard.told)
    assert heard.queue.held == ()
    assert sum(heard.box.counts()) == 2


def test_messages_for_others_are_left_to_them_also_where_nothing_can_be_told():
    heard = Heard(of_s3("b", "elsewhere/1.jpg"), "nonsense", of_s3("b", "elsewhere/2.jpg"))

    def away(_):
        raise StorageUnavailable("the page of the day can't be written")

    news = heard.listen(away)
    with pytest.raises(StorageUnavailable):
        news.receive(0)
    assert heard.queue.held == ()
    assert news.receive(0) == set()
    assert sum(heard.box.counts()) == 3


class Broken(MemoryQueue):
    """Fails once, when it has already handed something out."""

    is_broken = True

    def receive(self, wait_seconds):
        found = super().receive(wait_seconds)
        if self.is_broken:
            self.is_broken = False
            raise QueueTrouble("the queue is away")
        return found


def test_messages_for_others_are_left_to_them_also_after_a_call_that_failed_halfway():
    heard = Heard(of_s3("b", "elsewhere/1.jpg"), of_s3("b", "in/friday/1.jpg"))
    heard.queue = Broken(heard.box)
    news = heard.listen()
    with pytest.raises(QueueTrouble):
        news.receive(0)
    assert news.receive(0) == {"friday"}
    news.acknowledge((), ())
    assert heard.box.counts() == (0, 1)
    assert any("not under 's3://b/in'" in line for line in heard.told)


def test_messages_that_come_in_after_all_were_judged_are_not_deleted():
    heard = Heard(of_s3("b", "in/friday/1.jpg"))
    heard.news.receive(0)
    heard.box.send(of_s3("b", "elsewhere/1.jpg"), of_s3("b", "in/monday/1.jpg"))
    heard.queue.receive(0)  # by a call that was left behind
    heard.news.acknowledge((), ())
    assert heard.box.counts() == (0, 2)
    assert heard.news.receive(0) == {"monday"}


def test_of_what_is_waited_for_anyway_only_a_new_mark_asks_for_a_look():
    heard = Heard(of_s3("b", "in/friday/1.jpg"), of_s3("b", "in/monday/_READY"))
    assert heard.news.receive(0, {"friday", "monday"}) == {"monday"}
    assert heard.news.receive(0, {"friday", "monday"}) == set()


def test_that_an_object_was_removed_is_news_also_where_its_etag_is_known():
    heard = Heard(of_s3("b", "in/friday/1.jpg", name="ObjectRemoved:Delete", etag=""))
    heard.cursor.put("friday", "d", [("1.jpg", "")])
    assert heard.news.receive(0) == {"friday"}


def test_a_queue_without_a_place_for_dead_letters_is_warned_of():
    heard = Heard()
    heard.news.check()
    assert heard.said == []
    without = Heard(most_times=0)
    without.news.check()
    ((text, level),) = without.said
    assert "no redrive policy" in text
    assert level is Level.WARNING


class Away(MemoryQueue):
    """Answers nothing."""

    def look(self):
        raise QueueTrouble("there is no such queue")

    def receive(self, wait_seconds):
        raise QueueTrouble("there is no such queue")


def test_a_queue_that_does_not_answer_is_a_setting_at_first_and_trouble_later():
    heard = Heard()
    heard.queue = Away(heard.box)
    with pytest.raises(SettingsError, match="--queue-url can't be used: there is no such queue"):
        heard.listen().check()
    with pytest.raises(QueueTrouble):
        heard.listen().receive(1)


class Counting(MemoryStore):
    """Counts what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.listings = 0

    def list(self, prefix):
        self.listings += 1
        return super().list(prefix)


def test_many_messages_about_one_drop_cost_one_look_at_what_is_known_of_it():
    store = Counting()
    heard = Heard(*(of_s3("b", f"in/friday/{n}.jpg") for n in range(30)), store=store)
    assert heard.news.receive(0) == {"friday"}
    assert store.listings == 1


@pytest.mark.parametrize("name", ["", "x" * 300, "\ud800", "a\0b", "../../etc", "."])
def test_messages_about_what_can_be_no_drop_are_done_with(name):
    heard = Heard(of_eventbridge("b", f"in/{name}/1.jpg"))
    assert heard.news.receive(0) == set()
    assert heard.box.counts() == (0, 0)


def test_what_the_watcher_itself_writes_is_no_news():
    own = (f"in/labels/friday/{name}" for name in ("_status.json", "coco.json"))
    heard = Heard(*(of_s3("b", key) for key in own), output=f"{IN}/labels")
    assert heard.news.receive(0) == set()
    assert heard.box.counts() == (0, 0)


def test_a_watcher_that_is_asked_to_end_waits_for_no_message_more():
    heard = Heard()
    heard.queue = MemoryQueue(Postbox())  # by real time
    threading.Timer(0.1, heard.stop.ask, ["asked to end (SIGTERM)"]).start()
    started = time.monotonic()
    assert heard.listen().receive(20) == set()
    assert time.monotonic() - started < 5


def test_a_bug_in_a_queue_is_raised_where_it_was_asked():
    class Broken(MemoryQueue):
        def receive(self, wait_seconds):
            raise TimeoutError("a bug of ours")

    heard = Heard()
    heard.queue = Broken(heard.box)
    with pytest.raises(TimeoutError, match="a bug of ours"):
        heard.listen().receive(1)
