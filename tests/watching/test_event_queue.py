"""With a server that speaks SQS (moto), over HTTP."""

import pytest

from tests.watching.messages import TEST_EVENT, of_s3
from tests.watching.sqs import MOST_TIMES
from workers.errors import QueueTrouble, SettingsError
from workers.watching.event_queue import EventQueue
from workers.watching.events import Event


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


def test_a_flood_of_nonsense_is_not_listened_to_for_ever(sqs):
    sqs.send(*["nonsense"] * 40)
    queue = EventQueue(sqs.url, most_held=10)
    assert 10 <= len(queue.receive(0)) < 20
    assert not queue.is_full


def test_a_queue_whose_messages_fill_the_hand_says_so(sqs):
    sqs.send(*(of_s3("b", f"in/a/{n}.jpg") for n in range(25)))
    queue = EventQueue(sqs.url, most_held=10)
    got = queue.receive(0)
    assert queue.is_full
    assert queue.receive(0) == []
    queue.delete(got)
    assert not queue.is_full


def test_all_that_is_in_hand_is_prolonged_also_where_that_takes_many_requests(sqs):
    sqs.send(*(of_s3("b", f"in/a/{n}.jpg") for n in range(35)))
    queue, other = EventQueue(sqs.url, visibility_seconds=3), EventQueue(sqs.url)
    assert len(queue.receive(0)) == 35
    queue.visibility_seconds = 60
    queue.prolong()
    assert other.receive(4) == []
