"""A whole table scored by hand.

The five questions, with areas in pixels:

    1  true: a 16, b 16      said: p 12 within a (IoU 12/16), q 8 elsewhere
    2  true: nothing         said: nothing
    3  true: nothing         said: 4 pixels
    4  true: four of 4       said: three of them
    5  true: 10              no row
"""

import pytest

from tests.scoring import box, evaluate, failed, row
from workers.scoring.metrics import METRICS
from workers.scoring.options import ScoringOptions
from workers.scoring.sums import ALL, FEW_TARGETS, MANY_TARGETS, NONE, Scored

CORNERS = [box(0, 0, 2, 2), box(4, 0, 6, 2), box(0, 4, 2, 6), box(4, 4, 6, 6)]
GOLD = [
    row([box(0, 0, 4, 4), box(6, 6, 10, 10)], ["the red mug", "a plate"], text="1", kind="use"),
    row(text="2", kind="use"),
    row(text="3", kind="place"),
    row(CORNERS, ["ring", "cube", "disc", "star"], text="4", kind="place"),
    row([box(0, 0, 5, 2)], ["a tray"], text="5", kind="place"),
]
SAID = [
    row([box(6, 0, 10, 2), box(0, 0, 4, 3)], ["spoon", "red mugs"], [0.3, 0.9], text="1"),
    row(text="2"),
    row([box(0, 0, 2, 2)], ["thing"], [0.8], text="3"),
    row(CORNERS[:3], ["ring", "cube", "moon"], [0.7, 0.6, 0.5], text="4"),
]
# In the order of their scores, predictions are right, wrong, right, right, right, wrong up to an
# IoU of 0.75; above, the first is wrong, too. There are 7 truths; COCO looks at recalls of 0.00,
# 0.01 ... 1.00 and takes the best precision of that recall or a higher one.
AP50 = (15 * 1 + 43 * 4 / 5) / 101  # recalls up to 1/7 and up to 4/7
AP80 = 43 * 3 / 5 / 101  # recalls up to 3/7

EXPECTED = {
    "giou": (12 / 16 + 3) / (2 + 1 + 4 + 1),
    "ciou": (12 + 12) / (16 + 24 + 4 + 12 + 4 + 10),
    "giou_union": (12 / 40 + 1 + 0 + 12 / 16 + 0) / 5,
    "ciou_union": (12 + 12) / (40 + 4 + 16 + 10),
    "target_iou": (12 / 16 + 3) / 7,
    "muse_giou": (12 / 16 + 3) / 8,
    "muse_ciou": 24 / 70,
    "precision": 4 / 6,
    "recall": 4 / 7,
    "f1": 2 * (4 / 6) * (4 / 7) / (4 / 6 + 4 / 7),
    "pq": (12 / 16 + 3) / (4 + 2 / 2 + 3 / 2),
    "sq": (12 / 16 + 3) / 4,
    "rq": 4 / (4 + 2 / 2 + 3 / 2),
    "ap": (6 * AP50 + 4 * AP80) / 10,
    "ap50": AP50,
    "ap75": AP50,
    "ar": (6 * 4 / 7 + 4 * 3 / 7) / 10,
    "exact": 1 / 5,
    "nothing_accuracy": 1 / 2,
    "something_accuracy": 2 / 3,
    "phrase_accuracy": 3 / 4,  # "red mugs" for "the red mug", ring, cube; but "moon" for "disc"
    "giou_named": (12 / 16 + 2) / 8,
    "answered": 4 / 5,
}


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_what_one_computes_by_hand(name):
    found = evaluate(GOLD, SAID)
    near = 1e-5 if name.startswith("muse") else 1e-12  # its formula adds 1e-5 to each union
    assert found.scores[ALL][name] == pytest.approx(EXPECTED[name], abs=near)


def test_nothing_is_left_unexpected():
    assert list(EXPECTED) == list(METRICS)


