import hashlib
import io
from dataclasses import fields, replace

import numpy as np
import pytest

from tests.labels import ATTEMPT, MADE_BY, label_photo, make_answer, make_record
from tests.photos import load_photos
from workers.labels.calibration import Calibration
from workers.labels.rle import decode_mask
from workers.labels.rows import (
    ANSWER_COLUMNS,
    answer_row,
    carry_over,
    failed_rows,
    has_answer,
    rejected_rows,
)
from workers.labels.schema import LabelRow
from workers.labels.table import PartIdentity, PartReader, write_part
from workers.labels.targets import IGNORE_REGION, normalise_phrase
from workers.records.instructions import Instruction, make_instruction
from workers.records.pictures import PictureFacts
from workers.records.record import ImageRef, Record
from workers.records.rejections import Rejection

FACTS = PictureFacts("ab" * 32, 8, 6, 1)
WHY = Rejection("image_broken", "cut off")


def blob(*corners):
    mask = np.zeros((6, 8), dtype=bool)
    for y, x in corners:
        mask[y, x] = True
    return mask


def answer_one(answer, instruction=None, record=None):
    record = record or make_record("s3://b/a.jpg", instruction or make_instruction("the cat"))
    return answer_row(record, FACTS, answer, ATTEMPT, 3.5)


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_ids_are_made_of_content():
    row = answer_one(make_answer([]))
    assert row.item_id == sha256("ab" * 32 + "\nthe cat")
    assert row.result_id == sha256(row.item_id + MADE_BY.label_fingerprint)


def test_the_same_picture_elsewhere_is_the_same_item():
    rows = [
        answer_one(make_answer([]), record=make_record(uri)) for uri in ("s3://b/1", "s3://c/2")
    ]
    assert rows[0].item_id == rows[1].item_id
    assert rows[0].image_uri != rows[1].image_uri


def test_another_fingerprint_is_another_result_for_the_same_item():
    photo = load_photos()[0]
    other = replace(ATTEMPT, provenance=replace(MADE_BY, label_fingerprint="other"))
    first, second = label_photo(photo), label_photo(photo, attempt=other)
    assert first.item_id == second.item_id
    assert first.result_id != second.result_id
    assert first.targets[0].target_id != second.targets[0].target_id


@pytest.mark.parametrize(
    ("masks", "malformed", "truncated", "status", "flags", "answered"),
    [
        (1, False, False, "ok", (), True),
        (0, False, False, "empty", (), True),
        (1, True, False, "partial", ("malformed",), True),
        (0, True, False, "partial", ("malformed",), False),
        (1, False, True, "partial", ("truncated",), True),
        (0, False, True, "partial", ("truncated",), False),
        (1, True, True, "partial", ("malformed", "truncated"), True),
    ],
)
def test_the_status_says_how_whole_the_answer_is(
    masks, malformed, truncated, status, flags, answered
):
    answer = make_answer([blob((1, 1))] * masks, malformed=malformed, truncated=truncated)
    row = answer_one(replace(answer, text="The mug is"))
    assert (row.status, row.qa_flags, row.n_targets) == (status, flags, masks)
    assert row.answer_text == "The mug is"
    assert has_answer(row) is answered


def test_whether_a_row_is_answered_is_known_by_few_of_its_columns():
    rows = [answer_one(make_answer([blob((1, 1))], truncated=True)), answer_one(make_answer([]))]
    rows.append(answer_one(make_answer([], malformed=True)))
    region = replace(rows[0].targets[0], flags=(IGNORE_REGION,))
    rows.append(replace(rows[0], targets=(region,)))
    part = PartReader(io.BytesIO(write_part(rows, PartIdentity("run-1", "5" * 20, "f"))), "a part")
    light = list(part.rows(ANSWER_COLUMNS))
    assert {row.status for row in light} == {"partial", "empty"}
    found = sorted(map(has_answer, light))
    assert found == sorted(map(has_answer, rows)) == [False, False, True, True]


def test_targets_hold_what_was_measured():
    photo = load_photos()[0]
    row = label_photo(photo)
    assert (row.width, row.height) == (photo.rgb.shape[1], photo.rgb.shape[0])
    for index, (target, mask) in enumerate(zip(row.targets, photo.masks, strict=True)):
        assert target.target_index == index
        assert target.phrase == photo.phrases[index]
        assert (target.span_start, target.span_end) == (index, index + len(target.phrase))
        assert np.array_equal(decode_mask(target.rle_size, target.rle_counts), mask)
        assert target.area == mask.sum()
        assert target.score == target.score_mask == 0.5 + index / 100
        assert (target.score_iou, target.score_token, target.score_phrase) == (None, 0.25, 0.125)
    assert len({target.target_id for target in row.targets}) == len(photo.masks)


