"""What a step reads, as lists: the parts, their padding, and who shares a prefix."""

from contextlib import contextmanager, nullcontext
from unittest.mock import Mock

import pytest
import torch

from pixellm.engine import sharing
from pixellm.engine.replays import Replays, recorder_for
from pixellm.engine.rows import Picture, Row
from pixellm.engine.sharing import PADDING, stand_together
from pixellm.engine.slots import Slots
from pixellm.engine.steps import (
    GROUPS_ALIKE,
    LENGTH_ALIKE,
    TOKENS_ALIKE,
    WIDTH_ALIKE,
    lay_out,
    lay_out_entering,
    plan_step,
    to_device,
)
from pixellm.tiny import tiny_checkpoint


def row(picture, *, question=4, ids=(), read=0, logprobs=None, number=0):
    made = Row(picture, [9] * question, budget=20, number=number, ids=list(ids), read=read)
    made.logprobs = [0.0] * (len(ids) if logprobs is None else logprobs)
    return made


def picture_at(slot):
    return Picture(slot=slot)


def saying(slot, ids=(5, 6), number=0):
    """A row that reads its last word."""
    return row(picture_at(slot), ids=ids, read=4 + len(ids) - 1, number=number)


def in_group(slot):
    """A row whose token group has begun: its first token is read together with the five others."""
    return row(picture_at(slot), ids=(5, 30, 31, 32, 33, 34, 35), read=5, logprobs=2)


def entering(slot):
    return row(picture_at(slot))


def plan(rows, alike=False):
    slots = Slots(tiny_checkpoint(6).model.language, 20)
    slots.make_room(16, 16, 128)
    return plan_step(lay_out(rows, alike), slots, rows)


def test_first_tokens_of_all_come_first_then_the_rest_of_groups_then_of_questions():
    layout = lay_out([saying(0), entering(1), in_group(2)])
    assert [(list(m.rows), m.each, m.everyone) for m in layout.members] == [
        ([0, 1, 2], 1, True),
        ([2], 5, False),
        ([1], 3, False),
    ]
    assert layout.ids == [6, 9, 30, 31, 32, 33, 34, 35, 9, 9, 9]
    assert layout.places == [5, 0, 5, 6, 7, 8, 9, 10, 1, 2, 3]
    assert layout.read == [6, 4, 11]


def test_what_is_wanted_are_next_words_and_how_likely_the_group_was():
    rows = [saying(0), entering(1), in_group(2)]
    wanted = lay_out(rows).wanted
    assert [(w.token, rows.index(w.row), w.index, w.given) for w in wanted] == [
        (0, 0, 2, -1),  # the word after the last
        (2, 2, 2, 31),  # those of the group are given
        (3, 2, 3, 32),
        (4, 2, 4, 33),
        (5, 2, 5, 34),
        (6, 2, 6, 35),
        (7, 2, 7, -1),
        (10, 1, 0, -1),  # the first word
    ]


def test_a_group_of_two_is_read_at_once_like_longer_ones():
    layout = lay_out([row(picture_at(0), ids=(5, 30, 31), read=5, logprobs=2)])
    assert (layout.ids, layout.places, layout.read) == ([30, 31], [5, 6], [7])


def test_steps_that_are_alike_have_one_shape_whoever_is_under_way():
    shapes = set()
    for count in (9, 10):
        for groups in (1, 7):
            rows = [saying(slot) for slot in range(count)]
            rows[:groups] = [in_group(slot) for slot in range(groups)]
            made = plan(rows, alike=True)
            assert made.alike
            assert made.parts[1].count == GROUPS_ALIKE
            shapes.add(made.shape)
    assert len(shapes) == 1


def test_padding_wants_nothing_and_reads_what_nobody_looks_at():
    rows = [in_group(slot) for slot in range(9)]
    layout = lay_out(rows, alike=True)
    assert len(layout.wanted) == len(lay_out(rows).wanted)
    everyone, groups = layout.members
    assert (len(everyone.rows), len(groups.rows)) == (10, 16)
    assert layout.places[9] == 0  # of a row that nobody has
    assert set(groups.rows[9:]) == {0}  # the first one again, which says the same again


def plan_entering(rows, count, room=128, by_kernel=False):
    slots = Slots(tiny_checkpoint(6).model.language, 20)
    slots.make_room(16, 40, 128)
    return plan_step(lay_out_entering(rows, count, room), slots, rows, by_kernel)


