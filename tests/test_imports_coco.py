import json

import numpy as np
import pytest

from jobs.evaluate import main as evaluate_main
from tests.gold import (
    CATEGORIES,
    COCO,
    PHOTOS,
    assert_same_labels,
    convert,
    export,
    instances,
    masks,
    pixels,
    write,
)
from tests.gold import problems as problems_of
from workers.imports.wording import NOTHING
from workers.labels.rle import decode_mask
from workers.labels.targets import IGNORE_REGION
from workers.training.examples import Example, Skipped, read_example

NAME_FORM = "What is {} in this image? Please output segmentation mask."


def source(tmp_path, document=COCO):
    return write(tmp_path / "instances.json", document)


def test_every_category_of_an_image_is_asked_and_has_all_its_masks(tmp_path):
    rows = convert("coco", source(tmp_path), tmp_path / "gold", "--absent", "0")
    order = [image["file_name"] for image in COCO["images"]]
    assert list(dict.fromkeys(row.image_uri.rpartition("/")[2] for row in rows)) == order
    for image in PHOTOS:
        of_image = [row for row in rows if row.image_uri.endswith(image["file_name"])]
        named = dict.fromkeys(CATEGORIES[each["category_id"]] for each in instances(image))
        asked = [row.instruction for row in of_image if row.status == "ok"]
        assert asked == [NAME_FORM.format(name) for name in named]
        for row in of_image:
            (name,) = row.requested_classes
            drawn = [each for each in instances(image) if CATEGORIES[each["category_id"]] == name]
            kept = [target for target in row.targets if IGNORE_REGION not in target.flags]
            assert {target.category for target in kept} <= {name}
            assert {target.category_id for target in kept} <= {
                number for number, each in CATEGORIES.items() if each == name
            }
            for mask, each in zip(masks(row), drawn, strict=False):
                wanted = pixels(each["segmentation"], image["height"], image["width"])
                assert np.array_equal(mask, wanted)
            assert len(kept) == len(drawn)


def test_all_of_a_category_can_be_one_mask(tmp_path):
    flags = ("--absent", "0", "--mask-of", "category")
    rows = convert("coco", source(tmp_path), tmp_path / "gold", *flags)
    apart = convert("coco", source(tmp_path), tmp_path / "apart", "--absent", "0")
    assert any(len(masks(row)) > 2 for row in apart)
    for row, instances_row in zip(rows, apart, strict=True):
        assert row.instruction == instances_row.instruction
        kept = [each for each in instances_row.targets if IGNORE_REGION not in each.flags]
        assert row.answer_text.count("[SEG]") == min(1, len(kept))
        assert len(row.targets) == min(1, len(kept)) + len(instances_row.targets) - len(kept)
        if kept:
            together = np.logical_or.reduce(masks(instances_row)[: len(kept)])
            assert np.array_equal(masks(row)[0], together)
            assert row.targets[0].category_id == kept[0].category_id


def test_a_crowd_is_a_region_to_ignore_and_no_mask_of_the_answer(tmp_path, capsys):
    rows = convert("coco", source(tmp_path), tmp_path / "gold")
    told = f"masks      {sum(len(row.targets) for row in rows)}, with 1 regions to ignore in the"
    assert told in capsys.readouterr().out
    (crowd,) = [each for each in COCO["annotations"] if each["iscrowd"]]
    name = CATEGORIES[crowd["category_id"]]
    (image,) = [each for each in PHOTOS if each["id"] == crowd["image_id"]]
    (row,) = [row for row in rows if "ignore_region" in row.qa_flags]
    assert row.requested_classes == (name,)
    assert row.image_uri.endswith(image["file_name"])
    *others, region = row.targets
    assert region.flags == (IGNORE_REGION,)
    assert all(IGNORE_REGION not in target.flags for target in others)
    assert row.answer_text.count("[SEG]") == len(others) == row.n_targets - 1
    wanted = pixels(crowd["segmentation"], image["height"], image["width"])
    assert np.array_equal(masks(row)[-1], wanted)
    document = json.loads(export("coco", tmp_path / "gold", tmp_path / "coco.json").read_text())
    assert "1 regions to ignore" in capsys.readouterr().out
    (back,) = [each for each in document["annotations"] if each["iscrowd"]]
    assert len(document["annotations"]) == 1 + sum(len(instances(image)) for image in PHOTOS)
    assert back["category_id"] == crowd["category_id"]
    code = back["segmentation"]
    assert np.array_equal(decode_mask(tuple(code["size"]), code["counts"]), wanted)


