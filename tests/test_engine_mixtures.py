"""Whatever is under way together, whoever must make room: answers are those of each alone."""

import os
import random
from collections import Counter
from dataclasses import replace
from functools import reduce
from itertools import chain

import numpy as np
import pytest
import torch

from pixellm.answers import DecodeSettings
from pixellm.engine.engine import Engine
from pixellm.engine.memory import Limits
from pixellm.engine.rows import Row, Sample
from pixellm.engine.slots import Slots
from pixellm.errors import Unanswerable
from pixellm.images import prepare_image
from pixellm.model import PixelLM
from pixellm.tiny import Script, tiny_checkpoint

WORDS = ["the", "cat", "dog", "that can fly", "left of", "red", "box", "and which", "not blue"]
SETTINGS = DecodeSettings(max_new_tokens=24)
SHAPES = ((56, 20), (17, 90), (64, 64), (40, 52))


def make_samples(seed, count=7):
    rng, chance = np.random.default_rng(seed), random.Random(seed)
    samples = []
    for number in range(count):
        rgb = rng.integers(0, 256, (*SHAPES[number % len(SHAPES)], 3), dtype=np.uint8)
        texts = [
            " ".join(chance.choices(WORDS, k=chance.choice([1, 3, 12, 30])))
            for _ in range(chance.choice([0, 1, 1, 4, 9]))
        ]
        samples.append(Sample(prepare_image(rgb, 56), tuple(texts)))
    return samples


def facts(answer):
    return answer.token_ids, [target.mask for target in answer.targets], answer.truncated


def said(engine, samples):
    return [list(map(facts, answers)) for answers in engine.answer(samples)]


def assert_same(some, others):
    for one, other in zip(some, others, strict=True):
        for (ids, masks, cut), (ids2, masks2, cut2) in zip(one, other, strict=True):
            assert (ids, cut) == (ids2, cut2)
            for mask, mask2 in zip(masks, masks2, strict=True):
                assert (mask != mask2).mean() < 1e-3  # pixels on the very edge


def alone(checkpoint, samples, settings=SETTINGS):
    engine = Engine(checkpoint, settings, Limits(rows=1))
    return [
        [said(engine, [Sample(sample.image, (text,))])[0][0] for text in sample.questions]
        for sample in samples
    ]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rows", [2, 5, 256])
def test_any_mixture_is_answered_as_each_alone(seed, rows):
    checkpoint, samples = tiny_checkpoint(6), make_samples(seed)
    together = said(Engine(checkpoint, SETTINGS, Limits(rows=rows)), samples)
    assert_same(together, alone(checkpoint, samples))


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_must_make_room_go_on_where_they_were(seed):
    checkpoint, samples, chance = tiny_checkpoint(6), make_samples(seed), random.Random(seed)
    engine, evicted = Engine(checkpoint, SETTINGS, Limits(rows=6)), []
    schedule, jobs = engine.generator.schedule, [engine.add(sample) for sample in samples]
    while engine.busy:
        engine.step()
        if schedule.rows and chance.random() < 0.3:
            rows = chance.sample(schedule.rows, chance.randint(1, len(schedule.rows)))
            evicted += [row for row in rows if row.ids]
            with torch.inference_mode():
                schedule.evict(rows)
    assert evicted, "none had begun its answer"
    answers = [[row.answer.token_ids for row in job.rows] for job in jobs]
    truth = alone(checkpoint, samples)
    assert answers == [[ids for ids, _, _ in each] for each in truth]


