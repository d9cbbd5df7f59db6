import contextlib
import copy
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jobs.export import main
from tests.labels import ATTEMPT, label_photo, label_photos, make_answer, make_record
from tests.photos import load_photos
from workers.errors import ExportError
from workers.exports.categories import read_category_map
from workers.exports.coco_check import validate_coco
from workers.exports.formats import FORMATS, Format, export_run, export_table
from workers.exports.selection import ExportOptions, ExportSummary
from workers.exports.settings import ExportSettings
from workers.labels.commits import Ledger
from workers.labels.origins import Origin
from workers.labels.parts import LabelTable
from workers.labels.rle import decode_mask, fill_polygons
from workers.labels.rows import answer_row, rejected_rows
from workers.labels.table import PartIdentity, write_part
from workers.labels.targets import IGNORE_REGION
from workers.records.pictures import PictureFacts
from workers.records.rejections import Rejection
from workers.storage.local import LocalStore
from workers.storage.memory import MemoryStore
from workers.storage.s3 import S3Store
from workers.storage.stores import open_store
from workers.storage.uris import written

OUTPUT = "mem://bucket/out"
FILE = "mem://bucket/coco.json"
WHY = Rejection("image_broken", "cut off")


def commit(store, rows, output=OUTPUT, shard_id="1" * 20, run_id="run-1"):
    ledger = Ledger(store, output, run_id)
    part = write_part(rows, PartIdentity(run_id, shard_id, "f"))
    return ledger.commit(shard_id, part, fingerprint="f", source="in", source_etag="e")[0]


def export(rows, options=None, parts=1):
    """Exports rows from several parts, as a run leaves them; returns document and summary."""
    store = MemoryStore()
    commits = [commit(store, rows[n::parts], shard_id=f"{n:020}") for n in range(parts)]
    summary = export_table("coco", LabelTable(store, OUTPUT, commits), store, FILE, options)
    return json.loads(store.get(FILE)), summary


def load(document, tmp_path):
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(document))
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def blob(*corners, shape=(6, 8)):
    mask = np.zeros(shape, dtype=bool)
    for y, x in corners:
        mask[y, x] = True
    return mask


def answered(masks, uri="s3://b/a.jpg", sha256="ab" * 32, **options):
    facts = PictureFacts(sha256, 8, 6, 1)
    return answer_row(make_record(uri), facts, make_answer(masks, **options), ATTEMPT, 1.0)


def rejected(uri, facts=None):
    (row,) = rejected_rows(make_record(uri), WHY, ATTEMPT, facts)
    return row


# ---- what is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("segmentation", ["rle", "polygon"])
def test_an_export_against_itself_has_a_precision_of_one(tmp_path, segmentation):
    document, _ = export(label_photos(), ExportOptions(segmentation), parts=3)
    truth = load(document, tmp_path)
    with contextlib.redirect_stdout(io.StringIO()):
        found = truth.loadRes(copy.deepcopy(document["annotations"]))
        scores = COCOeval(truth, found, "segm")
        scores.params.maxDets = [1, 10, 1000]
        scores.evaluate()
        scores.accumulate()
    precision = scores.eval["precision"][:, :, :, 0, 2]
    assert precision[precision > -1].min() == pytest.approx(1.0)


@pytest.mark.parametrize("segmentation", ["rle", "polygon"])
def test_every_mask_of_the_photos_is_in_the_file_pixel_by_pixel(segmentation):
    document, summary = export(label_photos(), ExportOptions(segmentation), parts=3)
    names = {image["id"]: image["file_name"] for image in document["images"]}
    found = {name: [] for name in names.values()}
    for annotation in document["annotations"]:
        found[names[annotation["image_id"]]].append(annotation)
    for photo in load_photos():
        assert len(found[photo.name]) == len(photo.masks)
        for annotation, mask, phrase in zip(
            found[photo.name], photo.masks, photo.phrases, strict=True
        ):
            given = annotation["segmentation"]
            if segmentation == "rle":
                drawn = decode_mask(tuple(given["size"]), given["counts"])
            else:
                drawn = fill_polygons(given, mask.shape)
            assert np.array_equal(drawn, mask)
            assert annotation["area"] == mask.sum()
            assert annotation["phrase"] == annotation["attributes"]["phrase"] == phrase
    assert summary.masks == sum(len(photo.masks) for photo in load_photos())
    assert summary.left_out == {}