def test_categories_that_an_image_has_not_are_asked_in_vain(tmp_path):
    rows = convert("coco", source(tmp_path), tmp_path / "gold", "--absent", "2")
    empty = [row for row in rows if row.status == "empty" and not row.targets]
    assert len(empty) == 2 * len(PHOTOS)
    assert {row.answer_text for row in empty} == {NOTHING}
    for row in empty:
        image = next(each for each in PHOTOS if row.image_uri.endswith(each["file_name"]))
        there = {
            CATEGORIES[each["category_id"]] for each in instances(image) + instances(image, True)
        }
        assert there.isdisjoint(row.requested_classes)
    asked = {row.requested_classes for row in empty}
    assert len(asked) > 4, "not always the same ones"


def test_of_an_image_that_says_what_it_has_not_nothing_else_is_asked_in_vain(tmp_path):
    present = {each["category_id"] for each in instances(PHOTOS[0])}
    away = sorted(CATEGORIES.keys() - present)[0]
    image = {**PHOTOS[0], "neg_category_ids": [away, 10**9]}
    path = source(tmp_path, {**COCO, "images": [image], "annotations": instances(PHOTOS[0])})
    rows = convert("coco", path, tmp_path / "gold", "--absent", "5")
    assert [row.requested_classes for row in rows if row.status == "empty"] == [(CATEGORIES[away],)]


def test_images_of_lvis_are_found_by_the_end_of_their_address(tmp_path):
    plain = convert("coco", source(tmp_path), tmp_path / "gold")
    named = [{**image} for image in PHOTOS]
    for image in named:
        del image["file_name"]
    assert all(image["coco_url"].startswith("http://") for image in named)
    path = write(tmp_path / "lvis.json", {**COCO, "images": named})
    lvis = convert("coco", path, tmp_path / "lvis")
    assert {row.status for row in lvis} == {"ok", "empty"}
    assert masks_of(lvis) == masks_of(plain)


def small(photo, annotations, categories, **more):
    """A COCO file about one photo: (category id, box as x, y, w, h, iscrowd) each."""
    return {
        "images": [{**photo, **more}],
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
        "annotations": [
            {
                "id": number,
                "image_id": photo["id"],
                "category_id": category,
                "iscrowd": int(crowd),
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            }
            for number, (category, (x, y, w, h), crowd) in enumerate(annotations, start=5)
        ],
    }


def test_a_crowd_alone_is_neither_there_nor_not(tmp_path):
    boxes = [(7, (10, 10, 30, 20), True), (9, (60, 60, 20, 20), False)]
    path = source(tmp_path, small(PHOTOS[0], boxes, {7: "person", 9: "dog"}))
    rows = {row.requested_classes: row for row in convert("coco", path, tmp_path / "gold")}
    crowd, dog = rows[("person",)], rows[("dog",)]
    assert (crowd.status, crowd.answer_text, crowd.n_targets) == ("partial", None, 1)
    assert (dog.status, dog.n_targets) == ("ok", 1)
    assert isinstance(read_example(crowd), Skipped)  # no model learns that nobody is there
    assert isinstance(read_example(dog), Example)
    back = json.loads(export("coco", tmp_path / "gold", tmp_path / "back.json").read_text())
    assert {(each["category_id"], each["iscrowd"]) for each in back["annotations"]} == {
        (7, 1),
        (9, 0),
    }
    assert "neg_category_ids" not in back["images"][0]
    muse = json.loads(export("muse", tmp_path / "gold", tmp_path / "muse.json").read_text())
    assert "person" not in json.dumps(muse)


def test_a_crowd_alone_is_not_scored(tmp_path, capsys):
    boxes = [(7, (10, 10, 30, 20), True), (9, (60, 60, 20, 20), False)]
    path = source(tmp_path, small(PHOTOS[0], boxes, {7: "person", 9: "dog"}))
    convert("coco", path, tmp_path / "gold")
    place = str(tmp_path / "gold")
    flags = ["--gold", place, "--labels", place, "--output", str(tmp_path / "scores.json")]
    assert evaluate_main(flags) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["groups"]["all"]["sums"]["questions"] == 1
    assert scores["told"]["gold rows without an answer"] == 1