class Trouble:
    """At any step some samples come, some rows must make room, some samples are not wanted any
    more, or memory runs out."""

    def __init__(self, engine, samples, chance):
        self.engine, self.waiting, self.chance = engine, list(samples), chance
        self.schedule, self.read = engine.generator.schedule, engine.model.language.step
        self.jobs, self.gone, self.happened = [], set(), Counter()

    def run(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.engine.model.language, "step", self.step)
            while self.waiting or self.engine.busy:
                for _ in range(min(len(self.waiting), self.chance.choice([0, 0, 1, 3]))):
                    self.jobs.append(self.engine.add(self.waiting.pop(0)))
                self.engine.step()
                self.evict()
                self.withdraw()

    def step(self, *arguments):
        if self.chance.random() < 0.03:
            self.happened["memory"] += 1
            raise MemoryError
        return self.read(*arguments)

    @torch.inference_mode()
    def evict(self):
        rows = self.schedule.rows
        if len(rows) > 1 and self.chance.random() < 0.2:
            self.happened["evict"] += 1
            self.schedule.evict(self.chance.sample(rows, self.chance.randint(1, len(rows))))

    def withdraw(self):
        left = [job for job in self.jobs if not job.done and id(job) not in self.gone]
        if left and self.chance.random() < 0.02:
            job = self.chance.choice(left)
            self.gone.add(id(job))
            self.engine.withdraw(job)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("replay", [False, True], ids=["as they are", "alike"])
@pytest.mark.parametrize("key_value_heads", [2, 4])
def test_whatever_happens_to_those_around_it_each_is_answered_as_alone(
    seed, replay, key_value_heads
):
    checkpoint = tiny_checkpoint(6, key_value_heads=key_value_heads)
    chance = random.Random(seed)
    samples = [sample for sample in make_samples(seed, 16) if sample.questions]
    engine = Engine(checkpoint, SETTINGS, Limits(rows=chance.choice([4, 9, 40])), replay=replay)
    trouble = Trouble(engine, samples, chance)
    trouble.run()
    compared = failed = 0
    for job, expected in zip(trouble.jobs, alone(checkpoint, samples), strict=True):
        if id(job) not in trouble.gone:
            # one that was alone when memory ran out has no answer
            rows = [(row, own) for row, own in zip(job.rows, expected, strict=True) if row.answer]
            assert_same([[facts(row.answer) for row, _ in rows]], [[own for _, own in rows]])
            compared, failed = compared + len(rows), failed + len(job.rows) - len(rows)
    assert trouble.happened["evict"]
    assert failed <= trouble.happened["memory"]
    assert compared > 10


def test_in_bfloat16_states_are_those_of_float32_but_for_its_rounding():
    """What is said is given: by itself a random model may choose otherwise over the last bit."""
    samples, made = make_samples(4), []
    for dtype in (torch.float32, torch.bfloat16):
        checkpoint = tiny_checkpoint(6, dtype=dtype)
        group = list(checkpoint.tokenizer.seg_ids)
        said = Script([[5, *group, 7, *group, 2], [6, 2]], checkpoint.tokenizer)
        engine, ended = Engine(checkpoint, SETTINGS, predict=said), []
        for sample in samples:
            engine.add(sample)
        while engine.generator.busy:
            engine.generator.launch()
            ended += engine.generator.land()
        made.append({row.number: row.generation for row in ended})
    exact, rounded = made
    assert exact.keys() == rounded.keys()
    assert len(exact) > 5
    for number, one in exact.items():
        other = rounded[number]
        assert one.ids == other.ids
        assert other.hidden.dtype == torch.bfloat16
        error = (one.hidden - other.hidden.float()).norm() / one.hidden.norm()
        assert error < 0.03


def test_probabilities_are_computed_in_single_precision():
    engine, (sample, *_) = (
        Engine(tiny_checkpoint(6, dtype=torch.bfloat16), SETTINGS),
        make_samples(2),
    )
    with torch.inference_mode():
        images = engine.model.encode_images(sample.image.pixels[None], [sample.image.resized])
        (made,) = engine.generate(images, [engine.prompt_ids("the cat")], [0])
    assert torch.tensor(made.logprobs).bfloat16().tolist() != list(made.logprobs)


def test_what_was_only_generated_leaves_nothing_for_what_is_asked_next():
    engine, (sample, *_) = Engine(tiny_checkpoint(6), SETTINGS), make_samples(2)
    one = Sample(sample.image, ("the cat",))
    truth = said(engine, [one])
    with torch.inference_mode():
        images = engine.model.encode_images(sample.image.pixels[None], [sample.image.resized])
        (made,) = engine.generate(images, [engine.prompt_ids("the cat")], [0])
    assert made.ids == truth[0][0][0]
    assert_same(said(engine, [one]), truth)


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


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rows", [5, 256])
def test_steps_that_are_made_alike_say_the_same(seed, rows):
    checkpoint, samples = tiny_checkpoint(6), make_samples(seed)
    engine = Engine(checkpoint, SETTINGS, Limits(rows=rows), replay=True)
    for _ in range(2):  # the second time there are old recordings
        assert_same(said(engine, samples), alone(checkpoint, samples))