def test_images_are_numbered_by_their_digest_and_annotations_from_one():
    document, _ = export(label_photos(), parts=2)
    assert [image["id"] for image in document["images"]] == list(range(1, 9))
    digests = [image["sha256"] for image in document["images"]]
    assert digests == sorted(digests)
    count = len(document["annotations"])
    assert [each["id"] for each in document["annotations"]] == list(range(1, count + 1))


def test_an_annotation_says_what_was_asked_and_found():
    document, _ = export([answered([blob((1, 2))], phrases=["a cat"], scores=[0.75])])
    (annotation,) = document["annotations"]
    facts = {"score": 0.75, "phrase": "a cat", "instruction": "the cat"}
    assert annotation == {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "segmentation": {"size": [6, 8], "counts": annotation["segmentation"]["counts"]},
        "bbox": [2.0, 1.0, 1.0, 1.0],
        "area": 1,
        "iscrowd": 0,
        **facts,
        "attributes": facts,
    }
    assert document["categories"] == [{"id": 1, "name": "cat"}]


def test_the_same_table_gives_the_same_bytes():
    store = MemoryStore()
    made = [commit(store, label_photos())]
    files = []
    for _ in range(2):
        export_table("coco", LabelTable(store, OUTPUT, made), store, FILE)
        files.append(store.get(FILE))
    assert files[0] == files[1]


def test_one_category_for_all_or_one_from_a_file():
    row = answered([blob((1, 1)), blob((3, 3))], phrases=["a mug", "a plate"])
    document, _ = export([row], ExportOptions(categories="object"))
    assert document["categories"] == [{"id": 1, "name": "object"}]
    rule = read_category_map(b'{"mug": {"id": 7, "name": "cup"}}', "map.json")
    document, summary = export([row], ExportOptions(categories=rule))
    assert document["categories"] == [{"id": 7, "name": "cup"}]
    assert [each["category_id"] for each in document["annotations"]] == [7]
    assert summary.left_out == {"masks that the category file has no line for": 1}


def test_empty_masks_and_low_scores_are_left_out_and_counted():
    row = answered([blob(), blob((1, 1)), blob((3, 3))], scores=[0.9, 0.4, 0.5])
    document, summary = export([row], ExportOptions(min_score=0.5))
    assert [each["score"] for each in document["annotations"]] == [0.5]
    assert summary.left_out == {"empty masks": 1, "masks below the lowest score": 1}
    assert len(document["categories"]) == 1


def test_a_score_that_is_shown_as_the_lowest_one_is_not_below_it():
    row = answered([blob((1, 1))], scores=[0.51])  # 32 bits of it are less than 64
    document, _ = export([row], ExportOptions(min_score=0.51))
    assert [each["score"] for each in document["annotations"]] == [0.51]


def test_a_picture_and_instruction_that_lie_there_twice_are_exported_once():
    rows = [answered([blob((1, 1))], uri) for uri in ("s3://b/x/2.jpg", "s3://b/1.jpg")]
    for parts in (1, 2):
        document, summary = export(rows, parts=parts)
        assert [image["file_name"] for image in document["images"]] == ["1.jpg"]
        assert len(document["annotations"]) == 1
        assert summary.left_out == {"rows that repeat another": 1}


def test_ids_of_another_program_may_be_any_text():
    rows = [replace(answered([blob((1, n))]), item_id=f"row {n}") for n in (1, 2, 2)]
    document, summary = export(rows)
    assert len(document["annotations"]) == 2
    assert summary.left_out == {"rows that repeat another": 1}


def test_a_failure_does_not_hide_the_label_of_the_same_item():
    labelled = answered([blob((1, 1))])
    failed = replace(labelled, status="failed", targets=(), n_targets=0, row_index=-1)
    document, _ = export([failed, labelled])
    assert len(document["annotations"]) == 1


def test_rows_without_labels_are_images_where_their_size_is_known():
    rows = [
        rejected("s3://b/1.jpg"),
        rejected("s3://b/2.jpg", PictureFacts("cd" * 32, 8, 6, 1)),
        rejected("s3://b/3.jpg", PictureFacts("ef" * 32, 0, 0, 0)),
        answered([], "s3://b/4.jpg"),
    ]
    document, summary = export(rows)
    assert [image["file_name"] for image in document["images"]] == ["4.jpg", "2.jpg"]
    assert document["annotations"] == []
    assert summary.left_out == {"rows whose image could not be read": 2}


