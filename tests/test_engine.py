from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch

from pixellm.answers import DecodeSettings
from pixellm.engine.engine import Engine
from pixellm.engine.memory import Limits
from pixellm.engine.rows import Sample
from pixellm.errors import ConfigError, ImageError, InstructionError
from pixellm.images import prepare_image
from pixellm.prompts import SYSTEM_TEXT, label_conversation
from pixellm.tiny import Script, tiny_checkpoint
from pixellm.tokenizer import IMAGE_TOKEN_INDEX
from pixellm.training import TrainingBatch, pad_conversations, read_answers

CAP = DecodeSettings(max_new_tokens=30)


def sample(*questions, seed=0, height=40, width=52):
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Sample(prepare_image(rgb, 56), questions)


def scripted(*scripts, settings=None, **sizes):
    """An engine whose answers are given; a text or ids, the end token is added."""
    checkpoint = tiny_checkpoint(0, **sizes)
    tokenizer = checkpoint.tokenizer
    ids = [s if isinstance(s, list) else tokenizer.encode(s, bos=False) for s in scripts]
    script = Script([[*s, tokenizer.eos_id] for s in ids], tokenizer)
    return Engine(checkpoint, settings, predict=script), script


@pytest.fixture(scope="module")
def talking():
    return Engine(tiny_checkpoint(6), CAP)


def test_an_answer_has_its_text_its_targets_and_what_they_are_called():
    seg = tiny_checkpoint(0).tokenizer.seg_text
    engine, _ = scripted(
        f"the dog is {seg}, and the cat is {seg}.", "Nothing in this image is red."
    )
    ((answer, nothing),) = engine.answer([sample("the dog and the cat", "What is red?")])
    assert answer.text == "the dog is [SEG], and the cat is [SEG]."
    assert [target.phrase for target in answer.targets] == ["the dog", "the cat"]
    assert [target.phrase_source for target in answer.targets] == ["answer", "answer"]
    assert [answer.text[slice(*t.span)] for t in answer.targets] == ["the dog", "the cat"]
    assert [target.index for target in answer.targets] == [0, 1]
    assert not answer.malformed
    assert not answer.truncated
    assert nothing.text == "Nothing in this image is red."
    assert nothing.targets == ()


def test_masks_have_the_images_own_size_and_scores_between_0_and_1(talking):
    ((answer, *_),) = talking.answer([sample("What is red?", "the cat", height=23, width=90)])
    assert answer.targets
    for target in answer.targets:
        assert target.mask.shape == (23, 90)
        assert target.mask.dtype == np.bool_
        assert 0 <= target.score_mask <= 1
        assert 0 <= target.score_token <= 1
        assert isinstance(target.score_iou, float)


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_generated_masks_equal_those_of_the_same_answer_read_at_once(key_value_heads):
    """Steps have an attention of their own, the other way has that of transformers."""
    checkpoint = tiny_checkpoint(0, key_value_heads=key_value_heads)
    answer = f"it is {checkpoint.tokenizer.seg_text}."
    engine, _ = scripted(answer, key_value_heads=key_value_heads)
    asked = sample("the dog")
    ((answer,),) = engine.answer([asked])
    text = f"it is {checkpoint.tokenizer.seg_text}."
    rows = pad_conversations([label_conversation(checkpoint.tokenizer, "the dog", text, "")])
    image, seg_ids = asked.image, checkpoint.tokenizer.seg_ids
    masks = (torch.zeros(1, *image.original),)
    where = torch.tensor([0])
    batch = TrainingBatch(image.pixels[None], (image.resized,), *rows, where, seg_ids, masks)
    with torch.no_grad():
        logits = read_answers(checkpoint.model, batch).masks[0][0]
    sure = logits.abs() > 1e-3
    assert np.array_equal(answer.targets[0].mask[sure], (logits > 0)[sure])


class Wavering(Script):
    """Says its script, id k of an answer with the probability (k + 1) / (k + 2).

    That of ids k to l in a row is (k + 1) / (l + 2).
    """

    def __call__(self, states, wanted):
        logits = super().__call__(states, wanted)
        for line, each in zip(logits, wanted, strict=True):
            others = log(1 / (each.index + 2) / (self.vocabulary - 1))
            line[:] = torch.where(line == 0, log((each.index + 1) / (each.index + 2)), others)
        return logits


def test_a_phrase_has_the_probability_of_its_ids():
    checkpoint = tiny_checkpoint(0)
    tokenizer, seg = checkpoint.tokenizer, checkpoint.tokenizer.seg_text

    def count(text):
        return len(tokenizer.encode(text, bos=False))

    text = f"the dog is {seg}, and the red box is {seg}. It is {seg}."
    script = Wavering([tokenizer.encode(text, bos=False)], tokenizer)
    engine = Engine(checkpoint, predict=script)
    ((answer,),) = engine.answer([sample("the dog")])
    assert [target.phrase for target in answer.targets] == ["the dog", "the red box", None]
    first, second, third = answer.targets
    assert first.score_phrase == pytest.approx(1 / (count("the dog") + 1))
    start = count(f"the dog is {seg}, and")
    length = count("the red box")
    assert length > 3
    assert second.score_phrase == pytest.approx((start + 1) / (start + length + 1))
    assert third.score_phrase is None
    group, start = len(tokenizer.seg_ids), count("the dog is")
    assert first.score_token == pytest.approx((start + 1) / (start + group + 1))
    assert third.score_token is not None


