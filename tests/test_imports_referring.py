import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.gold import (
    PHOTOS,
    assert_same_labels,
    code,
    convert,
    draw,
    export,
    instances,
    masks,
    pixels,
    problems,
    write,
)
from tests.photos import FOLDER
from workers.imports.wording import NOTHING


def source(tmp_path):
    """A photo with polygons, and a drawn scene with masks in each other form."""
    (scene,) = draw(tmp_path / "images", 1)
    photo = PHOTOS[1]
    shutil.copy(FOLDER / photo["file_name"], tmp_path / "images")
    Image.fromarray(scene.masks[0]).save(tmp_path / "images" / "mask.png")
    first, second = instances(photo)[:2]
    entries = [
        {
            "image": photo["file_name"],
            "expression": "The  first",
            "polygons": first["segmentation"],
        },
        {
            "image": scene.name,
            "expression": scene.names[0],
            "mask": code(scene.masks[0], plain=False),
            "id": "mine",
        },
        {"image": scene.name, "expression": "as a picture", "mask": "mask.png"},
        {
            "image": scene.name,
            "expression": "both things",
            "masks": [code(mask) for mask in scene.masks[:2]],
            "answer": "One is {seg}, and the other is {seg}.",
        },
        {
            "image": photo["file_name"],
            "expression": "in pairs",
            "polygons": [np.reshape(part, (-1, 2)).tolist() for part in second["segmentation"]],
            "answer": "It is the second [SEG].",
        },
        {"image": scene.name, "expression": "a dragon", "masks": []},
    ]
    return write(tmp_path / "refs.json", entries), scene, (first, second)


def test_masks_in_every_form_are_read(tmp_path):
    path, scene, (first, second) = source(tmp_path)
    rows = convert("referring", path, tmp_path / "gold", images=tmp_path / "images")
    assert [row.status for row in rows] == ["ok"] * 5 + ["empty"]
    size = PHOTOS[1]["height"], PHOTOS[1]["width"]
    wanted = [
        [pixels(first["segmentation"], *size)],
        [scene.masks[0]],
        [scene.masks[0]],
        list(scene.masks[:2]),
        [pixels(second["segmentation"], *size)],
        [],
    ]
    for row, drawn in zip(rows, wanted, strict=True):
        for mask, true in zip(masks(row), drawn, strict=True):
            assert np.array_equal(mask, true)
    assert rows[0].instruction == "The first", "cleaned"
    assert rows[1].source_id == "mine"
    assert rows[1].targets[0].phrase == scene.names[0]
    assert rows[1].targets[0].phrase_source == "instruction"
    assert rows[3].answer_text == "One is [SEG], and the other is [SEG]."
    assert rows[5].answer_text == NOTHING


def test_what_was_imported_goes_out_again_as_it_was(tmp_path):
    path, _, _ = source(tmp_path)
    rows = convert("referring", path, tmp_path / "gold", images=tmp_path / "images")
    again = export("referring", tmp_path / "gold", tmp_path / "again.json")
    before, document = json.loads(path.read_text()), json.loads(again.read_text())
    for key in ("image", "expression", "answer", "id"):
        assert [each.get(key) for each in document] == [each.get(key) for each in before]
    gold = convert("referring", again, tmp_path / "gold2", images=tmp_path / "images")
    assert_same_labels(rows, gold)


def broken():
    whole = {"image": PHOTOS[1]["file_name"], "expression": "it", "polygons": [[1, 1, 9, 1, 9, 9]]}
    yield {**whole, "polygons": [[1, 1, 9, 1]]}, "mask_broken"
    yield {**whole, "polygons": [[1, 1, 9, 1, 9]]}, "mask_broken"
    yield {**whole, "polygons": [["a", 1, 9, 1, 9, 9]]}, "mask_broken"
    yield {**whole, "polygons": []}, "mask_broken"
    yield {"image": whole["image"], "expression": "it"}, "mask_broken"
    yield {**whole, "masks": {}}, "mask_broken"
    yield {**whole, "mask": {"size": [2, 2], "counts": "04"}}, "mask_wrong_size"
    yield {**whole, "mask": {"size": [480, 640], "counts": "\x80"}}, "mask_broken"
    yield {**whole, "mask": {"size": [480, 640], "counts": [-1, 307201]}}, "mask_broken"
    yield {**whole, "mask": {"size": [480, 640], "counts": [10**30]}}, "mask_broken"
    yield {**whole, "mask": {"size": [480, 640], "counts": []}}, "mask_broken"
    yield {**whole, "mask": "gone.png"}, "mask_broken"
    yield {**whole, "mask": "../secret.png"}, "image_refused"
    yield {**whole, "mask": PHOTOS[0]["file_name"]}, "mask_wrong_size"
    yield {**whole, "answer": "no mark"}, "answer_mismatch"
    yield {**whole, "answer": "[SEG] and {seg}"}, "answer_mismatch"
    yield {**whole, "expression": None}, "instruction_invalid"
    yield {**whole, "expression": "x" * 3000}, "instruction_invalid"
    yield {**whole, "image": "http://example.com/a.jpg"}, "image_refused"
    yield {**whole, "image": 7}, "image_refused"
    yield [], "record_broken"


@pytest.mark.parametrize(("entry", "reason"), list(broken()))
def test_what_cannot_be_used_is_a_row_that_says_why(tmp_path, entry, reason):
    whole = {"image": PHOTOS[1]["file_name"], "expression": "it", "polygons": [[1, 1, 9, 1, 9, 9]]}
    rows = convert("referring", write(tmp_path / "refs.json", [entry, whole]), tmp_path / "gold")
    assert [code for _, code in problems(rows)] == [reason]
    assert [row.status for row in rows] == ["rejected_input", "ok"]