def test_names_are_paths_below_what_all_images_share_and_never_collide():
    places = [
        ("s3://b/in/x/1.jpg", None),
        ("s3://b/in/y/1.jpg", None),
        ("s3://b/in/a.tar", "1.jpg"),
    ]
    rows = []
    for number, (uri, member) in enumerate(places):
        record = make_record(uri, member=member)
        facts = PictureFacts(f"{number}{number}" * 32, 8, 6, 1)
        rows.append(answer_row(record, facts, make_answer([blob((1, 1))]), ATTEMPT, 1.0))
    document, _ = export(rows)
    assert [image["file_name"] for image in document["images"]] == [
        "x/1.jpg",
        "y/1.jpg",
        "a.tar/1.jpg",
    ]
    assert document["images"][2]["coco_url"] == "s3://b/in/a.tar#1.jpg"


def pictures_at(*places):
    """Rows of as many different pictures, each with one mask; a place is a URI and a member."""
    rows = []
    for number, (uri, member) in enumerate(places):
        record = make_record(uri, member=member)
        facts = PictureFacts(f"{number:x}" * 64, 8, 6, 1)
        rows.append(answer_row(record, facts, make_answer([blob((1, 1))]), ATTEMPT, 1.0))
    return rows


@pytest.mark.parametrize("member", ["x/1.jpg", None])
def test_pictures_of_one_address_are_told_apart_by_their_digest(member):
    """A tar with one name twice; a file that was replaced between two shards."""
    rows = pictures_at(("s3://b/in/a.b", member), ("s3://b/in/a.b", member), ("s3://b/in/c", None))
    names = [image["file_name"] for image in export(rows)[0]["images"]]
    first = "a.b/x/1.{}.jpg" if member else "a.{}.b"
    assert names == [first.format("0" * 8), first.format("1" * 8), "c"]
    again = [image["file_name"] for image in export(rows[::-1], parts=3)[0]["images"]]
    assert again == names


ESCAPED = {
    "no UTF-8, in a tar: the table has ? for it": [
        ("s3://b/a.tar", "x/caf\udce9.jpg"),
        ("s3://b/a.tar", "x/caf\udce8.jpg"),
    ],
    "no UTF-8, and a name that is spelt as its escape": [
        (written(os.fsdecode(b"/in/caf\xe9.jpg")), None),
        ("/in/caf\\xe9.jpg", None),
    ],
    "signatures, which are secret": [
        ("https://host/1.jpg?X-Amz-Signature=0123abcd", None),
        ("https://host/1.jpg?X-Amz-Signature=4567cdef", None),
    ],
}


@pytest.mark.parametrize("places", ESCAPED.values(), ids=ESCAPED)
def test_names_that_differ_only_where_they_are_escaped_collide_no_more(tmp_path, places):
    document, _ = export(pictures_at(*places))
    names = [image["file_name"] for image in document["images"]]
    assert len(set(names)) == 2
    for name, digit in zip(names, "01", strict=True):
        assert digit * 8 in name
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(document))
    assert validate_coco(path) == []


def test_a_name_that_looks_like_a_told_apart_one_collides_with_none():
    taken = ("s3://b/1.00000000.jpg", None)
    document, _ = export(pictures_at(*[("s3://b/1.jpg", None)] * 2, taken))
    names = [image["file_name"] for image in document["images"]]
    assert names == [
        f"1.00000000.{'0' * 64}.jpg",
        "1.11111111.jpg",
        f"1.00000000.{'2' * 64}.jpg",
    ]


def test_the_address_of_a_picture_holds_no_secret():
    signed = "https://host/1.jpg?X-Amz-Signature=0123abcd&X-Amz-Expires=60"
    document, _ = export(pictures_at((signed, None)))
    assert document["images"][0]["coco_url"] == (
        "https://host/1.jpg?X-Amz-Signature=...&X-Amz-Expires=..."
    )
    assert "0123abcd" not in json.dumps(document)


def test_a_table_without_rows_is_a_sound_file():
    document, summary = export([])
    assert (document["images"], document["annotations"], summary.images) == ([], [], 0)


