import json

import pytest

from tests.records import DEFAULTS, ROOT, codes, read_lines, texts
from workers.records.record import FieldMap, ImageRef
from workers.records.rejections import Reason


def test_a_line_becomes_a_record():
    (record,) = read_lines(
        {
            "id": 17,
            "image": "photos/a b.jpg",
            "instructions": ["the cat", {"text": "dogs", "id": "d", "kind": "k"}],
            "classes": ["cat"],
            "camera": "x100",
            "meta": {"place": "Köln"},
        }
    )
    assert record.rejection is None
    assert record.source_id == "17"
    assert record.image == ImageRef(f"{ROOT}/photos/a b.jpg", None, None, None)
    assert texts(record) == ["the cat", "dogs"]
    assert [each.classes for each in record.instructions] == [("cat",), ("cat",)]
    assert record.instructions[1].instruction_id == "d"
    assert json.loads(record.meta_json) == {"camera": "x100", "place": "Köln"}


@pytest.mark.parametrize("key", ["image", "image_uri", "url", "path", "file_name"])
def test_the_image_may_stand_under_several_keys(key):
    assert read_lines({key: "a.jpg"})[0].image.uri == f"{ROOT}/a.jpg"


@pytest.mark.parametrize(
    "key", ["instruction", "instructions", "text", "prompt", "question", "caption"]
)
def test_the_text_may_stand_under_several_keys(key):
    assert texts(read_lines({"image": "a.jpg", key: "the cat"})[0]) == ["the cat"]


def test_a_key_that_was_not_needed_is_kept():
    (record,) = read_lines({"image": "a.jpg", "instruction": "the cat", "caption": "a cat sits"})
    assert texts(record) == ["the cat"]
    assert json.loads(record.meta_json) == {"caption": "a cat sits"}


def test_other_keys_can_be_named():
    fields = FieldMap(image=("bild",), instructions=("frage",))
    (record,) = read_lines({"bild": "a.jpg", "frage": "die Katze", "image": "b.jpg"}, fields=fields)
    assert (record.image.uri, texts(record)) == (f"{ROOT}/a.jpg", ["die Katze"])
    assert json.loads(record.meta_json) == {"image": "b.jpg"}


def test_an_image_without_instructions_is_asked_the_defaults():
    assert texts(read_lines({"image": "a.jpg"})[0]) == ["everything"]
    assert codes(read_lines({"image": "a.jpg"}, defaults=())) == [Reason.INSTRUCTION_MISSING]


def test_a_bad_instruction_does_not_take_the_good_ones_with_it():
    good, bad = read_lines({"image": "a.jpg", "instructions": ["the cat", "</s>", "the dog"]})
    assert (texts(good), good.rejection) == (["the cat", "the dog"], None)
    assert (texts(bad), bad.rejection.code) == (["</s>"], Reason.INSTRUCTION_INVALID)
    assert good.row_index == bad.row_index == 0


def test_a_record_with_only_bad_instructions_is_not_asked_the_defaults():
    records = read_lines({"image": "a.jpg", "instructions": ["</s>", 5]})
    assert codes(records) == [Reason.INSTRUCTION_INVALID] * 2


def test_a_record_without_an_image_keeps_its_instructions():
    (record,) = read_lines({"instruction": "the cat", "id": "x"})
    assert (record.rejection.code, texts(record)) == (Reason.IMAGE_NOT_NAMED, ["the cat"])


def test_a_key_with_an_empty_value_is_passed_over():
    """Before and behind the one that counts."""
    entry = {"image": "", "path": "a.jpg", "instructions": [], "caption": "the cat", "x": None}
    (record,) = read_lines({**entry, "file_name": "", "url": None, "prompt": ""})
    assert (record.image.uri, texts(record)) == (f"{ROOT}/a.jpg", ["the cat"])
    assert record.meta_json is None


def test_a_key_of_the_record_comes_before_that_of_its_meta_and_other_meta_is_kept_whole():
    both, text = read_lines(
        {"image": "a.jpg", "camera": "own", "meta": {"camera": "meta", "lens": "meta"}},
        {"image": "a.jpg", "meta": "of no form"},
    )
    assert json.loads(both.meta_json) == {"camera": "own", "lens": "meta"}
    assert json.loads(text.meta_json) == {"meta": "of no form"}


def test_classes_of_a_record_are_those_of_the_defaults_too():
    (record,) = read_lines({"image": "a.jpg", "classes": ["cat"]})
    assert [each.classes for each in record.instructions] == [("cat",)]


def test_of_what_is_refused_as_much_is_kept_as_tells_what_it_was():
    image, asked = read_lines(
        {"image": f"s3://{'x' * 900}", "instruction": "the cat"},
        {"image": "a.jpg", "instruction": "x" * 5000},
    )
    assert image.image.uri == f"s3://{'x' * 495}"
    assert texts(asked) == ["x" * 200]


def test_what_is_wrong_with_the_image_is_told_before_what_is_wrong_with_the_question():
    for entry in ({"instruction": "</s>"}, {}):
        assert codes(read_lines(entry, defaults=())) == [Reason.IMAGE_NOT_NAMED]


def test_meta_that_is_no_json_or_too_long_does_no_harm():
    (record, long) = read_lines(
        '{"image": "a.jpg", "x": NaN}', {"image": "b.jpg", "x": "y" * 100_000}
    )
    assert json.loads(record.meta_json) == {"x": "NaN"}
    assert "dropped" in json.loads(long.meta_json)


def test_an_empty_instruction_is_none_and_no_other_thing_to_keep():
    (record,) = read_lines({"image": "a.jpg", "instruction": "", "note": ""})
    assert (record.instructions, record.meta_json) == (DEFAULTS, '{"note": ""}')


def test_a_source_id_is_cut_and_classes_of_an_instruction_come_before_those_of_the_record():
    asked = [{"text": "the cat", "classes": ["own"]}, "the dog"]
    (record,) = read_lines(
        {"id": "i" * 600, "image": "a.jpg", "instructions": asked, "classes": ["common"]}
    )
    assert record.source_id == "i" * 500
    assert [each.classes for each in record.instructions] == [("own",), ("common",)]
