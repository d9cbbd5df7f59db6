"""Who enters, who makes room, and who comes back: the rules, without a model's numbers."""

import pytest
import torch

from pixellm.engine.memory import Limits, try_in_memory
from pixellm.engine.rows import Picture, Row
from pixellm.engine.schedule import ENTERING_TOKENS, HEADROOM, SHARE, Schedule
from pixellm.engine.slots import Slots, round_up
from pixellm.tiny import tiny_checkpoint

PREFIX = 20
OUT_OF_MEMORY = (
    "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "Triton Error [CUDA]: out of memory",
)
"""As torch and Triton say it, of a machine and of a GPU."""


def schedule_of(limits=None, prefix=PREFIX):
    return Schedule(Slots(tiny_checkpoint(6).model.language, prefix), limits or Limits())


def wait(schedule, count, length=5, picture=None):
    """Puts questions of so many ids at the end of the line, each about a picture of its own."""
    rows = [
        Row(picture or Picture(), [7] * length, budget=50, number=number) for number in range(count)
    ]
    schedule.waiting.extend(rows)
    return rows


def test_rows_enter_in_their_order_with_their_pictures():
    schedule, shared = schedule_of(), Picture()
    rows = [*wait(schedule, 2, picture=shared), *wait(schedule, 1)]
    assert [picture is shared for picture in schedule.enter()] == [True, False]
    assert schedule.rows == rows
    assert [row.picture.place for row in rows] == [0, 0, 1]
    assert shared.readers == 2


def test_no_more_are_under_way_than_allowed():
    schedule = schedule_of(Limits(rows=3))
    wait(schedule, 5)
    schedule.enter()
    assert (len(schedule.rows), len(schedule.waiting)) == (3, 2)


def test_a_few_that_wait_are_not_worth_a_step_beside_many():
    schedule = schedule_of()
    rows = wait(schedule, 64)
    schedule.enter()
    few = wait(schedule, int(SHARE * 64) - 1)
    assert not schedule.enter()
    schedule.leave(rows[: 64 - len(few)])
    assert len(schedule.enter()) == len(few)  # beside fewer they are
    assert not schedule.waiting


