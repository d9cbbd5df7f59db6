import pytest
import torch

from pixellm.matching import draw_points
from tests.muse_reference import pair_masks, score_pairs
from tests.official import META
from tests.scoring import box, evaluate, question, row
from workers.scoring.muse import (
    LOGIT,
    choose_points,
    count_masks,
    count_question,
    find_pairs,
    match_question,
)
from workers.scoring.options import ScoringOptions
from workers.scoring.pairs import Pair
from workers.scoring.sums import ALL

OFFICIAL, FIXED = ScoringOptions(muse="official"), ScoringOptions(muse="fixed")


def as_logits(masks):
    return torch.stack([torch.from_numpy(mask) for mask in masks]).float() * 2 * LOGIT - LOGIT


@pytest.fixture
def fixture_masks(tensors):
    """The truths of the fixture's first picture, and what the official model made of them."""
    truths = list(tensors["image0.gt_masks"].numpy().astype(bool))
    return truths, list((tensors["loss.image0.pred_masks"] > 0).numpy())


@pytest.mark.parametrize("case", ["equal", "more_pred", "more_gt"])
@pytest.mark.parametrize("official", [False, True])
def test_masks_of_the_fixture_are_paired_and_counted_as_the_official_code_did(
    case, official, fixture_masks
):
    truths, predictions = fixture_masks
    truths, predictions = {
        "equal": (truths, [predictions[number] for number in (1, 0, 2)]),
        "more_pred": (truths[:2], predictions),
        "more_gt": (truths, predictions[:1]),
    }[case]
    recorded = META["muse"][case]
    pairs = find_pairs(question(row(truths), row(predictions)), official)
    matched = [(each.prediction, each.truth) for each in pairs if each.prediction is not None]
    matched = [each for each in matched if each[1] is not None]
    assert matched == list(zip(recorded["pred_idx"], recorded["gt_idx"], strict=True))
    areas = [
        (int(both[1]), int(either[1]))
        for both, either in zip(recorded["intersection"], recorded["union"], strict=True)
    ]
    with_truth = [pair for pair in pairs if pair.truth is not None]
    assert [(pair.both, pair.either) for pair in with_truth] == areas[: len(with_truth)]


@pytest.mark.parametrize("official", [False, True])
def test_it_is_what_the_reference_makes_of_the_same_masks_as_logits(official, fixture_masks):
    truths, predictions = fixture_masks
    expected = pair_masks(
        as_logits(predictions),
        torch.stack([torch.from_numpy(each) for each in truths[:2]]).float(),
        draw_points(),
        official,
    )
    found = match_question(question(row(truths[:2]), row(predictions)), official)
    scores = score_pairs(expected)
    assert found.iou / found.pairs == pytest.approx(scores.giou)
    assert found.both / (found.either + 1e-10) == pytest.approx(scores.ciou)
    assert found.pairs == len(expected) == 3


def test_officially_a_prediction_without_a_truth_counts_as_a_perfect_one():
    gold, said = row([box(0, 0, 4, 4)]), row([box(0, 0, 4, 4), box(6, 6, 9, 9)])
    asked = question(gold, said)
    assert find_pairs(asked, official=True) == (Pair(0, 0, 16, 16), Pair(None, 1, 0, 9))
    official, fixed = match_question(asked, official=True), match_question(asked, official=False)
    assert (official.iou, official.either) == (pytest.approx(2), 16)
    assert (fixed.iou, fixed.either) == (pytest.approx(1), 25)


def test_officially_the_masks_of_an_image_are_counted_over_its_questions():
    gold = [row([box(0, 0, 2, 2)] * 2, text="1"), row(text="2"), row(text="3", image="other")]
    said = [row(text="1"), row([box(5, 5, 8, 8)], text="2"), row(text="3", image="other")]
    counts = [count_question(question(*both)) for both in zip(gold, said, strict=True)]
    assert count_masks(counts) == max(2 + 0, 0 + 1) + 0
    more = count_question(question(row([box(0, 0, 2, 2)]), row([box(0, 0, 2, 2)] * 3)))
    assert count_masks([more, *counts[2:]]) == max(1, 3) + 0
    # so 3 pairs, of which the lonely prediction counts 1, are divided by 2
    official = evaluate(gold, said, OFFICIAL).scores[ALL]
    assert official["muse_giou"] == pytest.approx((0 + 0 + 1) / 2)
    assert official["muse_ciou"] == 0
    fixed = evaluate(gold, said, FIXED).scores[ALL]
    assert fixed["muse_giou"] == 0
    assert official["giou"] == fixed["giou"] == 0


def test_fixed_points_are_the_same_each_time_and_official_ones_are_not():
    assert torch.equal(choose_points(official=False), choose_points(official=False))
    assert not torch.equal(choose_points(official=True), choose_points(official=True))
    for official in (False, True):
        assert choose_points(official).shape == (12544, 2)


def test_partners_are_found_by_the_loss_and_not_by_the_iou():
    # Each prediction covers one truth exactly but in the other order.
    masks = [box(0, 0, 4, 4), box(5, 5, 9, 9), box(0, 6, 3, 9)]
    pairs = find_pairs(question(row(masks), row(masks[::-1])), official=False)
    assert [(pair.prediction, pair.truth) for pair in pairs] == [(0, 2), (1, 1), (2, 0)]


def test_ignore_regions_count_for_nothing_in_either_way():
    masks, region = [box(0, 0, 4, 4), box(5, 5, 9, 9)], box(0, 2, 10, 5)
    said = [box(0, 0, 4, 5), box(5, 3, 9, 9)]
    for official in (False, True):
        pairs = find_pairs(question(row(masks, ignored=[region]), row(said)), official)
        assert pairs == (Pair(0, 0, 8, 8), Pair(1, 1, 16, 16))