def test_steps_that_are_made_alike_are_recorded_once_and_replayed(monkeypatch):
    """Sixteen questions about as many images, which all say as much, and then all again."""
    recorded, replays = [], []

    def record(work):
        recorded.append(work)
        return lambda: (replays.append(1), work())[1]

    monkeypatch.setattr("pixellm.engine.generation.recorder_for", lambda _: record)
    checkpoint = tiny_checkpoint(6)
    said = Script([[5, 6, *checkpoint.tokenizer.seg_ids, 7, 5, 6, 2]], checkpoint.tokenizer)
    engine = Engine(checkpoint, SETTINGS, predict=said, replay=True)
    samples = [Sample(make_samples(0, 1)[0].image, ("the cat",)) for _ in range(16)]
    for _ in range(2):
        engine.answer(samples)
    # of each round: a word, a word, the group's first and its rest, three words
    assert len(recorded) == 2
    assert len(replays) == 2 * 6
    assert engine.at_once == 16


def test_a_step_that_cannot_be_run_either_does_not_end_the_recordings(monkeypatch, caplog):
    engine, tried, failed = Engine(tiny_checkpoint(6), SETTINGS, replay=True), [], []
    step = engine.model.language.step

    def poisonous(*arguments):
        if tried and len(failed) < 2:  # as it is recorded, and as it is run without
            failed.append(1)
            raise RuntimeError("a bad sample")
        return step(*arguments)

    def record(work):
        tried.append(1)
        work()
        return work

    monkeypatch.setattr(engine.model.language, "step", poisonous)
    monkeypatch.setattr("pixellm.engine.generation.recorder_for", lambda _: record)
    samples = make_samples(1)
    with pytest.raises(RuntimeError, match="a bad sample"):
        engine.answer(samples)
    engine.answer(samples)
    assert len(tried) > 2
    assert "can't be recorded" not in caplog.text


def test_steps_that_cannot_be_recorded_run_without(monkeypatch, caplog):
    tried = []

    def refuse(work):
        tried.append(work)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr("pixellm.engine.generation.recorder_for", lambda _: refuse)
    checkpoint, samples = tiny_checkpoint(6), make_samples(1)
    engine = Engine(checkpoint, SETTINGS, replay=True)
    assert_same(said(engine, samples), alone(checkpoint, samples))
    assert len(tried) == 1
    assert "can't be recorded" in caplog.text


def test_recordings_of_slots_that_are_gone_are_not_replayed(monkeypatch):
    """The memory they write to may belong to others."""
    versions = []

    def record(work):
        made = engine.generator.schedule.slots.version

        def replay():
            versions.append((made, engine.generator.schedule.slots.version))
            return work()

        return replay

    monkeypatch.setattr("pixellm.engine.generation.recorder_for", lambda _: record)
    engine = Engine(tiny_checkpoint(6), SETTINGS, replay=True)
    for count in (16, 40, 16):  # the last ones have the shapes of the first ones
        sample = make_samples(0, 1)[0]
        engine.answer([Sample(sample.image, ("the cat",)) for _ in range(count)])
    assert len({made for made, _ in versions}) > 1
    assert all(made == now for made, now in versions)


def test_token_groups_that_are_forced_are_those_that_would_have_come():
    """Where the model writes whole groups by itself; this random one doesn't always."""
    checkpoint, samples = tiny_checkpoint(6), make_samples(1)
    free = Engine(checkpoint, DecodeSettings(24, forced_groups=False)).answer(samples)
    forced = Engine(checkpoint, DecodeSettings(24)).answer(samples)
    whole = 0
    for one, other in zip(chain(*forced), chain(*free), strict=True):
        assert not one.malformed or one.truncated
        if not other.malformed:
            assert one.token_ids == other.token_ids
            for target, same in zip(one.targets, other.targets, strict=True):
                assert (target.mask != same.mask).mean() < 1e-3
                assert target.score_token == pytest.approx(same.score_token, rel=1e-3)
            whole += len(one.targets)
    assert whole > 5


