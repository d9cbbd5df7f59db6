"""Whatever is under way together, whoever must make room: answers are those of each alone."""

import random
from itertools import chain

import pytest
import torch

from pixellm.answers import DecodeSettings
from pixellm.engine.engine import Engine
from pixellm.engine.memory import Limits
from pixellm.engine.rows import Sample
from pixellm.errors import Unanswerable
from pixellm.tiny import Script, tiny_checkpoint
from tests.mixtures import SETTINGS, Trouble, alone, assert_same, facts, make_samples, said


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
            engine.generator.land(ended)
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
    # of each round: the pictures, the questions, a word, a word, the group's first and its rest,
    # three words
    assert len(recorded) == 4
    assert len(replays) == 2 * 8


def test_a_step_that_cannot_be_run_either_does_not_end_the_recordings(monkeypatch, caplog):
    engine, tried, failed = Engine(tiny_checkpoint(6), SETTINGS, replay=True), [], []
    step = engine.model.language.step

    def poisonous(ids, positions, plan):
        if plan.alike and len(failed) < 2:  # as it is recorded, and as it is run without
            failed.append(1)
            raise RuntimeError("a bad sample")
        return step(ids, positions, plan)

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
    assert len(tried) == 2  # what reads pictures, and what reads questions and answers
    assert "a PrefixPlan can't be recorded" in caplog.text
    assert "a StepPlan can't be recorded" in caplog.text


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
    engine.add(Sample(sample.image, ("the cat", "the dog", "red", "blue", "the box")))
    for _ in range(3):
        engine.step()
    with torch.inference_mode():
        engine.generator.schedule.evict(list(engine.generator.schedule.rows))  # it loses its slot
    while engine.busy:
        engine.step()
    assert sum(encoded) == 1


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_the_prefix_of_a_picture_is_read_once_for_all_of_its_questions(rows, monkeypatch):
    checkpoint, read = tiny_checkpoint(6), []
    engine = Engine(checkpoint, SETTINGS, Limits(rows=rows))
    samples = [Sample(each.image, ("the cat", "a dog", "red")) for each in make_samples(0)[:3]]
    truth, generator = alone(checkpoint, samples), engine.generator
    read_prefix = generator._read_prefixes
    monkeypatch.setattr(
        generator, "_read_prefixes", lambda pictures: (read.extend(pictures), read_prefix(pictures))
    )
    assert_same(said(engine, samples), truth)
    assert len(read) == len(set(read)) == len(samples)
    assert not generator.schedule.pictures


def test_whatever_lies_in_new_memory_is_never_read():
    """Torch fills it with what is no number here."""
    checkpoint, samples = tiny_checkpoint(6), make_samples(2)
    truth = alone(checkpoint, samples, DecodeSettings(90))
    torch.use_deterministic_algorithms(True)
    try:
        for replay in (False, True):
            engine = Engine(checkpoint, DecodeSettings(90), replay=replay)
            assert_same(said(engine, samples), truth)
    finally:
        torch.use_deterministic_algorithms(False)


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
    assert gone.rows[0].picture.encoded is not None
    engine.withdraw(gone)
    assert gone.rows[0].picture.encoded is None
    assert gone.sample.questions[0] not in repr(gone)  # a message may hold it
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
