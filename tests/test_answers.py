from pathlib import Path

import pytest

from pixellm.answers import TokenGroup, find_groups, ids_within, render_answer
from pixellm.phrases import find_phrases
from pixellm.tokenizer import Tokenizer

FIXTURE = Path(__file__).parent / "fixtures" / "pixellm-a"
SEG = (400, 401, 402, 403, 404, 405)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_folder(FIXTURE / "hf_model")


# ---- token groups


def test_whole_groups_are_found_where_they_stand():
    groups, malformed = find_groups([7, *SEG, 9, *SEG, *SEG, 2], SEG)
    assert [group.start for group in groups] == [1, 8, 14]
    assert groups[0].positions == (1, 2, 3, 4, 5, 6)
    assert not malformed


def test_an_incomplete_group_is_left_over_and_the_whole_one_is_kept():
    groups, malformed = find_groups([*SEG, 400, 401, 2], SEG)
    assert [group.start for group in groups] == [0]
    assert malformed


def test_the_official_rules_drop_everything_for_an_incomplete_group():
    assert find_groups([*SEG, 400, 401, 2], SEG, official=True) == ((), True)


def test_the_official_rules_accept_any_order_and_text_between():
    ids = [405, 401, 9, 402, 402, 400, 403]
    assert find_groups(ids, SEG) == ((), True)
    groups, malformed = find_groups(ids, SEG, official=True)
    assert groups == (TokenGroup((0, 1, 3, 4, 5, 6)),)
    assert not malformed


@pytest.mark.parametrize("official", [True, False])
def test_an_answer_without_codebook_tokens_has_no_groups(official):
    assert find_groups([5, 6, 2], SEG, official) == ((), False)
    assert find_groups([], SEG, official) == ((), False)


@pytest.mark.parametrize("official", [True, False])
def test_a_codebook_of_one_token_makes_a_group_of_each(official):
    groups, malformed = find_groups([5, 400, 400], (400,), official)
    assert [group.positions for group in groups] == [(1,), (2,)]
    assert not malformed


# ---- text


def test_groups_are_written_as_one_mark(tokenizer):
    answer = f"the dog is {tokenizer.seg_text} and the cat is {tokenizer.seg_text}.</s>"
    ids = tokenizer.encode(answer, bos=False)
    text, marks, _ = render_answer(ids, find_groups(ids, SEG)[0], tokenizer)
    assert text == "the dog is [SEG] and the cat is [SEG]."
    assert [text[slice(*mark)] for mark in marks] == ["[SEG]", "[SEG]"]


def test_left_over_tokens_stay_visible_in_the_text(tokenizer):
    ids = tokenizer.encode(f"the dog {tokenizer.seg_text}, [SEG3] [SEG1] cat", bos=False)
    text, marks, _ = render_answer(ids, find_groups(ids, SEG)[0], tokenizer)
    assert text == "the dog [SEG], [SEG3] [SEG1] cat"
    assert marks == ((8, 13),)


def test_plain_text_that_looks_like_a_mark_is_no_mark(tokenizer):
    ids = tokenizer.encode(f"[SEG] is the dog {tokenizer.seg_text}", bos=False)
    text, marks, _ = render_answer(ids, find_groups(ids, SEG)[0], tokenizer)
    assert text == "[SEG] is the dog [SEG]"
    assert marks == ((17, 22),)


def test_text_between_the_tokens_of_an_official_group_follows_its_mark(tokenizer):
    ids = [*SEG[:3], *tokenizer.encode("dog", bos=False), *SEG[3:]]
    groups, _ = find_groups(ids, SEG, official=True)
    text, marks, places = render_answer(ids, groups, tokenizer)
    assert (text, marks) == ("[SEG] dog", ((0, 5),))
    assert [places[at][1] - places[at][0] for at in groups[0].positions] == [5, 0, 0, 0, 0, 0]
    between = places[3 : len(ids) - 3]
    assert (between[0][0], between[-1][1]) == (6, 9)


# ---- which ids write a phrase


def pieces_of_phrases(tokenizer, answer):
    """The pieces that write the phrase of each target."""
    ids = tokenizer.encode(answer.replace("[SEG]", tokenizer.seg_text), bos=False)
    text, marks, places = render_answer(ids, find_groups(ids, SEG)[0], tokenizer)
    return [
        span and [tokenizer._pieces.id_to_piece(ids[at]) for at in ids_within(span, places)]
        for span in find_phrases(text, marks)
    ]


@pytest.mark.parametrize(
    ("answer", "written"),
    [
        ("the dog is [SEG].</s>", ["▁the▁dog"]),
        ("Use the dog [SEG]</s>", ["▁the▁dog"]),
        ("[SEG] is it.</s>", [None]),
        ("the dog is [SEG], and the cat is [SEG].", ["▁the▁dog", "▁the▁cat"]),
        ("the dog and the cat are [SEG] and [SEG].", ["▁the▁dog", "▁the▁cat"]),
        ("the dogs are [SEG] and [SEG].", ["▁the▁dogs"] * 2),
        ("the dog [SEG]the cat [SEG]", ["▁the▁dog", "▁the▁cat"]),
        ("Sure: “the dog” is [SEG].", ["the▁dog"]),
        ("the café is [SEG].", ["▁the▁caf<0xC3><0xA9>"]),
        ("犬 is [SEG] and é[SEG]", ["<0xE7><0x8A><0xAC>", "<0xC3><0xA9>"]),
    ],
)
def test_a_phrase_is_written_by_the_ids_that_hold_its_characters(tokenizer, answer, written):
    found = pieces_of_phrases(tokenizer, answer)
    assert [each and "".join(each) for each in found] == written


def test_an_id_counts_that_holds_more_than_the_phrase():
    places = [(0, 3), (3, 3), (3, 8), (8, 12), (8, 12), (12, 14)]
    assert ids_within((4, 9), places) == [2, 3, 4]
    assert ids_within((2, 3), places) == [0]
    assert ids_within((12, 13), places) == [5]
