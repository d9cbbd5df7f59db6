"""Mixtures of questions about pictures, and whether their answers are the same."""

import random
from collections import Counter

import numpy as np
import pytest
import torch

from pixellm.answers import DecodeSettings
from pixellm.engine.engine import Engine
from pixellm.engine.memory import Limits
from pixellm.engine.rows import Sample
from pixellm.images import prepare_image

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