def test_a_target_without_a_name_says_so():
    engine, _ = scripted(f"{tiny_checkpoint(0).tokenizer.seg_text}.")
    ((answer,),) = engine.answer([sample("the dog")])
    (target,) = answer.targets
    assert (target.phrase, target.span, target.phrase_source) == (None, None, "none")


def test_a_pixel_of_even_odds_belongs_to_no_mask():
    engine, _ = scripted(f"it is {tiny_checkpoint(0).tokenizer.seg_text}.")
    last = engine.model.decoder.output_hypernetworks_mlps[0].layers[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    ((answer,),) = engine.answer([sample("the dog")])
    assert not answer.targets[0].mask.any()
    assert answer.targets[0].score_mask == 0


def test_nothing_asked_is_nothing_answered(talking):
    assert talking.answer([]) == []
    assert talking.answer([sample()]) == [()]
    assert [len(answers) for answers in talking.answer([sample(), sample("the dog")])] == [0, 1]


def test_a_group_cut_off_is_reported_and_whole_groups_are_kept():
    seg_ids = list(tiny_checkpoint(0).tokenizer.seg_ids)
    engine, _ = scripted([*seg_ids, 5, *seg_ids[:2]], settings=DecodeSettings(forced_groups=False))
    ((answer,),) = engine.answer([sample("the dog")])
    assert len(answer.targets) == 1
    assert answer.malformed


def test_the_official_mode_drops_every_mask_of_an_answer_with_an_incomplete_group():
    seg_ids = list(tiny_checkpoint(0).tokenizer.seg_ids)
    settings = DecodeSettings(official_groups=True)
    broken, whole = [*seg_ids, 5, *seg_ids[:2]], [*seg_ids, *seg_ids]
    engine, _ = scripted(broken, whole, settings=settings)
    ((first, second),) = engine.answer([sample("the dog", "the cat")])
    assert first.targets == ()
    assert first.malformed
    assert len(second.targets) == 2  # other answers keep theirs


def test_targets_decoded_a_few_at_a_time_are_the_same(talking, monkeypatch):
    decoded = []
    decode = talking.model.decode
    monkeypatch.setattr(
        talking.model, "decode", lambda *a: (decoded.append(len(a[2])), decode(*a))[1]
    )
    samples = [sample("What is red?", "the cat", seed=seed, height=30 + seed) for seed in (1, 2)]
    together = talking.answer(samples)
    monkeypatch.setattr("pixellm.engine.finishing.TARGETS_AT_ONCE", 2)
    assert max(decoded) > 2
    decoded.clear()
    chunked = talking.answer(samples)
    assert max(decoded) == 2
    targets = [
        [t for a in answers for x in a for t in x.targets] for answers in (together, chunked)
    ]
    assert len(targets[0]) == len(targets[1]) > 4
    for one, other in zip(*targets, strict=True):
        assert np.array_equal(one.mask, other.mask)
        assert one.score_mask == pytest.approx(other.score_mask, abs=1e-5)
        assert one.score_iou == pytest.approx(other.score_iou, abs=1e-5)


# ---- how long an answer may be ----


def test_an_answer_is_cut_at_the_limit_and_says_so():
    engine, _ = scripted([5] * 9, settings=DecodeSettings(max_new_tokens=9))
    ((answer,),) = engine.answer([sample("the dog")])
    assert (len(answer.token_ids), answer.truncated) == (9, True)
    engine, _ = scripted([5] * 8, settings=DecodeSettings(max_new_tokens=9))
    ((answer,),) = engine.answer([sample("the dog")])
    assert (len(answer.token_ids), answer.truncated) == (9, False)  # the end token is one of them


def test_no_step_is_taken_beyond_the_longest_answer():
    """It would be one too many for a model whose positions are all taken."""
    engine, script = scripted([5] * 9, settings=DecodeSettings(max_new_tokens=9))
    engine.answer([sample("the dog", "the cat")])
    assert script.steps == 9


def test_a_batch_ends_with_its_last_answer_and_a_row_with_its_own():
    engine, script = scripted([5, 2, 5, 5, 5, 5], [5, 5, 5])
    asked = sample("the dog", "the cat")
    images = engine.model.encode_images(asked.image.pixels[None], [asked.image.resized])
    prompts = [engine.prompt_ids(text) for text in asked.questions]
    made = engine.generate(images, prompts, [0, 0])
    assert [each.ids for each in made] == [(5, 2), (5, 5, 5, 2)]
    assert [len(each.hidden) for each in made] == [len(each.logprobs) for each in made] == [2, 4]
    assert script.steps == 4


def test_the_limit_is_the_official_one_unless_asked_otherwise():
    assert DecodeSettings().max_new_tokens == 512


def test_a_long_question_leaves_less_room_for_its_own_answer_alone():
    questions = "the dog", "the dog " * 40
    checkpoint = tiny_checkpoint(0, max_positions=160)
    neither_ends = Script([[5] * 100], checkpoint.tokenizer)
    engine = Engine(checkpoint, DecodeSettings(max_new_tokens=100), predict=neither_ends)
    rooms = [engine.room(engine.prompt_ids(question)) for question in questions]
    assert rooms[0] == 100 > rooms[1] > 0
    ((short, long),) = engine.answer([sample(*questions)])
    assert [len(short.token_ids), len(long.token_ids)] == rooms
    assert long.truncated


def test_a_question_that_leaves_no_room_is_an_error_that_says_by_how_much():
    engine = Engine(tiny_checkpoint(0, max_positions=64), CAP)
    question = "the dog " * 40
    with pytest.raises(InstructionError, match="shorten it by at least") as caught:
        engine.answer([sample("the dog", question)])
    needed = int(str(caught.value).split("at least ")[1].split()[0])
    prompt = engine.prompt_ids(question)
    assert engine.room([*prompt[:5], *prompt[5 + needed :]]) == 1
    with pytest.raises(InstructionError, match="at least 1 tokens"):
        engine.room([*prompt[:5], *prompt[4 + needed :]])


# ---- the prompt ----


def test_the_prompt_is_the_official_one_unless_the_model_has_its_own():
    checkpoint = tiny_checkpoint(0, system_text=None)
    engine, tokenizer = Engine(checkpoint), checkpoint.tokenizer
    official = f"{SYSTEM_TEXT} USER: <im_start><image><im_end>\nthe dog ASSISTANT:"
    assert engine.prompt_ids("the dog") == tokenizer.encode_prompt(official)
    own = Engine(tiny_checkpoint(0, system_text="Short."))
    assert own.prompt_ids("the dog") == tokenizer.encode_prompt(
        "Short. USER: <im_start><image><im_end>\nthe dog ASSISTANT:"
    )
    assert engine.prompt_ids("the dog").count(IMAGE_TOKEN_INDEX) == 1


def test_padding_of_the_image_is_not_seen(talking):
    asked = sample("What is red?", height=20, width=52)
    height = asked.image.resized[0]
    pixels = asked.image.pixels.clone()
    # what lies in patches of padding only; the last image row shares its patch with padding
    pixels[:, height + 14 - height % 14 :] = 9.0
    ((before,),) = talking.answer([asked])
    ((after,),) = talking.answer([replace(asked, image=replace(asked.image, pixels=pixels))])
    assert before.token_ids == after.token_ids


# ---- what can't be asked ----


@pytest.mark.parametrize("most", [0, -3])
def test_an_answer_of_no_token_is_refused(most):
    with pytest.raises(ConfigError, match=f"max_new_tokens is {most}: an answer has at least 1"):
        DecodeSettings(max_new_tokens=most)


@pytest.mark.parametrize("rows", [0, -1, 0.5, float("nan")])
def test_an_engine_of_no_row_is_refused(rows):
    with pytest.raises(ConfigError, match=f"{rows} questions under way at most: at least 1"):
        Limits(rows=rows)


def test_with_the_least_memory_one_question_after_the_other_is_answered(talking):
    asked = sample("the cat", "a dog", "all")
    engine = Engine(tiny_checkpoint(6), CAP, Limits(slot_bytes=1))
    job, under_way = engine.add(asked), set[int]()
    while engine.busy:
        engine.step()
        under_way.add(engine.in_step)
    answers = [row.answer.token_ids for row in job.rows]
    assert answers == [each.token_ids for each in talking.answer([asked])[0]]
    assert max(under_way) == 1


@pytest.mark.parametrize("question", ["", None, 3])
def test_what_is_no_text_is_no_question(question):
    with pytest.raises(InstructionError, match=f"{question!r} is no question: write a text"):
        sample("the cat", question)


def test_a_prompt_that_is_too_long_leaves_no_other_in_the_line(talking):
    image = sample("the cat").image
    images = talking.model.encode_images(image.pixels[None], [image.resized])
    prompts = [talking.prompt_ids(text) for text in ("the cat", "the cat and " * 300)]
    with pytest.raises(InstructionError, match="leaves no room"):
        talking.generate(images, prompts, [0, 0])
    assert not talking.generator.busy
    with pytest.raises(IndexError):
        talking.generate(images, prompts[:1] * 2, [0, 5])  # there is one image
    assert not talking.generator.busy


def test_a_text_alone_is_no_questions():
    with pytest.raises(InstructionError, match="not the text 'the cat': write \\('the cat',\\)"):
        Sample(sample("a").image, "the cat")


def test_an_image_for_another_model_is_refused_and_nothing_is_under_way(talking):
    rgb = np.zeros((40, 52, 3), dtype=np.uint8)
    other = Sample(prepare_image(rgb, 64), ("the cat",))
    with pytest.raises(ImageError, match="have a side of 56 pixels: prepare_image\\(rgb, 56\\)"):
        talking.answer([sample("a"), other])
    assert not talking.busy