@pytest.mark.parametrize(
    ("first", "twin", "asked"),
    [
        ("Person", "person", "the person"),
        ("person", "person ", "the person"),
        ("traffic light", "Traffic  Light", "the traffic light"),
        ("caf\u00e9", "CAFE\u0301", "the caf\u00e9"),
    ],
)
def test_categories_that_are_asked_for_alike_are_one_question(tmp_path, first, twin, asked):
    """Two would have the same words, and other masks."""
    boxes = [(3, (10, 10, 30, 20), False), (33, (60, 60, 20, 20), False)]
    names = {3: first, 33: twin, 4: "Car", 44: " car"}
    path = source(tmp_path, small(PHOTOS[0], boxes, names))
    rows = convert("coco", path, tmp_path / "gold", "--absent", "5", "--name-form", "the {}")
    assert [(row.instruction, row.status, row.n_targets) for row in rows] == [
        (asked, "ok", 2),
        ("the car", "empty", 0),
    ]
    back = json.loads(export("coco", tmp_path / "gold", tmp_path / "back.json").read_text())
    assert sorted(each["category_id"] for each in back["annotations"]) == [3, 33]
    assert back["images"][0]["neg_category_ids"] == [4]
    assert {each["id"]: each["name"] for each in back["categories"]} == {
        3: first,
        33: twin,
        4: "Car",
    }


@pytest.mark.parametrize("form", ["{}", "What is {} in this image?"])
def test_a_category_whose_name_can_not_be_asked_for_is_a_row_that_says_so(tmp_path, form):
    names = {3: "</s>", 33: "\u200b", 9: "x" * 1001}
    boxes = [(category, (10, 10, 30, 20), False) for category in names]
    path = source(tmp_path, small(PHOTOS[0], boxes, names))
    rows = convert("coco", path, tmp_path / "gold", "--name-form", form)
    assert [row.error_code for row in rows] == ["instruction_invalid"] * 3


def test_a_category_that_is_refused_takes_no_name(tmp_path):
    """Its id was there before; the next one of that name is another category."""
    document = small(PHOTOS[0], [(9, (60, 60, 20, 20), False)], {3: "person", 9: "dog"})
    document["categories"].insert(1, {"id": 3, "name": "dog"})
    rows = convert("coco", source(tmp_path, document), tmp_path / "gold")
    asked = {row.requested_classes: row.status for row in rows if row.requested_classes}
    assert asked == {("dog",): "ok", ("person",): "empty"}


def test_a_list_of_what_an_image_has_not_may_name_a_twin(tmp_path):
    names = {3: "Person", 33: "person", 9: "dog"}
    boxes = [(9, (60, 60, 20, 20), False)]
    document = small(PHOTOS[0], boxes, names, neg_category_ids=[33])
    rows = convert("coco", source(tmp_path, document), tmp_path / "gold")
    assert [row.requested_classes for row in rows if row.status == "empty"] == [("Person",)]
    document = small(PHOTOS[0], [(3, (60, 60, 20, 20), False)], names, neg_category_ids=[33])
    rows = convert("coco", source(tmp_path, document), tmp_path / "gold 2")
    assert [row.status for row in rows] == ["ok"], "a twin is there"


def test_a_crowd_without_a_pixel_is_neither_there_nor_not(tmp_path):
    document = small(PHOTOS[0], [(7, (10_000, 10, 5, 5), True)], {7: "person"})
    (row,) = convert("coco", source(tmp_path, document), tmp_path / "gold")
    assert (row.status, row.targets) == ("partial", ())
    back = json.loads(export("coco", tmp_path / "gold", tmp_path / "back.json").read_text())
    assert "neg_category_ids" not in back["images"][0]


def test_a_category_keeps_the_id_0(tmp_path):
    path = source(tmp_path, small(PHOTOS[0], [(0, (10, 10, 30, 20), False)], {0: "boat", 1: "man"}))
    convert("coco", path, tmp_path / "gold")
    back = json.loads(export("coco", tmp_path / "gold", tmp_path / "back.json").read_text())
    assert back["categories"] == [{"id": 0, "name": "boat"}, {"id": 1, "name": "man"}]
    assert back["annotations"][0]["category_id"] == 0
    assert back["images"][0]["neg_category_ids"] == [1]


