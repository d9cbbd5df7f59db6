"""Where memory runs out fewer go on at once, nothing is lost, and who doesn't fit alone is told."""

import os
import weakref
from functools import reduce
from unittest.mock import Mock

import pytest
import torch

from pixellm.answers import DecodeSettings
from pixellm.engine.engine import Engine
from pixellm.engine.memory import Limits
from pixellm.engine.rows import Row, Sample
from pixellm.engine.slots import Slots
from pixellm.errors import Unanswerable
from pixellm.model import PixelLM
from pixellm.tiny import Script, tiny_checkpoint
from tests.mixtures import SETTINGS, alone, assert_same, facts, make_samples, said


@pytest.mark.parametrize("replay", [False, True], ids=["as they are", "alike"])
def test_memory_decides_how_many_are_under_way(replay, monkeypatch):
    checkpoint, samples, settings = tiny_checkpoint(6), make_samples(2), DecodeSettings(90)
    samples = [Sample(each.image, tuple(text[:20] for text in each.questions)) for each in samples]
    language, prefix = checkpoint.model.language, checkpoint.model.config.image_tokens
    limit = Slots(language, prefix).bytes_for(pictures=4, rows=4, length=32)
    engine = Engine(checkpoint, settings, Limits(slot_bytes=limit), replay=replay)
    schedule, jobs = engine.generator.schedule, [engine.add(sample) for sample in samples]
    monkeypatch.setattr("pixellm.engine.schedule.HEADROOM", 0)  # answers are short here
    evict, evicted, most = schedule.evict, [], 0
    monkeypatch.setattr(schedule, "evict", lambda rows: (evicted.extend(rows), evict(rows)))
    while engine.busy:
        engine.step()
        most = max(most, len(schedule.rows))
        held = schedule.slots.bytes_for(
            schedule.slots.pictures, schedule.slots.rows, schedule.slots.length
        )
        assert held <= limit or len(schedule.rows) <= 1
    assert 2 < most < sum(len(job.rows) for job in jobs)
    assert any(row.ids for row in evicted), "none had to make room in the middle of its answer"
    answers = [[facts(row.answer) for row in job.rows] for job in jobs]
    assert_same(answers, alone(checkpoint, samples, settings))


class Memory:
    """Of a device that holds so many tokens of a step."""

    def __init__(self, engine, tokens, error):
        self.language, self.tokens, self.error = engine.model.language, tokens, error
        self.step, self.refused = self.language.step, 0

    def __call__(self, ids, positions, plan):
        if ids.shape[1] > self.tokens:
            self.refused += 1
            raise self.error
        return self.step(ids, positions, plan)


OUT_OF_MEMORY = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_when_memory_runs_out_half_as_many_go_on_and_nothing_is_lost(error, monkeypatch):
    checkpoint, samples = tiny_checkpoint(6), make_samples(2)
    truth = alone(checkpoint, samples)
    engine = Engine(checkpoint, SETTINGS)
    longest = max(len(engine.prompt_ids(q)) for sample in samples for q in sample.questions)
    memory = Memory(engine, longest + 40, error)
    monkeypatch.setattr(engine.model.language, "step", memory)
    assert_same(said(engine, samples), truth)
    assert memory.refused > 0
    assert engine.generator.schedule.most < sum(len(sample.questions) for sample in samples)


def test_rows_that_were_under_way_when_memory_ran_out_go_on_where_they_were(monkeypatch):
    checkpoint, samples = tiny_checkpoint(6), make_samples(2)
    engine, calls = Engine(checkpoint, SETTINGS), []
    step = engine.model.language.step

    def scarce(*arguments):
        calls.append(1)
        if len(calls) in (5, 9):
            raise MemoryError
        return step(*arguments)

    monkeypatch.setattr(engine.model.language, "step", scarce)
    assert_same(said(engine, samples), alone(tiny_checkpoint(6), samples))
    assert len(calls) > 9


