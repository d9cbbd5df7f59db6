"""Tables that a model made, in the forms of questions and answers, and read again."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests.gold import convert, masks, write
from tests.labels import ATTEMPT, label_photos, make_answer, make_record
from tests.photos import load_photos
from tests.test_coco import commit
from workers.errors import SettingsError
from workers.exports.formats import FORMATS, export_table
from workers.exports.reasonseg import OTHER_PIXELS
from workers.exports.settings import ExportSettings
from workers.labels.parts import LabelTable
from workers.labels.rows import answer_row, rejected_rows
from workers.records.instructions import make_instruction
from workers.records.pictures import PictureLimits, decode_picture
from workers.records.rejections import Rejection
from workers.storage.local import LocalStore

FORMS = ("muse", "referring", "refcoco")


def export(form, rows, tmp_path):
    """Exports rows that lie in two parts; the file and what was told."""
    store, output = LocalStore(), str(tmp_path / "labels")
    parts = [commit(store, rows[n::2], output=output, shard_id=f"{n:020}") for n in range(2)]
    path = tmp_path / f"out.{form}"
    summary = export_table(form, LabelTable(store, output, parts), store, str(path))
    return path, summary


def read_back(form, path, tmp_path):
    if form == "reasonseg":
        zipfile.ZipFile(path).extractall(tmp_path / "files")
        path = tmp_path / "files"
    return convert(form, path, tmp_path / "gold")


def by_image(rows):
    return sorted(rows, key=lambda row: (row.image_sha256, row.instruction))


@pytest.mark.parametrize("form", FORMS)
def test_answers_of_a_model_can_be_written_and_read_again(form, tmp_path):
    rows = label_photos()
    path, summary = export(form, rows, tmp_path)
    assert summary.images == len(rows)
    assert summary.masks == sum(row.n_targets for row in rows)
    flags = [row for row in read_back(form, path, tmp_path) if "multi" not in row.instruction_kind]
    for row, other in zip(by_image(rows), by_image(flags), strict=True):
        assert row.image_sha256 == other.image_sha256
        assert row.instruction in other.instruction
        for mask, same in zip(masks(row), masks(other), strict=True):
            assert np.array_equal(mask, same)
        if form != "refcoco":  # which has no texts
            assert row.answer_text == other.answer_text


def test_reasonseg_has_all_masks_of_an_answer_as_one(tmp_path):
    rows = label_photos()
    path, _ = export("reasonseg", rows, tmp_path)
    for row, other in zip(
        by_image(rows), by_image(read_back("reasonseg", path, tmp_path)), strict=True
    ):
        assert other.instruction == row.instruction
        (mask,) = masks(other)
        assert np.array_equal(mask, np.logical_or.reduce(masks(row)))


def several(photo, record, *answers):
    """Rows of one record with several questions."""
    facts = decode_picture(photo.data, PictureLimits()).facts()
    rows = []
    for number, answer in enumerate(answers):
        asked = make_instruction(f"question {number}")
        rows.append(answer_row(replace(record, instructions=(asked,)), facts, answer, ATTEMPT, 1.0))
    return rows


def photo_rows():
    photo = next(photo for photo in load_photos() if len(photo.masks) > 3)
    record = make_record(f"s3://b/in/{photo.name}")
    rows = several(
        photo,
        record,
        make_answer(photo.masks[:2]),
        make_answer(photo.masks[:2][::-1]),  # other marks, the same pixels
        make_answer(photo.masks[2:3]),
        make_answer([]),
    )
    return photo, rows


def test_questions_of_one_record_stay_together(tmp_path):
    photo, rows = photo_rows()
    store, output = LocalStore(), str(tmp_path / "labels")
    table = LabelTable(store, output, [commit(store, rows, output=output)])
    export_table("muse", table, store, str(tmp_path / "muse.json"))
    (entry,) = json.loads((tmp_path / "muse.json").read_text())
    assert entry["file_name"] == photo.name
    assert entry["questions"] == [f"question {number}" for number in range(4)]
    assert [len(answer) for answer in entry["answers"]] == [2, 2, 1, 0]
    assert entry["text_answers"][0] == "it is {seg}.it is {seg}."
    assert len(entry["ann_list"]) == 3, "each mask one time"
    summary = export_table("reasonseg", table, store, str(tmp_path / "files.zip"))
    assert summary.others == {"questions": 2}
    assert summary.left_out == {OTHER_PIXELS: 2}


def test_a_file_of_reasonseg_is_of_names_or_of_sentences(tmp_path):
    _, rows = photo_rows()
    same = [replace(rows[0], instruction=f"it, {at}") for at in range(3)]
    same[1] = replace(same[1], instruction_kind="referring")
    assert same[0].instruction_kind != "referring"
    store, output, path = LocalStore(), str(tmp_path / "labels"), tmp_path / "files.zip"
    table = LabelTable(store, output, [commit(store, same, output=output)])
    summary = export_table("reasonseg", table, store, str(path))
    with zipfile.ZipFile(path) as archive:
        (entry,) = (json.loads(archive.read(name)) for name in archive.namelist())
    assert entry["text"] == ["it, 0", "it, 2"]
    assert summary.left_out == {OTHER_PIXELS: 1}


def test_the_official_loader_can_decode_the_masks_of_a_muse_file(tmp_path):
    rows = label_photos()
    path, _ = export("muse", rows, tmp_path)
    names = {row.image_uri.rpartition("/")[2]: row for row in rows}
    for entry in json.loads(path.read_text()):
        for instance, mask in zip(
            entry["answers"][0], masks(names[entry["file_name"]]), strict=True
        ):
            packed = coco_mask.frPyObjects(
                instance["segmentation"], entry["height"], entry["width"]
            )
            assert coco_mask.area(packed) == mask.sum() == instance["area"]
            assert {"category_id", "category_name", "bbox"} <= instance.keys()
            assert instance["category_id"] is None, "a model's masks are of no file's category"


@pytest.mark.parametrize("form", [*FORMS, "reasonseg"])
def test_what_is_no_whole_answer_is_left_out_and_counted(form, tmp_path):
    photo, rows = photo_rows()
    record = make_record(f"s3://b/in/{photo.name}", make_instruction("another"), index=1)
    (rejected,) = rejected_rows(record, Rejection("image_broken", "cut off"), ATTEMPT)
    odd = replace(rows[0], answer_text="only one [SEG]", row_index=2)
    cut = replace(rows[0], status="partial", answer_text="The mug is", targets=(), row_index=3)
    named = replace(rows[0], status="partial", row_index=4)
    path, summary = export(form, [rows[0], rejected, odd, cut, named], tmp_path)
    assert summary.left_out["rows without an answer"] == 2
    assert summary.left_out["answers that are not whole"] == 1
    assert summary.left_out["answers whose text marks other targets than they have masks"] == 1
    assert path.exists()


@pytest.mark.parametrize("form", [*FORMS, "reasonseg"])
def test_a_table_without_answers_is_a_file_without_entries(form, tmp_path):
    path, summary = export(form, [], tmp_path)
    assert (summary.images, summary.masks) == (0, 0)
    assert FORMATS[form].check(path) == []


ASKED = {"height": 1, "width": 1, "questions": ["a"], "text_answers": [None]}
NO_CODE = {"size": [1, 1], "counts": "9"}


@pytest.mark.parametrize(
    ("form", "document"),
    [
        ("muse", [7]),
        ("muse", [{**ASKED, "answers": []}]),
        ("muse", [{**ASKED, "answers": [[]], "text_answers": ["{seg}"]}]),
        ("muse", [{**ASKED, "answers": [[{"segmentation": {"size": [1, 1], "counts": [2]}}]]}]),
        ("muse", [{**ASKED, "answers": [[{"segmentation": {"size": [1, 2], "counts": [2]}}]]}]),
        ("referring", [{"image": "a", "expression": "", "masks": []}]),
        ("referring", [{**ASKED, "image": "a", "expression": "b", "mask": NO_CODE}]),
        ("refcoco", {"annotations": [{"area": 1, "segmentation": NO_CODE}]}),
        ("refcoco", {"annotations": [{"area": 1, "segmentation": {**NO_CODE, "counts": "1"}}]}),
        ("refcoco", {"refs": [{"sentences": []}]}),
        ("reasonseg", "no archive"),
    ],
)
def test_a_file_that_is_not_sound_is_found_out(form, document, tmp_path):
    path = write(tmp_path / "file", document)
    assert len(FORMATS[form].check(path)) == 1
    path.write_text(path.read_text()[:-1])  # cut off
    assert FORMATS[form].check(path) != []


def test_flags_that_mean_nothing_to_a_form_are_refused():
    with pytest.raises(SettingsError, match="--min-score means nothing for --to muse"):
        ExportSettings.from_flags(
            ["--labels", "a", "--output", "b", "--to", "muse", "--min-score", "0.5"], "x"
        )