def test_a_forced_group_takes_one_step_and_its_states_are_those_of_single_steps():
    checkpoint = tiny_checkpoint(6)
    group = list(checkpoint.tokenizer.seg_ids)
    script = [[5, *group, 7, *group, 2]]
    sample, made, steps = make_samples(2)[0], [], []
    for forced in (True, False):
        said = Script(script, checkpoint.tokenizer)
        engine = Engine(checkpoint, DecodeSettings(30, forced_groups=forced), predict=said)
        images = engine.model.encode_images(sample.image.pixels[None], [sample.image.resized])
        made += engine.generate(images, [engine.prompt_ids("the cat")], [0])
        steps.append(said.steps)
    assert steps == [5, len(script[0])]  # 5, group, 7, group, end
    assert made[0].ids == made[1].ids == tuple(script[0])
    assert made[0].logprobs == pytest.approx(made[1].logprobs)
    assert torch.allclose(made[0].hidden, made[1].hidden, atol=1e-4)


@pytest.mark.parametrize("room", [2, 3, 4])
def test_a_forced_group_ends_with_the_room_for_the_answer(room):
    checkpoint = tiny_checkpoint(6)
    group = list(checkpoint.tokenizer.seg_ids)
    said = Script([[5, *group, 2]], checkpoint.tokenizer)
    engine = Engine(checkpoint, DecodeSettings(max_new_tokens=room), predict=said)
    ((answer,),) = engine.answer([Sample(make_samples(0)[0].image, ("the cat",))])
    assert answer.token_ids == (5, *group[: room - 1])
    assert (answer.truncated, answer.malformed, answer.targets) == (True, True, ())


def test_what_is_asked_meanwhile_joins_what_is_under_way():
    checkpoint, samples = tiny_checkpoint(6), make_samples(3)
    engine, done = Engine(checkpoint, SETTINGS), []
    jobs = [engine.add(samples[0])]
    for sample in samples[1:]:
        done += engine.step()
        jobs.append(engine.add(sample))
    while engine.busy:
        done += engine.step()
    assert {id(job) for job in done} == {id(job) for job in jobs if job.rows}
    answers = [[row.answer.token_ids for row in job.rows] for job in jobs]
    truth = alone(checkpoint, samples)
    assert answers == [[ids for ids, _, _ in each] for each in truth]


def test_a_picture_is_encoded_once_however_many_rows_wait_for_it(monkeypatch):
    checkpoint = tiny_checkpoint(6)
    engine, encoded = Engine(checkpoint, SETTINGS, Limits(rows=2)), []
    encode = checkpoint.model.encode_images
    monkeypatch.setattr(
        checkpoint.model, "encode_images", lambda *a: (encoded.append(len(a[0])), encode(*a))[1]
    )
    sample = make_samples(0)[0]
    engine.answer([Sample(sample.image, ("the cat", "the dog", "red", "blue", "the box"))])
    assert sum(encoded) == 1


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

    def scarce(images, queries, image_of):
        if len(queries) > 2:
            raise MemoryError
        made.append(len(queries))
        return decode(images, queries, image_of)

    monkeypatch.setattr(engine.model, "decode", scarce)
    assert_same(said(engine, [one]), truth)
    assert made == [2, 2, 1]


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
        if place == "decode" and any(
            torch.equal(t, picture.encoded.tokens[0]) for t in first.tokens
        ):
            raise MemoryError("too large")
        return working(first, *others)

    monkeypatch.setattr(owner, name, refuse)
    done = []
    while engine.busy:
        done += engine.step()
    assert set(map(id, done)) == set(map(id, jobs))
    failed = [row.failure for row in jobs[large].rows if row.failure is not None]
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

    def scarce(row, states):
        calls.append(row)
        if len(calls) in (1, 4):
            raise MemoryError
        take(row, states)

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
    assert "doesn't fit into memory" in job.rows[0].failure