def test_a_carried_over_row_says_all_that_a_new_row_would_say_of_its_record():
    """Whatever comes from the record: a column that is forgotten keeps what the old input said."""
    old = answer_one(make_answer([blob((1, 1))]))
    asked = Instruction("mine", "the cat", "a kind", ("cat",))
    image = ImageRef("s3://b/new.tar", "7.jpg", "new etag", None)
    record = Record(7, "new id", image, (asked,), '{"n": 1}', None)
    attempt = replace(
        ATTEMPT, provenance=replace(MADE_BY, run_id="run-2"), shard_id="6" * 20, number=2
    )
    new = answer_row(record, FACTS, make_answer([blob((1, 1))]), attempt, 4.5)
    carried = carry_over(old, record, asked, attempt)
    made_anew = {"attempts", "latency_ms", "targets"}  # a target's category is the old answer's
    for field in fields(LabelRow):
        if field.name not in made_anew:
            assert getattr(carried, field.name) == getattr(new, field.name), field.name
    assert (carried.targets, carried.attempts, carried.latency_ms) == (old.targets, 1, 3.5)
    differing = {f.name for f in fields(LabelRow) if getattr(old, f.name) != getattr(new, f.name)}
    assert len(differing - made_anew) == 11, "the two records have next to nothing in common"


def test_an_empty_mask_is_kept_with_a_flag():
    row = answer_one(make_answer([blob(), blob((1, 1))]))
    assert [target.flags for target in row.targets] == [("empty_mask",), ()]
    assert (row.status, row.qa_flags) == ("ok", ("empty_mask",))


def test_a_thing_that_was_named_twice_is_flagged():
    row = answer_one(make_answer([blob((1, 1)), blob((1, 1)), blob((3, 3))]))
    assert [target.flags for target in row.targets] == [("duplicate_mask",)] * 2 + [()]
    assert [target.max_iou_other for target in row.targets] == [1.0, 1.0, 0.0]


def test_a_phrase_is_sorted_into_the_requested_classes():
    masks = [blob((1, 1)), blob((3, 3)), blob((5, 5))]
    answer = make_answer(masks, ["The Mug", "a saucer", None])
    several = Instruction("i", "what is there?", "k", ("mug", "plate"))
    row = answer_one(answer, several)
    assert [target.category for target in row.targets] == ["mug", None, None]
    assert row.requested_classes == ("mug", "plate")
    one = answer_one(answer, Instruction("i", "the mugs", "k", ("mug",)))
    assert [target.category for target in one.targets] == ["mug"] * 3


def test_a_target_without_a_phrase_has_no_span():
    (target,) = answer_one(make_answer([blob((1, 1))], [None])).targets
    assert (target.phrase, target.span_start, target.span_end) == (None, None, None)
    assert target.score_phrase is None


def test_a_calibration_of_the_run_makes_the_score_and_leaves_the_others():
    curve = Calibration("score_token", ((0.2, 0.1), (0.3, 0.7)))
    attempt = replace(ATTEMPT, provenance=replace(MADE_BY, calibration=curve))
    answer = make_answer([blob((1, 1))])
    (target,) = answer_row(make_record(), FACTS, answer, attempt, 3.5).targets
    assert (target.score, target.score_mask, target.score_token) == (pytest.approx(0.4), 0.5, 0.25)


@pytest.mark.parametrize(
    ("make", "why", "outcome"),
    [
        (rejected_rows, WHY, ("rejected_input", "image_broken", "cut off")),
        (failed_rows, "no answer", ("failed", "model_failed", "no answer")),
    ],
)
def test_every_instruction_of_a_record_without_an_answer_is_a_row(make, why, outcome):
    record = make_record("s3://b/a.jpg", make_instruction("the cat"), make_instruction("the dog"))
    rows = make(record, why, ATTEMPT)
    assert [row.instruction for row in rows] == ["the cat", "the dog"]
    assert {(row.status, row.error_code, row.error_message) for row in rows} == {outcome}
    assert {(row.n_targets, row.answer_text) for row in rows} == {(0, None)}
    assert len({row.item_id for row in rows}) == 2


def test_a_record_without_instructions_is_one_row():
    record = replace(make_record(), instructions=())
    (row,) = rejected_rows(record, WHY, ATTEMPT)
    assert (row.instruction, len(row.instruction_id)) == ("", 16)


def test_an_image_that_was_not_read_is_named_by_its_address():
    first, second = make_record("s3://b/1.jpg"), make_record("s3://b/2.jpg")
    rows = [rejected_rows(each, WHY, ATTEMPT)[0] for each in (first, second, first)]
    assert rows[0].item_id == rows[2].item_id != rows[1].item_id
    assert (rows[0].image_sha256, rows[0].width, rows[0].exif_orientation) == ("", 0, 0)


def test_members_of_one_archive_are_told_apart():
    rows = [
        rejected_rows(make_record("s3://b/a.tar", member=name), WHY, ATTEMPT)[0] for name in "12"
    ]
    assert rows[0].item_id != rows[1].item_id


def test_a_record_without_an_image_is_named_by_its_place():
    broken = [Record(index, None, None, (), None, WHY) for index in (0, 1)]
    rows = [rejected_rows(record, WHY, ATTEMPT)[0] for record in broken]
    assert rows[0].item_id != rows[1].item_id
    assert rows[0].image_uri == ""


def test_what_is_known_of_a_rejected_picture_is_kept():
    (row,) = rejected_rows(make_record(), WHY, ATTEMPT, FACTS)
    assert (row.image_sha256, row.width, row.height) == (FACTS.sha256, 8, 6)
    assert row.item_id == answer_one(make_answer([])).item_id


@pytest.mark.parametrize(
    ("phrase", "same"),
    [("The red  Mug.", "red mug"), ("a cat", "cat"), ("Straße", "strasse"), ("theatre", "theatre")],
)
def test_phrases_are_spelt_in_one_way(phrase, same):
    assert normalise_phrase(phrase) == same
