import re

import pytest

from pixellm.phrases import find_phrases


def phrases(text):
    marks = [match.span() for match in re.finditer(r"\[SEG\]", text)]
    return [span and text[slice(*span)] for span in find_phrases(text, marks)]


def test_spans_count_code_points_of_the_text():
    text = "🐕\u200d🦺 Das Mädchen [SEG], 犬 [SEG]"
    assert phrases(text) == ["🐕\u200d🦺 Das Mädchen", "犬"]


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
        ("the dogs [SEG] and [SEG] near the cat [SEG]", ["the dogs", "the dogs", "the cat"]),
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


def test_a_name_may_have_120_characters():
    assert phrases(f"{'x' * 120} [SEG], {'x' * 121} [SEG]") == ["x" * 120, None]


def test_a_text_without_marks_has_no_phrases():
    assert phrases("There is no such object.") == []