def test_on_a_gpu_few_numbers_of_targets_come_up_but_never_more_than_fit(monkeypatch):
    engine = Engine(tiny_checkpoint(6), SETTINGS)
    fill_up = engine._finisher._fill_up
    assert len(fill_up("abc", 64)) == 3  # a CPU only gains by fewer
    monkeypatch.setattr(PixelLM, "device", torch.device("cuda"))
    numbers = {(n, most): len(fill_up("x" * n, most)) for n in (1, 16, 17, 60) for most in (n, 64)}
    assert [numbers[n, 64] for n in (1, 16, 17, 60)] == [16, 16, 32, 64]
    assert all(filled == n for (n, most), filled in numbers.items() if n == most)


def test_answers_without_masks_are_told_at_once_and_others_before_all_have_ended():
    """Who waits for them brings the next questions."""
    checkpoint = tiny_checkpoint(6)
    group = list(checkpoint.tokenizer.seg_ids)
    scripts = [[5, 2], *([5] * n + group + [2] for n in range(1, 20))]
    engine = Engine(checkpoint, SETTINGS, predict=Script(scripts, checkpoint.tokenizer))
    image = make_samples(0)[0].image
    jobs = [engine.add(Sample(image, ("the cat",))) for _ in scripts]
    done = []
    while engine.busy:
        done.append([jobs.index(job) for job in engine.step()])
    told = [each for each in done if each]
    assert told[0] == [0]
    assert len(told) > 5
    assert sorted(at for each in told for at in each) == list(range(len(jobs)))


def test_masks_are_made_beside_the_step_in_which_the_next_questions_enter():
    checkpoint = tiny_checkpoint(6)
    group = list(checkpoint.tokenizer.seg_ids)
    scripts = [[*[5] * 20, *group, 2] for _ in range(19)]
    scripts[3] = scripts[8] = [*group, 2]
    script = Script(scripts, checkpoint.tokenizer)
    engine = Engine(checkpoint, SETTINGS, Limits(rows=17), predict=script)
    image = make_samples(0)[0].image
    jobs = [engine.add(Sample(image, ("the cat",))) for _ in scripts]
    entered, done = [], []
    while not done:
        done = engine.step()
        entered.append(engine.generator.entered)
    # two have ended by then, which beside seventeen are too few to be worth making by themselves
    assert (entered[0], entered[-1]) == (17, 2)
    assert [jobs.index(job) for job in done] == [3, 8]


def test_a_question_that_has_failed_is_told_of_before_masks_of_others_are_made():
    checkpoint = tiny_checkpoint(6)
    group = list(checkpoint.tokenizer.seg_ids)
    scripts = [[*group, 5, 2], *([5] * n + group + [2] for n in range(6, 26))]
    said = Script(scripts, checkpoint.tokenizer)

    def spoilt(states, wanted):
        logits = said(states, wanted)
        for line, each in zip(logits, wanted, strict=True):
            if each.row.number == 0 and each.index == len(group):
                line.fill_(torch.nan)
        return logits

    engine = Engine(checkpoint, SETTINGS, predict=spoilt)
    image = make_samples(0)[0].image
    jobs = [engine.add(Sample(image, ("the cat",))) for _ in scripts]
    done = []
    while not done:
        done = engine.step()
    assert done == [jobs[0]]
    assert "is no number" in jobs[0].rows[0].failure


def test_what_a_sample_held_is_let_go_when_it_is_done_whoever_keeps_it():
    engine, samples = Engine(tiny_checkpoint(6), SETTINGS), make_samples(3)
    jobs = [engine.add(sample) for sample in samples if sample.questions]
    engine.step()
    encoded = [job.rows[0].picture.encoded for job in jobs]
    assert len(jobs) > 1
    for each in encoded:  # of each by itself: a view would hold those of all
        for tensor in (each.tokens, each.token_valid, *each.maps):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
    while engine.busy:
        engine.step()
    assert all(job.rows[0].picture.encoded is None for job in jobs)
    assert all(row.generation is None for job in jobs for row in job.rows)


def test_what_is_withdrawn_while_it_is_answered_takes_no_more_steps():
    engine, samples = Engine(tiny_checkpoint(6), SETTINGS), make_samples(3)
    gone, left = [engine.add(sample) for sample in samples if sample.questions][:2]
    engine.step()
    engine.withdraw(gone)
    rows = engine.generator.schedule.rows
    assert rows
    assert not set(rows) & set(gone.rows)
    done = []
    while engine.busy:
        done += engine.step()
    assert left in done
    assert gone not in done


