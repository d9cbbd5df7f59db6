"""The queue in memory means by its words what SQS means; see test_event_queue.py beside it."""

from tests.clock import Clock
from tests.watching.messages import TEST_EVENT, of_s3
from workers.watching.memory_queue import MemoryQueue, Postbox


def box_of(clock: Clock, *bodies: str, most_times: int = 2) -> Postbox:
    box = Postbox(most_times, clock, clock.pass_by)
    box.send(*bodies)
    return box


def test_messages_are_handed_out_once_and_hidden_from_others():
    box = box_of(Clock(), *(of_s3("b", f"in/a/{n}.jpg") for n in range(25)), TEST_EVENT)
    queue = MemoryQueue(box)
    got = queue.receive(0)
    assert len(got) == len(queue.held) == 26
    assert MemoryQueue(box).receive(0) == []
    assert box.counts() == (0, 26)
    queue.delete(got)
    assert (queue.held, box.counts()) == ((), (0, 0))


def test_what_is_prolonged_stays_in_hand_and_what_is_let_go_comes_again():
    clock = Clock()
    box = box_of(clock, of_s3("b", "in/a/1.jpg"), of_s3("b", "in/b/1.jpg"))
    queue, other = MemoryQueue(box, visibility_seconds=60), MemoryQueue(box)
    _, two = queue.receive(0)
    queue.let_go([two])
    clock.pass_by(59)
    queue.prolong()
    clock.pass_by(1)
    (again,) = other.receive(0)
    assert again.message_id == two.message_id


def test_the_first_message_is_waited_for_and_no_longer_than_was_asked():
    clock = Clock()
    box = box_of(clock)
    started = clock()
    assert MemoryQueue(box).receive(20) == []
    assert 20 <= clock() - started < 21
    box.send("late")
    assert len(MemoryQueue(box).receive(20)) == 1
    assert clock() - started < 21


def test_a_message_that_comes_too_often_is_a_dead_letter():
    clock = Clock()
    box = box_of(clock, "nonsense")
    queue = MemoryQueue(box, visibility_seconds=60)
    for _ in range(2):
        (message,) = queue.receive(0)
        assert "no JSON" in message.problem
        assert queue.held == ()
        assert box.dead == []
        clock.pass_by(60)
    assert queue.receive(0) == []
    assert box.dead == ["nonsense"]


def test_whoever_was_too_late_deletes_and_hides_nothing_of_another_ones():
    clock = Clock()
    box = box_of(clock, of_s3("b", "in/a/1.jpg"), most_times=3)
    late, other = MemoryQueue(box, visibility_seconds=60), MemoryQueue(box, visibility_seconds=60)
    got = late.receive(0)
    clock.pass_by(60)
    (again,) = other.receive(0)
    late.delete(got)
    clock.pass_by(30)
    late.prolong()
    assert box.counts() == (0, 1)
    clock.pass_by(30)
    assert [each.message_id for each in late.receive(0)] == [again.message_id]


def test_a_hand_that_is_full_takes_no_more():
    box = box_of(Clock(), *(of_s3("b", f"in/a/{n}.jpg") for n in range(3)))
    queue = MemoryQueue(box, most_held=2)
    got = queue.receive(0)
    assert queue.is_full
    box.send(of_s3("b", "in/a/9.jpg"))
    assert queue.receive(0) == []
    queue.delete(got)
    assert not queue.is_full


def test_a_queue_tells_how_it_stands():
    box = box_of(Clock(), "one", "two")
    queue = MemoryQueue(box)
    assert (queue.look().waiting, queue.look().most_times) == (2, 2)
    assert queue.look().dead_letters
    assert not MemoryQueue(Postbox(most_times=0)).look().dead_letters