def test_questions_are_told_apart_by_number_of_targets_and_by_kind():
    found = evaluate(GOLD, SAID)
    assert {group: sums.questions for group, sums in found.sums.items()} == {
        ALL: 5,
        NONE: 2,
        FEW_TARGETS: 2,
        MANY_TARGETS: 1,
        "kind: place": 3,
        "kind: use": 2,
    }
    assert list(found.sums) == [ALL, NONE, FEW_TARGETS, MANY_TARGETS, "kind: place", "kind: use"]
    giou = {group: scores["giou"] for group, scores in found.scores.items()}
    assert giou[FEW_TARGETS] == pytest.approx((12 / 16) / 3)
    assert giou[MANY_TARGETS] == 3 / 4
    assert giou[NONE] == 0
    assert giou["kind: use"] == pytest.approx((12 / 16) / 2)
    assert found.scores[MANY_TARGETS]["nothing_accuracy"] is None
    assert found.scores[NONE]["ap"] is None
    assert found.scores[NONE]["recall"] is None


def test_three_targets_are_few_and_four_are_many():
    for count, group in ((1, FEW_TARGETS), (3, FEW_TARGETS), (4, MANY_TARGETS)):
        assert group in evaluate([row(CORNERS[:count])], []).sums


def test_a_table_is_perfect_beside_itself():
    found = evaluate(GOLD, GOLD)
    worst = {name: value for name, value in found.scores[ALL].items() if value != 1}
    assert set(worst) == {"muse_giou", "muse_ciou"}
    assert min(worst.values()) > 1 - 1e-5
    assert found.told == {}


def test_whoever_says_nothing_is_right_only_where_nothing_matches():
    gold = [row([box(0, 0, 4, 4)], text="1"), row(text="2")]
    said = [row(text="1"), row([box(0, 0, 4, 4)], text="2")]
    for answers, is_right in ((said, 0), (gold, 1)):
        scores = evaluate(gold, answers).scores[ALL]
        assert scores["nothing_accuracy"] == scores["something_accuracy"] == is_right


def test_without_any_prediction_all_is_zero_that_can_be_measured():
    scores = evaluate(GOLD, [failed(text="1"), failed(text="2")]).scores[ALL]
    unknown = {name for name, value in scores.items() if value is None}
    assert unknown == {"precision", "sq", "phrase_accuracy"}
    assert set(scores.values()) == {None, 0}


def test_only_hits_count_for_the_quality_of_segments():
    gold = [row([box(0, 0, 4, 4), box(5, 0, 9, 4)])]
    said = [row([box(0, 0, 4, 3), box(5, 0, 9, 1)])]  # IoU 12/16 and, no hit, 4/16
    scores = evaluate(gold, said).scores[ALL]
    assert scores["sq"] == pytest.approx(12 / 16)
    assert scores["pq"] == pytest.approx(12 / 16 / (1 + 1 / 2 + 1 / 2))


def test_what_lies_in_ignore_regions_is_told():
    found = evaluate([row([box(0, 0, 2, 2)], ignored=[box(4, 4, 8, 8)])], [row([box(4, 4, 7, 7)])])
    assert found.told == {"predictions that lie in ignore regions": 1}
    assert found.sums[ALL].predictions == 0


def test_sums_of_sums_are_sums():
    whole = evaluate(GOLD, SAID)
    parts = [evaluate(GOLD[:2], SAID[:2]), evaluate(GOLD[2:], SAID[2:])]
    summed = Scored.total([Scored(each.sums, each.told) for each in parts])
    for group, sums in whole.sums.items():
        found = summed.groups[group]
        for name in ("questions", "truths", "predictions", "hits", "both", "either", "nothings"):
            assert getattr(found, name) == getattr(sums, name)
        assert found.pair_iou == pytest.approx(sums.pair_iou)
        assert sorted(found.detections.scores) == sorted(sums.detections.scores)


def test_muse_can_be_left_out():
    scores = evaluate(GOLD, SAID, ScoringOptions(muse="off")).scores[ALL]
    assert scores["muse_giou"] is scores["muse_ciou"] is None
