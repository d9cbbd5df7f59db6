import contextlib
import io
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.labels import label_photos
from tests.photos import load_photos
from tests.scoring import box, question, row
from workers.scoring.ap import (
    MOST_PREDICTIONS,
    THRESHOLDS,
    Detections,
    Precision,
    average_precision,
    look_at,
)


def questions():
    """Of photos: predictions are true masks that were moved, and some that are wrong."""
    chance = np.random.default_rng(5)
    asked = []
    for number, (gold, photo) in enumerate(zip(label_photos(), load_photos(), strict=True)):
        masks = [np.roll(mask, chance.integers(0, 12, 2), (0, 1)) for mask in photo.masks]
        masks = [*masks[number % 2 :], masks[0] & np.roll(masks[0], 20, 1)]
        scores = chance.integers(0, 12, len(masks)) / 16  # many are the same
        said = row(masks, scores=scores.tolist(), image=photo.name)
        asked.append(question(gold, replace(said, item_id=gold.item_id)))
    nothing, wrong = row(text="a"), row([box(0, 0, 4, 4)], text="b")
    return [*asked, question(nothing, nothing), question(row(text="b"), wrong)]


def by_coco(asked):
    """What COCOeval itself makes of all of it; images are in the order of the items."""
    asked = sorted(asked, key=lambda each: each.gold.item_id)
    truths, said = COCO(), COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        for coco, side in ((truths, "truths"), (said, "predictions")):
            listed = [(n, mask) for n, each in enumerate(asked, 1) for mask in getattr(each, side)]
            coco.dataset = {
                "images": [{"id": n, "height": 0, "width": 0} for n in range(1, len(asked) + 1)],
                "categories": [{"id": 1}],
                "annotations": [
                    {
                        "id": number,
                        "image_id": image,
                        "category_id": 1,
                        "segmentation": {
                            "size": mask.target.size,
                            "counts": mask.target.counts,
                        },
                        "area": mask.runs.area,
                        "iscrowd": 0,
                        "score": mask.target.score,
                    }
                    for number, (image, mask) in enumerate(listed, 1)
                ],
            }
            coco.createIndex()
        judge = COCOeval(truths, said, "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats


def test_it_is_what_cocoeval_computes_in_one_go():
    asked = questions()
    stats = by_coco(asked)
    found = average_precision(Detections.total(look_at(asked)))
    assert (found.ap, found.ap50, found.ap75) == pytest.approx(tuple(stats[:3]), abs=1e-12)
    assert found.ar == pytest.approx(stats[8], abs=1e-12)
    assert 0.1 < found.ap < found.ap50 < 0.95  # the photos give it something to tell apart


def test_the_order_in_which_questions_come_and_are_added_does_not_matter():
    asked = questions()
    whole = average_precision(Detections.total(look_at(asked)))
    for seed in range(3):
        mixed = Random(seed).sample(asked, len(asked))
        parts = [Detections.total(look_at(mixed[:3])), Detections.total(look_at(mixed[3:]))]
        assert average_precision(Detections.total(parts)) == whole


def test_only_the_best_hundred_predictions_of_a_question_count():
    scores = [0.9] * MOST_PREDICTIONS + [0.1]
    masks = [box(0, 0, 1, 1)] * MOST_PREDICTIONS + [box(4, 4, 8, 8)]
    (found,) = look_at([question(row([box(4, 4, 8, 8)]), row(masks, scores=scores))])
    assert len(found.scores) == MOST_PREDICTIONS
    assert average_precision(found) == Precision(0, 0, 0, 0)


def test_a_prediction_is_right_up_to_the_threshold_that_its_iou_reaches():
    (found,) = look_at([question(row([box(0, 0, 10, 2)]), row([box(0, 0, 7, 2)]))])  # 14 of 20
    assert [bool(found.hits[0] >> k & 1) for k in range(len(THRESHOLDS))] == [
        bool(threshold <= 0.7 + 1e-9) for threshold in THRESHOLDS
    ]


def test_pixels_in_ignore_regions_count_for_nothing():
    gold = row([box(0, 0, 4, 4)], ignored=[box(0, 2, 4, 6)])
    (found,) = look_at([question(gold, row([box(0, 0, 4, 3)]))])  # else an IoU of 12 / 16
    assert average_precision(found).ap == pytest.approx(1)


def test_without_truths_there_is_no_average_precision_and_without_predictions_it_is_zero():
    (missed,) = look_at([question(row([box(0, 0, 1, 1)]), None)])
    (extra,) = look_at([question(row(), row([box(0, 0, 1, 1)]))])
    assert average_precision(missed) == Precision(0, 0, 0, 0)
    assert average_precision(extra) == Precision()
    assert average_precision(Detections.total([])) == Precision()