def test_a_question_that_does_not_fit_alone_fails_and_leaves_nothing_behind(monkeypatch):
    checkpoint, (sample, *_) = tiny_checkpoint(6), make_samples(1)
    engine = Engine(checkpoint, SETTINGS)
    short, long = (Sample(sample.image, (text,)) for text in ("the cat", "the cat and " * 9))
    (truth,) = said(engine, [short])
    limit = len(engine.prompt_ids("the cat")) + 8
    with monkeypatch.context() as small:
        small.setattr(engine.model.language, "step", Memory(engine, limit, MemoryError()))
        with pytest.raises(Unanswerable, match="not even alone: MemoryError"):
            engine.answer([long, long])
        assert not engine.busy
        assert_same(said(engine, [short]), [truth])


def test_before_masks_are_given_up_the_pictures_of_all_others_make_way(monkeypatch):
    """Also of those whose masks wait, or were too large beside others."""
    checkpoint = tiny_checkpoint(6)
    script = Script([[*checkpoint.tokenizer.seg_ids, 2]], checkpoint.tokenizer)
    engine = Engine(checkpoint, SETTINGS, predict=script)
    samples = [Sample(each.image, ("the cat",)) for each in make_samples(2)[:3]]
    truth, decode, held = said(engine, samples), engine.model.decode, []
    jobs = [engine.add(each) for each in samples]

    def scarce(*arguments):
        held.append(sum(job.rows[0].picture.encoded is not None for job in jobs))
        if held[-1] > 1:
            raise MemoryError
        return decode(*arguments)

    monkeypatch.setattr(engine.model, "decode", scarce)
    while engine.busy:
        engine.step()
    assert max(held) > 1
    assert_same([[facts(row.answer) for row in job.rows] for job in jobs], truth)


def test_a_generation_that_memory_ends_leaves_an_engine_that_answers(monkeypatch):
    checkpoint, (sample, *_) = tiny_checkpoint(6), make_samples(2)
    engine = Engine(checkpoint, SETTINGS)
    truth, image = said(engine, [sample]), sample.image
    with torch.inference_mode():
        images = engine.model.encode_images(image.pixels[None], [image.resized])
    prompts = [engine.prompt_ids(text) for text in ("the cat", "the dog")]
    with monkeypatch.context() as scarce:
        scarce.setattr(engine.model.language, "step", Mock(side_effect=MemoryError))
        with pytest.raises(Unanswerable, match="not even alone"):
            engine.generate(images, prompts, [0, 0])
    assert not engine.generator.busy
    assert len(engine.generate(images, prompts, [0, 0])) == 2
    assert_same(said(engine, [sample]), truth)


@pytest.mark.parametrize("forget", ["withdraw", "abandon"])
def test_what_nobody_wants_any_more_is_not_kept_for_having_failed(forget, monkeypatch):
    engine = Engine(tiny_checkpoint(6), SETTINGS)
    job = engine.add(Sample(make_samples(0)[0].image, ("the cat",)))
    with monkeypatch.context() as scarce:
        scarce.setattr(engine.model.language, "step", Mock(side_effect=MemoryError))
        engine.step()
    assert engine.generator.schedule._tried is job.rows[0]
    engine.withdraw(job) if forget == "withdraw" else engine.abandon()
    assert engine.generator.schedule._tried is None


def test_before_masks_are_given_up_all_others_make_way(monkeypatch):
    """What the slots of those under way take may be just what is wanting."""
    checkpoint, samples = tiny_checkpoint(6), make_samples(2)
    engine, truth = Engine(checkpoint, SETTINGS), alone(checkpoint, samples)
    slots, decode, refused = engine.generator.schedule.slots, engine.model.decode, []

    def scarce(*arguments):
        if slots.rows:
            refused.append(1)
            raise MemoryError
        return decode(*arguments)

    monkeypatch.setattr(engine.model, "decode", scarce)
    assert_same(said(engine, samples), truth)
    assert refused


