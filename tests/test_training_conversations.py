from dataclasses import replace

import pytest

from pixellm.answers import find_groups
from pixellm.prompts import IGNORE_INDEX, SYSTEM_TEXT
from pixellm.tiny import tiny_checkpoint
from pixellm.tokenizer import IMAGE_TOKEN_INDEX
from tests.training_tables import photo_rows, tiny
from workers.storage.memory import MemoryStore
from workers.training.batches import BatchMaker
from workers.training.conversations import Writer, most_ids
from workers.training.examples import Skipped, read_example

EXAMPLES = [read_example(row) for row in photo_rows(1)]


@pytest.fixture(scope="module")
def writer():
    return Writer(tiny().tokenizer, "", 400)


def test_every_mask_has_a_token_group_and_only_the_answer_is_learned(writer):
    for example in EXAMPLES:
        talk = writer.write(example)
        learned = [label for label in talk.ids.labels if label != IGNORE_INDEX]
        groups, left_over = find_groups(learned, tiny().tokenizer.seg_ids)
        assert len(groups) == len(example.masks)
        assert not left_over
        assert learned[-1] == tiny().tokenizer.eos_id
        assert talk.ids.ids.count(IMAGE_TOKEN_INDEX) == 1


def test_a_codebook_of_one_token_is_written_as_well():
    tokenizer = tiny_checkpoint(0, scales=1, tokens_per_scale=1).tokenizer
    talk = Writer(tokenizer, "", 400).write(EXAMPLES[1])
    assert talk.ids.ids.count(tokenizer.seg_ids[0]) == len(EXAMPLES[1].masks)


@pytest.mark.parametrize(
    "changes",
    [
        {"question": "what is <image> here?"},
        {"question": "what is [SEG0] here?"},
        {"question": "what is <im_end> here?"},
        {"question": "what </s> is here?"},
        {"answer": "it is [SEG0] [SEG].", "masks": EXAMPLES[0].masks[:1]},
        {"answer": "it </s> is [SEG].", "masks": EXAMPLES[0].masks[:1]},
        {"answer": "<image> is [SEG].", "masks": EXAMPLES[0].masks[:1]},
        {"answer": "<s>it is [SEG].", "masks": EXAMPLES[0].masks[:1]},
    ],
)
def test_tokens_that_only_the_form_may_have_are_refused(writer, changes):
    skipped = writer.write(replace(EXAMPLES[0], **changes))
    assert skipped == Skipped("special_tokens", EXAMPLES[0].item_id)


def test_a_conversation_is_passed_over_whole_before_it_is_too_long_for_the_model():
    checkpoint = tiny_checkpoint(0, max_positions=128)
    config = checkpoint.model.config
    assert most_ids(config) == 128 + 1 - 16  # the image is one id, and takes 16 places
    encode = BatchMaker.for_model(config, checkpoint.tokenizer, MemoryStore()).encode
    endless = Writer(checkpoint.tokenizer, "", 10_000)
    lengths = set()
    for letters in range(1, 120):
        example = replace(EXAMPLES[0], question="#" * letters)
        whole = endless.write(example)
        lengths.add(len(whole.ids.ids))
        if len(whole.ids.ids) <= most_ids(config):
            assert encode(example).ids == whole.ids
        else:
            assert encode(example) == Skipped("too_long", example.item_id)
    assert {most_ids(config), most_ids(config) + 1} <= lengths


def test_the_text_before_the_question_is_the_models_own():
    official = tiny_checkpoint(0, system_text=None)
    plain, long = (
        BatchMaker.for_model(each.model.config, each.tokenizer, MemoryStore())
        .encode(EXAMPLES[0])
        .ids.ids
        for each in (tiny(), official)
    )
    said = official.tokenizer.encode(SYSTEM_TEXT)
    assert list(long[: len(said)]) == said
    assert long[len(said) :] == plain[1:]