@pytest.mark.parametrize("by_kernel", [False, True], ids=["torch", "kernel"])
def test_rows_that_enter_are_read_in_steps_of_few_shapes_whoever_was_under_way(by_kernel):
    shapes = set()
    for before in (0, 1, 28):
        for lengths in ([5] * 12, [1] * 11, [2, 16, 7] * 4):
            rows = [saying(0) for _ in range(before)]
            rows += [row(picture_at(at), question=each) for at, each in enumerate(lengths)]
            made = plan_entering(rows, len(lengths), by_kernel=by_kernel)
            assert made.alike
            shapes.add(made.shape)
    assert len(shapes) == (1 if by_kernel else 3)  # torch looks in place where it can
    longer = [row(picture_at(0), question=17)] * 12
    assert plan_entering(longer, 12, by_kernel=by_kernel).shape not in shapes


def test_few_rows_that_enter_are_hardly_padded():
    counts = (1, 2, 3, 4, 5, 8, 9, 11, 13, 17, 30)
    found = [len(lay_out_entering([entering(0)] * each, each, 128).ids) // 16 for each in counts]
    assert found == [1, 2, 4, 4, 8, 8, 10, 12, 14, 20, 32]


def test_rows_that_enter_do_not_stand_together(monkeypatch):
    monkeypatch.setattr(sharing, "PROGRAMS", 1)
    (part,) = plan_entering([entering(0)] * 8, 8, by_kernel=True).parts
    assert (part.each, part.order, part.together) == (LENGTH_ALIKE, None, 1)


def test_rows_that_enter_read_all_they_are_asked_and_padding_is_read_for_nobody():
    again = row(picture_at(1), ids=(5, 6), logprobs=2)  # it had to make room
    rows = [saying(0), saying(0), entering(0), again, row(picture_at(0), question=1)]
    layout = lay_out_entering(rows, 3, room=128)
    (members,) = layout.members
    assert (list(members.rows), members.each) == ([2, 3, 4, 2], LENGTH_ALIKE)
    assert layout.rows == tuple(rows[2:])
    assert layout.owners[:17] == [2] * 16 + [3]
    assert layout.places[:17] == [*range(16), 0]
    assert layout.ids[:4] + layout.ids[16:22] == [9] * 4 + [9] * 4 + [5, 6]
    assert not any(layout.ids[4:16] + layout.ids[22:32])
    assert layout.read == [4, 6, 1]
    found = [(w.token, rows.index(w.row), w.index, w.given) for w in layout.wanted]
    assert found == [(3, 2, 0, -1), (16 + 5, 3, 2, -1), (32, 4, 0, -1)]


def test_padding_of_rows_that_enter_takes_no_slots_that_there_are_not():
    layout = lay_out_entering([entering(0)], 1, room=12)
    assert (layout.length, layout.alike) == (12, True)


def test_many_tokens_of_rows_that_enter_are_neither_padded_nor_recorded():
    rows = [row(picture_at(0), question=TOKENS_ALIKE // 4 + 1), *[entering(0)] * 2]
    layout = lay_out_entering(rows, 3, room=512)
    assert (len(layout.ids), layout.alike) == (3 * (TOKENS_ALIKE // 4 + 1), False)
    rows[0].question.pop()
    assert lay_out_entering(rows, 3, room=512).alike


def test_so_many_parts_as_rows_are_not_taken_for_all_rows_in_order():
    rows = [saying(slot) for slot in range(GROUPS_ALIKE)]
    rows[2] = in_group(2)
    _, group = lay_out(rows, alike=True).members
    assert list(group.rows) == [2] * GROUPS_ALIKE
    assert not group.everyone


def test_rows_of_a_picture_read_its_prefix_together_unless_padding_would_cost_more():
    even = plan([saying(slot) for slot in (0, 0, 1, 1, 2, 2)]).views[0]
    assert even.entries.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert even.pictures == slice(0, 3)  # a view
    uneven = plan([saying(slot) for slot in (0, 0, 0, 1, 1, 2)]).views[0]
    assert 6 < uneven.entries.numel() <= PADDING * 6
    for part, slots in ((even, (0, 0, 1, 1, 2, 2)), (uneven, (0, 0, 0, 1, 1, 2))):
        order = torch.arange(16)[part.pictures].tolist()
        width = part.entries.shape[1]
        for at, place in enumerate(part.seats.tolist()):
            assert part.entries.flatten()[place] == at
            assert order[place // width] == slots[at]


def test_rows_of_which_each_reads_alone_are_not_gathered():
    for slots in (range(8), (0, 0, 0, 0, 0, 0, 1, 2, 3, 4)):  # of which padding would cost more
        for alike in (False, True):
            part = plan([saying(slot) for slot in slots], alike=alike).views[0]
            assert (part.entries, part.seats) == (None, None)
            assert torch.arange(16)[part.pictures].tolist() == [*slots]


def test_a_prefix_is_read_together_also_where_padding_is_as_much_as_it_may_be():
    # 4 x 8 and 8 x 4 entries: twice the sixteen rows
    few, many = ([8, 3, 3, 2], [4, 2, 2, 2, 2, 2, 1, 1])
    for alike, counts in ((False, few), (True, many)):
        slots = [slot for slot, count in enumerate(counts) for _ in range(count)]
        made = plan([saying(slot) for slot in slots], alike=alike)
        assert made.views[0].entries.shape == (len(counts), counts[0])
        assert made.alike is alike


def test_groups_of_pictures_are_padded_to_few_shapes_unless_it_would_cost_too_much():
    of_three = [picture for picture in range(8) for _ in range(3)]
    nearly = sorted([*of_three[1:], 7])  # of one picture two, of another four
    even = [plan([saying(slot) for slot in slots], alike=True) for slots in (of_three, nearly)]
    assert [made.alike for made in even] == [True, True]
    assert even[0].shape == even[1].shape
    uneven = plan([saying(slot) for slot in (0, 0, 0, 0, 0, 0, 1, 2, 3, 4)], alike=True)
    assert not uneven.alike
    assert uneven.views[0].entries is None


def test_a_token_looks_at_what_its_row_has_read_and_at_itself():
    made = plan([saying(0), saying(1, ids=(5, 6, 7, 8))])
    seen = (made.views[0].bias == 0).sum(-1).flatten().tolist()
    assert seen == [6, 8]
    assert (
        plan([saying(slot) for slot in range(8)], alike=True).views[0].bias.shape[-1] == WIDTH_ALIKE
    )


def test_numbers_come_to_a_device_together_and_apart_again():
    lists = [{"ids": [1, 2], "none": []}, {}, {"ids": [3]}]
    sent = to_device(lists, torch.device("cpu"))
    assert [{name: each.tolist() for name, each in named.items()} for named in sent] == lists


# ---- recordings ----


class Recorders:
    """Makes recorders, and counts them and what they record."""

    def __init__(self):
        self.made = self.recorded = 0

    def __call__(self):
        self.made += 1
        return self.record

    def record(self, work):
        self.recorded += 1
        return work


def test_the_recordings_that_were_used_last_are_kept(monkeypatch):
    monkeypatch.setattr("pixellm.engine.replays.MOST", 2)
    slots, recorders = Slots(tiny_checkpoint(6).model.language, 20), Recorders()
    slots.make_room(16, 16, 128)
    run = Replays(lambda plan: plan.ids, recorders)

    def step(count):
        rows = [saying(slot, number=slot) for slot in range(count)]
        return len(run(plan_step(lay_out(rows, alike=True), slots, rows)))

    assert [step(count) for count in (8, 10, 8, 12, 8)] == [8, 10, 8, 12, 8]
    assert recorders.recorded == 3  # the one of 8 was used after the one of 10
    step(10)
    assert (recorders.recorded, recorders.made) == (4, 1)
    slots.make_room(16, 16, 200)  # others write into their memory now
    step(10)
    assert (recorders.recorded, recorders.made) == (5, 2)


def test_a_step_that_is_replayed_reads_what_is_new_in_it():
    slots = Slots(tiny_checkpoint(6).model.language, 20)
    slots.make_room(16, 16, 128)
    run = Replays(lambda plan: plan.ids + 100 * plan.places, Recorders())
    for ids in ((5, 6), (5, 7), (5, 6, 8)):
        rows = [saying(slot, ids) for slot in range(8)]
        plan = plan_step(lay_out(rows, alike=True), slots, rows)
        assert set(run(plan).tolist()) == {ids[-1] + 100 * (3 + len(ids))}


def test_a_step_that_a_kernel_attends_in_reads_the_pictures_of_its_rows_when_it_is_replayed():
    slots, recorders = Slots(tiny_checkpoint(6).model.language, 20), Recorders()
    slots.make_room(16, 16, 128)
    run = Replays(lambda plan: plan.pictures.clone(), recorders)
    for pictures in (range(8), range(7, -1, -1)):
        rows = [saying(slot) for slot in pictures]
        made = plan_step(lay_out(rows, alike=True), slots, rows, by_kernel=True)
        assert made.views is None
        assert run(made).tolist() == [*pictures, *[0] * 8]  # of 16 rows that there is room for
    assert recorders.recorded == 1


@pytest.mark.parametrize(
    ("pictures", "heads", "together"),
    [
        (range(128), 32, 1),  # each has its own
        ([at % 40 for at in range(128)], 32, 2),
        ([at % 32 for at in range(128)], 32, 4),
        ([0] * 128, 32, 4),  # at most
        ([0] * 32, 32, 2),  # or some of the GPU has nothing to do
        ([0] * 16, 32, 1),
        ([0], 1, 1),
    ],
)
def test_so_many_rows_of_a_picture_stand_together_as_keep_a_gpu_busy(pictures, heads, together):
    order, found = stand_together(list(pictures), heads)
    assert found == together
    assert sorted(order) == list(range(len(pictures)))
    assert [pictures[at] for at in order] == sorted(pictures)


def test_rows_whose_queries_fill_a_program_stand_alone():
    found = [stand_together([0] * 2048, 1, groups)[1] for groups in (1, 4, 5, 8, 16, 20, 32)]
    assert found == [4, 4, 2, 2, 1, 1, 1]


def test_a_kernel_is_told_who_stands_together_and_a_replay_too(monkeypatch):
    monkeypatch.setattr(sharing, "PROGRAMS", 1)
    slots, recorders = Slots(tiny_checkpoint(6).model.language, 20), Recorders()
    slots.make_room(16, 16, 128)
    run, made = Replays(lambda plan: plan.parts[0].order.clone(), recorders), []
    for pictures in ([1, 0] * 4, [0, 1, 1, 0] * 2):
        rows = [saying(slot) for slot in pictures]
        made.append(plan_step(lay_out(rows, alike=True), slots, rows, by_kernel=True))
        order = run(made[-1]).tolist()
        assert [pictures[at] for at in order] == [0] * 4 + [1] * 4
    assert recorders.recorded == 1
    assert [part.together for part in made[0].parts] == [4]
    for pictures, together in ([0, 1, 2, 3] * 2, 2), (range(8), 1):
        rows = [saying(slot) for slot in pictures]
        made.append(plan_step(lay_out(rows, alike=True), slots, rows, by_kernel=True))
        assert made[-1].parts[0].together == together
        assert (made[-1].parts[0].order is None) == (together == 1)
    assert len({made[at].shape for at in (0, 2, 3)}) == 3


def test_steps_of_as_many_tokens_in_other_parts_have_other_shapes():
    slots = Slots(tiny_checkpoint(6).model.language, 20)
    slots.make_room(40, 40, 128)
    short = (5, 30, 31)  # a group of two: one token behind its first
    some = [in_group(at) if at < GROUPS_ALIKE else saying(at) for at in range(40)]
    all_ = [row(picture_at(at), ids=short, read=5, logprobs=2) for at in range(40)]
    one, other = (
        plan_step(lay_out(rows, alike=True), slots, rows, by_kernel=True) for rows in (some, all_)
    )
    assert len(one.ids) == len(other.ids) == 80
    assert one.shape != other.shape


def test_where_memory_runs_out_over_a_recording_others_are_made_later(caplog):
    slots, recorders, failing = Slots(tiny_checkpoint(6).model.language, 20), Recorders(), [1]
    slots.make_room(16, 16, 128)

    def work(made):
        if failing:
            failing.pop()
            raise torch.OutOfMemoryError("CUDA out of memory")
        return made.ids

    def record(task):
        task()  # as a graph is recorded
        return recorders.record(task)

    run = Replays(work, lambda: record)
    rows = [saying(slot) for slot in range(8)]
    step = plan_step(lay_out(rows, alike=True), slots, rows)
    with pytest.raises(torch.OutOfMemoryError):
        run(step)
    assert len(run(step)) == 8
    assert recorders.recorded == 1
    assert not caplog.text


def test_a_step_is_recorded_on_the_device_that_it_runs_on(monkeypatch):
    """Torch records what the current device is asked; without a word, or with a warning."""
    current, told = ["cuda:0"], []

    @contextmanager
    def on(device):
        before, current[0] = current[0], f"{device}"
        yield
        current[0] = before

    def recording(graph, *, pool, stream, capture_error_mode):
        told.append((stream.device, current[0]))
        return nullcontext()

    cuda = Mock(device=on, graph=recording, stream=lambda _: nullcontext())
    cuda.Stream = lambda device: Mock(device=f"{device}")
    monkeypatch.setattr(torch, "cuda", cuda)
    replay = recorder_for(torch.device("cuda:1"))(lambda: current[0])
    assert told == [("cuda:1", "cuda:1")]
    assert replay() == "cuda:1"
    cuda.CUDAGraph.return_value.replay.assert_called_once_with()
    assert current == ["cuda:0"]
