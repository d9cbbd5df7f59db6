import json

import numpy as np
import pytest
from PIL import Image

from tests.gold import (
    CATEGORIES,
    COCO,
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


def answer(image, *, names=True):
    """The annotations of a photo as MUSE has them."""
    found = []
    for number, each in enumerate(instances(image)):
        name = CATEGORIES[each["category_id"]]
        kept = {key: each[key] for key in ("segmentation", "bbox", "category_id")}
        rephrased = {"rephrased_name": f"the {name} number {number}"} if names else {}
        found.append({**kept, "category_name": name, **rephrased})
    return found


def entry(image, questions, answers, texts=None, **keys):
    name = keys or {"file_name": image["file_name"]}
    sized = {"height": image["height"], "width": image["width"]}
    told = {} if texts is None else {"text_answers": texts}
    listed = [each for one in answers for each in one]
    return {
        **name,
        **sized,
        "ann_list": listed,
        "questions": questions,
        "answers": answers,
        **told,
    }


def source(tmp_path):
    """All the photos, each with a text that was written, one to compose, and one without masks."""
    entries = []
    for number, image in enumerate(PHOTOS):
        found = answer(image, names=number % 2 == 0)
        text = "Take the first, " + " and ".join(["the thing {seg}"] * len(found)) + "."
        address = {"coco_url": image["coco_url"]} if number % 3 == 0 else {}
        entries.append(
            entry(
                image,
                ["What is  there?", "And what of it is first?", "Where is the dragon?"],
                [found, found[:1], []],
                [text, None, "There is none."],
                **address,
            )
        )
    return write(tmp_path / "MUSE_train.json", entries)


def test_masks_are_those_of_the_official_loader_and_overlaps_are_not_counted_twice(tmp_path):
    rows = convert("muse", source(tmp_path), tmp_path / "gold")
    assert len(rows) == 3 * len(PHOTOS)
    for row, image in zip(rows[::3], PHOTOS, strict=True):
        wanted = [each["segmentation"] for each in instances(image)]
        for mask, segmentation in zip(masks(row), wanted, strict=True):
            assert np.array_equal(mask, pixels(segmentation, image["height"], image["width"]))
        assert {row.origin for row in rows} == {"human"}


def test_two_parts_that_overlap_are_one_mask(tmp_path):
    image = PHOTOS[0]
    left, right = [10, 10, 60, 10, 60, 40, 10, 40], [40, 20, 90, 20, 90, 60, 40, 60]
    found = {**answer(image)[0], "segmentation": [left, right]}
    path = write(tmp_path / "muse.json", [entry(image, ["what?"], [[found]])])
    (row,) = convert("muse", path, tmp_path / "gold")
    (target,) = row.targets
    assert target.area == 50 * 30 + 50 * 40 - 20 * 20


def test_what_was_imported_goes_out_again_as_it_was(tmp_path):
    path = source(tmp_path)
    rows = convert("muse", path, tmp_path / "gold")
    again = export("muse", tmp_path / "gold", tmp_path / "again.json")
    document, before = json.loads(again.read_text()), json.loads(path.read_text())
    for new, old in zip(document, before, strict=True):
        for key in ("file_name", "coco_url", "height", "width", "questions", "text_answers"):
            assert new.get(key) == old.get(key)
        size = (old["height"], old["width"])
        for first, second in zip(old["answers"], new["answers"], strict=True):
            for one, other in zip(first, second, strict=True):
                # as the official loader reads both
                wanted, found = (pixels(each["segmentation"], *size) for each in (one, other))
                assert np.array_equal(wanted, found)
                for key in ("category_id", "category_name", "rephrased_name"):
                    assert one.get(key) == other.get(key)
    assert_same_labels(rows, convert("muse", again, tmp_path / "gold2"))


def test_composed_answers_stay_the_same_where_a_question_before_them_goes_out_no_more(tmp_path):
    entries = [
        entry(image, ["", *(f"what is {n}?" for n in range(6))], [answer(image)[:1]] * 7)
        for image in PHOTOS
    ]
    path = write(tmp_path / "muse.json", entries)
    rows = [row for row in convert("muse", path, tmp_path / "gold") if row.status == "ok"]
    assert len(rows) == 6 * len(PHOTOS)
    again = convert("muse", export("muse", tmp_path / "gold", tmp_path / "b.json"), tmp_path / "c")
    assert [row.answer_text for row in again] == [row.answer_text for row in rows]


def test_an_answer_without_a_text_is_composed_and_always_in_the_same_way(tmp_path):
    scenes = draw(tmp_path / "images", 8)
    entries = [
        {
            "file_name": scene.name,
            "height": scene.size[0],
            "width": scene.size[1],
            "questions": ["What lies there?"],
            "answers": [
                [
                    {"segmentation": code(mask), "category_name": "Thing", "rephrased_name": name}
                    for mask, name in zip(scene.masks, scene.names, strict=True)
                ]
            ],
        }
        for scene in scenes
    ]
    path = write(tmp_path / "MUSE_val.json", entries)
    rows = convert("muse", path, tmp_path / "gold", images=tmp_path / "images")
    for row, scene in zip(rows, scenes, strict=True):
        for target, name in zip(row.targets, scene.names, strict=True):
            assert target.phrase.lower() in (name.lower(), "thing")
            assert row.answer_text[target.span_start : target.span_end] == target.phrase
            assert target.phrase_source == "answer"
        for mask, drawn in zip(masks(row), scene.masks, strict=True):
            assert np.array_equal(mask, drawn)
    again = convert("muse", path, tmp_path / "other", images=tmp_path / "images")
    assert [row.answer_text for row in again] == [row.answer_text for row in rows]
    assert any(" is [SEG]" in row.answer_text for row in rows)
    assert any(" are [SEG]" in row.answer_text for row in rows)


def test_a_text_names_its_targets_where_it_can_and_the_annotation_where_it_cannot(tmp_path):
    image = PHOTOS[1]
    found = answer(image)[:2]
    texts = ["You could use the red mug {seg} or {seg}.", "{seg}"]
    path = write(
        tmp_path / "muse.json", [entry(image, ["which?", "one?"], [found, found[:1]], texts)]
    )
    both, one = convert("muse", path, tmp_path / "gold")
    assert both.answer_text == "You could use the red mug [SEG] or [SEG]."
    assert both.targets[0].phrase == "the red mug"
    (target,) = one.targets
    assert (target.phrase, target.phrase_source) == (found[0]["rephrased_name"], "annotation")
    assert (target.span_start, target.span_end) == (None, None)


def test_a_mark_that_stands_in_the_text_already_is_one_and_goes_out_as_the_form_has_it(tmp_path):
    image = PHOTOS[1]
    texts = ["It is [SEG].", "This [SEG] and {seg}."]
    answers = [answer(image)[:1], answer(image)[:2]]
    path = write(tmp_path / "muse.json", [entry(image, ["a", "b"], answers, texts)])
    rows = convert("muse", path, tmp_path / "gold")
    assert [row.answer_text for row in rows] == ["It is [SEG].", "This [SEG] and [SEG]."]
    again = export("muse", tmp_path / "gold", tmp_path / "again.json")
    wanted = ["It is {seg}.", "This {seg} and {seg}."]
    assert json.loads(again.read_text())[0]["text_answers"] == wanted


def test_a_file_of_coco_is_no_list_of_questions(tmp_path, capsys):
    convert("muse", write(tmp_path / "instances.json", COCO), tmp_path / "gold", code=2)
    assert "as COCO's files are, and no list of questions: --from coco" in capsys.readouterr().err


def test_a_file_may_be_called_in_capitals(tmp_path, capsys):
    write(tmp_path / "MUSE_train.json", [entry(PHOTOS[0], ["a"], [[]])])
    convert("muse", tmp_path / "muse_train.json", tmp_path / "gold", code=2)
    told = capsys.readouterr().err
    assert f"{str(tmp_path / 'MUSE_train.json')!r} is there" in told
    assert len(convert("muse", tmp_path / "MUSE_train.json", tmp_path / "gold")) == 1


def test_an_answer_that_marks_nothing_says_that_nothing_matches(tmp_path):
    image = PHOTOS[0]
    path = write(tmp_path / "muse.json", [entry(image, ["dragons?"], [[]])])
    (row,) = convert("muse", path, tmp_path / "gold")
    assert (row.status, row.answer_text, row.n_targets) == ("empty", NOTHING, 0)


def broken_entries():
    image = PHOTOS[0]
    one = answer(image)[:1]
    two_points = [{**one[0], "segmentation": [[1, 1, 5, 5]]}]
    small = [{**one[0], "segmentation": {"size": [4, 4], "counts": [16]}}]
    short = [{**one[0], "segmentation": {"size": [image["height"], image["width"]], "counts": [5]}}]
    far = [{**one[0], "segmentation": [[0, 0, 1e12, 0, 5, 5]]}]
    nan = [{**one[0], "segmentation": [[0, 0, float("nan"), 0, 5, 5]]}]
    yield entry(image, ["a"], [one], ["{seg} and {seg}"]), [("a", "answer_mismatch")]
    yield entry(image, ["a", "b"], [one]), [("b", "answer_mismatch")]
    yield entry(image, ["a"], [one, one]), [("", "answer_mismatch")]
    yield entry(image, ["a", "b"], [one, one], ["{seg}"]), [("b", "answer_mismatch")]
    yield entry(image, ["a", "b"], [two_points, one]), [("a", "mask_broken")]
    yield entry(image, ["a"], [small]), [("a", "mask_wrong_size")]
    yield entry(image, ["a"], [short]), [("a", "mask_broken")]
    yield entry(image, ["a"], [far]), [("a", "mask_broken")]
    yield entry(image, ["a"], [nan]), [("a", "mask_broken")]
    yield entry(image, ["a"], [[{"segmentation": None}]]), [("a", "mask_broken")]
    yield entry(image, ["a"], ["no list"]), [("a", "record_broken")]
    yield entry(image, ["a", " "], [one, one]), [(" ", "instruction_invalid")]
    yield entry(image, [7], [one]), [("7", "instruction_invalid")]
    yield entry(image, ["a"], [one], file_name="gone.jpg"), [("a", "image_missing")]
    yield entry(image, ["a"], [one], file_name="../../etc/passwd"), [("a", "image_refused")]
    yield entry(image, ["a"], [one], other="key"), [("a", "image_not_named")]
    yield entry({**image, "height": 7}, ["a"], [one]), [("a", "mask_wrong_size")]
    yield {"file_name": image["file_name"]}, [("", "instruction_missing")]
    yield "no object", [("", "record_broken")]


@pytest.mark.parametrize(("one", "wanted"), list(broken_entries()))
def test_what_cannot_be_used_is_a_row_that_says_why(tmp_path, one, wanted):
    whole = entry(PHOTOS[1], ["fine"], [answer(PHOTOS[1])[:1]])
    rows = convert("muse", write(tmp_path / "muse.json", [one, whole]), tmp_path / "gold")
    assert problems(rows) == wanted
    assert all(row.error_message for row in rows if row.error_code)
    assert rows[-1].status == "ok"
    asked = len(one["questions"]) if "questions" in one else 1
    extra = isinstance(one, dict) and len(one.get("answers", ())) > asked
    assert len(rows) == asked + extra + 1


def test_masks_lie_in_the_upright_frame(tmp_path):
    """A camera that was held upright: 30 x 20 pixels are stored, and 20 x 30 are seen."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    square = [2, 3, 8, 3, 8, 9, 2, 9]
    entries = [
        {
            "file_name": "turned.jpg",
            "height": height,
            "width": width,
            "questions": ["what?"],
            "answers": [[{"segmentation": [square], "category_name": "square"}]],
        }
        for height, width in ((30, 20), (20, 30))
    ]
    path = write(tmp_path / "muse.json", entries)
    upright, stored = convert("muse", path, tmp_path / "gold", images=tmp_path)
    assert upright.targets[0].bbox == (2, 3, 6, 6)
    assert stored.error_code == "mask_wrong_size"
    assert "EXIF" in stored.error_message


def test_a_category_may_have_any_number(tmp_path):
    image = PHOTOS[0]
    entries = [
        entry(image, [f"{number}"], [[{**answer(image)[0], "category_id": number}]])
        for number in (-1, 2**63 - 1, 2**63, "7", None)
    ]
    rows = convert("muse", write(tmp_path / "muse.json", entries), tmp_path / "gold")
    numbers = [row.targets[0].category_id for row in rows]
    assert numbers == [-1, 2**63 - 1, None, None, None]


def test_images_are_found_where_the_makers_of_the_data_set_put_them(tmp_path):
    for folder, image in (("val2017", PHOTOS[0]), ("train2014", PHOTOS[1])):
        (tmp_path / folder).mkdir()
        data = (FOLDER / image["file_name"]).read_bytes()
        (tmp_path / folder / image["file_name"]).write_bytes(data)
    entries = [
        entry(PHOTOS[0], ["a"], [answer(PHOTOS[0])], coco_url=PHOTOS[0]["coco_url"]),
        entry(PHOTOS[1], ["b"], [answer(PHOTOS[1])]),
    ]
    rows = convert("muse", write(tmp_path / "muse.json", entries), tmp_path / "gold", images=None)
    assert [row.status for row in rows] == ["ok", "ok"]
    assert rows[0].image_uri == str(tmp_path / "val2017" / PHOTOS[0]["file_name"])
