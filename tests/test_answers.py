from pathlib import Path

import pytest

from pixellm.answers import TokenGroup, find_groups, find_phrases, phrase_spans, render_answer
from pixellm.tokenizer import Tokenizer

FIXTURE = Path(__file__).parent / "fixtures" / "pixellm-a"
SEG = (400, 401, 402, 403, 404, 405)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_folder(FIXTURE / "hf_model")


def phrases(text):
    return [span and text[slice(*span)] for span in phrase_spans(text)]


# ---- token groups


def test_whole_groups_are_found_where_they_stand():
    groups, malformed = find_groups([7, *SEG, 9, *SEG, *SEG, 2], SEG)
    assert [(group.start, group.stop) for group in groups] == [(1, 7), (8, 14), (14, 20)]
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
    text, marks = render_answer(ids, find_groups(ids, SEG)[0], tokenizer)
    assert text == "the dog is [SEG] and the cat is [SEG]."
    assert [text[slice(*mark)] for mark in marks] == ["[SEG]", "[SEG]"]
    assert find_phrases(text, marks) == phrase_spans(text)


def test_left_over_tokens_stay_visible_in_the_text(tokenizer):
    ids = tokenizer.encode(f"the dog {tokenizer.seg_text}, [SEG3] [SEG1] cat", bos=False)
    text, marks = render_answer(ids, find_groups(ids, SEG)[0], tokenizer)
    assert text == "the dog [SEG], [SEG3] [SEG1] cat"
    assert marks == ((8, 13),)


def test_plain_text_that_looks_like_a_mark_is_no_mark(tokenizer):
    ids = tokenizer.encode(f"[SEG] is the dog {tokenizer.seg_text}", bos=False)
    text, marks = render_answer(ids, find_groups(ids, SEG)[0], tokenizer)
    assert text == "[SEG] is the dog [SEG]"
    assert marks == ((17, 22),)


def test_text_between_the_tokens_of_an_official_group_follows_its_mark(tokenizer):
    ids = [*SEG[:3], *tokenizer.encode("dog", bos=False), *SEG[3:]]
    groups, _ = find_groups(ids, SEG, official=True)
    assert render_answer(ids, groups, tokenizer) == ("[SEG] dog", ((0, 5),))


def test_spans_count_code_points_of_the_text():
    text = "🐕\u200d🦺 Das Mädchen [SEG], 犬 [SEG]"
    spans = phrase_spans(text)
    assert [text[start:stop] for start, stop in spans] == ["🐕\u200d🦺 Das Mädchen", "犬"]


# ---- phrases


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # the answers of the shipped model
        (
            "the large red striped circle [SEG], the small blue star [SEG].",
            ["the large red striped circle", "the small blue star"],
        ),
        ("the large, red circle [SEG]", ["the large, red circle"]),
        # the official single-target answers
        ("Sure, the segmentation result of mug is [SEG].", ["mug"]),
        ("It is the mug [SEG].", ["the mug"]),
        # the official answers with several targets
        ("dog is [SEG], cat is [SEG]", ["dog", "cat"]),
        ("the dog is [SEG], a cat is [SEG] and it is [SEG].", ["the dog", "a cat", None]),
        ("The segmentation result of dog is [SEG] and cat is [SEG].", ["dog", "cat"]),
        ("a, b and c are [SEG], [SEG] and [SEG], separately.", ["a", "b", "c"]),
        ("Sure, the dog and the cat are [SEG] and [SEG].", ["the dog", "the cat"]),
        ("In this image, dog and cat are [SEG] and [SEG].", ["dog", "cat"]),
        ("Sure, a and b are [SEG] and [SEG], c is [SEG].", ["a", "b", "c"]),
        (
            "the black and white cat, the dog are [SEG], [SEG]",
            ["the black and white cat", "the dog"],
        ),
        ("the two dogs are [SEG] and [SEG].", ["the two dogs", "the two dogs"]),
        # free text
        (
            "You can use the red chair [SEG], the left bench [SEG] and the table [SEG].",
            ["the red chair", "the left bench", "the table"],
        ),
        ("To drink, use the mug [SEG]. The plate [SEG] is below.", ["the mug", "The plate"]),
        ("The man can sit on the red chair [SEG].", ["the red chair"]),
        ("The best choice is the mug [SEG], since it is big.", ["the mug"]),
        ("There is a mug [SEG] on the table, and a cup ([SEG]).", ["a mug", "a cup"]),
        ('"mug": [SEG]\n"cup": [SEG]', ["mug", "cup"]),
        # verbs and nouns that belong to the name
        ("the soda can on the table [SEG]", ["the soda can on the table"]),
        ("the cup that is on the table [SEG]", ["the cup that is on the table"]),
        ("the mug that you can use for tea [SEG]", ["the mug that you can use for tea"]),
        ("the mugs one could drink from [SEG]", ["the mugs one could drink from"]),
        ("the mug, which is red, [SEG]", ["the mug, which is red"]),
        ("Black and white cat [SEG]", ["Black and white cat"]),
        ("Island [SEG], iPad [SEG], in-car seat [SEG]", ["Island", "iPad", "in-car seat"]),
    ],
)
def test_the_phrase_before_a_mark_is_found(text, wanted):
    assert phrases(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "[SEG].",
        "It is [SEG].",
        "Sure, [SEG].",
        "Sure, it is [SEG].",
        "Here it is: [SEG]",
        "They are [SEG] and [SEG].",
        "Sure, they are [SEG], [SEG] and [SEG].",
        "Sure, the segmentation result is [SEG].",
        "The segmentation masks are [SEG] and [SEG].",
        "a, b and c are [SEG] and [SEG].",  # who knows which two
        f"the {'very ' * 60}small dog [SEG]",
        "... [SEG]",
    ],
)
def test_where_nothing_is_named_there_is_no_phrase(text):
    assert set(phrases(text)) == {None}


def test_a_text_without_marks_has_no_phrases():
    assert phrase_spans("There is no such object.") == ()
