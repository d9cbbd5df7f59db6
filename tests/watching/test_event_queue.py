"""With a server that speaks SQS (moto), over HTTP."""

import pytest

from tests.watching.messages import TEST_EVENT, of_eventbridge, of_s3
from tests.watching.sqs import MOST_TIMES, Sqs
from workers.errors import QueueTrouble, SettingsError, StorageUnavailable
from workers.storage.memory import MemoryStore
from workers.watching.cursor import Cursor
from workers.watching.event_queue import EventQueue
from workers.watching.events import Event
from workers.watching.news import News

IN, OUT = "s3://b/in", "mem://b/out"


def test_messages_are_taken_and_hidden_from_others(sqs):
    sqs.send(*(of_s3("b", f"in/a/{n}.jpg") for n in range(25)), TEST_EVENT)
    queue = EventQueue(sqs.url)
    got = queue.receive(0)
    assert len(got) == len(queue.held) == 26
    assert Event("s3://b/in/a/7.jpg", "e1", is_removal=False) in [e for m in got for e in m.events]
    assert EventQueue(sqs.url).receive(0) == []
    queue.delete(got)
    assert (queue.held, sqs.count()) == ((), (0, 0))


def test_what_is_prolonged_stays_in_hand_and_what_is_let_go_comes_again(sqs):
    sqs.send(of_s3("b", "in/a/1.jpg"), of_s3("b", "in/b/1.jpg"))
    queue, other = EventQueue(sqs.url, visibility_seconds=3), EventQueue(sqs.url)
    _, two = queue.receive(0)
    queue.let_go([two])
    queue.visibility_seconds = 60
    queue.prolong()
    (again,) = other.receive(6)
    assert again.message_id == two.message_id


def test_a_message_that_says_nothing_ends_as_a_dead_letter(sqs):
    sqs.send("nonsense")
    queue = EventQueue(sqs.url, visibility_seconds=4)  # a slow machine needs more than one
    for _ in range(MOST_TIMES):
        (message,) = queue.receive(10)
        assert "no JSON" in message.problem
        assert queue.held == ()
    assert queue.receive(6) == []
    assert sqs.dead_bodies() == ["nonsense"]


def test_a_queue_tells_where_its_dead_letters_go(sqs):
    sqs.send("one", "two")
    state = EventQueue(sqs.url).look()
    assert state.dead_letters.endswith(":dead")
    assert (state.waiting, state.in_hand, state.most_times) == (2, 0, MOST_TIMES)
    assert EventQueue(sqs.dead).look().dead_letters == ""


def test_a_queue_that_is_not_there_is_told(sqs):
    with pytest.raises(QueueTrouble, match=r"the queue .*none.*NonExistentQueue"):
        EventQueue(f"{sqs.url}-none").look()


