"""What a table asks, as records that another model is asked by."""

from dataclasses import replace

from tests.gold import FOLDER, convert, export
from tests.labels import label_photos
from tests.records import read_lines
from tests.test_coco import commit
from workers.exports.formats import export_table
from workers.exports.records import INSIDE, check_records
from workers.labels.parts import LabelTable
from workers.storage.local import LocalStore


def test_questions_are_read_as_they_were_asked(tmp_path):
    gold = convert("coco", FOLDER / "instances.json", tmp_path / "gold")
    lines = export("records", tmp_path / "gold", tmp_path / "asked.jsonl").read_text().splitlines()
    assert len(lines) == 8
    asked = {
        (record.image.uri, each.text, each.instruction_id, each.kind, each.classes)
        for record in read_lines(*lines, roots=[f"{FOLDER}"])
        for each in record.instructions
    }
    assert asked == {
        (
            row.image_uri,
            row.instruction,
            row.instruction_id,
            row.instruction_kind,
            tuple(row.requested_classes or ()),
        )
        for row in gold
    }


def test_pictures_that_a_list_can_not_name_are_counted(tmp_path):
    rows = [replace(row, image_member="1.jpg") for row in label_photos()]
    rows[0] = replace(rows[0], image_member=None)
    store, output = LocalStore(), f"{tmp_path}/labels"
    table = LabelTable(store, output, [commit(store, rows, output=output)])
    summary = export_table("records", table, store, f"{tmp_path}/asked.jsonl")
    assert (summary.images, summary.others) == (1, {"questions": 1})
    assert summary.left_out == {INSIDE: len(rows) - 1}


def test_a_line_that_would_not_be_read_is_found(tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text('{"image": "a.jpg", "instructions": [{"text": "the dog", "colour": "red"}]}\n')
    assert "an instruction has no field 'colour'" in check_records(path)[0]
