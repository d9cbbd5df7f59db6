"""What is asked together is answered as if each question had been asked alone."""

import numpy as np
import pytest
import torch

from pixellm.answers import DecodeSettings
from pixellm.engine.engine import Engine
from pixellm.engine.rows import Sample
from pixellm.images import prepare_image
from pixellm.tiny import tiny_checkpoint

SHAPES = ((56, 20), (17, 90), (64, 64))
QUESTIONS = (
    "the cat",
    "Which things here can fly, and which of them are left of the red box?",
    "Please segment the dog.",
)


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_checkpoint(6), DecodeSettings(max_new_tokens=30))


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SHAPES]
    asked = (QUESTIONS, QUESTIONS[::-1], QUESTIONS[1:])
    return [Sample(prepare_image(p, 56), q) for p, q in zip(pictures, asked, strict=True)]


@pytest.fixture(scope="module")
def together(engine, samples):
    return engine.answer(samples)


def test_the_answers_differ_from_image_to_image_and_from_question_to_question(together):
    """Else nothing below would show that an answer belongs to its own image and question."""
    every = [answer.token_ids for answers in together for answer in answers]
    assert len(set(every)) == len(every)
    assert len({len(ids) for ids in every}) > 2
    assert sum(len(answer.targets) for answers in together for answer in answers) >= 8


def test_each_question_alone_is_answered_with_the_same_ids_masks_and_scores(
    engine, samples, together
):
    for sample, answers in zip(samples, together, strict=True):
        for question, answer in zip(sample.questions, answers, strict=True):
            ((alone,),) = engine.answer([Sample(sample.image, (question,))])
            assert alone.token_ids == answer.token_ids
            assert alone.text == answer.text
            assert (alone.malformed, alone.truncated) == (answer.malformed, answer.truncated)
            for one, other in zip(alone.targets, answer.targets, strict=True):
                assert one.mask.shape == sample.image.original
                assert (one.mask != other.mask).mean() < 1e-3  # pixels on the very edge
                assert one.score_mask == pytest.approx(other.score_mask, abs=1e-3)
                assert one.score_iou == pytest.approx(other.score_iou, abs=1e-4)
                assert one.score_token == pytest.approx(other.score_token, rel=1e-3)


def test_a_row_with_little_room_stops_there_and_the_others_go_on(samples):
    checkpoint = tiny_checkpoint(6)
    wide = Engine(checkpoint, DecodeSettings(max_new_tokens=30))
    budgets = [wide.room(wide.prompt_ids(question)) for question in QUESTIONS]
    assert budgets == [30, 30, 30]
    longest = len(wide.prompt_ids(QUESTIONS[1])) - 1 + checkpoint.model.config.image_tokens
    checkpoint.model.language.model.config.max_position_embeddings = longest + 4
    narrow = Engine(checkpoint, DecodeSettings(max_new_tokens=30))
    answers = narrow.answer([Sample(samples[0].image, QUESTIONS)])[0]
    free = wide_answers(samples)
    assert [len(answer.token_ids) <= 4 for answer in answers] == [False, True, False]
    assert answers[1].truncated
    assert answers[1].token_ids == free[1].token_ids[:4]
    rooms = [narrow.room(narrow.prompt_ids(question)) for question in QUESTIONS]
    for answer, other, room in zip(answers, free, rooms, strict=True):
        assert answer.token_ids == other.token_ids[:room]


def wide_answers(samples):
    engine = Engine(tiny_checkpoint(6), DecodeSettings(max_new_tokens=30))
    return engine.answer([Sample(samples[0].image, QUESTIONS)])[0]


def test_scores_are_what_the_readme_says(engine, samples, together):
    """Mean probability of the mask's pixels; the product of the group's token probabilities."""
    sample, question = samples[1], samples[1].questions[0]
    answer = together[1][0]
    assert answer.targets
    with torch.inference_mode():
        images = engine.model.encode_images(sample.image.pixels[None], [sample.image.resized])
        (made,) = engine.generate(images, [engine.prompt_ids(question)], [0])
        probabilities = engine.model.language.lm_head(made.hidden).softmax(-1)
    assert made.ids == answer.token_ids
    size = engine.model.config.group_size
    starts = [i for i, token in enumerate(made.ids) if token == engine.tokenizer.seg_ids[0]]
    whole = [i for i in starts if made.ids[i : i + size] == engine.tokenizer.seg_ids]
    assert len(whole) == len(answer.targets)
    for start, target in zip(whole, answer.targets, strict=True):
        chosen = [float(probabilities[i, made.ids[i]]) for i in range(start, start + size)]
        assert target.score_token == pytest.approx(float(np.prod(chosen)), rel=1e-3)
        assert target.score_mask >= 0.5 or not target.mask.any()
        assert target.score_mask != target.score_iou