def test_a_queue_that_does_not_answer_is_told(sqs_server, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(QueueTrouble, match="Could not connect"):
        EventQueue("http://127.0.0.1:9/1/x").receive(0)


@pytest.mark.parametrize("url", ["news", "sqs://x/y", "https://sqs.eu-west-1.amazonaws.com"])
def test_what_is_no_queue_is_refused(url):
    with pytest.raises(SettingsError, match="must be like https://sqs"):
        EventQueue(url)


def test_the_region_is_that_of_the_queue():
    queue = EventQueue("https://sqs.eu-west-1.amazonaws.com/123456789012/news")
    assert queue._client.meta.region_name == "eu-west-1"
    assert queue._client.meta.endpoint_url == "https://sqs.eu-west-1.amazonaws.com"


# ---- what messages mean for a watcher ----


class Told:
    def __init__(self, sqs: Sqs, url: str | None = None) -> None:
        self.lines: list[str] = []
        self.notes: list[str] = []
        self.queue = EventQueue(url or sqs.url)
        self.cursor = Cursor(MemoryStore(), OUT)
        say, note = self.lines.append, self.notes.append
        self.news = News(self.queue, IN, self.cursor, say, note)


def test_messages_name_the_drops_to_look_at(sqs):
    sqs.send(of_s3("b", "in/friday/1.jpg", "in/friday/2.jpg"), of_s3("b", "in/loose.jpg"))
    assert Told(sqs).news.receive(0) == {"friday", "_loose"}


def test_a_message_is_kept_until_its_drop_is_labelled(sqs):
    sqs.send(of_s3("b", "in/friday/1.jpg"), of_s3("b", "in/monday/1.jpg"))
    told = Told(sqs)
    told.news.receive(0)
    told.news.settle({"friday"}, set())
    assert sqs.count() == (0, 1)
    told.news.settle({"friday"}, {"friday"})  # it failed: others may try
    assert told.queue.held == ()
    assert sqs.count() == (0, 1)


def test_what_is_labelled_already_costs_no_look(sqs):
    told = Told(sqs)
    told.cursor.put("friday", "d", [("1.jpg", "e1")])
    sqs.send(
        of_s3("b", "in/friday/1.jpg"),
        of_s3("b", "in/friday/1.jpg"),
        of_s3("b", "in/friday/.DS_Store"),
        TEST_EVENT,
    )
    assert told.news.receive(0) == set()
    assert sqs.count() == (0, 0)


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
def test_what_may_have_changed_is_looked_at(sqs, body):
    told = Told(sqs)
    told.cursor.put("friday", "d", [("1.jpg", "e1")])
    sqs.send(body)
    assert told.news.receive(0) == {"friday"}
    told.news.settle((), ())
    assert sqs.count() == (0, 0)


def test_messages_for_others_and_nonsense_are_left_to_the_queue_and_told_once(sqs):
    sqs.send("nonsense", of_s3("b", "elsewhere/1.jpg"))
    told = Told(sqs)
    told.queue.visibility_seconds = 1
    for _ in range(2):
        assert told.news.receive(3) == set()
    assert len(told.lines) == len(told.notes) == 2
    assert any("not under 's3://b/in'" in line for line in told.lines)
    assert any("no JSON" in line for line in told.lines)
    assert told.queue.held == ()
    assert sum(sqs.count()) == 2


def test_a_queue_without_a_place_for_dead_letters_is_told(sqs):
    told = Told(sqs)
    told.news.check()
    assert told.lines == []
    without = Told(sqs, sqs.dead)
    without.news.check()
    assert "no redrive policy" in without.lines[0]


class Counting(MemoryStore):
    """Counts what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.listings = 0

    def list(self, prefix):
        self.listings += 1
        return super().list(prefix)


def test_many_messages_about_one_drop_cost_one_look_at_what_is_known_of_it(sqs):
    told, store = Told(sqs), Counting()
    told.cursor = Cursor(store, OUT)
    news = News(told.queue, IN, told.cursor, told.lines.append, told.notes.append)
    sqs.send(*(of_s3("b", f"in/friday/{n}.jpg") for n in range(30)))
    assert news.receive(0) == {"friday"}
    assert store.listings == 1


def test_a_flood_of_nonsense_is_not_listened_to_for_ever(sqs, monkeypatch):
    monkeypatch.setattr("workers.watching.event_queue.MOST_HELD", 10)
    sqs.send(*["nonsense"] * 40)
    queue = EventQueue(sqs.url)
    assert 10 <= len(queue.receive(0)) < 20
    assert not queue.is_full


def test_a_queue_whose_messages_fill_the_hand_says_so(sqs, monkeypatch):
    monkeypatch.setattr("workers.watching.event_queue.MOST_HELD", 10)
    sqs.send(*(of_s3("b", f"in/a/{n}.jpg") for n in range(25)))
    queue = EventQueue(sqs.url)
    got = queue.receive(0)
    assert queue.is_full
    assert queue.receive(0) == []
    queue.delete(got)
    assert not queue.is_full


def test_messages_for_others_are_left_to_them_also_where_nothing_can_be_told(sqs):
    sqs.send(of_s3("b", "elsewhere/1.jpg"), "nonsense", of_s3("b", "elsewhere/2.jpg"))

    def away(_):
        raise StorageUnavailable("the page of the day can't be written")

    told = Told(sqs)
    news = News(told.queue, IN, told.cursor, told.lines.append, away)
    with pytest.raises(StorageUnavailable):
        news.receive(0)
    assert told.queue.held == ()
    assert news.receive(0) == set()
    assert sum(sqs.count()) == 3


@pytest.mark.parametrize("name", ["", "x" * 300, "\ud800", "a\0b", "../../etc", "."])
def test_messages_about_what_can_be_no_drop_are_done_with(sqs, name):
    sqs.send(of_eventbridge("b", f"in/{name}/1.jpg"))
    told = Told(sqs)
    assert told.news.receive(0) == set()
    assert sqs.count() == (0, 0)


def test_what_the_watcher_itself_writes_is_no_news(sqs):
    told = Told(sqs)
    told.cursor = Cursor(MemoryStore(), f"{IN}/labels")
    news = News(told.queue, IN, told.cursor, told.lines.append, told.notes.append)
    sqs.send(of_s3("b", "in/labels/friday/_status.json"), of_s3("b", "in/labels/friday/coco.json"))
    assert news.receive(0) == set()
    assert sqs.count() == (0, 0)