def test_what_is_withdrawn_while_its_masks_wait_is_gone():
    checkpoint = tiny_checkpoint(6)
    group = list(checkpoint.tokenizer.seg_ids)
    scripts = [[5] * n + group + [2] for n in range(1, 20)]
    engine = Engine(checkpoint, SETTINGS, predict=Script(scripts, checkpoint.tokenizer))
    image = make_samples(0)[0].image
    jobs = [engine.add(Sample(image, ("the cat",))) for _ in scripts]
    while not engine._ended:
        engine.step()
    engine.withdraw(jobs[0])
    done = []
    while engine.busy:
        done += engine.step()
    assert [jobs.index(job) for job in done] == list(range(1, len(jobs)))


def test_what_is_no_number_does_not_reach_the_next_row_of_a_slot(monkeypatch):
    checkpoint, samples = tiny_checkpoint(6), make_samples(3)
    engine = Engine(checkpoint, SETTINGS, Limits(rows=2))
    truth, step = said(engine, samples), engine.model.language.step
    spoilt = Sample(samples[0].image, ("the cat and " * 9, "the dog and " * 9))  # longer than most

    def overflow(ids, positions, plan):
        states = step(ids, positions, plan)
        for values in (plan.slots.keys, plan.slots.values):
            for layer in values:
                layer[plan.owners, :, plan.places] = torch.nan
        return states * torch.nan

    with monkeypatch.context() as broken:
        broken.setattr(engine.model.language, "step", overflow)
        with pytest.raises(Unanswerable, match="is no number"):
            engine.answer([spoilt])
    assert_same(said(engine, samples), truth)


@pytest.mark.parametrize("what", ["logits", "iou"])
def test_masks_that_are_no_numbers_are_no_answer(what, monkeypatch):
    checkpoint, samples = tiny_checkpoint(6), make_samples(2)
    engine, truth = Engine(checkpoint, SETTINGS), alone(checkpoint, samples)
    decode, spoilt = engine.model.decode, []

    def overflow(*arguments):
        masks = decode(*arguments)
        if not spoilt:
            spoilt.append(1)
            values = {"logits": masks.logits, "iou": masks.iou}[what].clone()
            values.view(-1)[0] = torch.inf  # one pixel of one mask, or its IoU
            masks = replace(masks, **{what: values})
        return masks

    monkeypatch.setattr(engine.model, "decode", overflow)
    jobs = [engine.add(sample) for sample in samples]
    while engine.busy:
        engine.step()
    rows = [row for job in jobs for row in job.rows]
    (bad,) = (at for at, row in enumerate(rows) if row.failure is not None)
    assert "is no number" in rows[bad].failure
    assert rows[bad].answer is None
    expected = list(chain(*truth))
    del rows[bad], expected[bad]
    assert_same([[facts(row.answer) for row in rows]], [expected])


def test_a_row_ends_where_what_it_is_said_with_is_no_number(monkeypatch):
    engine, (sample, *_) = Engine(tiny_checkpoint(6), SETTINGS), make_samples(2)
    step, steps = engine.model.language.step, []
    monkeypatch.setattr(
        engine.model.language, "step", lambda *a: (steps.append(1), step(*a) * torch.nan)[1]
    )
    with pytest.raises(Unanswerable, match="is no number"):
        engine.answer([Sample(sample.image, ("the cat", "the dog"))])
    assert len(steps) == 1


def test_ids_of_states_that_are_no_numbers_are_not_generated(monkeypatch):
    engine, (sample, *_) = Engine(tiny_checkpoint(6), SETTINGS), make_samples(2)
    step = engine.model.language.step
    monkeypatch.setattr(engine.model.language, "step", lambda *a: step(*a) * torch.nan)
    images = engine.model.encode_images(sample.image.pixels[None], [sample.image.resized])
    with pytest.raises(Unanswerable, match="is no number"):
        engine.generate(images, [engine.prompt_ids("the cat")], [0])


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
