"""COCO's average precision, of questions that were looked at anywhere and in any order.

pycocotools does all of it, in two steps that lie apart here: a question's predictions are matched
where its masks are (`look_at`), which leaves 14 bytes of each; and the curve is drawn over all of
them at the end (`average_precision`). A question is an image of COCO's with one category.

Letters: D predictions; K IoU thresholds.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from workers.scoring.measures import Mask, Question

THRESHOLDS: NDArray[np.float64] = Params("segm").iouThrs
"""(K,) 0.5, 0.55, ... 0.95"""
MOST_PREDICTIONS = 100
"""Of a question, those with the highest scores, as COCO counts them."""
_CATEGORY = 1
_ALL = [0, 1e10]  # areas, in pixels
_KEY_DIGITS = 16  # of an item id: what is ranked alike stays in the order of the items
_AP50, _AP75 = 0, 5  # of THRESHOLDS


@dataclass(frozen=True, slots=True)
class Detections:
    """Predictions of some questions, with all that their curve needs."""

    truths: int = 0
    keys: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """(D,) the beginnings of their item ids"""
    scores: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    """(D,)"""
    hits: NDArray[np.uint16] = field(default_factory=lambda: np.empty(0, np.uint16))
    """(D,) bit k is set where it is right at THRESHOLDS[k]"""

    @classmethod
    def total(cls, parts: Sequence["Detections"]) -> "Detections":
        """Those of all the parts."""
        parts = [cls(), *parts]
        return cls(
            sum(part.truths for part in parts),
            np.concatenate([part.keys for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.hits for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Precision:
    """What COCO reports, all 0 to 1; None where there is no truth."""

    ap: float | None = None
    """mean over THRESHOLDS"""
    ap50: float | None = None
    ap75: float | None = None
    ar: float | None = None
    """mean recall over THRESHOLDS"""


def look_at(questions: Sequence[Question]) -> list[Detections]:
    """Matches the predictions of each question, as `COCOeval.evaluate` does."""
    truths, predictions = COCO(), COCO()
    with _quiet():
        _fill(truths, [question.truths for question in questions])
        _fill(predictions, [question.predictions for question in questions])
        judge = COCOeval(truths, predictions, "segm")
        judge.params.areaRng, judge.params.maxDets = [_ALL], [MOST_PREDICTIONS]
        judge.evaluate()
    return [_keep(*each) for each in zip(questions, judge.evalImgs, strict=True)]


def average_precision(found: Detections) -> Precision:
    """Draws the curves, as `COCOeval.accumulate` does.

    Memory: 130 bytes for each prediction, for a moment; some 4 seconds for a million.
    """
    if not found.truths:
        return Precision()
    order = np.argsort(found.keys, kind="stable")
    scores, hits = found.scores[order].astype(float), found.hits[order]
    curves = [
        _draw(scores, (hits >> k & 1).astype(bool), found.truths) for k in range(len(THRESHOLDS))
    ]
    precisions = [precision for precision, _ in curves]
    return Precision(
        ap=float(np.mean(precisions)),
        ap50=precisions[_AP50],
        ap75=precisions[_AP75],
        ar=float(np.mean([recall for _, recall in curves])),
    )


def _draw(
    scores: NDArray[np.float64], is_hit: NDArray[np.bool_], truths: int
) -> tuple[float, float]:
    """Precision and recall at one threshold: all predictions stand in one image for it."""
    judge = COCOeval(iouType="segm")
    judge.params.imgIds, judge.params.catIds = [1], [_CATEGORY]
    judge.params.areaRng, judge.params.maxDets = [_ALL], [max(len(scores), 1)]
    judge.params.iouThrs = THRESHOLDS[:1]  # how many there are is all that counts here
    judge._paramsEval = judge.params
    judge.evalImgs = [
        {
            "dtScores": scores,
            "dtMatches": is_hit[None],
            "dtIgnore": np.zeros((1, len(scores)), bool),
            "gtIgnore": np.zeros(truths, bool),
        }
    ]
    with _quiet():
        judge.accumulate()
    return float(judge.eval["precision"].mean()), float(judge.eval["recall"].mean())


def _fill(coco: COCO, masks: Sequence[tuple[Mask, ...]]) -> None:
    """Makes a data set of masks by question, as `COCO` does of a file."""
    listed = [(image, mask) for image, some in enumerate(masks, start=1) for mask in some]
    coco.dataset = {
        "images": [_describe(image, some) for image, some in enumerate(masks, start=1)],
        "categories": [{"id": _CATEGORY}],
        "annotations": [
            _annotate(number, image, mask) for number, (image, mask) in enumerate(listed, start=1)
        ],
    }
    coco.createIndex()


def _describe(image: int, masks: Sequence[Mask]) -> Mapping[str, int]:
    height, width = masks[0].runs.size if masks else (0, 0)
    return {"id": image, "height": height, "width": width}


def _annotate(number: int, image: int, mask: Mask) -> Mapping[str, object]:
    return {
        "id": number,  # from 1: COCOeval takes 0 for "no match"
        "image_id": image,
        "category_id": _CATEGORY,
        "segmentation": _encode(mask),
        "area": mask.runs.area,
        "iscrowd": 0,
        "score": mask.target.score,
    }


def _encode(mask: Mask) -> Mapping[str, object]:
    """Run lengths; those of the table, unless something was taken out."""
    is_whole = mask.runs is mask.whole
    counts = mask.target.counts if is_whole else mask.runs.counts.tolist()
    return {"size": list(mask.runs.size), "counts": counts}


def _keep(question: Question, looked: Mapping[str, NDArray[np.float64]] | None) -> Detections:
    if looked is None:  # no truths, and nothing was said
        return Detections()
    scores = np.array(looked["dtScores"], np.float32)
    bits = 1 << np.arange(len(THRESHOLDS), dtype=np.uint16)
    hits = ((looked["dtMatches"] > 0) * bits[:, None]).sum(0)
    key = int(question.gold.item_id[:_KEY_DIGITS], 16)
    keys = np.full(len(scores), key, np.uint64)
    return Detections(len(question.truths), keys, scores, hits.astype(np.uint16))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        yield
