"""Answers that have ended get their masks, together and beside a step."""

import re
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

import pytest
import torch

from pixellm.answers import DecodeSettings
from pixellm.engine import finishing
from pixellm.engine.aside import Aside
from pixellm.engine.engine import Engine
from pixellm.engine.memory import Limits
from pixellm.engine.rows import Sample
from pixellm.model import PixelLM
from pixellm.tiny import Script, tiny_checkpoint
from tests.mixtures import SETTINGS, alone, assert_same, facts, make_samples


def test_masks_are_counted_by_the_rules_that_they_are_found_by():
    checkpoint = tiny_checkpoint(6)
    _, *others = checkpoint.tokenizer.seg_ids
    ids = [*others, others[0], 2]  # a group by the official rules, none by ours
    (sample, *_) = make_samples(2)
    for official in (False, True):
        settings = DecodeSettings(max_new_tokens=24, official_groups=official)
        script = Script([ids], checkpoint.tokenizer)
        engine = Engine(checkpoint, settings, predict=script)
        job = engine.add(Sample(sample.image, ("the cat",)))
        while engine.busy:
            counted = [len(row.made.groups) for row in engine._ended]
            engine.step()
        assert sum(counted) == len(job.rows[0].answer.targets) == official


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


def ending_early(checkpoint, count, early):
    """Scripts of rows of which some, by their numbers, have said all so many words early."""
    group = list(checkpoint.tokenizer.seg_ids)
    scripts = [[*[5] * 17, *group, 2] for _ in range(count)]
    for number, ids in early.items():
        scripts[number] = [*ids, 2]
    return Script(scripts, checkpoint.tokenizer)


def test_masks_that_are_enough_for_a_batch_are_made_whoever_else_waits(monkeypatch):
    monkeypatch.setattr("pixellm.engine.engine.TARGETS_AT_ONCE", 2)
    checkpoint = tiny_checkpoint(6)
    group = list(checkpoint.tokenizer.seg_ids)
    script = ending_early(checkpoint, 24, {7: [*group, *group]})  # fewer than an eighth of the rows
    engine = Engine(checkpoint, DecodeSettings(60), predict=script)
    image, done = make_samples(0)[0].image, []
    jobs = [engine.add(Sample(image, ("the cat",))) for _ in range(24)]
    while not done:
        done = engine.step()
    assert done == [jobs[7]]
    assert len(engine.generator.schedule.rows) == 23


def test_masks_of_images_of_one_shape_are_cut_together_whoever_ended_between_them(monkeypatch):
    cut, together = finishing.cut_masks, []

    def count(low, resized, original, side):
        together.append((len(low), original))
        return cut(low, resized, original, side)

    monkeypatch.setattr(finishing, "cut_masks", count)
    checkpoint = tiny_checkpoint(6)
    group = list(checkpoint.tokenizer.seg_ids)
    # 0 and 2 are about images of one shape; 1, which is about one of another, ends between them
    early = {0: group, 1: [5, *group], 2: [5, 5, *group]}
    images = [sample.image for sample in make_samples(0)]
    of = [images[0], images[1], replace(images[0], pixels=images[0].pixels.flip(2))]

    def engine_of(scripts):
        return Engine(checkpoint, DecodeSettings(60), predict=scripts)

    engine = engine_of(ending_early(checkpoint, 24, early))
    jobs = [engine.add(Sample(image, ("the cat",))) for image in [*of, *of[:1] * 21]]
    while not together:
        engine.step()
    assert together == [(2, images[0].original), (1, images[1].original)]
    for number, job in enumerate(jobs[:3]):  # each has its own
        script = ending_early(checkpoint, 1, {0: early[number]})
        ((answer,),) = engine_of(script).answer([job.sample])
        assert_same([[facts(job.rows[0].answer)]], [[facts(answer)]])
    assert len({jobs[at].rows[0].answer.targets[0].runs.counts.tobytes() for at in (0, 2)}) == 2


def test_masks_are_made_beside_a_step_that_has_begun_and_before_it_lands(monkeypatch):
    engine, order = Engine(tiny_checkpoint(6), SETTINGS), []

    class Watched(Aside):
        def catch_up(self):
            order.append("catch up")

        @contextmanager
        def work(self):
            order.append("begin")
            yield
            order.append("end")

    def noted(name, function):
        return lambda *a: (order.append(name), function(*a))[1]

    engine._aside = Watched(torch.device("cpu"))
    for owner, name in ((engine.generator, "launch"), (engine.model, "decode")):
        monkeypatch.setattr(owner, name, noted(name, getattr(owner, name)))
    monkeypatch.setattr(engine, "_land", noted("land", engine._land))
    engine.answer(make_samples(2))
    assert "decode" in order
    told = " ".join(order)
    step = r"catch up launch begin (decode )*end land( |$)"
    assert re.fullmatch(f"({step})+", told)


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
    assert "is no number" in jobs[0].rows[0].failure.message


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
    assert "is no number" in rows[bad].failure.message
    assert rows[bad].answer is None
    expected = list(chain(*truth))
    del rows[bad], expected[bad]
    assert_same([[facts(row.answer) for row in rows]], [expected])
