"""Memory is refused where little of it is asked for, and nobody is lost or given up too early."""

import pytest
import torch

from pixellm.answers import DecodeSettings
from pixellm.engine.engine import Engine
from pixellm.engine.memory import Limits
from pixellm.engine.rows import Sample
from pixellm.engine.slots import Slots
from pixellm.tiny import Script, tiny_checkpoint
from tests.mixtures import SETTINGS, alone, assert_same, facts, make_samples, said

REFUSED = torch.OutOfMemoryError("CUDA out of memory")


def refuse(monkeypatch, owner, name, is_refused):
    """Counts the calls from 1 and refuses some of them; returns those that were."""
    working, calls, refused = getattr(owner, name), [], []

    def scarce(*arguments):
        calls.append(1)
        if is_refused(len(calls)):
            refused.append(len(calls))
            raise REFUSED
        return working(*arguments)

    monkeypatch.setattr(owner, name, scarce)
    return refused


@pytest.mark.parametrize("is_refused", [lambda n: n == 1, lambda n: n in (3, 4, 5)])
@pytest.mark.parametrize("place", ["move_rows", "move_pictures"])
def test_rows_that_leave_as_memory_runs_out_have_ended_all_the_same(place, is_refused, monkeypatch):
    checkpoint, samples = tiny_checkpoint(6), make_samples(2)
    truth, engine = alone(checkpoint, samples), Engine(checkpoint, SETTINGS)
    refused = refuse(monkeypatch, Slots, place, is_refused)
    jobs = [engine.add(sample) for sample in samples]
    for _ in range(1000):  # not for ever, should one be lost
        engine.step()
        if not engine.busy:
            break
    assert refused
    assert_same([[facts(row.answer) for row in job.rows] for job in jobs], truth)


def test_rows_that_make_room_as_memory_runs_out_come_back(monkeypatch):
    checkpoint, samples = tiny_checkpoint(6), make_samples(2)
    truth, engine = alone(checkpoint, samples), Engine(checkpoint, SETTINGS)
    schedule, jobs = engine.generator.schedule, [engine.add(sample) for sample in samples]
    for _ in range(4):
        engine.step()
    refused = refuse(monkeypatch, Slots, "move_rows", lambda n: n == 1)
    with torch.inference_mode(), pytest.raises(torch.OutOfMemoryError):
        schedule.evict(schedule.rows[:3])
    schedule.restart()
    while engine.busy:
        engine.step()
    assert refused
    assert_same([[facts(row.answer) for row in job.rows] for job in jobs], truth)


def test_a_sample_is_withdrawn_also_as_memory_runs_out(monkeypatch):
    checkpoint, samples = tiny_checkpoint(6), [s for s in make_samples(2) if s.questions]
    truth, engine = alone(checkpoint, samples), Engine(checkpoint, SETTINGS)
    first, *jobs = [engine.add(sample) for sample in samples]
    for _ in range(4):
        engine.step()
    refused = refuse(monkeypatch, Slots, "move_rows", lambda n: n == 1)
    engine.withdraw(first)
    while engine.busy:
        engine.step()
    assert refused
    assert_same([[facts(row.answer) for row in job.rows] for job in jobs], truth[1:])


def test_before_a_lone_question_is_given_up_slots_of_others_are_let_go(monkeypatch):
    """Those of rows that have ended stay, for the next ones."""
    checkpoint, image = tiny_checkpoint(6), make_samples(0)[0].image
    scripts = [[*[5] * 60, 2], *[[5, 2]] * 39]
    script = Script(scripts, checkpoint.tokenizer)
    engine = Engine(checkpoint, DecodeSettings(max_new_tokens=90), predict=script)
    schedule = engine.generator.schedule
    step, refused = engine.model.language.step, []

    def scarce(*arguments):
        if len(schedule.rows) == 1 and schedule.slots.rows > 8:
            refused.append(schedule.slots.rows)
            raise MemoryError
        return step(*arguments)

    monkeypatch.setattr(engine.model.language, "step", scarce)
    (answers,) = engine.answer([Sample(image, ("the cat",) * len(scripts))])
    assert len(refused) == 1
    assert [list(each.token_ids) for each in answers] == scripts


@pytest.mark.parametrize("as_it_leaves", [False, True])
def test_before_a_lone_question_is_given_up_masks_that_wait_are_made(as_it_leaves, monkeypatch):
    """Until then the picture is kept that they are masks of; also where it was alone before."""
    checkpoint, samples = tiny_checkpoint(6), make_samples(0, 2)
    scripts = [[*[5] * 30, 2], [5, *checkpoint.tokenizer.seg_ids, 2]]
    script = Script(scripts, checkpoint.tokenizer)
    engine = Engine(checkpoint, DecodeSettings(max_new_tokens=90), predict=script)
    jobs = [engine.add(Sample(sample.image, ("the cat",))) for sample in samples]
    step, refused = engine.model.language.step, []

    def scarce(*arguments):
        if engine._ended and jobs[1].rows[0].picture.encoded is not None:
            refused.append(1)
            raise MemoryError
        return step(*arguments)

    monkeypatch.setattr(engine.model.language, "step", scarce)
    if as_it_leaves:  # and so the other one is alone, before its next step fails
        refuse(monkeypatch, Slots, "move_rows", lambda _: bool(engine._ended) and not refused)
    while engine.busy:
        engine.step()
    assert len(refused) == 1
    assert [len(job.rows[0].answer.targets) for job in jobs] == [0, 1]


def test_a_question_that_did_fit_alone_for_a_while_is_tried_once_more(monkeypatch):
    """Others of this machine may have had the memory."""
    checkpoint, image = tiny_checkpoint(6), make_samples(0)[0].image
    engine = Engine(checkpoint, SETTINGS, predict=Script([[*[5] * 9, 2]], checkpoint.tokenizer))
    refused = refuse(monkeypatch, engine.model.language, "step", lambda n: n in (2, 5, 8))
    ((answer,),) = engine.answer([Sample(image, ("the cat",))])
    assert refused == [2, 5, 8]
    assert answer.token_ids == (*[5] * 9, 2)


def test_an_engine_that_has_lost_a_question_says_so():
    """Or who asked it would wait for ever, while step follows step."""
    engine = Engine(tiny_checkpoint(6), SETTINGS)
    engine.add(Sample(make_samples(0)[0].image, ("the cat",)))
    engine.generator.schedule.waiting.clear()
    with pytest.raises(AssertionError, match="somebody waits for ever"):
        engine.step()


def test_where_all_that_make_room_are_all_that_there_are_one_stays(monkeypatch):
    checkpoint, samples, settings = tiny_checkpoint(6), make_samples(2), DecodeSettings(90)
    monkeypatch.setattr("pixellm.engine.schedule.SHARE", 1)
    monkeypatch.setattr("pixellm.engine.schedule.HEADROOM", 0)
    language, prefix = checkpoint.model.language, checkpoint.model.config.image_tokens
    limit = Slots(language, prefix).bytes_for(pictures=4, rows=4, length=32)
    engine = Engine(checkpoint, settings, Limits(slot_bytes=limit))
    assert_same(said(engine, samples), alone(checkpoint, samples, settings))


@pytest.mark.parametrize(("share", "bytes_"), [(1.0, 0.6 * 40e9), (0.5, 0.6 * 30e9)])
def test_of_a_gpu_a_replica_takes_a_share_of_what_is_free_and_its_own(share, bytes_, monkeypatch):
    """Others load their models into the rest, also where it is free yet."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(40e9), int(80e9)))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: int(10e9))
    assert Limits.of_device(torch.device("cuda"), share=share).slot_bytes == int(bytes_)