def test_a_broken_mask_in_the_table_stops_the_export():
    row = answered([blob((1, 1))])
    target = replace(row.targets[0], area=2)
    store = MemoryStore()
    made = [commit(store, [replace(row, targets=(target,))])]
    with pytest.raises(ExportError, match="area 2, but its mask has 1 pixels"):
        export_table("coco", LabelTable(store, OUTPUT, made), store, FILE)
    assert list(store.list("mem://bucket/coco.json")) == []


def write_lines(file, table, options):
    """A form as somebody might add it: the phrases of all masks."""
    phrases = [target.phrase for row in table.rows() for target in row.targets]
    file.write(f"{phrases} {options.min_score}".encode())
    return ExportSummary(1, len(phrases), {"lines": 1}, {"b": 2, "nothing": 0, "a": 1})


def check_lines(path):
    return ["no cat in it"] if b"cat" not in path.read_bytes() else []


def test_another_form_is_a_function_that_writes_it_and_a_line_in_the_registry(monkeypatch):
    lines = Format("lines", write_lines, check_lines, "eyes", "lines.txt")
    monkeypatch.setitem(FORMATS, "lines", lines)
    store = MemoryStore()
    masks = [blob((1, 1)), blob((2, 2), (2, 3))]
    commit(store, [answered(masks, phrases=["a cow", "a dog"])], run_id="run-1")
    with pytest.raises(ExportError, match="not sound and was not written: no cat in it"):
        export_run("lines", store, OUTPUT, "run-1", FILE)
    assert list(store.list("mem://bucket/coco.json")) == []
    commit(store, [answered(masks, phrases=["a cat", "a dog"])], run_id="run-2")
    file = "mem://bucket/lines"
    summary = export_run("lines", store, OUTPUT, "run-2", file, ExportOptions(min_score=0.5))
    # the store of the file is the one that its URI names
    assert open_store(file).get(file) == b"['a cat', 'a dog'] 0.5"
    assert summary == ExportSummary(1, 2, {"lines": 1}, {"a": 1, "b": 2})


def test_the_forms_of_the_registry_are_those_that_the_flag_takes():
    field = ExportSettings.model_fields["to"]
    assert get_args(field.annotation) == tuple(FORMATS)
    for name, form in FORMATS.items():
        assert f"{name} ({form.about})" in field.description


def test_files_of_all_forms_may_lie_beside_one_another():
    files = [form.file for form in FORMATS.values()]
    assert len(set(files)) == len(files)


def test_what_one_person_looked_for_in_vain_and_another_has_found_is_not_absent():
    """Two questions about a picture, in other words, of one category: imported, and typed."""
    photo = load_photos()[0]
    found = replace(label_photo(photo), origin="human", requested_classes=("Traffic Light",))
    imported = (
        replace(each, category="Traffic Light", category_id=10, phrase=None)
        for each in found.targets
    )
    found = replace(found, targets=tuple(imported))
    vain = replace(
        found,
        item_id="x" * 40,
        instruction="any traffic light?",
        requested_classes=("traffic light",),
        status="empty",
        targets=(),
        n_targets=0,
    )
    dog = replace(vain, item_id="y" * 40, requested_classes=("dog",))
    document, _ = export([found, vain, dog])
    names = {each["id"]: each["name"] for each in document["categories"]}
    (image,) = document["images"]
    assert [names[each] for each in image["neg_category_ids"]] == ["dog"]
    assert names[10] == "Traffic Light"
    document, _ = export([vain, replace(found, image_sha256="0" * 64)])
    names = {each["id"]: each["name"] for each in document["categories"]}
    found = [image.get("neg_category_ids", []) for image in document["images"]]
    assert [names[each] for ids in found for each in ids] == ["Traffic Light"], "as a file has it"


@pytest.mark.parametrize(
    ("written", "typed"), [("Cafe\u0301", "caf\u00e9"), ("Person", "person"), ("Bus", "the bus.")]
)
def test_an_image_has_not_what_one_person_spells_otherwise_than_another(written, typed):
    found = replace(label_photo(load_photos()[0]), origin="human", requested_classes=(written,))
    of_file = replace(found.targets[0], category=written, category_id=10, phrase=None)
    twin = replace(of_file, target_index=1, category=written.upper(), category_id=11)
    vain = replace(
        found,
        item_id="x" * 40,
        requested_classes=(typed,),
        status="empty",
        targets=(),
        n_targets=0,
    )
    for targets in ((of_file,), (of_file, twin)):
        document, _ = export([replace(found, targets=targets), vain])
        (image,) = document["images"]
        assert not image.get("neg_category_ids")