def test_where_masks_of_one_answer_do_not_fit_together_fewer_are_made_at_once(monkeypatch):
    checkpoint, (sample, *_) = tiny_checkpoint(6), make_samples(2)
    group = list(checkpoint.tokenizer.seg_ids)
    say = Script([[*(5 * [*group]), 2]], checkpoint.tokenizer)
    engine = Engine(checkpoint, DecodeSettings(max_new_tokens=40), predict=say)
    one = Sample(sample.image, ("the cat",))
    truth, decode, made = said(engine, [one]), engine.model.decode, []

    def scarce(maps, queries, image_of):
        if len(queries) > 2:
            raise MemoryError
        made.append(len(queries))
        return decode(maps, queries, image_of)

    monkeypatch.setattr(engine.model, "decode", scarce)
    assert_same(said(engine, [one]), truth)
    assert made == [2, 2, 1]


def test_on_a_gpu_a_mask_is_not_given_up_before_it_was_tried_without_padding(monkeypatch):
    checkpoint, (sample, *_) = tiny_checkpoint(6), make_samples(2)
    group = list(checkpoint.tokenizer.seg_ids)
    engine = Engine(checkpoint, SETTINGS, predict=Script([[*group, 2]], checkpoint.tokenizer))
    one = Sample(sample.image, ("the cat",))
    truth, decode, tried = said(engine, [one]), engine.model.decode, []
    fill_up = engine._finisher._fill_up

    def fill_as_on_a_gpu(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(PixelLM, "device", torch.device("cuda"))
            return fill_up(*arguments)

    def scarce(maps, queries, image_of):
        tried.append(len(queries))
        if len(queries) > 1:
            raise MemoryError
        return decode(maps, queries, image_of)

    monkeypatch.setattr(engine._finisher, "_fill_up", fill_as_on_a_gpu)
    monkeypatch.setattr(engine.model, "decode", scarce)
    assert_same(said(engine, [one]), truth)
    assert tried == [16, 1]


def test_before_a_question_is_given_up_the_pictures_of_others_are_let_go(monkeypatch):
    """They wait with what they were encoded to, after memory has run out over them all."""
    checkpoint, samples = tiny_checkpoint(6), [each for each in make_samples(2) if each.questions]
    engine, truth = Engine(checkpoint, SETTINGS), alone(checkpoint, samples)
    jobs = [engine.add(sample) for sample in samples]
    step, refused = engine.model.language.step, []

    def scarce(*arguments):
        held = {job.rows[0].picture for job in jobs if job.rows[0].picture.encoded is not None}
        if len(held) > 1:
            refused.append(1)
            raise MemoryError
        return step(*arguments)

    monkeypatch.setattr(engine.model.language, "step", scarce)
    while engine.busy:
        engine.step()
    assert refused
    assert_same([[facts(row.answer) for row in job.rows] for job in jobs], truth)


def test_before_masks_are_given_up_the_pictures_of_others_are_let_go(monkeypatch):
    checkpoint, samples = tiny_checkpoint(6), [each for each in make_samples(2) if each.questions]
    group = list(checkpoint.tokenizer.seg_ids)
    script = Script([[*group, 2], [*([5] * 20), 2]], checkpoint.tokenizer)  # one has masks
    engine = Engine(checkpoint, SETTINGS, predict=script)
    jobs = [engine.add(Sample(each.image, ("the cat",))) for each in samples]
    decode, refused = engine.model.decode, []

    def scarce(*arguments):
        if sum(job.rows[0].picture.encoded is not None for job in jobs) > 1:
            refused.append(1)
            raise MemoryError
        return decode(*arguments)

    monkeypatch.setattr(engine.model, "decode", scarce)
    while engine.busy:
        engine.step()
    assert refused
    assert [len(job.rows[0].answer.targets) for job in jobs] == [1, *[0] * (len(jobs) - 1)]


def test_when_memory_runs_out_pictures_whose_masks_wait_are_kept(monkeypatch):
    checkpoint, image = tiny_checkpoint(6), make_samples(0)[0].image
    group = list(checkpoint.tokenizer.seg_ids)
    script = Script([[5] * n + group + [2] for n in range(1, 17)], checkpoint.tokenizer)
    engine = Engine(checkpoint, SETTINGS, predict=script)
    jobs = [engine.add(Sample(image, ("the cat",))) for _ in script.scripts]
    while not engine._ended:
        engine.step()
    step, refused = engine.model.language.step, []

    def scarce(*arguments):
        if not refused:
            refused.append([row.picture.encoded is not None for row in engine._ended])
            raise MemoryError
        return step(*arguments)

    monkeypatch.setattr(engine.model.language, "step", scarce)
    while engine.busy:
        engine.step()
    assert refused == [[True]]
    assert [len(job.rows[0].answer.targets) for job in jobs] == [1] * len(jobs)


def test_what_fills_up_a_batch_of_masks_is_nobody_s(monkeypatch):
    checkpoint, samples = tiny_checkpoint(6), make_samples(2)
    engine, truth, sizes = Engine(checkpoint, SETTINGS), alone(checkpoint, samples), []
    decode, fill_up = engine.model.decode, engine._finisher._fill_up

    def filled(found, at_once):
        return [*fill_up(found, at_once), *[found[0]] * 3]

    def counted(maps, queries, image_of):
        sizes.append(len(queries))
        return decode(maps, queries, image_of)

    monkeypatch.setattr(engine._finisher, "_fill_up", filled)
    monkeypatch.setattr(engine.model, "decode", counted)
    assert_same(said(engine, samples), truth)
    assert max(sizes) > 4


@pytest.mark.parametrize("place", ["encode_images", "decode", "language.step"])
def test_the_one_that_does_not_fit_alone_is_told_why_and_the_rest_goes_on(place, monkeypatch):
    """The image of one sample, or the questions about it, or their masks, take too much."""
    checkpoint = tiny_checkpoint(6)
    samples = [sample for sample in make_samples(3, 14) if sample.questions]
    truth = alone(checkpoint, samples)
    engine = Engine(checkpoint, SETTINGS)
    large = next(
        at for at, each in enumerate(truth) if at > 1 and any(masks for _, masks, _ in each)
    )
    jobs = [engine.add(sample) for sample in samples]
    picture = jobs[large].rows[0].picture
    *path, name = place.split(".")
    owner = reduce(getattr, path, engine.model)
    working = getattr(owner, name)

    def refuse(first, *others):
        pixels = samples[large].image.pixels
        if place == "encode_images" and any(torch.equal(each, pixels) for each in first):
            raise MemoryError("too large")
        under_way = engine.generator.schedule.rows
        if place == "language.step" and any(row.picture is picture for row in under_way):
            raise MemoryError("too large")
        if place == "decode" and any(torch.equal(m, picture.encoded.maps[0][0]) for m in first[0]):
            raise MemoryError("too large")
        return working(first, *others)

    monkeypatch.setattr(owner, name, refuse)
    done = []
    while engine.busy:
        done += engine.step()
    assert set(map(id, done)) == set(map(id, jobs))
    failed = [row.failure.message for row in jobs[large].rows if row.failure is not None]
    assert set(failed) == {"it doesn't fit into memory, not even alone: too large"}
    for job, expected in zip(jobs, truth, strict=True):
        answers = [row.answer for row in job.rows if row.answer is not None]
        if job is not jobs[large]:
            assert_same([list(map(facts, answers))], [expected])


def test_after_memory_has_run_out_more_and_more_may_try_again(monkeypatch):
    checkpoint, samples = tiny_checkpoint(6), make_samples(2)
    engine, calls = Engine(checkpoint, SETTINGS, Limits(rows=8)), []
    step = engine.model.language.step

    def scarce(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return step(*arguments)

    monkeypatch.setattr(engine.model.language, "step", scarce)
    engine.answer(samples)
    least = engine.generator.schedule.most
    assert least < 8
    while least < 8:
        before = least
        engine.answer(samples)
        least = engine.generator.schedule.most
        assert before < least <= 8


@pytest.mark.parametrize(
    "place", ["encode_images", "decode", "language.step", "language.model.forward"]
)
def test_after_an_error_nothing_of_the_call_is_left(place, monkeypatch):
    monkeypatch.setattr("pixellm.engine.finishing.TARGETS_AT_ONCE", 2)
    checkpoint, samples = tiny_checkpoint(6), make_samples(3)
    engine, calls = Engine(checkpoint, SETTINGS), []
    *path, name = place.split(".")
    owner = reduce(getattr, path, engine.model)
    working = getattr(owner, name)

    def fail_once(*arguments, **named):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("the second one is poisonous")
        return working(*arguments, **named)

    monkeypatch.setattr(owner, name, fail_once)
    monkeypatch.setattr("pixellm.engine.generation.PICTURES_AT_ONCE", 2)
    with pytest.raises(RuntimeError, match="poisonous"):
        engine.answer(samples)
    assert not engine.busy
    assert_same(said(engine, samples[:3]), alone(tiny_checkpoint(6), samples[:3]))


def test_rows_that_had_ended_when_memory_ran_out_say_nothing_more(monkeypatch):
    """Their states were to be taken along, and memory was wanting for that."""
    checkpoint, samples = tiny_checkpoint(6), make_samples(2)
    group = list(checkpoint.tokenizer.seg_ids)
    script = Script([[5, *group, 2], [6, 2]], checkpoint.tokenizer)  # all end by themselves
    truth = said(Engine(checkpoint, SETTINGS, predict=script), samples)
    take, calls = Row.end, []

    def scarce(row, *states):
        calls.append(row)
        if len(calls) in (1, 4):
            raise MemoryError
        take(row, *states)

    monkeypatch.setattr(Row, "end", scarce)
    assert_same(said(Engine(checkpoint, SETTINGS, predict=script), samples), truth)
    assert len(calls) > 4


def test_a_lone_question_over_which_memory_runs_out_when_it_has_ended_is_told(monkeypatch):
    def scarce(*_):
        raise MemoryError

    monkeypatch.setattr(Row, "end", scarce)
    engine = Engine(tiny_checkpoint(6), SETTINGS)
    job = engine.add(Sample(make_samples(0)[0].image, ("the cat",)))
    done = [each for _ in range(200) for each in engine.step()]
    assert done == [job]
    assert "doesn't fit into memory" in job.rows[0].failure.message


def test_what_is_recorded_goes_as_soon_as_memory_is_wanting(monkeypatch):
    """Not only when the next step finds that its slots are gone: pictures come before that."""
    kept = weakref.WeakSet()

    class Recording:
        def __init__(self, work):
            self.work = work
            kept.add(self)

        def __call__(self):
            return self.work()

    monkeypatch.setattr("pixellm.engine.generation.recorder_for", lambda _: Recording)
    engine = Engine(tiny_checkpoint(6), SETTINGS, replay=True)
    for make_way in (lambda: engine.generator.make_way(all_free=True), engine.abandon):
        engine.add(Sample(make_samples(0)[0].image, ("the cat",)))
        while not kept:
            engine.step()
        make_way()
        assert not kept


@pytest.mark.parametrize("said", ["200000000\n", "max\n", "9223372036854771712\n"])
def test_what_a_container_may_use_is_a_limit_too(said, tmp_path, monkeypatch):
    limit = tmp_path / "memory"
    limit.write_text(said)
    whole = Limits.of_device(torch.device("cpu")).slot_bytes
    monkeypatch.setattr("pixellm.engine.memory.CGROUP_LIMITS", (tmp_path / "absent", limit))
    allowed = Limits.of_device(torch.device("cpu")).slot_bytes
    assert allowed == 20_000_000 if said.startswith("2") else allowed >= whole


def test_the_limit_of_a_machine_is_a_share_of_its_memory_and_holds_a_batch_of_the_tiny_model():
    limit = Limits.of_device(torch.device("cpu")).slot_bytes
    language = tiny_checkpoint(6).model.language
    assert limit > Slots(language, 16).bytes_for(pictures=32, rows=32, length=256)
    assert limit < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 5
