import pytest

from workers.imports.wording import (
    NOTHING,
    compose_marks,
    compose_named,
    compose_unnamed,
    enumerate_words,
)

SEEDS = [f"question {number}" for number in range(200)]


@pytest.mark.parametrize(
    ("words", "joined"),
    [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")],
)
def test_words_are_joined_as_people_do(words, joined):
    assert enumerate_words(words) == joined


def test_an_answer_that_names_its_targets_is_one_of_a_few_forms():
    made = {compose_named(["The cat", "a dog", "x"], seed).text for seed in SEEDS}
    assert made == {
        "The cat is [SEG], a dog is [SEG] and x is [SEG].",
        *(
            form.format("the cat, a dog and x", "[SEG], [SEG] and [SEG]")
            for form in (
                "{} are {}, separately.",
                "{} are {}.",
                "Sure, {} are {}.",
            )
        ),
    }


@pytest.mark.parametrize(
    "names", [["{}", "{names}"], ["The cat"], ["a", "a"], ["ü\U0001f600", "b"]]
)
def test_names_are_found_again_where_the_spans_say(names):
    for seed in SEEDS[:40]:
        composed = compose_named(names, seed)
        assert composed.text.count("[SEG]") == len(names)
        said = [composed.text[slice(*span)] for span in composed.spans]
        assert said == list(composed.names)
        assert [name.lower() for name in said] == [name.lower() for name in names]


def test_one_target_is_named_in_one_way():
    assert {compose_named(["The cat"], seed).text for seed in SEEDS} == {"The cat is [SEG]."}


def test_an_answer_without_names_is_one_of_a_few_forms():
    assert {compose_unnamed(1, seed) for seed in SEEDS} == {
        "It is [SEG].",
        "Sure, [SEG].",
        "Sure, it is [SEG].",
        "Sure, the segmentation result is [SEG].",
        "[SEG].",
    }
    assert {compose_unnamed(2, seed) for seed in SEEDS} == {
        "Sure, they are [SEG] and [SEG].",
        "[SEG] and [SEG].",
    }
    assert compose_marks(3) == "[SEG], [SEG] and [SEG]."


def test_nothing_is_said_in_one_way():
    assert compose_unnamed(0, "x") == compose_named([], "x").text == NOTHING