def looked_for(what, **changes):
    """A row of somebody who looked for a class in the first photo, in vain."""
    row = replace(label_photo(load_photos()[0]), origin="human", status="empty")
    row = replace(row, targets=(), n_targets=0, requested_classes=(what,), item_id=what * 8)
    return replace(row, **changes)


def annotated(name, number, **changes):
    """A row of somebody who found one thing of a file's category in it."""
    found = label_photo(load_photos()[0])
    target = replace(found.targets[0], category=name, category_id=number, phrase=None)
    return replace(found, origin="human", requested_classes=(name,), targets=(target,), **changes)


@pytest.mark.parametrize("order", [1, -1])
def test_who_found_nothing_takes_no_place_of_who_did(order):
    """A file may have a picture under two of its ids, and each with annotations of its own."""
    found = annotated("Bus", 2)
    vain = looked_for("Bus", item_id=found.item_id)
    document, summary = export([vain, found][::order])
    (mask,) = document["annotations"]
    (image,) = document["images"]
    assert mask["category_id"] == 2
    assert "neg_category_ids" not in image
    assert summary.left_out == ({} if order == 1 else {"rows that repeat another": 1})


@pytest.mark.parametrize("order", [1, -1])
def test_who_found_nothing_takes_no_place_of_who_found_a_crowd(order):
    found = annotated("Bus", 2)
    region = replace(found.targets[0], flags=(IGNORE_REGION,))
    crowd = replace(found, status="partial", targets=(region,), n_targets=0)
    cat = looked_for("cat")
    document, _ = export([looked_for("Bus", item_id=found.item_id), cat, crowd][::order])
    (mask,) = document["annotations"]
    (image,) = document["images"]
    names = {each["id"]: each["name"] for each in document["categories"]}
    assert mask["iscrowd"] == 1
    assert [names[each] for each in image["neg_category_ids"]] == ["cat"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_row_of_which_nothing_goes_out_takes_no_place(order):
    found = annotated("Bus", 2)
    drawn = replace(found.targets[0], score=0.5)
    none = [
        replace(found, targets=(replace(drawn, **less),)) for less in ({"area": 0}, {"score": 0.1})
    ]
    rule = read_category_map(b'{"Bus": "bus"}', "map.json")
    named = replace(found, targets=(replace(drawn, category="tram", category_id=9),))
    for less, options in (
        (none[0], ExportOptions()),
        (none[1], ExportOptions(min_score=0.4)),
        (named, ExportOptions(categories=rule)),
    ):
        document, _ = export([less, replace(found, targets=(drawn,))][::order], options)
        assert [each["score"] for each in document["annotations"]] == [0.5]
        vain = looked_for("Bus", item_id=found.item_id)
        document, _ = export([less, vain][::order], options)
        assert len(document["images"][0]["neg_category_ids"]) == 1


def test_who_broke_off_takes_no_place_of_who_found_nothing():
    vain = looked_for("Bus")
    for before in (replace(vain, status="partial"), replace(vain, origin="model")):
        document, _ = export([before, vain])
        assert len(document["images"][0]["neg_category_ids"]) == 1


def test_a_name_of_a_file_is_compared_as_it_is_asked_for():
    found, vain = annotated("the bus", 3), looked_for("Bus.")
    vain = replace(vain, meta_json=Origin(category_id=4).to_json())
    document, _ = export([found, vain])
    assert "neg_category_ids" not in document["images"][0]


def test_categories_of_a_users_file_are_told_apart_as_it_writes_them():
    rule = read_category_map(b'{"bus": "Bus", "toy bus": "bus", "mug": "cup"}', "map.json")
    rows = [annotated("bus", 3), *map(looked_for, ("bus", "toy bus", "mug"))]
    document, _ = export(rows, ExportOptions(categories=rule))
    names = {each["id"]: each["name"] for each in document["categories"]}
    (image,) = document["images"]
    assert sorted(names[each] for each in image["neg_category_ids"]) == ["bus", "cup"]


def test_a_row_without_an_answer_takes_no_place_of_one_that_has_one():
    """Two records may be about one picture; the first of them broke off, or has crowds alone."""
    found = label_photo(load_photos()[0])
    broken = replace(found, status="partial", targets=(), n_targets=0)
    document, _ = export([broken, found, found])
    assert len(document["annotations"]) == len(found.targets) > 0
    region = replace(found.targets[0], flags=(IGNORE_REGION,))
    crowd = replace(found, status="partial", targets=(region,), n_targets=0)
    for rows in ([found, crowd, crowd], [crowd, crowd, found]):
        document, _ = export(rows)
        assert sum(each["iscrowd"] for each in document["annotations"]) == 1
        assert len(document["annotations"]) == len(found.targets) + 1
    both = replace(found, targets=(*found.targets, replace(region, target_index=9)))
    document, _ = export([crowd, both])
    assert sum(not each["iscrowd"] for each in document["annotations"]) == len(found.targets)


# ---- the validator -------------------------------------------------------------------------------


def problems_after(tmp_path, change):
    document, _ = export([answered([blob((1, 1)), blob((2, 2), (2, 3))]), *label_photos()[:1]])
    change(document)
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(document))
    return validate_coco(path)


