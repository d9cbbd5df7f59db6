from dataclasses import replace

import numpy as np
import pytest

from tests.labels import ATTEMPT, label_photo, label_photos, make_answer, make_record
from tests.photos import load_photos
from workers.labels.rows import answer_row, failed_rows, rejected_rows
from workers.labels.table import PartIdentity, PartReader, write_part
from workers.records.pictures import PictureFacts
from workers.records.rejections import Rejection
from workers.training.examples import COLUMNS, Example, Skipped, Split, TrainOn, read_example

PHOTO = max(load_photos(), key=lambda photo: len(photo.masks))  # of several things


@pytest.fixture
def row():
    return label_photo(PHOTO)


def with_targets(row, *changes):
    """The row with other values in its first targets."""
    changed = [replace(t, **c) for t, c in zip(row.targets, changes, strict=False)]
    return replace(row, targets=(*changed, *row.targets[len(changed) :]))


def reason(row, **options):
    skipped = read_example(row, **options)
    assert isinstance(skipped, Skipped)
    assert skipped.item_id == row.item_id
    return skipped.reason


@pytest.mark.parametrize("number", range(8))
def test_masks_come_out_of_a_row_as_people_drew_them(number):
    photo, row = load_photos()[number], label_photos()[number]
    example = read_example(row)
    assert isinstance(example, Example)
    assert example.size == photo.rgb.shape[:2]
    assert example.answer.count("[SEG]") == len(photo.masks)
    assert example.question == "what is there?"
    assert example.image.uri == f"s3://b/in/{photo.name}"
    for mask, drawn in zip(example.masks, photo.masks, strict=True):
        assert np.array_equal(mask.pixels(), drawn)


def test_the_columns_that_are_read_are_enough(tmp_path):
    rows = label_photos()
    (tmp_path / "part").write_bytes(write_part(rows, PartIdentity("r", "s", "f")))
    with (tmp_path / "part").open("rb") as file:
        read = list(PartReader(file, "part").rows(COLUMNS))
    whole = {row.item_id: read_example(row) for row in rows}
    for row in read:
        example, other = read_example(row), whole[row.item_id]
        masks = [mask.pixels() for mask in example.masks]
        assert replace(example, masks=()) == replace(other, masks=())
        assert all(map(np.array_equal, masks, [mask.pixels() for mask in other.masks]))


def test_an_answer_that_nothing_matches_is_learned():
    facts = PictureFacts("ee" * 32, 4, 6, 1)
    answer = replace(make_answer([]), text="Nothing is like that.")
    example = read_example(answer_row(make_record(), facts, answer, ATTEMPT, 1.0))
    assert example.masks == ()
    assert (example.answer, example.size) == ("Nothing is like that.", (6, 4))


def test_rows_that_are_no_label_are_passed_over(row):
    record = make_record()
    (rejected,) = rejected_rows(record, Rejection("image_missing", "gone"), ATTEMPT)
    (failed,) = failed_rows(record, "no memory", ATTEMPT)
    assert reason(rejected) == reason(failed) == "no_label"
    assert reason(replace(row, status="partial")) == "no_label"


@pytest.mark.parametrize("text", ["it is [SEG].", "[SEG]" * 40, "nothing"])
def test_an_answer_with_more_or_fewer_marks_than_masks_is_passed_over(row, text):
    assert len(row.targets) not in (1, 40, 0)
    assert reason(replace(row, answer_text=text)) == "marks_differ"


def test_an_answer_without_text_is_passed_over(row):
    assert reason(replace(row, answer_text=None)) == "no_answer"
    assert reason(replace(row, answer_text="", targets=())) == "no_answer"
    assert reason(replace(row, instruction="")) == "no_answer"


def test_a_mask_of_another_size_is_passed_over_also_where_it_is_only_to_be_ignored(row):
    height, width = row.targets[0].rle_size
    assert reason(with_targets(row, {"rle_size": (width, height)})) == "size_differs"
    assert reason(replace(row, width=row.width + 1)) == "size_differs"
    flagged = with_targets(row, {"rle_size": (1, 1), "flags": ("ignore_region",)})
    text = "it is [SEG]." * (len(row.targets) - 1)
    assert reason(replace(flagged, answer_text=text)) == "size_differs"