@pytest.mark.parametrize(
    ("rule", "absent"),
    [
        ("phrase", [["cat", "cow"], ["cat", "cow", "dog"]]),
        ("object", [None, None]),
        ({"dog": "animal", "cat": "animal", "cow": "animal"}, [None, None]),
        ({"dog": "pet", "*": "other"}, [None, ["pet"]]),
        ({"dog": "pet", "cow": "cattle", "*": "other"}, [["cattle"], ["cattle", "pet"]]),
    ],
)
def test_what_was_asked_in_vain_is_said_only_of_its_own_category(tmp_path, rule, absent):
    boxes = [(9, (60, 60, 20, 20), False)]
    document = small(PHOTOS[0], boxes, {9: "dog", 10: "cat", 11: "cow"})
    document["images"].append(PHOTOS[1])  # with nothing in it
    convert("coco", source(tmp_path, document), tmp_path / "gold")
    if isinstance(rule, dict):
        (tmp_path / "map.json").write_text(json.dumps(rule))
        rule = str(tmp_path / "map.json")
    flags = ("--categories", rule)
    back = json.loads(export("coco", tmp_path / "gold", tmp_path / "back.json", *flags).read_text())
    names = {each["id"]: each["name"] for each in back["categories"]}
    by_name = {image["file_name"]: image for image in back["images"]}
    images = [by_name[each["file_name"]] for each in document["images"]]
    found = [image.get("neg_category_ids") for image in images]
    assert [ids and sorted(names[each] for each in ids) for ids in found] == absent


def masks_of(rows):
    return {
        (row.image_uri, target.category, target.rle_counts)
        for row in rows
        for target in row.targets
    }


@pytest.mark.parametrize("segmentation", ["rle", "polygon"])
def test_what_goes_out_as_coco_comes_back_the_same(tmp_path, segmentation):
    rows = convert("coco", source(tmp_path), tmp_path / "gold", "--absent", "3")
    flags = ("--segmentation", segmentation)
    path = export("coco", tmp_path / "gold", tmp_path / "coco.json", *flags)
    again = convert("coco", path, tmp_path / "again", "--absent", "3")
    kept = [row for row in rows if row.status != "rejected_input"]
    assert_same_labels(by_question(kept), by_question(again))
    assert {row.status for row in again} == {"ok", "empty"}
    document = json.loads(path.read_text())
    categories = {each["id"]: each["name"] for each in document["categories"]}
    assert categories.items() <= CATEGORIES.items()
    assert document["info"] == {"description": "labels written by pixellm-workers"}


def by_question(rows):
    return sorted(rows, key=lambda row: (row.image_sha256, row.instruction))


def broken():
    image, annotation = PHOTOS[0], instances(PHOTOS[0])[0]
    polygon = {**annotation, "segmentation": [[1, 1, 2, 2]]}
    yield {"annotations": [polygon]}, ["mask_broken"]
    yield {"annotations": [{**annotation, "category_id": 10**9}]}, ["annotation_missing"]
    yield {"annotations": [{**annotation, "category_id": None}]}, ["annotation_missing"]
    yield {"annotations": [{**annotation, "image_id": 10**9}]}, ["annotation_missing"]
    yield {"annotations": [annotation, annotation]}, ["record_broken"]
    yield {"annotations": [{"id": 1}]}, ["record_broken"]
    yield {"annotations": [7]}, ["record_broken"]
    yield {"images": [image, {"id": 5}]}, ["image_not_named"]
    yield {"images": [image, {"id": 5, "file_name": "gone.jpg"}]}, ["image_missing"]
    yield {"images": [image, image]}, ["record_broken"]


@pytest.mark.parametrize(("change", "reasons"), list(broken()))
def test_what_cannot_be_used_is_a_row_that_says_why(tmp_path, change, reasons):
    document = {**COCO, "images": PHOTOS[:1], "annotations": instances(PHOTOS[0]), **change}
    rows = convert("coco", source(tmp_path, document), tmp_path / "gold", "--absent", "0")
    assert [code for _, code in problems_of(rows) if code != "instruction_missing"] == reasons


def test_masks_without_a_pixel_are_told(tmp_path, capsys):
    far = {**instances(PHOTOS[0])[0], "segmentation": [[-9, -9, -5, -9, -5, -5]]}
    document = {**COCO, "images": PHOTOS[:1], "annotations": [far]}
    (row,) = convert("coco", source(tmp_path, document), tmp_path / "gold", "--absent", "0")
    assert row.targets[0].area == 0
    assert "1 rows have a mask without a pixel (flag `empty_mask`)" in capsys.readouterr().err


def test_a_file_without_images_is_no_coco_file(tmp_path, capsys):
    convert("coco", write(tmp_path / "x.json", [{"image": "a.jpg"}]), tmp_path / "gold", code=2)
    assert "no `images`" in capsys.readouterr().err
