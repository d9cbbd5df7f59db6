import hashlib

import pytest

from workers.errors import RecordRejected
from workers.records.instructions import (
    MAX_FILE_BYTES,
    MAX_INSTRUCTIONS,
    Instruction,
    derive_instruction_id,
    list_instructions,
    make_instruction,
    parse_instruction_file,
    read_classes,
    read_instruction,
)
from workers.records.rejections import Reason


def refusal(call, *arguments) -> str:
    with pytest.raises(RecordRejected) as caught:
        call(*arguments)
    assert caught.value.code == Reason.INSTRUCTION_INVALID
    return caught.value.message


def test_an_id_is_made_of_the_text_in_canonical_form():
    first, second = read_instruction("the  red mug "), read_instruction("the red\tmug")
    digest = hashlib.sha256(b"the red mug").hexdigest()
    assert first == second == Instruction(digest[:16], "the red mug", "unspecified", ())


def test_half_of_a_surrogate_pair_has_an_id_too():
    """JSON can hold one; it must not take the row down with it."""
    assert len(derive_instruction_id("the \ud800 cat")) == 16


def test_a_mapping_gives_id_kind_and_classes():
    value = {"id": 7, "text": "mugs", "kind": "reasoning", "classes": ["mug", "cup"]}
    assert read_instruction(value) == Instruction("7", "mugs", "reasoning", ("mug", "cup"))


def test_keys_without_a_value_are_as_if_they_were_not_there():
    value = {"id": None, "text": "mugs", "kind": None, "classes": None}
    assert read_instruction(value) == read_instruction("mugs")


def test_special_tokens_do_not_reach_the_prompt():
    assert make_instruction("the <image>cat [SEG0]").text == "the cat"


@pytest.mark.parametrize("value", ["", "  ", "</s>", 5, None, ["cat"], {}, {"text": 3}, "x" * 5000])
def test_what_can_not_be_asked_is_refused(value):
    assert refusal(read_instruction, value)


def test_a_misspelt_field_is_named():
    assert "'clases'" in refusal(read_instruction, {"text": "cats", "clases": ["cat"]})


@pytest.mark.parametrize("value", [3, {"a": 1}, [["x"]], ["x" * 300], [True]])
def test_classes_that_are_no_names_are_refused(value):
    assert refusal(read_classes, value)


def test_a_name_is_cleaned_of_space_and_may_have_200_characters():
    assert read_classes([" a \n b ", "", None, "x" * 200]) == ("a b", "x" * 200)
    assert "201" in refusal(read_classes, ["x" * 201])


def test_one_class_may_be_given_without_a_list():
    assert read_classes("mug") == ("mug",)


def test_too_many_instructions_are_refused():
    assert len(list_instructions(["a"] * MAX_INSTRUCTIONS)) == MAX_INSTRUCTIONS
    assert "1,001" in refusal(list_instructions, ["a"] * (MAX_INSTRUCTIONS + 1))


FORMS = {
    "_instructions.txt": "the cat\r\n\n  the dog  \n",
    "_instructions.jsonl": '"the cat"\n\n{"text": "the dog"}\n',
    "_instructions.yaml": "- the cat\n- text: the dog\n",
    "other.yaml": "instructions:\n  - the cat\n  - the dog\n",
    "_instructions.json": '["the cat", {"text": "the dog"}]',
    "other.json": '{"instructions": ["the cat", "the dog"]}',
    "OTHER.YAML": "- the cat\n- the dog\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_file_says_the_same(name):
    found = parse_instruction_file(FORMS[name].encode("utf-8-sig"), name)
    assert [each.text for each in found] == ["the cat", "the dog"]


def test_what_is_null_in_a_list_is_as_if_it_was_not_there():
    """A column of lists in a table may have such holes."""
    assert list_instructions(["the cat", None, {"text": "the dog"}]) == [
        "the cat",
        {"text": "the dog"},
    ]


def test_a_mapping_is_one_instruction_or_holds_several_and_never_both():
    data = b"text: the cat\ninstructions: [the dog]\n"
    assert "no field 'instructions'" in refusal(parse_instruction_file, data, "a.yaml")


def test_one_text_or_mapping_is_a_file_too():
    (found,) = parse_instruction_file(b"text: the cat\nid: c1\n", "a.yml")
    assert (found.instruction_id, found.text) == ("c1", "the cat")


def test_a_file_of_exactly_the_limit_is_read():
    (found,) = parse_instruction_file(b"the cat\n".ljust(MAX_FILE_BYTES), "a.txt")
    assert found.text == "the cat"


def test_a_separator_inside_a_json_line_does_not_end_it():
    (found,) = parse_instruction_file('"the\u2028cat"'.encode(), "a.jsonl")
    assert found.text == "the cat"


@pytest.mark.parametrize(
    ("name", "data", "place"),
    [
        ("s3://b/_instructions.jsonl", b'"the cat"\n\n{oops', "s3://b/_instructions.jsonl, line 3"),
        ("s3://b/_instructions.txt", b"the cat\n</s>\n", "s3://b/_instructions.txt, line 2"),
        ("a.json", b'["the cat", 5]', "a.json, instruction 2"),
        ("a.json", b"[" * 100_000, "a.json"),
        ("a.yaml", b"- a\n- [b\n- c", "line 2, column 3, `- [b`: the list that opens with '['"),
        ("a.yaml", b"- the mug: red", "A text with a colon in it must stand in quotes"),
        ("a.yaml", b"- yes", "instruction 1: an instruction must be a text or a mapping, not True"),
        ("a.yaml", b"- 5", "is a text when it stands in quotes"),
        ("a.yaml", b"!!python/object/apply:os.system [ls]", "a.yaml"),
        ("a.txt", b"the \xff cat", "byte 4"),
        ("a.txt", b"a" * (MAX_FILE_BYTES + 1), "1,048,577 bytes"),
        ("a.txt", b"cat\n" * (MAX_INSTRUCTIONS + 1), "1,001"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(name, data, place):
    message = refusal(parse_instruction_file, data, name)
    assert name in message
    assert place in message


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize(
    "text", ["0x" + "f" * 100_000, "{text: a, id: 0x" + "f" * 100_000 + "}", BOMB]
)
def test_a_value_that_can_not_be_written_down_is_refused_with_a_short_message(text):
    with pytest.raises(RecordRejected) as caught:
        parse_instruction_file(text.encode(), "_instructions.yaml")
    assert len(caught.value.message) < 400