def first(document):
    return document["annotations"][0]


CHANGES = {
    "annotation id 0": lambda d: first(d).update(id=0),
    "annotation id '1'": lambda d: first(d).update(id="1"),
    "occurs 2 times": lambda d: d["annotations"].append(d["annotations"][0]),
    "image id 0": lambda d: d["images"][0].update(id=0),
    "image id 2 occurs 2 times": lambda d: d["images"].append({**d["images"][1], "file_name": "x"}),
    "category id -1": lambda d: d["categories"][0].update(id=-1),
    "no category 99": lambda d: first(d).update(category_id=99),
    "category 98 for it to have not": lambda d: d["images"][0].update(neg_category_ids=[98]),
    "has masks of category 1, which": lambda d: d["images"][0].update(neg_category_ids=[1]),
    "no image 99": lambda d: first(d).update(image_id=99),
    "but its mask has": lambda d: first(d).update(area=first(d)["area"] + 1),
    "but its mask lies in": lambda d: first(d)["bbox"].__setitem__(0, 5.5),
    "bbox None": lambda d: first(d).pop("bbox"),
    "has size [3, 3]": lambda d: first(d)["segmentation"].update(size=[3, 3]),
    "run lengths cover": lambda d: first(d)["segmentation"].update(counts="12"),
    "neither polygons nor": lambda d: first(d).update(segmentation=[]),
    "compressed run lengths": lambda d: first(d)["segmentation"].update(counts=[1, 2]),
    "no width and height": lambda d: d["images"][0].pop("width"),
    "belongs to 2 images": lambda d: [image.update(file_name="a.jpg") for image in d["images"]],
    "no list of objects 'images'": lambda d: d.pop("images"),
    "no list of objects 'categories'": lambda d: d.update(categories={}),
    "three corners": lambda d: first(d).update(segmentation=[[1, 2, 3, 4]]),
}


@pytest.mark.parametrize("problem", CHANGES)
def test_the_validator_refuses_what_loses_masks_elsewhere(tmp_path, problem):
    assert any(problem in found for found in problems_after(tmp_path, CHANGES[problem]))


def test_the_validator_refuses_an_empty_mask(tmp_path):
    def empty(document):
        size = first(document)["segmentation"]["size"]
        nothing = {"size": size, "counts": export_counts(size)}
        first(document).update(segmentation=nothing, area=0, bbox=[0, 0, 0, 0])

    def export_counts(size):
        (target,) = answered([np.zeros(size, dtype=bool)]).targets
        return target.rle_counts

    assert any("its mask is empty" in found for found in problems_after(tmp_path, empty))


def test_the_validator_is_content_with_an_export(tmp_path):
    assert problems_after(tmp_path, lambda _: None) == []


def test_the_validator_stops_after_many_problems(tmp_path):
    def spoil(document):
        document["annotations"] = [{**first(document), "id": n, "area": 0} for n in range(1, 500)]

    assert len(problems_after(tmp_path, spoil)) == 51