def test_run_lengths_that_cannot_be_read_are_passed_over(row):
    for counts in ("", "~", "é", row.targets[0].rle_counts + "5"):
        assert reason(with_targets(row, {"rle_counts": counts})) == "mask_broken"


def test_a_mask_without_a_pixel_is_passed_over():
    empty = np.zeros_like(PHOTO.masks[0])
    facts = PictureFacts("ee" * 32, empty.shape[1], empty.shape[0], 1)
    answer = make_answer([PHOTO.masks[0], empty])
    assert reason(answer_row(make_record(), facts, answer, ATTEMPT, 1.0)) == "mask_empty"


def test_an_ignored_region_is_no_mask_of_the_answer(row):
    text = "it is [SEG]." * (len(row.targets) - 1)
    example = read_example(
        replace(with_targets(row, {"flags": ("ignore_region",)}), answer_text=text)
    )
    assert np.array_equal(example.ignored[0].pixels(), PHOTO.masks[0])
    assert len(example.ignored) == 1
    assert len(example.masks) == len(PHOTO.masks) - 1
    assert np.array_equal(example.masks[0].pixels(), PHOTO.masks[1])


def test_a_row_that_was_rejected_or_waits_for_review_never_counts(row):
    for review in ("rejected", "queued"):
        for origin in ("human", "model"):
            told = replace(row, review=review, origin=origin)
            assert (
                reason(told) == reason(told, train_on=TrainOn(checked_only=True)) == "other_review"
            )
    for review in ("none", "accepted", "corrected"):
        assert isinstance(read_example(replace(row, review=review)), Example)


def test_where_only_checked_rows_count_a_person_made_accepted_or_corrected_them(row):
    checked = TrainOn(checked_only=True)
    assert row.origin == "model"
    assert reason(row, train_on=checked) == "unchecked"
    assert isinstance(read_example(replace(row, origin="human"), checked), Example)
    for review in ("accepted", "corrected"):
        assert isinstance(read_example(replace(row, review=review), checked), Example)


def test_one_doubtful_mask_takes_its_row_with_it(row):
    doubtful = with_targets(row, {"score": 0.3})
    assert reason(doubtful, train_on=TrainOn(min_score=0.4)) == "low_score"
    # the table keeps 32 bits, and 0.7 is a bit less there
    stored = with_targets(row, *[{"score": float(np.float32(0.7))}] * len(row.targets))
    assert isinstance(read_example(stored, train_on=TrainOn(min_score=0.7)), Example)


def test_the_sides_of_a_split_are_the_same_for_ever_and_share_no_image():
    images = [f"{number:064x}" for number in range(2000)]
    train, held_out = Split("train"), Split("held_out")
    assert all(train.holds(image) != held_out.holds(image) for image in images)
    share = sum(map(held_out.holds, images)) / len(images)
    assert share == pytest.approx(0.2, abs=0.03)  # 0.009 is a standard deviation
    assert [held_out.holds(image) for image in images[:12]] == [
        False,
        False,
        True,
        False,
        False,
        False,
        True,
        True,
        False,
        False,
        False,
        False,
    ]


def test_what_is_held_out_stays_so_when_more_is():
    images = [f"{number:064x}" for number in range(500)]
    few, more = Split("held_out", 0.1), Split("held_out", 0.3)
    assert all(more.holds(image) for image in images if few.holds(image))
    assert not any(Split("held_out", 0.0).holds(image) for image in images)
    assert all(Split("held_out", 1.0).holds(image) for image in images)


def test_a_row_on_the_other_side_is_passed_over(row):
    side = "train" if Split("train").holds(row.image_sha256) else "held_out"
    other = "held_out" if side == "train" else "train"
    assert isinstance(read_example(row, split=Split(side)), Example)
    assert reason(row, split=Split(other)) == "other_side"
