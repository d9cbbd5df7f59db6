import numpy as np
import pytest

from tests.photos import load_photos
from tests.scoring import box, failed, question, row, runs
from workers.labels.rle import encode_masks
from workers.scoring.measures import MaskProblem
from workers.scoring.pairs import Pair, pair_up


def test_the_iou_of_two_boxes_is_counted_in_pixels():
    (pair,) = pair_up(runs(box(0, 0, 4, 4)), runs(box(0, 2, 4, 6)))
    assert pair == Pair(0, 0, both=8, either=24)
    assert pair.iou == 8 / 24
    assert not pair.is_hit


def test_ious_of_photos_are_those_of_pycocotools():
    for photo in load_photos():
        masks = runs(*photo.masks)
        shifted = runs(*(np.roll(mask, (3, 5), (0, 1)) for mask in photo.masks))
        for mask, moved in zip(masks, shifted, strict=True):
            (pair,) = pair_up([mask], [moved])
            theirs = encode_masks([mask, moved])[0].max_iou_other
            assert pair.iou == pytest.approx(theirs, abs=1e-12)


def test_the_sum_of_ious_decides_and_not_the_best_one():
    # A = 20 pixels, B = 20 pixels. P covers 12 of A and 8 of B; Q covers 10 of A and nothing else.
    a, b = box(0, 0, 10, 2), box(0, 2, 10, 4)
    p = box(0, 0, 6, 2) | box(0, 2, 4, 4)  # with A 12/28, with B 8/32
    q = box(0, 0, 5, 2)  # with A 10/20, with B 0/30
    pairs = pair_up(runs(a, b), runs(p, q))
    assert pairs == (Pair(1, 0, 8, 32), Pair(0, 1, 10, 20))  # 0.25 + 0.5 > 12/28 + 0


def test_masks_without_a_partner_count_with_all_their_pixels():
    pairs = pair_up(runs(box(0, 0, 2, 2), box(5, 5, 8, 8)), runs(box(5, 5, 8, 8)))
    assert pairs == (Pair(1, 0, 9, 9), Pair(0, None, 0, 4))
    assert [pair.iou for pair in pairs] == [1, 0]
    assert pair_up([], runs(box(0, 0, 3, 1))) == (Pair(None, 0, 0, 3),)
    assert pair_up([], []) == ()


def test_an_iou_of_one_half_is_no_hit_and_more_is_one():
    (half,) = pair_up(runs(box(0, 0, 4, 1)), runs(box(0, 0, 2, 1)))
    (more,) = pair_up(runs(box(0, 0, 5, 1)), runs(box(0, 0, 3, 1)))
    assert (half.iou, half.is_hit) == (0.5, False)
    assert (more.iou, more.is_hit) == (0.6, True)


def test_two_empty_masks_are_the_same_and_a_lonely_empty_one_is_wrong():
    nothing = box(0, 0, 0, 0)
    (same,) = pair_up(runs(nothing), runs(nothing))
    (lonely,) = pair_up([], runs(nothing))
    assert (same.iou, lonely.iou) == (1, 0)


def test_the_union_of_a_question_s_masks_forgives_how_they_are_cut_apart():
    asked = question(row([box(0, 0, 4, 4)]), row([box(0, 0, 4, 2), box(0, 2, 4, 4)]))
    assert [pair.iou for pair in asked.pairs] == [0.5, 0]
    assert asked.union_iou == 1
    assert not asked.is_exact


def test_overlapping_masks_count_once_in_the_union():
    asked = question(row([box(0, 0, 4, 1), box(2, 0, 6, 1)]), row([box(0, 0, 3, 1)]))
    assert (asked.union.both, asked.union.either) == (3, 6)


def test_one_side_without_masks_has_a_union_of_the_other_s_pixels():
    missed, extra = question(row([box(0, 0, 2, 2)]), row()), question(row(), row([box(0, 0, 3, 1)]))
    assert (missed.union.both, missed.union.either, missed.union_iou) == (0, 4, 0)
    assert (extra.union.both, extra.union.either, extra.union_iou) == (0, 3, 0)


@pytest.mark.parametrize(
    ("said", "is_right"),
    [
        (row(), True),
        (row([box(0, 0, 1, 1)]), False),
        (None, False),
        (failed(), False),
        (row(truncated=True), False),
    ],
)
def test_only_an_answer_that_says_so_is_right_where_nothing_matches(said, is_right):
    asked = question(row(), said)
    assert asked.says_nothing == asked.is_exact == is_right
    assert asked.union_iou == is_right


def test_an_answer_that_was_cut_off_after_a_target_counts_with_it():
    asked = question(row([box(0, 0, 4, 4)]), row([box(0, 0, 4, 4)], truncated=True))
    assert asked.answered
    assert asked.is_exact


# ---- ignore regions


def test_pixels_in_ignore_regions_count_for_nothing():
    # The truth has 4 x 4 pixels and the region takes 8 of them; the prediction has the other 8 and
    # 4 pixels in the region.
    gold = row([box(0, 0, 4, 4)], ignored=[box(0, 2, 4, 6)])
    asked = question(gold, row([box(0, 0, 4, 3)]))
    assert asked.pairs == (Pair(0, 0, both=8, either=8),)
    assert (asked.union.both, asked.union.either) == (8, 8)
    assert asked.left_out == 0


def test_an_ignore_region_is_no_target():
    asked = question(row(ignored=[box(0, 0, 4, 4)]), row())
    assert asked.truths == ()
    assert asked.says_nothing


def test_a_truth_that_lies_in_ignore_regions_is_none():
    asked = question(row([box(1, 1, 3, 3)], ignored=[box(0, 0, 4, 4)]), row())
    assert asked.truths == ()


def test_a_prediction_with_more_than_half_in_ignore_regions_is_left_out_if_it_hits_nothing():
    gold = row(ignored=[box(0, 0, 10, 2)])
    assert question(gold, row([box(0, 0, 4, 4)])).left_out == 0  # 8 of 16
    asked = question(gold, row([box(0, 0, 4, 3)]))  # 8 of 12
    assert (asked.left_out, asked.predictions, asked.says_nothing) == (1, (), True)
    gold = row([box(0, 2, 4, 3)], ignored=[box(0, 0, 10, 2)])
    asked = question(gold, row([box(0, 0, 4, 3)]))  # with the rest it hits
    assert asked.left_out == 0
    assert asked.is_exact


def test_only_gold_tables_have_ignore_regions():
    said = row([box(0, 0, 4, 4)], ignored=[box(5, 5, 9, 9)])
    asked = question(row([box(0, 0, 4, 4)]), said)
    assert asked.pairs == (Pair(0, 0, 16, 16),)
    assert asked.ignored is None


# ---- masks that can't be compared


def test_a_broken_mask_says_whose_row_it_is():
    good = row([box(0, 0, 4, 4)])
    for gold, said, told in (
        (spoilt(good), good, "gold rows with a broken mask"),
        (good, spoilt(good), "predicted rows with a broken mask"),
    ):
        with pytest.raises(MaskProblem, match=told):
            question(gold, said)


def test_masks_of_another_size_are_not_compared():
    small, large = row([box(0, 0, 4, 4)]), row([box(0, 0, 4, 4, side=12)])
    with pytest.raises(MaskProblem, match="predicted rows with masks of another size than the gol"):
        question(small, large)


def spoilt(whole):
    from dataclasses import replace

    (target,) = whole.targets
    return replace(whole, targets=(replace(target, rle_counts="0"),))
