import json
import pickle

import numpy as np
import pytest

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
    problems,
    write,
)
from workers.imports.wording import NOTHING


def refs():
    """One reference with two sentences for each annotation, the photos in turn as splits."""
    found = []
    for number, image in enumerate(PHOTOS):
        for annotation in instances(image):
            name = CATEGORIES[annotation["category_id"]]
            at = len(found)
            sentences = [
                {"sent_id": 2 * at, "sent": f"{name} {at}", "raw": f"{name} {at}."},
                {"sent_id": 2 * at + 1, "sent": f"The {name} that is number {at}"},
            ]
            found.append(
                {
                    "ref_id": 100 + at,
                    "ann_id": annotation["id"],
                    "category_id": annotation["category_id"],
                    "file_name": image["file_name"].replace(".", "_1."),
                    "image_id": image["id"],
                    "split": "val" if number % 2 else "train",
                    "sentences": sentences,
                }
            )
    return found


def source(tmp_path, references=None):
    write(tmp_path / "instances.json", COCO)
    return write(tmp_path / "refs.json", refs() if references is None else references)


def test_every_sentence_is_a_question_and_several_are_asked_at_once(tmp_path):
    rows = convert("refcoco", source(tmp_path), tmp_path / "gold")
    single = [row for row in rows if row.instruction_kind == "referring"]
    multi = [row for row in rows if row.instruction_kind == "multi_referring"]
    assert len(single) == 2 * len(refs())
    assert {row.status for row in rows} == {"ok"}
    asked = [row.instruction for row in single]
    form = "What is {} in this image? Please output segmentation mask."
    wanted = [form.format(s["sent"].lower()) for ref in refs() for s in ref["sentences"]]
    assert asked == wanted
    annotations = {each["id"]: each for each in COCO["annotations"]}
    sizes = {image["id"]: (image["height"], image["width"]) for image in PHOTOS}
    twice = [ref for ref in refs() for _ in ref["sentences"]]
    for row, ref in zip(single, twice, strict=True):
        segmentation = annotations[ref["ann_id"]]["segmentation"]
        (mask,) = masks(row)
        assert np.array_equal(mask, pixels(segmentation, *sizes[ref["image_id"]]))
        assert row.targets[0].category == CATEGORIES[ref["category_id"]]
    # of one photo with 14 references, 28 sentences: 6, 5, 4, 6, 5 and what is left, 2
    image = next(image for image in PHOTOS if len(instances(image)) == 14)
    counts = [row.n_targets for row in multi if row.image_uri.endswith(image["file_name"])]
    assert counts == [6, 5, 4, 6, 5, 2]


def test_expressions_that_are_asked_at_once_are_joined_as_the_official_evaluation_does(tmp_path):
    one = refs()[1:4]  # the three annotations of the second photo
    one = [{**ref, "sentences": ref["sentences"][:1]} for ref in one]
    rows = convert("refcoco", source(tmp_path, one), tmp_path / "gold", "--referring", "multi")
    (row,) = rows
    names = [ref["sentences"][0]["sent"] for ref in one]
    assert row.instruction == (
        f"What is {names[0]}, {names[1]} and {names[2]} in this image?"
        " Please output segmentation mask."
    )
    assert row.answer_text == "[SEG], [SEG] and [SEG]."
    assert [target.phrase for target in row.targets] == names


@pytest.mark.parametrize("referring", ["single", "multi", "both"])
def test_what_was_imported_goes_out_again_as_it_was(tmp_path, referring):
    flags = ("--referring", referring)
    rows = convert("refcoco", source(tmp_path), tmp_path / "gold", *flags)
    again = export("refcoco", tmp_path / "gold", tmp_path / "again.json")
    document = json.loads(again.read_text())
    assert document["info"] == {"description": "labels written by pixellm-workers"}
    for new, old in zip(document["refs"], refs(), strict=True):
        for key in ("ref_id", "split", "category_id"):
            assert new[key] == old[key]
        texts = [(each["sent_id"], each["sent"]) for each in old["sentences"]]
        assert [(each["sent_id"], each["sent"]) for each in new["sentences"]] == texts
    assert_same_labels(rows, convert("refcoco", again, tmp_path / "gold2", *flags))


def test_one_split_can_be_chosen_and_the_others_are_counted(tmp_path, capsys):
    rows = convert(
        "refcoco", source(tmp_path), tmp_path / "gold", "--split", "val", "--referring", "single"
    )
    wanted = [ref for ref in refs() if ref["split"] == "val"]
    assert len(rows) == 2 * len(wanted)
    others = len(refs()) - len(wanted)
    assert f"left out   {others} references of other splits than 'val'" in capsys.readouterr().out


def test_an_expression_may_mean_several_things_or_nothing(tmp_path):
    image = PHOTOS[1]
    first, second = (each["id"] for each in instances(image)[:2])
    told = {"image_id": image["id"], "split": "val"}
    references = [
        {**told, "ref_id": 1, "ann_id": [first, second], "sentences": [{"sent": "both"}]},
        {**told, "ref_id": 2, "ann_id": [-1], "no_target": True, "sentences": [{"sent": "none"}]},
        {**told, "ref_id": 3, "ann_id": first, "sentences": ["one"]},
    ]
    rows = convert("refcoco", source(tmp_path, references), tmp_path / "gold")
    assert [(row.status, row.n_targets) for row in rows] == [
        ("ok", 2),
        ("empty", 0),
        ("ok", 1),
        ("ok", 1),  # what is left to ask at once: the others don't mean one thing each
    ]
    assert rows[1].answer_text == NOTHING
    again = export("refcoco", tmp_path / "gold", tmp_path / "again.json")
    assert [ref["no_target"] for ref in json.loads(again.read_text())["refs"]] == [
        False,
        True,
        False,
    ]
    assert_same_labels(rows, convert("refcoco", again, tmp_path / "gold2"))


def broken():
    whole = refs()[0]
    yield {**whole, "ann_id": 10**9}, ["annotation_missing"] * 3
    yield {**whole, "ann_id": None}, ["annotation_missing"] * 3
    yield {**whole, "image_id": 10**9}, ["annotation_missing"] * 3
    yield {**whole, "sentences": []}, ["record_broken"]
    yield {**whole, "sentences": [{"sent": 7}]}, ["instruction_invalid"] * 2
    yield {"ref_id": 1}, ["record_broken"]
    yield "no object", ["record_broken"]


@pytest.mark.parametrize(("ref", "reasons"), list(broken()))
def test_what_cannot_be_used_is_a_row_that_says_why(tmp_path, ref, reasons):
    path = source(tmp_path, [ref, refs()[1]])
    rows = convert("refcoco", path, tmp_path / "gold")
    assert sorted({row.status for row in rows}) == ["ok", "rejected_input"]
    assert [code for _, code in problems(rows)] == reasons


def test_a_pickle_is_not_opened_and_the_way_to_json_is_named(tmp_path, capsys):
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs()))
    convert("refcoco", tmp_path / "refs(unc).p", tmp_path / "gold", code=2)
    assert "python -m workers.imports.refs_pickle" in capsys.readouterr().err


def test_the_instances_may_lie_elsewhere_and_must_lie_somewhere(tmp_path, capsys):
    path = write(tmp_path / "refs" / "refs.json", refs())
    convert("refcoco", path, tmp_path / "gold", code=1)
    assert "instances.json" in capsys.readouterr().err
    other = write(tmp_path / "elsewhere.json", COCO)
    rows = convert("refcoco", path, tmp_path / "gold", "--instances", str(other))
    assert {row.status for row in rows} == {"ok"}
