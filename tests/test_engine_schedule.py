"""Who enters, who makes room, and who comes back: the rules, without a model's numbers."""

import pytest
import torch

from pixellm.engine.memory import Limits, try_in_memory
from pixellm.engine.rows import Picture, Row
from pixellm.engine.schedule import ENTERING_TOKENS, SHARE, Schedule
from pixellm.engine.slots import Slots, round_up
from pixellm.tiny import tiny_checkpoint

PREFIX = 20


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
    assert shared.rows == 2


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


def test_the_first_one_enters_however_little_memory_there_is():
    schedule = schedule_of(Limits(slot_bytes=1))
    wait(schedule, 3)
    schedule.enter()
    assert len(schedule.rows) == 1
    assert schedule.make_room(1000)  # alone it gets what it needs
    assert schedule.slots.length >= 1000


def test_when_answers_grow_beyond_memory_the_last_rows_go_back_to_the_head_of_the_line():
    schedule = schedule_of()
    limit = schedule.slots.bytes_for(12, 12, 40)
    schedule = schedule_of(Limits(slot_bytes=limit))
    rows = wait(schedule, 20)
    schedule.enter()
    under_way = len(schedule.rows)
    assert 1 < under_way < 20
    evicted = schedule.rows[-max(1, int(SHARE * under_way)) :]
    assert not schedule.make_room(65)
    assert list(schedule.waiting)[: len(evicted)] == evicted
    assert [row for row in rows if row in schedule.rows or row in schedule.waiting] == rows


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
    assert schedule.make_way(last_try=True) is None
    assert (schedule.most, list(schedule.waiting), schedule.slots.rows) == (2, rows, 0)
    schedule.enter()
    assert schedule.make_way(last_try=True) is None
    assert schedule.most == 1
    schedule.enter()
    assert schedule.make_way(last_try=False) is None
    schedule.enter()
    assert schedule.make_way(last_try=True) is rows[0]
    assert list(schedule.waiting) == rows[1:]


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


def test_only_a_want_of_memory_is_told_and_nothing_else_is_swallowed():
    def fail(error):
        raise error

    assert try_in_memory(lambda: None) is None
    assert try_in_memory(lambda: fail(MemoryError())) == "MemoryError"
    told = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
    assert try_in_memory(lambda: fail(RuntimeError(told))) == told
    with pytest.raises(RuntimeError, match="shapes"):
        try_in_memory(lambda: fail(RuntimeError("shapes differ")))
    with pytest.raises(TypeError):
        try_in_memory(lambda: fail(TypeError("a bug")))