@pytest.mark.parametrize("text", ["", "[]", "{oops"])
def test_the_validator_refuses_what_is_no_coco_file(tmp_path, text):
    (tmp_path / "coco.json").write_text(text)
    assert len(validate_coco(tmp_path / "coco.json")) == 1


# ---- jobs/export.py ------------------------------------------------------------------------------


@pytest.fixture
def labels(tmp_path):
    commit(LocalStore(), label_photos(), f"{tmp_path}/out")
    return f"{tmp_path}/out"


def test_the_job_writes_a_file_and_says_what_is_in_it(labels, tmp_path, capsys):
    path = tmp_path / "coco.json"
    arguments = ["--labels", labels, "--to", "coco", "--output", str(path), "--min-score", "0.505"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert f"wrote '{path}': 8 images, 27 masks" in said
    assert "left out: 8 masks below the lowest score" in said
    assert validate_coco(path) == []


def test_the_job_reads_and_writes_a_bucket(bucket, tmp_path):
    commit(S3Store(), label_photos(), f"s3://{bucket}/out")
    uri = f"s3://{bucket}/coco.json"
    assert main(["--labels", f"s3://{bucket}/out", "--output", uri]) == 0
    (tmp_path / "coco.json").write_bytes(S3Store().get(uri))
    assert validate_coco(tmp_path / "coco.json") == []


def test_the_job_takes_a_file_of_categories(labels, tmp_path):
    (tmp_path / "map.yaml").write_text("cat: animal\ndog: animal\ncow: animal\n'*': thing\n")
    arguments = ["--labels", labels, "--output", f"{tmp_path}/c.json", "--segmentation", "polygon"]
    assert main([*arguments, "--categories", f"{tmp_path}/map.yaml"]) == 0
    document = json.loads((tmp_path / "c.json").read_bytes())
    assert [each["name"] for each in document["categories"]] == ["animal", "thing"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--min-score", "3"], "--min-score: input should be less than or equal to 1, not '3'"),
        (["--segmentation", "png"], "--segmentation: input should be 'rle' or 'polygon'"),
        (["--to", "voc"], "--to"),
        (["--categories", "/nowhere/map.json"], "neither 'phrase' nor 'object' nor a file"),
        (["--labels", "ftp://host/out"], "--labels: 'ftp://host/out' is no place for files"),
        (["--cards", "3"], "--cards means nothing for --to coco, which takes --categories, "),
    ],
)
def test_a_bad_setting_is_one_line_and_code_2(arguments, said, tmp_path, capsys):
    given = ["--labels", str(tmp_path), "--output", f"{tmp_path}/c.json"]
    assert main([*given, *arguments]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1


def test_a_missing_setting_is_named(capsys):
    assert main(["--labels", "x"]) == 2
    assert "--output is missing" in capsys.readouterr().err


def test_an_unknown_flag_is_refused(tmp_path, capsys):
    assert main(["--labels", "x", "--output", "y", "--min-scoer", "1"]) == 2
    assert "unknown flag --min-scoer; did you mean --min-score?" in capsys.readouterr().err


def test_nothing_to_export_is_one_line_and_code_1(tmp_path, capsys):
    assert main(["--labels", str(tmp_path), "--output", f"{tmp_path}/c.json"]) == 1
    assert "nothing has been committed" in capsys.readouterr().err


def test_the_environment_does_not_redirect_an_export(labels, tmp_path, monkeypatch):
    monkeypatch.setenv("OUTPUT", f"{tmp_path}/elsewhere.json")
    monkeypatch.setenv("RUN", "another")
    assert main(["--labels", labels, "--output", f"{tmp_path}/c.json"]) == 0
    assert not (tmp_path / "elsewhere.json").exists()


def test_the_job_runs_as_the_readme_says(labels, tmp_path):
    root = Path(__file__).parent.parent
    command = [
        sys.executable,
        "jobs/export.py",
        "--labels",
        labels,
        "--output",
        f"{tmp_path}/c.json",
    ]
    done = subprocess.run(
        command,
        cwd=root,
        env={"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_empty_answer_of_a_real_photo_is_an_image_without_masks():
    photo = load_photos()[0]
    row = replace(label_photo(photo), status="empty", targets=(), n_targets=0)
    document, _ = export([row])
    assert (len(document["images"]), document["annotations"]) == (1, [])
