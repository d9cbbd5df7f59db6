import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.gold import assert_same_labels, convert, export, masks, problems, write
from tests.photos import FOLDER
from workers.labels.rows import has_answer
from workers.labels.targets import IGNORE_REGION
from workers.training.examples import Example, Skipped, read_example

SQUARE = [[10, 10], [39, 10], [39, 29], [10, 29]]  # 30 x 20 pixels with their outline
INNER = [[20, 15], [29, 15], [29, 24], [20, 24]]  # 10 x 10 of them
FAR = [[60, 40], [69, 40], [69, 49], [60, 49]]
BESIDE = [[50, 5], [59, 5], [59, 9], [50, 9]]  # 10 x 5


def shape(points, label="target"):
    return {"label": label, "labels": [label], "shape_type": "polygon", "points": points}


def put(folder, stem, shapes, text=("What is there?",), is_sentence=True, **keys):
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (80, 60), "teal").save(folder / f"{stem}.jpg")
    entry = {"text": list(text), "is_sentence": is_sentence, "shapes": shapes, **keys}
    write(folder / f"{stem}.json", entry)


def area(row):
    return [target.area for target in row.targets]


def test_polygons_are_filled_with_their_outline(tmp_path):
    put(tmp_path / "in", "a", [shape(SQUARE)])
    (row,) = convert("reasonseg", tmp_path / "in", tmp_path / "gold", images=None)
    assert area(row) == [30 * 20]
    assert row.targets[0].bbox == (10, 10, 30, 20)
    assert row.image_uri.endswith("a.jpg")
    assert row.source_id == "a"


def test_a_corner_lies_in_the_pixel_that_it_is_in(tmp_path):
    """The official loader cuts the digits off."""
    put(tmp_path / "in", "a", [shape([[10.9, 10.9], [39.9, 10.2], [39.7, 29.6], [10.1, 29.9]])])
    (row,) = convert("reasonseg", tmp_path / "in", tmp_path / "gold", images=None)
    assert row.targets[0].bbox == (10, 10, 30, 20)
    assert area(row) == [30 * 20]


def test_the_smaller_polygon_is_painted_over_the_larger_one_wherever_it_stands(tmp_path):
    for stem, shapes in (
        ("a", [shape(SQUARE), shape(INNER, "ignore")]),
        ("b", [shape(INNER, "ignore"), shape(SQUARE)]),
        ("c", [shape(INNER), shape(SQUARE, "Ignored region")]),
    ):
        put(tmp_path / "in", stem, shapes)
    a, b, c = convert("reasonseg", tmp_path / "in", tmp_path / "gold", images=None)
    assert area(a) == area(b) == [30 * 20 - 100, 100]
    assert area(c) == [100, 30 * 20 - 100]
    for row in (a, b, c):
        assert [target.flags for target in row.targets] == [(), (IGNORE_REGION,)]
        assert row.answer_text.count("[SEG]") == 1
        first, second = masks(row)
        assert not (first & second).any()


def test_a_region_to_ignore_that_is_painted_over_is_none(tmp_path):
    left = [[20, 15], [24, 15], [24, 24], [20, 24]]
    right = [[25, 15], [29, 15], [29, 24], [25, 24]]
    put(tmp_path / "in", "a", [shape(INNER, "ignore"), shape(left), shape(right)])
    (row,) = convert("reasonseg", tmp_path / "in", tmp_path / "gold", images=None)
    assert area(row) == [100]
    assert row.qa_flags == ()


def test_where_all_is_to_be_ignored_nobody_said_that_nothing_is_there(tmp_path):
    put(tmp_path / "in", "a", [shape(SQUARE, "ignore")])
    put(tmp_path / "in", "b", [shape(SQUARE, "flag")])
    ignored, nothing = convert("reasonseg", tmp_path / "in", tmp_path / "gold", images=None)
    assert (ignored.status, ignored.answer_text, area(ignored)) == ("partial", None, [30 * 20])
    assert (nothing.status, nothing.targets) == ("empty", ())
    assert not has_answer(ignored)
    assert isinstance(read_example(ignored), Skipped)
    assert isinstance(read_example(nothing), Example)


def test_parts_are_one_mask_and_flags_mean_nothing(tmp_path):
    put(tmp_path / "in", "a", [shape(SQUARE), shape(BESIDE), shape(FAR, "flag")])
    (row,) = convert("reasonseg", tmp_path / "in", tmp_path / "gold", images=None)
    assert area(row) == [30 * 20 + 50]
    assert row.targets[0].n_components == 2


