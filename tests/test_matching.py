import pytest
import torch

from pixellm.matching import assign, draw_points
from tests.muse_reference import MaskPair, pair_masks, pairing_cost, score_pairs
from tests.official import META

MUSE = META["muse"]
CASES = ["equal", "more_pred", "more_gt"]


@pytest.fixture
def case(tensors, request):
    pred, target = tensors["loss.image0.pred_masks"], tensors["image0.gt_masks"]
    masks = {
        "equal": (pred[[1, 0, 2]], target),
        "more_pred": (pred, target[:2]),
        "more_gt": (pred[:1], target),
    }
    return request.param, *masks[request.param], tensors["muse.points"][0]


def square(*corners):
    """(len(corners), 8, 8) masks of 3 x 3 pixels."""
    masks = torch.zeros(len(corners), 8, 8)
    for mask, (row, column) in zip(masks, corners, strict=True):
        mask[row : row + 3, column : column + 3] = 1
    return masks


def logits_of(masks):
    return masks * 20 - 10


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_costs_equal_the_official_ones(case, tensors):
    name, pred, target, points = case
    cost = pairing_cost(pred, target, points)
    torch.testing.assert_close(cost, tensors[f"muse.{name}.cost"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_assignments_and_areas_equal_the_official_ones(case):
    name, pred, target, points = case
    pairs = pair_masks(pred, target, points, official=True)
    matched = [
        (pair.prediction, pair.target)
        for pair in pairs
        if None not in (pair.prediction, pair.target)
    ]
    assert matched == list(zip(MUSE[name]["pred_idx"], MUSE[name]["gt_idx"], strict=True))
    assert [list(pair.intersection) for pair in pairs] == MUSE[name]["intersection"]
    assert [list(pair.union) for pair in pairs] == MUSE[name]["union"]


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_only_predictions_without_truth_differ_from_the_official_areas(case):
    _, pred, target, points = case
    official = pair_masks(pred, target, points, official=True)
    for fixed, other in zip(pair_masks(pred, target, points), official, strict=True):
        if fixed.target is None:
            inside = float((pred[fixed.prediction] > 0).sum())
            assert fixed.union[1] == inside
            assert fixed.intersection == (target[0].numel() - inside, 0)
        else:
            assert fixed == other


def test_a_false_positive_costs_unless_scored_officially():
    pred, target = logits_of(square((0, 0), (5, 5))), square((0, 0))
    points = draw_points(500)
    assert score_pairs(pair_masks(pred, target, points)).giou == pytest.approx(0.5, abs=1e-5)
    official = score_pairs(pair_masks(pred, target, points, official=True))
    assert official.giou == pytest.approx(1, abs=1e-5)


def test_order_does_not_matter():
    target = square((0, 0), (5, 5), (0, 5))
    pairs = pair_masks(logits_of(target[[2, 0, 1]]), target, draw_points())
    assert [(pair.prediction, pair.target) for pair in pairs] == [(0, 2), (1, 0), (2, 1)]
    scores = score_pairs(pairs)
    assert scores.giou == pytest.approx(1, abs=1e-5)
    assert scores.ciou == pytest.approx(1)


def test_without_predictions_every_truth_is_missed():
    pairs = pair_masks(torch.zeros(0, 8, 8), square((0, 0), (5, 5)), draw_points(10))
    assert [(pair.prediction, pair.target) for pair in pairs] == [(None, 0), (None, 1)]
    assert score_pairs(pairs).giou == 0
    assert score_pairs(pairs).masks == 2


def test_without_truths_every_prediction_is_wrong():
    pairs = pair_masks(logits_of(square((0, 0))), torch.zeros(0, 8, 8), draw_points(10))
    assert pairs == (MaskPair(0, None, (55, 0), (64, 9)),)


def test_neither_predictions_nor_truths_give_no_pairs():
    pairs = pair_masks(torch.zeros(0, 8, 8), torch.zeros(0, 8, 8), draw_points(10))
    assert pairs == ()
    assert score_pairs(pairs).giou == 0


def test_ignored_pixels_count_for_nothing():
    target = square((0, 0))
    target[0, :, 3:] = 255
    wide = torch.zeros(1, 8, 8)
    wide[0, :3] = 1
    (pair,) = pair_masks(logits_of(wide), target, draw_points(200))
    assert pair.intersection == (15, 9)
    assert pair.union == (15, 9)


def test_scores_follow_their_formulas():
    pairs = [
        MaskPair(0, 0, (0, 30), (0, 40)),
        MaskPair(1, None, (0, 0), (0, 60)),
        MaskPair(2, 1, (100, 0), (100, 0)),  # both empty
    ]
    scores = score_pairs(pairs)
    assert scores.ciou == pytest.approx(0.3)
    assert scores.giou == pytest.approx((0.75 + 0 + 1) / 3)
    assert score_pairs(pairs, masks=2).giou == pytest.approx(1.75 / 2)


def test_the_assignment_is_the_cheapest_one():
    assert assign(torch.tensor([[1.0, 2.0], [1.5, 5.0], [9.0, 9.0]])) == [(0, 1), (1, 0)]


def test_points_are_the_same_for_the_same_seed():
    assert torch.equal(draw_points(50, seed=3), draw_points(50, seed=3))
    assert not torch.equal(draw_points(50, seed=3), draw_points(50, seed=4))
    assert draw_points(50).shape == (50, 2)