def test_what_enters_together_reads_so_many_tokens_at_most():
    schedule = schedule_of()
    wait(schedule, 40, length=ENTERING_TOKENS // 10)
    schedule.enter()
    assert len(schedule.rows) == 10
    schedule.enter()  # ten beside ten, and then ten beside twenty
    schedule.enter()
    assert len(schedule.rows) == 30
    schedule = schedule_of()
    wait(schedule, 10)
    wait(schedule, 1, length=ENTERING_TOKENS // 8)  # all would be padded to it
    schedule.enter()
    assert len(schedule.rows) == 10


def test_a_few_long_questions_are_worth_a_step_beside_many():
    schedule = schedule_of()
    wait(schedule, 64)
    schedule.enter()
    wait(schedule, 2, length=ENTERING_TOKENS // 4)
    assert not schedule.enter()
    wait(schedule, 1, length=ENTERING_TOKENS // 4)
    assert len(schedule.enter()) == 3


def test_pictures_and_answers_to_come_count_where_memory_is_wanting():
    large = 400  # slots of a prefix: of what is held, pictures are the most
    limit = schedule_of(prefix=large).slots.bytes_for(pictures=8, rows=16, length=5 + HEADROOM)
    schedule = schedule_of(Limits(slot_bytes=limit), large)
    wait(schedule, 20)
    schedule.enter()
    assert len(schedule.rows) == 8  # each with a picture of its own
    schedule = schedule_of(Limits(slot_bytes=limit), large)
    rows = [*wait(schedule, 7), *wait(schedule, 13, picture=Picture())]
    schedule.enter()
    assert schedule.rows == rows[:16]  # eight pictures, the last of many
    assert schedule.slots.pictures == 8
    short = schedule_of(prefix=large).slots.bytes_for(pictures=8, rows=8, length=5)
    schedule = schedule_of(Limits(slot_bytes=short), large)
    wait(schedule, 8)
    schedule.enter()
    assert len(schedule.rows) == 1
    enough = schedule_of(prefix=large).slots.bytes_for(pictures=8, rows=8, length=5 + HEADROOM)
    schedule = schedule_of(Limits(slot_bytes=enough), large)
    wait(schedule, 7)
    wait(schedule, 1, length=5 + HEADROOM)  # has room for its question, and none for an answer
    schedule.enter()
    assert len(schedule.rows) == 7


def test_what_enters_leaves_those_under_way_their_slots():
    limit = schedule_of().slots.bytes_for(pictures=8, rows=8, length=100 + HEADROOM)
    schedule = schedule_of(Limits(slot_bytes=limit))
    wait(schedule, 1, length=100)
    schedule.enter()
    wait(schedule, 20)
    schedule.enter()
    assert len(schedule.rows) == 8  # fewer than would fit with as few slots as they need
    assert schedule.slots.length >= 100


def test_memory_is_put_together_anew_only_where_half_the_slots_would_do():
    def enter(schedule, count, length):
        rows = wait(schedule, count, length)
        schedule.enter()
        return rows

    limit = schedule_of().slots.bytes_for(pictures=8, rows=8, length=100)
    for length, more in ((30, False), (5, True)):
        schedule = schedule_of(Limits(slot_bytes=limit))
        schedule.leave(enter(schedule, 1, length=100 - HEADROOM))
        held, version = schedule.slots.length, schedule.slots.version
        assert (2 * (length + HEADROOM) <= held) is more
        enter(schedule, 20, length)
        assert (len(schedule.rows) > 8) is more
        assert (schedule.slots.version > version) is more


def test_what_is_withdrawn_is_gone_wherever_it_is():
    schedule = schedule_of(Limits(rows=2))
    rows = wait(schedule, 4)
    schedule.enter()
    schedule.withdraw([rows[0], rows[3]])
    assert (schedule.rows, list(schedule.waiting)) == ([rows[1]], [rows[2]])
    assert [row.picture.slot for row in rows] == [None, 0, None, None]


def test_the_first_one_enters_however_little_memory_there_is():
    schedule = schedule_of(Limits(slot_bytes=1))
    wait(schedule, 3)
    schedule.enter()
    assert len(schedule.rows) == 1
    assert schedule.make_room(1000)  # alone it gets what it needs
    assert schedule.slots.length >= 1000


def test_when_answers_grow_beyond_memory_the_last_rows_go_back_to_the_head_of_the_line():
    schedule = schedule_of()
    limit = schedule.slots.bytes_for(24, 24, 40)
    schedule = schedule_of(Limits(slot_bytes=limit))
    rows = wait(schedule, 40)
    schedule.enter()
    assert len(schedule.rows) == 24
    evicted = schedule.rows[-3:]  # not one by one: each time all others would be laid out anew
    assert not schedule.make_room(65)
    assert list(schedule.waiting)[: len(evicted)] == evicted
    assert [row for row in rows if row in schedule.rows or row in schedule.waiting] == rows


def test_as_many_as_are_worth_a_step_enter_beside_those_under_way():
    schedule = schedule_of()
    wait(schedule, 8)
    schedule.enter()
    wait(schedule, int(SHARE * 8))
    schedule.enter()
    assert (len(schedule.rows), len(schedule.waiting)) == (9, 0)


def test_questions_that_enter_together_are_as_long_as_the_longest():
    """They are padded to it, so many short ones beside a long one are many tokens."""
    schedule = schedule_of()
    wait(schedule, 1, length=ENTERING_TOKENS // 4)
    wait(schedule, 10, length=5)
    schedule.enter()
    assert (len(schedule.rows), len(schedule.waiting)) == (4, 7)


def test_rows_and_pictures_fill_their_slots_without_holes():
    schedule = schedule_of()
    rows = wait(schedule, 6)
    schedule.enter()
    schedule.slots.states[:6] = torch.arange(6.0)[:, None, None]
    schedule.leave([rows[0], rows[2], rows[5]])
    assert [row.number for row in schedule.rows] == [3, 1, 4]  # the last ones took the holes
    assert schedule.slots.states[:3, 0, 0].tolist() == [3, 1, 4]
    assert [row.picture.place for row in schedule.rows] == [0, 1, 2]
    assert rows[0].picture.slot is None


def test_after_memory_ran_out_half_as_many_begin_again_and_the_lone_one_comes_back():
    schedule = schedule_of()
    rows = wait(schedule, 5)
    schedule.enter()
    assert schedule.make_way(all_free=True) is None
    assert (schedule.most, list(schedule.waiting), schedule.slots.rows) == (2, rows, 0)
    schedule.enter()
    assert schedule.make_way(all_free=True) is None
    assert schedule.most == 1
    schedule.enter()
    assert schedule.make_way(all_free=True) is None  # others had made way for it only now
    schedule.enter()
    assert schedule.make_way(all_free=False) is None  # what has ended still took memory
    schedule.enter()
    assert schedule.make_way(all_free=True) is rows[0]
    assert (schedule.most, list(schedule.waiting)) == (1, rows[1:])
    assert all((row.picture.readers, row.picture.slot) == (0, None) for row in rows)


def test_a_lone_one_that_got_on_begins_its_tries_anew_and_so_does_the_next_one():
    schedule = schedule_of(Limits(rows=1))
    rows = wait(schedule, 3)
    for step in (schedule.leave, lambda _: schedule.withdraw([rows[0]])):
        schedule.enter()
        assert schedule.make_way(all_free=True) is None
        schedule.enter()
        step(())
    schedule.enter()
    assert schedule.rows == [rows[1]]
    assert schedule.make_way(all_free=True) is None
    schedule.enter()
    assert schedule.make_way(all_free=True) is rows[1]


def test_one_more_may_try_for_each_that_many_have_ended():
    schedule = schedule_of(Limits(rows=5))
    schedule.most = 2
    for expected in (2.5, 2.9):
        (row,) = wait(schedule, 1)
        schedule.enter()
        schedule.leave([row])
        assert schedule.most == pytest.approx(expected)


def test_sizes_are_few_and_spare_little():
    sizes = {count: round_up(count) for count in range(1, 3000)}
    assert len(set(sizes.values())) < 40
    assert all(count <= size <= max(8, 1.25 * count) for count, size in sizes.items())


def test_what_room_takes_is_what_the_tensors_take():
    slots = schedule_of().slots
    slots.make_room(3, 9, 33)
    tensors = (*slots.prefix_keys, *slots.prefix_values, *slots.keys, *slots.values, slots.states)
    assert slots.bytes_for(3, 9, 33) == sum(each.nbytes for each in tensors)


def test_room_that_is_not_needed_any_more_stays_while_there_is_memory():
    """Else each question that enters or ends would copy all that is under way."""
    slots = schedule_of().slots
    slots.make_room(1, 1, 100)
    slots.make_room(20, 20, 9)
    assert (slots.pictures, slots.rows, slots.length) == (20, 20, 112)
    version = slots.version
    slots.make_room(9, 9, 9)
    assert slots.version == version
    slots.make_room(20, 20, 9, limit=slots.bytes_for(20, 20, 9))
    assert (slots.pictures, slots.rows, slots.length) == (20, 20, 10)


def test_only_a_want_of_memory_is_told_and_nothing_else_is_swallowed():
    def fail(error):
        raise error

    assert try_in_memory(lambda: None) is None
    assert try_in_memory(lambda: fail(MemoryError())) == "MemoryError"
    for told in OUT_OF_MEMORY:
        assert try_in_memory(lambda told=told: fail(RuntimeError(told))) == told
    with pytest.raises(RuntimeError, match="shapes"):
        try_in_memory(lambda: fail(RuntimeError("shapes differ")))
    with pytest.raises(TypeError):
        try_in_memory(lambda: fail(TypeError("a bug")))