def test_sentences_stand_as_they_are_and_names_are_asked_for(tmp_path):
    put(tmp_path / "in", "a", [shape(SQUARE)], ["What floats?", "Which is square?"])
    put(tmp_path / "in", "b", [shape(SQUARE)], ["the boat"], is_sentence=False)
    rows = convert("reasonseg", tmp_path / "in", tmp_path / "gold", images=None)
    assert [(row.instruction, row.instruction_kind) for row in rows] == [
        ("What floats?", "reasoning"),
        ("Which is square?", "reasoning"),
        ("What is the boat in this image? Please output segmentation mask.", "referring"),
    ]
    assert [row.targets[0].phrase for row in rows] == [None, None, "the boat"]


def test_files_of_a_windows_of_its_annotators_can_be_read(tmp_path):
    put(tmp_path / "in", "a", [shape(SQUARE)])
    text = json.dumps({"text": ["the café"], "is_sentence": True, "shapes": [shape(SQUARE)]})
    text = text.replace("\\u00e9", "é")
    (tmp_path / "in" / "a.json").write_bytes(text.encode("cp1252"))
    (row,) = convert("reasonseg", tmp_path / "in", tmp_path / "gold", images=None)
    assert row.instruction == "the café"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"shapes": [shape([[1, 1], [5, 5]])]}, "mask_broken"),
        ({"shapes": [{"points": SQUARE}]}, "mask_broken"),
        ({"shapes": None}, "mask_broken"),
        ({"shapes": ["no shape"]}, "mask_broken"),
        ({"text": [7]}, "instruction_invalid"),
        ({"text": []}, "instruction_missing"),
        ([], "record_broken"),
        ("{ no json", "record_broken"),
    ],
)
def test_what_cannot_be_used_is_a_row_that_says_why(tmp_path, entry, reason):
    put(tmp_path / "in", "a", [shape(SQUARE)])
    put(tmp_path / "in", "b", [shape(SQUARE)])
    path = tmp_path / "in" / "a.json"
    if isinstance(entry, dict):
        entry = {**json.loads(path.read_text()), **entry}
    path.write_text(entry if isinstance(entry, str) else json.dumps(entry))
    rows = convert("reasonseg", tmp_path / "in", tmp_path / "gold", images=None)
    assert [code for _, code in problems(rows)] == [reason]
    assert [row.status for row in rows] == ["rejected_input", "ok"]


def test_an_image_that_is_not_there_is_a_row_for_each_question(tmp_path):
    put(tmp_path / "in", "a", [shape(SQUARE)], ["one?", "two?"])
    (tmp_path / "in" / "a.jpg").unlink()
    rows = convert("reasonseg", tmp_path / "in", tmp_path / "gold", images=None)
    assert problems(rows) == [("one?", "image_missing"), ("two?", "image_missing")]


def test_what_was_imported_goes_out_again_as_it_was(tmp_path):
    folder = tmp_path / "in"
    slanted = [[10.7, 8.2], [70.5, 12.9], [44.1, 55.5], [30, 30.9]]
    put(folder, "a", [shape(SQUARE), shape(INNER, "ignore")], ["What  floats?", "What swims?"])
    put(folder, "b", [shape(slanted), shape(BESIDE)], ["the boat"], is_sentence=False)
    put(folder, "c", [shape(SQUARE, "ignore")])
    ring = [shape(slanted), shape(INNER, "ignore")]
    put(folder, "d", ring)
    (folder / "d.jpg").write_bytes((FOLDER / "000000122745.jpg").read_bytes())  # a real photo
    rows = convert("reasonseg", folder, tmp_path / "gold", images=None)
    archive = export("reasonseg", tmp_path / "gold", tmp_path / "again.zip")
    again = tmp_path / "again"
    zipfile.ZipFile(archive).extractall(again)
    assert not (again / "c.json").exists(), "where nobody answered, nothing goes out"
    for stem in "abd":
        old, new = (json.loads((each / f"{stem}.json").read_text()) for each in (folder, again))
        assert (new["text"], new["is_sentence"]) == (old["text"], old["is_sentence"])
    gold = convert("reasonseg", again, tmp_path / "gold2", images=folder)
    rows = [row for row in rows if row.status != "partial"]
    assert_same_labels(rows, gold)
    assert sum(target.area for row in gold for target in row.targets) > 0
    for row, other in zip(rows, gold, strict=True):
        for mask, same in zip(masks(row), masks(other), strict=True):
            assert np.array_equal(mask, same)


def test_a_folder_without_questions_is_refused(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    convert("reasonseg", tmp_path / "in", tmp_path / "gold", images=None, code=2)
    assert "no file ending in .json" in capsys.readouterr().err
